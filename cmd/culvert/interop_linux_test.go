package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/gateway"
	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/internal/ocserv"
)

// outside is the address of the gateway that clients connect to.
var outside = netip.MustParseAddr("10.99.0.1")

// directions are the ways that iperf3 sends data, with its flags for them.
var directions = []struct {
	name  string
	flags []string
}{{"up", nil}, {"down", []string{"--reverse"}}}

// A lab has a client, a router in the middle, and the host of a gateway, with what lies behind it on its loopback interface:
//
//	client 10.98.0.2, fd00:98::2 -- 10.98.0.1 router 10.99.0.254 -- 10.99.0.1, fd00:99::1 gateway 172.31.0.1, fd00:31::1
type lab struct {
	t                       *testing.T
	net                     *netns.Lab
	client, router, gateway *netns.Host
	clientIf, routerIf      string // the ends of the cable between the client and the router
}

func newLab(t *testing.T, peers ...string) *lab {
	t.Helper()
	if testing.Short() {
		t.Skip("a test with peers takes long")
	}
	for _, p := range peers {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CULVERT_INTEROP") == "1" {
				t.Fatalf("CULVERT_INTEROP=1, but %s is not installed", p)
			}
			t.Skipf("%s is not installed", p)
		}
	}
	n := netns.New(t)
	l := &lab{t: t, net: n, client: n.Host("client"), router: n.Host("router"), gateway: n.Host("gateway")}
	l.clientIf, l.routerIf = n.Join(l.client, "10.98.0.2/24 fd00:98::2/64", l.router, "10.98.0.1/24 fd00:98::1/64")
	n.Join(l.router, "10.99.0.254/24 fd00:99::fe/64", l.gateway, "10.99.0.1/24 fd00:99::1/64")
	l.router.Sysctl("net.ipv4.ip_forward", "1")
	l.router.Sysctl("net.ipv6.conf.all.forwarding", "1")
	for host, via := range map[*netns.Host][]string{l.client: {"10.98.0.1", "fd00:98::1"}, l.gateway: {"10.99.0.254", "fd00:99::fe"}} {
		for _, a := range via {
			host.IP("route", "add", "default", "via", a)
		}
	}
	for _, a := range []netip.Addr{ocserv.Inside, ocserv.Inside6} {
		l.gateway.IP("address", "add", a.String(), "dev", "lo")
	}
	return l
}

// in returns the lab for a subtest.
func (l *lab) in(t *testing.T) *lab {
	c := *l
	c.t = t
	return &c
}

// command makes a command line for a host, without a terminal. What it starts is killed with it by the function returned.
func (l *lab) command(h *netns.Host, name string, args ...string) (cmd *exec.Cmd, kill func()) {
	ctx, kill := context.WithCancel(context.Background())
	cmd = h.Command(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd, kill
}

// start runs a program that is the command in the end on a host until the test ends. It must print JSON.
func (l *lab) start(h *netns.Host, stdin string, name string, args ...string) *process {
	l.t.Helper()
	cmd, kill := l.command(h, name, args...)
	p := startProcess(l.t, stdin, cmd)
	l.t.Cleanup(kill)
	return p
}

// culvert runs the command on a host until the test ends.
func (l *lab) culvert(h *netns.Host, stdin string, args ...string) *process {
	l.t.Helper()
	return l.start(h, stdin, self(l.t), append(args, "--json")...)
}

// A tool is another program that runs on a host until the test ends.
type tool struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu  sync.Mutex
	out strings.Builder
}

// Write implements io.Writer, for what the program prints.
func (p *tool) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *tool) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// run starts a program on a host.
func (l *lab) run(h *netns.Host, stdin, name string, args ...string) *tool {
	l.t.Helper()
	cmd, kill := l.command(h, name, args...)
	p := &tool{cmd: cmd, done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), asCommand+"=1") // it may run this program
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = strings.NewReader(stdin), p, p
	if err := p.cmd.Start(); err != nil {
		kill()
		l.t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.cmd.Wait()
	}()
	l.t.Cleanup(func() {
		kill()
		<-p.done
		if l.t.Failed() {
			said := p.said()
			l.t.Logf("%s printed, in the end:\n%s", name, said[max(0, len(said)-2000):])
		}
	})
	return p
}

