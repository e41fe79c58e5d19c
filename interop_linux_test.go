package vpn_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/internal/ocserv"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/login/oath"
)

// The hosts of a lab: the client, a router in the middle, and the gateway.
//
//	client 10.98.0.2/24, fd00:98::2/64 -- 10.98.0.1 router 10.99.0.254 -- 10.99.0.1/24, fd00:99::1/64 gateway
type lab struct {
	*netns.Lab
	client, router, gateway *netns.Host
	clientIf, routerIf      string      // the ends of the link between client and router
	innerIf                 string      // the router's end of the link to the gateway
	wire                    *netns.Wire // the link between client and router, if newLab was given an impairment of it
}

var (
	gateway4 = netip.MustParseAddr("10.99.0.1")
	gateway6 = netip.MustParseAddr("fd00:99::1")
)

// newLab builds a lab. With an impairment, the link between client and router is a wire that has it.
func newLab(t *testing.T, outer ...netns.Impairment) *lab {
	t.Helper()
	l := &lab{Lab: netns.New(t)}
	l.client, l.router, l.gateway = l.Host("client"), l.Host("router"), l.Host("gateway")
	const addrsClient, addrsRouter = "10.98.0.2/24 fd00:98::2/64", "10.98.0.1/24 fd00:98::1/64"
	if len(outer) == 0 {
		l.clientIf, l.routerIf = l.Join(l.client, addrsClient, l.router, addrsRouter)
	} else {
		l.clientIf, l.routerIf, l.wire = l.JoinThrough(l.client, addrsClient, l.router, addrsRouter, outer[0])
	}
	l.innerIf, _ = l.Join(l.router, "10.99.0.254/24 fd00:99::fe/64", l.gateway, "10.99.0.1/24 fd00:99::1/64")
	l.router.Sysctl("net.ipv4.ip_forward", "1")
	l.router.Sysctl("net.ipv6.conf.all.forwarding", "1")
	l.client.IP("route", "add", "default", "via", "10.98.0.1")
	l.client.IP("-6", "route", "add", "default", "via", "fd00:98::1")
	l.gateway.IP("route", "add", "default", "via", "10.99.0.254")
	l.gateway.IP("-6", "route", "add", "default", "via", "fd00:99::fe")
	return l
}

// config returns the configuration of a client on the client host, as alice.
func (l *lab) config(s *ocserv.Server) *vpn.Config {
	return &vpn.Config{
		Login: login.Fixed{Username: "alice", Password: "pass"},
		Pins:  []string{s.Pin},
		Dial:  l.client.DialContext, DialUDP: l.client.DialContext,
		Direct: l.client.DialContext,
	}
}