// eventually waits until ok holds.
func (l *lab) eventually(within time.Duration, what string, ok func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// An iperfReport is what is used of the JSON that iperf3 prints.
type iperfReport struct {
	Intervals []struct {
		Sum struct {
			Start, End float64 // seconds
			Bytes      float64
		}
	}
	End struct {
		Received struct {
			BitsPerSecond float64 `json:"bits_per_second"`
		} `json:"sum_received"`
	}
	Error string
}

// rate returns Mbit/s.
func (r *iperfReport) rate() float64 { return r.End.Received.BitsPerSecond / 1e6 }

// stall returns the longest time in which nothing was carried.
func (r *iperfReport) stall() time.Duration {
	var longest, since float64
	for _, i := range r.Intervals {
		if i.Sum.Bytes > 0 {
			since = i.Sum.End
		}
		longest = max(longest, i.Sum.End-since)
	}
	return time.Duration(longest*1000) * time.Millisecond
}

// iperf runs iperf3 on the client and returns what it measures. It waits for its turn at the server.
func (l *lab) iperf(args ...string) *iperfReport {
	l.t.Helper()
	var last string
	for range 20 {
		p := l.run(l.client, "", "iperf3", append([]string{"--json", "--connect-timeout", "5000"}, args...)...)
		<-p.done
		r := new(iperfReport)
		if last = p.said(); json.Unmarshal([]byte(last), r) == nil && r.Error == "" {
			return r
		}
		time.Sleep(100 * time.Millisecond)
	}
	l.t.Fatalf("iperf3 %v: %s", args, last)
	return nil
}

// endlessIperf starts iperf3 through a forward to port, where it starts a server too. It returns what ends it and returns
// what it measured every 100 ms.
func (l *lab) endlessIperf(forward, port string, flags ...string) (stop func() *iperfReport) {
	l.t.Helper()
	l.gateway.Start("iperf3", "-s", "-1", "-p", port)
	time.Sleep(200 * time.Millisecond)
	p := l.run(l.client, "", "iperf3", append([]string{"--json", "-c", "127.0.0.1", "-p", forward, "-t", "600", "-i", "0.1"}, flags...)...)
	time.Sleep(time.Second)
	return func() *iperfReport {
		l.t.Helper()
		p.cmd.Process.Signal(syscall.SIGINT)
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			l.t.Fatal("iperf3 does not end")
		}
		r := new(iperfReport)
		if err := json.Unmarshal([]byte(p.said()), r); err != nil || len(r.Intervals) < 10 {
			l.t.Fatalf("iperf3: %v, %s: %.1000s", err, r.Error, p.said())
		}
		return r
	}
}

// proxyTo starts the proxy command on the client, as alice, and returns it once it serves, with where its forwards listen.
func (l *lab) proxyTo(server *ocserv.Server, args ...string) (p *process, told int, ports []string) {
	l.t.Helper()
	p = l.culvert(l.client, "pass\n", append([]string{
		"proxy", "--user", "alice", "--passwd-on-stdin", "--servercert", server.Pin, "--listen", "127.0.0.1:1080", server.URL,
	}, args...)...)
	for _, a := range args {
		if a == "-L" {
			e := p.wait(&told, "a forward listens", func(e event) bool { return e.Event == "forward" && e.State == "listening" })
			_, port, _ := strings.Cut(e.Address, ":")
			ports = append(ports, port)
		}
	}
	told = 0
	p.wait(&told, "the tunnel is up over DTLS", func(e event) bool { return e.Event == "tunnel" && e.State == "connected" && e.Path == "dtls" })
	return p, told, ports
}

// median returns the middle value.
func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return s[len(s)/2]
}

// TestVersusOcproxy holds the proxy to the pair of programs that people use for the same: openconnect with ocproxy.
func TestVersusOcproxy(t *testing.T) {
	l := newLab(t, "openconnect", "ocproxy", "iperf3", "ocserv")
	server := ocserv.Start(t, l.gateway, ocserv.Config{Address: outside})
	l.gateway.Start("iperf3", "-s", "-B", ocserv.Inside.String())
	_, _, ports := l.proxyTo(server, "-L", "0:"+ocserv.Inside.String()+":5201")

	const peerPort = "5301"
	peer := l.run(l.client, "pass\n", "openconnect", "--user", "alice", "--passwd-on-stdin", "--servercert", server.Pin, "--non-inter",
		"--script-tun", "--script", "ocproxy -L "+peerPort+":"+ocserv.Inside.String()+":5201", server.URL)
	l.eventually(20*time.Second, "openconnect is up over DTLS", func() bool {
		return strings.Contains(peer.said(), "Established DTLS connection")
	})

	rounds := 5
	if n, err := strconv.Atoi(os.Getenv("CULVERT_ROUNDS")); err == nil {
		rounds = n
	}
	for _, way := range directions {
		measure := func(port string) float64 {
			return l.iperf(append([]string{"-c", "127.0.0.1", "-p", port, "-t", "3"}, way.flags...)...).rate()
		}
		var ours, theirs []float64
		for range rounds {
			ours = append(ours, measure(ports[0]))
			theirs = append(theirs, measure(peerPort))
		}
		a, b := median(ours), median(theirs)
		t.Logf("interop: iperf3 %s through culvert proxy -L: %.0f Mbit/s, through openconnect with ocproxy: %.0f Mbit/s, ratio %.2f (medians of %d)",
			way.name, a, b, a/b, rounds)
		t.Logf("culvert %.0f, ocproxy %.0f", ours, theirs)
		if a < b {
			t.Errorf("iperf3 %s is slower than through openconnect with ocproxy", way.name)
		}
	}
}

// TestProxyToOcserv goes through all that a user does with the proxy, with programs that know nothing of it.
func TestProxyToOcserv(t *testing.T) {
	t.Parallel() // with others that measure nothing
	l := newLab(t, "openconnect", "ocproxy", "curl", "ocserv")
	server := ocserv.Start(t, l.gateway, ocserv.Config{Address: outside})
	const page = "inside"
	web := l.web(page)
	curl := func(t *testing.T, args ...string) {
		t.Helper()
		if got := l.client.Run("curl", append([]string{"-sS", "-m", "10"}, args...)...); got != page {
			t.Errorf("curl %v prints %q", args, got)
		}
	}

	t.Run("proxy", func(t *testing.T) {
		l := l.in(t)
		p, _, ports := l.proxyTo(server, "-L", "0:"+web)
		e := p.events[0]
		if e.Event != "tunnel" || e.State != "connecting" || e.Gateway != server.URL || e.Time.IsZero() {
			t.Errorf("the first event is %+v", e)
		}
		curl(t, "--socks5-hostname", "127.0.0.1:1080", "http://"+web)
		curl(t, "-x", "http://127.0.0.1:1080", "http://"+web)
		curl(t, "-x", "http://127.0.0.1:1080", "--proxytunnel", "http://"+web)
		curl(t, "http://127.0.0.1:"+ports[0])
		p.cmd.Process.Signal(syscall.SIGTERM)
		if code := p.exit(); code != exitOK {
			t.Errorf("exit status after SIGTERM: %d", code)
		}
		for line := range strings.Lines(p.said()) {
			if !json.Valid([]byte(line)) {
				t.Errorf("not JSON: %s", line)
			}
		}
	})

	t.Run("wrong pin", func(t *testing.T) {
		l := l.in(t)
		p := l.culvert(l.client, "pass\n", "proxy", "--user", "alice", "--passwd-on-stdin", "--servercert", "pin-sha256:"+strings.Repeat("A", 43)+"=", server.URL)
		if code := p.exit(); code != exitUntrusted {
			t.Errorf("exit status %d", code)
		}
		if !strings.Contains(p.said(), "--servercert "+server.Pin) {
			t.Errorf("it does not tell the pin %s:\n%s", server.Pin, p.said())
		}
	})
	t.Run("wrong password", func(t *testing.T) {
		l := l.in(t)
		p := l.culvert(l.client, "wrong\n", "proxy", "--user", "alice", "--passwd-on-stdin", "--servercert", server.Pin, server.URL)
		if code := p.exit(); code != exitLogin {
			t.Errorf("exit status %d", code)
		}
	})

	// One program logs in, another opens the tunnel.
	authenticate := `eval "$(printf 'pass\n' | "$0" connect --authenticate --user alice --passwd-on-stdin --servercert "$1" "$2")" || exit; ` +
		`printf '%s\n' "$COOKIE" | `
	t.Run("authenticate for openconnect", func(t *testing.T) {
		l := l.in(t)
		peer := l.run(l.client, "", "sh", "-c", authenticate+`exec openconnect --cookie-on-stdin --servercert "$FINGERPRINT" --resolve "$RESOLVE" `+
			`--script-tun --script "ocproxy -L 8080:$3" "$CONNECT_URL"`, self(t), server.Pin, server.URL, web)
		l.eventually(20*time.Second, "openconnect is up over DTLS", func() bool { return strings.Contains(peer.said(), "Established DTLS connection") })
		l.eventually(5*time.Second, "ocproxy listens", func() bool {
			conn, err := l.client.DialContext(t.Context(), "tcp", "127.0.0.1:8080")
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
		curl(t, "http://127.0.0.1:8080")
	})
	t.Run("authenticate for the proxy", func(t *testing.T) {
		p := l.in(t).start(l.client, "", "sh", "-c", authenticate+
			`exec "$0" proxy --cookie-on-stdin --servercert "$FINGERPRINT" --resolve "$RESOLVE" --json "$CONNECT_URL"`, self(t), server.Pin, server.URL)
		var told int
		p.wait(&told, "it listens", func(e event) bool { return e.Event == "listen" && e.State == "listening" })
		curl(t, "--socks5-hostname", "127.0.0.1:1080", "http://"+web)
	})
}

// web serves a page behind the gateway and returns its host and port.
func (l *lab) web(page string) string {
	l.t.Helper()
	ln, err := l.gateway.Listen("tcp", netip.AddrPortFrom(ocserv.Inside, 0).String())
	if err != nil {
		l.t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, page) })}
	go srv.Serve(ln)
	l.t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}