func TestOcserv(t *testing.T) {
	leak.Check(t)
	l := newLab(t)
	server := ocserv.Start(t, l.gateway, ocserv.Config{Address: gateway4})
	inside := ocserv.Echo(t, l.gateway, ocserv.Inside)
	inside6 := ocserv.Echo(t, l.gateway, ocserv.Inside6)

	t.Run("DTLS", func(t *testing.T) {
		tun := dial(t, server.URL, l.config(server))
		over(t, tun, "dtls", 5*time.Second)
		echo(t, tun, inside)
		echo(t, tun, inside6)
		if _, err := tun.Ping(timeout(t, 5*time.Second), ocserv.Inside.String()); err != nil {
			t.Error(err)
		}
		if _, err := tun.Ping(timeout(t, 5*time.Second), ocserv.Inside6.String()); err != nil {
			t.Error(err)
		}
		s := tun.Status()
		if len(s.Addresses) != 2 || len(s.Include) != 2 || len(s.Exclude) != 1 || len(s.DNS) != 1 || s.SearchDomains[0] != "corp.example" {
			t.Errorf("lease: %+v", s)
		}
		if detail := s.Paths[0].Detail; !strings.Contains(detail, "AES256-GCM") {
			t.Errorf("DTLS cipher suite %q, want AES-256-GCM", detail)
		}
		t.Logf("interop: ocserv over DTLS with %s, MTU %d", s.Paths[0].Detail, s.MTU)
	})
	t.Run("TLS", func(t *testing.T) {
		cfg := l.config(server)
		cfg.NoDTLS = true
		tun := dial(t, server.URL, cfg)
		echo(t, tun, inside)
		echo(t, tun, inside6)
		if p := tun.Status().Path; p != "tls" {
			t.Errorf("path %q", p)
		}
	})
	t.Run("compression", func(t *testing.T) {
		cfg := l.config(server)
		cfg.Compress = true
		echo(t, dial(t, server.URL, cfg), inside)
	})
	t.Run("wrong password", func(t *testing.T) {
		cfg := l.config(server)
		cfg.Login = login.Fixed{Username: "alice", Password: "wrong"}
		_, err := vpn.Dial(timeout(t, 20*time.Second), server.URL, cfg)
		if !errors.Is(err, vpn.ErrLogin) {
			t.Errorf("error %v, want ErrLogin", err)
		}
	})
	t.Run("wrong pin", func(t *testing.T) {
		cfg := l.config(server)
		cfg.Pins = []string{"pin-sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}
		_, err := vpn.Dial(timeout(t, 20*time.Second), server.URL, cfg)
		if !errors.Is(err, vpn.ErrUntrusted) || !strings.Contains(err.Error(), server.Pin) {
			t.Errorf("error %v, want ErrUntrusted that tells the right pin", err)
		}
	})
	t.Run("unknown authority", func(t *testing.T) {
		cfg := l.config(server)
		cfg.Pins = nil
		_, err := vpn.Dial(timeout(t, 20*time.Second), server.URL, cfg)
		if !errors.Is(err, vpn.ErrUntrusted) {
			t.Errorf("error %v, want ErrUntrusted", err)
		}
	})
	t.Run("known authority", func(t *testing.T) {
		cfg := l.config(server)
		cfg.Pins = nil
		pem, err := os.ReadFile(filepath.Join(server.Dir, "cert.pem"))
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		cfg.TLS = &tls.Config{RootCAs: roots}
		echo(t, dial(t, server.URL, cfg), inside)
	})
	t.Run("cookie", func(t *testing.T) {
		cfg := l.config(server)
		ticket, err := vpn.Authenticate(timeout(t, 20*time.Second), server.URL, cfg)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Login, cfg.Cookie = nil, ticket.Cookie
		echo(t, dial(t, server.URL, cfg), inside)
	})
	t.Run("UDP and listening", func(t *testing.T) {
		tun := dial(t, server.URL, l.config(server))
		ln, err := tun.Listen("tcp", ":8080")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			if c, err := ln.Accept(); err == nil {
				io.Copy(c, c)
				c.Close()
			}
		}()
		conn, err := l.gateway.DialContext(timeout(t, 5*time.Second), "tcp",
			netip.AddrPortFrom(tun.Status().Addresses[0].Addr(), 8080).String())
		if err != nil {
			t.Fatal(err)
		}
		f := startFlow(t, conn, 1<<20)
		time.Sleep(100 * time.Millisecond)
		f.finish(t)

		pc, err := l.gateway.ListenPacket("udp", netip.AddrPortFrom(ocserv.Inside, 0).String())
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		go func() {
			b := make([]byte, 2048)
			for {
				n, from, err := pc.ReadFrom(b)
				if err != nil {
					return
				}
				pc.WriteTo(b[:n], from)
			}
		}()
		udp, err := tun.Dial("udp", pc.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer udp.Close()
		udp.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := udp.Write([]byte("datagram")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 64)
		if n, err := udp.Read(b); err != nil || string(b[:n]) != "datagram" {
			t.Errorf("read %q, %v", b[:n], err)
		}
	})
	t.Run("split", func(t *testing.T) {
		tun := dial(t, server.URL, l.config(server))
		for host, way := range map[string]string{
			"172.31.5.5": "tunnel", "172.31.99.1": "direct", "10.98.0.1": "direct", "10.99.0.1": "direct",
		} {
			e, err := tun.Explain(timeout(t, 5*time.Second), host)
			if err != nil || len(e.Routes) != 1 || e.Routes[0].Way != way {
				t.Errorf("%s: %v, %v, want %s", host, e, err, way)
			}
		}
		outside := ocserv.Echo(t, l.router, netip.MustParseAddr("10.98.0.1"))
		echo(t, tun, outside)
	})
}

// TestOcservOutsideIPv6 reaches the gateway over IPv6.
func TestOcservOutsideIPv6(t *testing.T) {
	l := newLab(t)
	server := ocserv.Start(t, l.gateway, ocserv.Config{Address: gateway6})
	inside := ocserv.Echo(t, l.gateway, ocserv.Inside)
	tun := dial(t, server.URL, l.config(server))
	over(t, tun, "dtls", 5*time.Second)
	echo(t, tun, inside)
}

func TestOcservGroups(t *testing.T) {
	l := newLab(t)
	server := ocserv.Start(t, l.gateway, ocserv.Config{
		Address: gateway4, Groups: map[string]string{"alice": "staff,admins"},
		Lines: []string{"select-group = staff[The staff]", "select-group = admins", "auto-select-group = false"},
	})
	inside := ocserv.Echo(t, l.gateway, ocserv.Inside)
	for _, group := range []string{"staff", "The staff", "admins"} {
		cfg := l.config(server)
		cfg.Group = group
		echo(t, dial(t, server.URL, cfg), inside)
	}
	cfg := l.config(server)
	cfg.Group = "nobody"
	if _, err := vpn.Dial(timeout(t, 20*time.Second), server.URL, cfg); !errors.Is(err, vpn.ErrLogin) ||
		!strings.Contains(err.Error(), "The staff") {
		t.Errorf("an unknown group: %v, want ErrLogin with the groups that exist", err)
	}
}

func TestOcservCertificate(t *testing.T) {
	l := newLab(t)
	server := ocserv.Start(t, l.gateway, ocserv.Config{Address: gateway4, Auth: `auth = "certificate"`})
	inside := ocserv.Echo(t, l.gateway, ocserv.Inside)
	cert, err := tls.LoadX509KeyPair(server.ClientCertificate("alice"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := l.config(server)
	cfg.Login, cfg.TLS = nil, &tls.Config{Certificates: []tls.Certificate{cert}}
	tun := dial(t, server.URL, cfg)
	over(t, tun, "dtls", 5*time.Second)
	echo(t, tun, inside)
	cfg = l.config(server)
	if _, err := vpn.Dial(timeout(t, 20*time.Second), server.URL, cfg); err == nil {
		t.Error("a tunnel without a certificate")
	}
}

func TestOcservCertificateAndPassword(t *testing.T) {
	l := newLab(t)
	server := ocserv.Start(t, l.gateway, ocserv.Config{
		Address: gateway4, Auth: `auth = "certificate"` + "\n" + `auth = "plain[passwd=%s/passwd]"`,
	})
	inside := ocserv.Echo(t, l.gateway, ocserv.Inside)
	cert, err := tls.LoadX509KeyPair(server.ClientCertificate("alice"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := l.config(server)
	cfg.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	echo(t, dial(t, server.URL, cfg), inside)
}

// TestOcservLegacyDTLS takes DTLS 1.2 resumption instead of the pre-shared key.
func TestOcservLegacyDTLS(t *testing.T) {
	l := newLab(t)
	server := ocserv.Start(t, l.gateway, ocserv.Config{Address: gateway4, Lines: []string{"dtls-psk = false"}})
	inside := ocserv.Echo(t, l.gateway, ocserv.Inside)
	tun := dial(t, server.URL, l.config(server))
	over(t, tun, "dtls", 5*time.Second)
	echo(t, tun, inside)
}

// TestOcservRekey lets the gateway ask for new keys every few seconds.
func TestOcservRekey(t *testing.T) {
	for _, method := range []string{"ssl", "new-tunnel"} {
		t.Run(method, func(t *testing.T) {
			l := newLab(t)
			server := ocserv.Start(t, l.gateway, ocserv.Config{
				Address: gateway4, Lines: []string{"rekey-time = 11", "rekey-method = " + method},
			})
			inside := ocserv.Echo(t, l.gateway, ocserv.Inside)
			tun := dial(t, server.URL, l.config(server))
			f := flowTo(t, tun, inside)
			eventually(t, 45*time.Second, "both paths were opened three times", func() bool {
				for _, p := range tun.Status().Paths {
					if p.Opens < 3 {
						return false
					}
				}
				return true
			})
			t.Logf("interop: rekey by %s stood still for %v", method, f.stalled().Round(time.Millisecond))
			f.finish(t)
		})
	}
}

// nft puts a ruleset on a host, and returns a function that takes it away.
func nft(t *testing.T, h *netns.Host, chains string) (undo func()) {
	t.Helper()
	h.Run("nft", "add table inet fault; "+chains)
	return func() { t.Helper(); h.Run("nft", "delete table inet fault") }
}

const (
	dropUDP = "add chain inet fault forward { type filter hook forward priority 0; }; " +
		"add rule inet fault forward udp dport 4443 drop; add rule inet fault forward udp sport 4443 drop"
	dropAll = "add chain inet fault forward { type filter hook forward priority 0; policy drop; }"
	// Routers of narrow links usually see to TCP in this way, so that only other protocols fall into the hole.
	clampTCP = "; add chain inet fault forward { type filter hook forward priority 0; }; " +
		"add rule inet fault forward tcp flags syn tcp option maxseg size set 1200"
	dropTooBig = "add chain inet fault output { type filter hook output priority 0; }; " +
		"add rule inet fault output icmp type destination-unreachable drop; add rule inet fault output icmpv6 type packet-too-big drop"
)

func TestFaults(t *testing.T) {
	start := func(t *testing.T, dtls bool, outer ...netns.Impairment) (*lab, *ocserv.Server, *vpn.Tunnel, *flow) {
		l := newLab(t, outer...)
		server := ocserv.Start(t, l.gateway, ocserv.Config{Address: gateway4})
		inside := ocserv.Echo(t, l.gateway, ocserv.Inside)
		cfg := l.config(server)
		cfg.NoDTLS = !dtls
		tun := dial(t, server.URL, cfg)
		if dtls {
			over(t, tun, "dtls", 5*time.Second)
		}
		return l, server, tun, flowTo(t, tun, inside)
	}
	report := func(t *testing.T, what string, f *flow) time.Duration {
		stall := f.stalled()
		t.Logf("interop: %s: data stood still for %v", what, stall.Round(time.Millisecond))
		return stall
	}

	t.Run("UDP dropped both ways", func(t *testing.T) {
		l, _, tun, f := start(t, true)
		undo := nft(t, l.router, dropUDP)
		over(t, tun, "tls", 5*time.Second)
		f.progress(t, 5*time.Second)
		if stall := report(t, "UDP dropped", f); stall > 3*time.Second {
			t.Errorf("stood still for %v, want at most 3 s", stall)
		}
		undo()
		over(t, tun, "dtls", 60*time.Second)
		f.progress(t, 5*time.Second)
		report(t, "UDP back", f)
		f.finish(t)
	})
	t.Run("TCP reset", func(t *testing.T) {
		for _, dtls := range []bool{true, false} {
			t.Run(fmt.Sprintf("dtls=%v", dtls), func(t *testing.T) {
				l, _, tun, f := start(t, dtls)
				opens := tun.Status().Paths[len(tun.Status().Paths)-1].Opens
				l.client.Run("ss", "--kill", "state", "established", "dst", "10.99.0.1", "dport", "=", "4443")
				eventually(t, 20*time.Second, "TLS comes back", func() bool {
					p := tun.Status().Paths[len(tun.Status().Paths)-1]
					return p.Open && p.Opens > opens
				})
				f.progress(t, 10*time.Second)
				report(t, fmt.Sprintf("TCP reset with dtls=%v", dtls), f)
				f.finish(t)
			})
		}
	})
	t.Run("both cut for 20 s", func(t *testing.T) {
		l, _, tun, f := start(t, true)
		undo := nft(t, l.router, dropAll)
		time.Sleep(20 * time.Second)
		undo()
		f.progress(t, 40*time.Second)
		over(t, tun, "dtls", 60*time.Second)
		report(t, "everything cut for 20 s", f)
		f.finish(t)
	})
	t.Run("address changed", func(t *testing.T) {
		l, server, tun, f := start(t, true)
		l.client.IP("address", "del", "10.98.0.2/24", "dev", l.clientIf)
		l.client.IP("address", "add", "10.98.0.77/24", "dev", l.clientIf)
		l.client.IP("route", "replace", "default", "via", "10.98.0.1")
		f.progress(t, 30*time.Second)
		report(t, "address changed unannounced", f)
		l.client.IP("address", "del", "10.98.0.77/24", "dev", l.clientIf)
		l.client.IP("address", "add", "10.98.0.78/24", "dev", l.clientIf)
		l.client.IP("route", "replace", "default", "via", "10.98.0.1")
		tun.NetworkChanged()
		f.progress(t, 30*time.Second)
		report(t, "address changed, announced", f)
		over(t, tun, "dtls", 60*time.Second)
		f.finish(t)
		if n := strings.Count(server.Control("-j", "show", "users"), `"Username":`); n != 1 {
			t.Errorf("%d sessions at the gateway, want the one", n)
		}
	})
	t.Run("ocserv worker killed", func(t *testing.T) {
		_, server, tun, f := start(t, true)
		server.KillWorkers()
		eventually(t, 20*time.Second, "the session comes back by its cookie", func() bool {
			s := tun.Status()
			return s.Path != "" && s.Paths[1].Opens >= 2
		})
		f.progress(t, 10*time.Second)
		report(t, "worker of ocserv killed", f)
		f.finish(t)
	})
	t.Run("ocserv restarted", func(t *testing.T) {
		_, server, tun, f := start(t, true)
		server.Restart()
		// The sessions are forgotten: the client logs in again, since its Prompter needs no person, and gets its address back.
		f.progress(t, 90*time.Second)
		report(t, "ocserv restarted", f)
		over(t, tun, "dtls", 60*time.Second)
		f.finish(t)
	})
	t.Run("path MTU 1280 without ICMP", func(t *testing.T) {
		l := newLab(t)
		l.router.IP("link", "set", l.innerIf, "mtu", "1280")
		l.router.IP("link", "set", l.routerIf, "mtu", "1280")
		nft(t, l.router, dropTooBig+clampTCP)
		server := ocserv.Start(t, l.gateway, ocserv.Config{
			Address: gateway4, Lines: []string{"ipv6-network", "route = 172.31.0.0/16"},
		})
		inside := ocserv.Echo(t, l.gateway, ocserv.Inside)
		tun := dial(t, server.URL, l.config(server))
		over(t, tun, "dtls", 20*time.Second)
		f := flowTo(t, tun, inside)
		time.Sleep(3 * time.Second)
		report(t, fmt.Sprintf("path MTU 1280 without ICMP, inner MTU %d", tun.Status().MTU), f)
		f.progress(t, 10*time.Second)
		f.finish(t)
		if mtu := tun.Status().MTU; mtu > 1280-28-38 {
			t.Errorf("inner MTU %d does not fit the path", mtu)
		}
	})
	t.Run("loss and reordering", func(t *testing.T) {
		for _, dtls := range []bool{true, false} {
			t.Run(fmt.Sprintf("dtls=%v", dtls), func(t *testing.T) {
				l, _, tun, f := start(t, dtls, netns.Impairment{})
				l.wire.Set(netns.Impairment{Loss: 0.1, Reorder: 0.03})
				have := f.received()
				time.Sleep(10 * time.Second)
				f.progress(t, 20*time.Second)
				report(t, fmt.Sprintf("10 %% loss and 3 %% reordering with dtls=%v", dtls), f)
				t.Logf("%d KiB came in that time; the wire: %+v", (f.received()-have)>>10, l.wire.Stats())
				if dtls {
					over(t, tun, "dtls", 60*time.Second)
				}
				// What is still under way would take its time.
				l.wire.Set(netns.Impairment{})
				f.finish(t)
			})
		}
	})
}

// TestOcservOTP logs in with a password and a time-based code.
func TestOcservOTP(t *testing.T) {
	l := newLab(t)
	server := ocserv.Start(t, l.gateway, ocserv.Config{Address: gateway4, Auth: `auth = "plain[passwd=%s/passwd,otp=%s/otp]"`})
	const secret = "00112233445566778899aabbccddeeff00112233"
	if err := os.WriteFile(filepath.Join(server.Dir, "otp"), []byte("HOTP/T30 alice - "+secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	inside := ocserv.Echo(t, l.gateway, ocserv.Inside)
	code, err := oath.TOTP("0x" + secret)
	if err != nil {
		t.Fatal(err)
	}
	cfg := l.config(server)
	cfg.Login = login.Chain(code, login.Fixed{Username: "alice", Password: "pass"})
	echo(t, dial(t, server.URL, cfg), inside)
}