// TestFaultsDuringIperf cuts UDP while iperf3 runs through a forward, gives it back, and then changes the address of the client.
func TestFaultsDuringIperf(t *testing.T) {
	l := newLab(t, "iperf3", "nft", "ocserv")
	server := ocserv.Start(t, l.gateway, ocserv.Config{Address: outside})
	servers := []string{"5201", "5202", "5203"} // a server that a client has left abruptly is of no use for a moment
	var forwards []string
	for _, port := range servers {
		forwards = append(forwards, "-L", "0:"+ocserv.Inside.String()+":"+port)
	}
	p, told, ports := l.proxyTo(server, forwards...)
	over := func(within time.Duration, path string) time.Duration {
		begin := time.Now()
		p.within(within, &told, "the tunnel is over "+path, func(e event) bool { return e.Event == "tunnel" && e.State == "connected" && e.Path == path })
		return time.Since(begin).Round(10 * time.Millisecond)
	}

	for i, way := range directions {
		stop := l.endlessIperf(ports[i], servers[i], way.flags...)
		l.router.Run("nft", "add table inet fault; add chain inet fault forward { type filter hook forward priority 0; }; "+
			"add rule inet fault forward meta l4proto udp drop")
		noticed := over(5*time.Second, "tls")
		time.Sleep(time.Second)
		l.router.Run("nft", "delete table inet fault")
		back := over(60*time.Second, "dtls")
		time.Sleep(time.Second)
		stall := stop().stall()
		t.Logf("interop: UDP cut during iperf3 %s: it stood still for %v; on TLS after %v, on DTLS again %v after UDP was back", way.name, stall, noticed, back)
		if stall > 3*time.Second {
			t.Error("it stood still for more than 3 s")
		}
	}

	stop := l.endlessIperf(ports[2], servers[2], "--reverse")
	l.client.IP("address", "del", "10.98.0.2/24", "dev", l.clientIf)
	l.client.IP("address", "add", "10.98.0.77/24", "dev", l.clientIf)
	l.client.IP("route", "replace", "default", "via", "10.98.0.1")
	time.Sleep(5 * time.Second)
	stall := stop().stall()
	t.Logf("interop: address of the client changed during iperf3: it stood still for %v", stall)
	if stall > 4*time.Second {
		t.Error("it did not go on")
	}
	if users := server.Control("--json", "show", "users"); strings.Count(users, `"Username":`) != 1 || !strings.Contains(users, "10.98.0.77") {
		t.Errorf("want one session, from the new address: %s", users)
	}
}

// TestServeOpenconnect connects openconnect, with a network device of its own, to the gateway that the command is.
func TestServeOpenconnect(t *testing.T) {
	t.Parallel()
	l := newLab(t, "openconnect", "iperf3", "ping", "curl")
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string]string{
		"users": alice,
		// What vpnc-script does, as far as it matters here.
		"script": `#!/bin/sh
[ "$reason" = connect ] || exit 0
ip link set dev "$TUNDEV" up mtu "$INTERNAL_IP4_MTU"
ip addr add "$INTERNAL_IP4_ADDRESS/32" dev "$TUNDEV"
ip -6 addr add "$INTERNAL_IP6_ADDRESS/128" dev "$TUNDEV" nodad
ip route add 172.31.0.0/16 dev "$TUNDEV"
ip -6 route add fd00:31::/64 dev "$TUNDEV"
touch "${0%script}up-$TUNDEV"
`,
	} {
		if err := os.WriteFile(path(name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	web := l.web("inside")
	l.gateway.Start("iperf3", "-s")
	gw := l.culvert(l.gateway, "", "serve", "--listen", ":4443", "--user-file", path("users"), "--self-signed", "--control", path("control"),
		"--pool", "10.20.0.0/24", "--pool", "fd00:20::/64", "--route", "172.31.0.0/16", "--route", "fd00:31::/64")
	var told int
	pin := gw.wait(&told, "it listens", func(e event) bool { return e.Event == "listen" && e.State == "listening" }).Pin

	for i, tt := range []struct {
		name, url, path string
		flags           []string
	}{
		{"DTLS", "https://10.99.0.1:4443", "dtls", nil},
		{"DTLS over IPv6", "https://[fd00:99::1]:4443", "dtls", nil},
		{"no DTLS", "https://10.99.0.1:4443", "tls", []string{"--no-dtls"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := l.in(t)
			dev := fmt.Sprintf("tun%d", i)
			peer := l.run(l.client, "pass\n", "openconnect", append([]string{"--user", "alice", "--passwd-on-stdin", "--servercert", pin, "--non-inter",
				"--interface", dev, "--script", path("script"), tt.url}, tt.flags...)...)
			var info gateway.SessionInfo
			l.eventually(20*time.Second, "culvert sessions shows the session over "+tt.path, func() bool {
				got := culvert(t, "", "sessions", "--json", "--control", path("control"))
				var list []gateway.SessionInfo
				if err := json.Unmarshal([]byte(got.out), &list); err != nil {
					t.Fatalf("%+v: %v", got, err)
				}
				for _, info = range list {
					if info.Path == tt.path {
						return true
					}
				}
				return false
			})
			l.eventually(10*time.Second, "the device is up", func() bool { _, err := os.Stat(path("up-" + dev)); return err == nil })
			if info.User != "alice" || len(info.Addresses) != 2 || !strings.HasPrefix(info.UserAgent, "Open AnyConnect VPN Agent") {
				t.Errorf("%+v", info)
			}
			for _, host := range []netip.Addr{ocserv.Inside, ocserv.Inside6} {
				l.client.Run("ping", "-c", "3", "-i", "0.2", "-W", "3", host.String())
				for _, way := range directions {
					if host == ocserv.Inside6 && way.flags != nil {
						continue // three are enough
					}
					rate := l.iperf(append([]string{"-c", host.String(), "-t", "1"}, way.flags...)...).rate()
					t.Logf("interop: openconnect to culvert serve, %s, iperf3 %s %s: %.0f Mbit/s", tt.name, way.name, host, rate)
					if rate < 10 {
						t.Error("that is next to nothing")
					}
				}
			}
			if got := l.client.Run("curl", "-sS", "-m", "10", "http://"+web); got != "inside" {
				t.Errorf("curl prints %q", got)
			}
			peer.cmd.Process.Signal(syscall.SIGINT)
			gw.wait(&told, "the client has left", func(e event) bool { return e.Event == "session" && e.State == "disconnected" && e.Session == info.ID })
		})
	}
}
