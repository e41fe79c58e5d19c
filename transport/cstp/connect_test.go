package cstp

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/wire"
)

// answer runs a gateway that reads one request and answers it with text. It returns what Connect makes of that, and the request.
func answer(t *testing.T, req *wire.ConnectRequest, text string) (*Link, *wire.ConnectReply, *bufio.Reader, string, error) {
	t.Helper()
	client, server, _, _ := links(t, 0)
	head := make(chan string, 1)
	go func() {
		br := bufio.NewReader(server)
		var b strings.Builder
		for {
			line, err := br.ReadString('\n')
			b.WriteString(line)
			if err != nil || line == "\r\n" {
				break
			}
		}
		head <- b.String()
		io.WriteString(server, text)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	reply, br, err := Connect(ctx, client, req)
	return client, reply, br, <-head, err
}

const good = "HTTP/1.1 200 CONNECTED\r\nX-CSTP-Address: 10.0.0.7\r\nX-CSTP-Netmask: 255.255.255.0\r\nX-CSTP-MTU: 1400\r\n"

func TestConnect(t *testing.T) {
	req := &wire.ConnectRequest{Host: "gw.example", Cookie: "abc", MTU: 1400, IPv4: true, AcceptEncoding: []string{wire.LZS}}
	// The first frame comes in the same record as the reply, and the reply talks of a body.
	client, reply, br, head, err := answer(t, req, good+"Transfer-Encoding: chunked\r\nX-CSTP-Content-Encoding: lzs\r\n\r\n"+
		"STF\x01\x00\x03\x00\x00abcSTF\x01\x00\x02")
	if err != nil {
		t.Fatal(err)
	}
	if want := string(req.Append(nil)); head != want {
		t.Errorf("the gateway read\n%s\nwant\n%s", head, want)
	}
	if reply.StatusCode != 200 || reply.MTU != 1400 || len(reply.Addresses) != 1 {
		t.Errorf("%+v", reply)
	}
	c := NewConn(client, br, quiet)
	defer c.Close()
	if got := readN(t, c, 1); string(got[0]) != "abc" {
		t.Errorf("%q", got)
	}
}

// TestStatus goes through what gateways answer instead of 200.
func TestStatus(t *testing.T) {
	kinds := []error{transport.ErrExpired, transport.ErrRefused, transport.ErrProtocol}
	for _, test := range []struct {
		status, header string
		want           []error
		temporary      bool
		text           string
	}{
		{"401 Cookie is not acceptable", "", []error{transport.ErrExpired}, false, "log in again"},
		{"401 Unauthorized", "", []error{transport.ErrExpired}, false, ""},
		{"403 Forbidden", "", []error{transport.ErrExpired}, false, ""},
		{"404 Not Found", "", []error{transport.ErrExpired, transport.ErrProtocol}, false, ""},
		{"405 Method not allowed", "", []error{transport.ErrExpired}, false, ""},
		{"503 Service Unavailable", "X-Reason: No address available\r\n", []error{transport.ErrRefused}, true, "No address available"},
		{"503 Service Unavailable", "", []error{transport.ErrRefused}, true, "cookie"},
		{"408 Timeout", "", []error{transport.ErrRefused}, true, "later"},
		{"425 Too Early", "", []error{transport.ErrRefused}, true, ""},
		{"429 Too Many Requests", "", []error{transport.ErrRefused}, true, ""},
		{"500 Oops", "", []error{transport.ErrRefused}, true, ""},
		{"400 Bad Request", "", []error{transport.ErrRefused}, false, ""},
		{"302 Found", "Location: /\r\n", []error{transport.ErrProtocol}, false, ""},
		{"204 No Content", "", []error{transport.ErrProtocol}, false, ""},
	} {
		t.Run(test.status, func(t *testing.T) {
			_, reply, br, _, err := answer(t, &wire.ConnectRequest{Host: "gw"}, "HTTP/1.1 "+test.status+"\r\n"+test.header+"\r\n")
			var se *StatusError
			if !errors.As(err, &se) || br != nil || reply == nil || se.Temporary() != test.temporary || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%v, %+v", err, reply)
			}
			for _, kind := range kinds {
				want := false
				for _, w := range test.want {
					want = want || w == kind
				}
				if errors.Is(err, kind) != want {
					t.Errorf("%v: matches %v: %v, want %v", err, kind, !want, want)
				}
			}
		})
	}
}

func TestConnectHostile(t *testing.T) {
	for name, text := range map[string]string{
		"no HTTP":           "220 mail.example ESMTP\r\n",
		"endless header":    "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", 2000),
		"endless line":      "HTTP/1.1 200 OK\r\nX-Filler: " + strings.Repeat("a", 100_000),
		"other compression": good + "X-CSTP-Content-Encoding: deflate\r\n\r\n",
	} {
		if _, _, br, _, err := answer(t, &wire.ConnectRequest{Host: "gw"}, text); !errors.Is(err, transport.ErrProtocol) || br != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConnectContext(t *testing.T) {
	client, server, _, _ := links(t, 0)
	go io.Copy(io.Discard, server)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	within(t, 5*time.Second, "Connect", func() {
		if _, _, err := Connect(ctx, client, &wire.ConnectRequest{Host: "gw"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// TestConnectStopsMidway has the gateway stop in the middle of its header: silent, or with the connection.
func TestConnectStopsMidway(t *testing.T) {
	for _, hangUp := range []bool{false, true} {
		client, server, _, _ := links(t, 0)
		go func() {
			b := make([]byte, 4096)
			server.Read(b)
			io.WriteString(server, "HTTP/1.1 200 OK\r\nX-CSTP-Version: 1\r\nX-CSTP-Addr")
			if hangUp {
				server.Close()
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		within(t, 5*time.Second, "Connect", func() {
			_, _, err := Connect(ctx, client, &wire.ConnectRequest{Host: "gw"})
			if hangUp && (err == nil || errors.Is(err, context.DeadlineExceeded)) || !hangUp && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("hanging up: %v: %v", hangUp, err)
			}
		})
	}
}

func TestConnectUntrusted(t *testing.T) {
	scfg, _ := configs()
	for name, test := range map[string]struct {
		serve func(net.Conn)
		want  error
	}{
		"unknown certificate": {func(nc net.Conn) { Server(nc, scfg).Handshake() }, transport.ErrUntrusted},
		"no TLS":              {func(nc net.Conn) { io.WriteString(nc, "HTTP/1.1 400 Bad Request\r\n\r\n") }, transport.ErrProtocol},
		"alert":               {func(nc net.Conn) { nc.Write([]byte{21, 3, 3, 0, 2, 2, 40}); io.Copy(io.Discard, nc) }, transport.ErrProtocol},
	} {
		a, b := loopback(t)
		go test.serve(b)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, _, err := Connect(ctx, Client(a, &tls.Config{ServerName: "gw.example"}), &wire.ConnectRequest{Host: "gw"})
		if cancel(); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLeaseOf(t *testing.T) {
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	gateway := netip.MustParseAddrPort("192.0.2.1:443")
	r, err := wire.ReadConnectReply(bufio.NewReader(strings.NewReader("HTTP/1.1 200 CONNECTED\r\n" +
		"X-CSTP-Address-IP6: fd00:1::5/64\r\nX-CSTP-Address: 10.0.0.7\r\nX-CSTP-Netmask: 255.255.255.0\r\nX-CSTP-Server-Name: gw one\r\n" +
		"X-CSTP-MTU: 1434\r\nX-DTLS-MTU: 1400\r\nX-CSTP-Base-MTU: 1500\r\nX-CSTP-DNS: 10.0.0.1\r\nX-CSTP-NBNS: 10.0.0.2\r\nX-CSTP-Default-Domain: corp.example\r\n" +
		"X-CSTP-Split-DNS: corp.example\r\nX-CSTP-Tunnel-All-DNS: true\r\nX-CSTP-Split-Include: 10.0.0.0/255.0.0.0\r\nX-CSTP-Split-Exclude: 10.9.0.0/16\r\n" +
		"X-CSTP-Split-Exclude: 0.0.0.0/255.255.255.255\r\nX-CSTP-Client-Bypass-Protocol: true\r\nX-CSTP-Banner: hi\r\nX-CSTP-DPD: 30\r\nX-CSTP-Keepalive: 20\r\n" +
		"X-DTLS-DPD: 31\r\nX-DTLS-Keepalive: 21\r\nX-CSTP-Rekey-Time: 100\r\nX-CSTP-Rekey-Method: ssl\r\nX-DTLS-Rekey-Time: 100\r\nX-DTLS-Rekey-Method: none\r\n" +
		"X-CSTP-Idle-Timeout: 1800\r\nX-CSTP-Disconnected-Timeout: 1801\r\nX-CSTP-Lease-Duration: 7200\r\nX-CSTP-Session-Timeout: none\r\n" +
		"X-CSTP-Session-Timeout-Remaining: 3600\r\nX-CSTP-Session-Timeout-Alert-Interval: 60\r\nX-CSTP-MSIE-Proxy-Server: p:1\r\nX-CSTP-DynDNS: true\r\n" +
		"X-CSTP-Smartcard-Removal-Disconnect: true\r\nX-CSTP-Disable-Always-On-VPN: true\r\nX-CSTP-Quarantine: true\r\nX-CSTP-Post-Auth-XML: " +
		`<config-auth type="complete"><config type="private"><opaque is-for="vpn-client"><custom-attr><dynamic-split-exclude-domains>a.example,` +
		"</dynamic-split-exclude-domains></custom-attr></opaque></config></config-auth>\r\n\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	got, err := LeaseOf(r, gateway, now)
	if err != nil {
		t.Fatal(err)
	}
	want := &transport.Lease{
		Gateway: gateway, GatewayName: "gw one",
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/24"), netip.MustParsePrefix("fd00:1::5/64")},
		MTU:       1400, BaseMTU: 1500,
		DNS: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, NBNS: []netip.Addr{netip.MustParseAddr("10.0.0.2")},
		SearchDomains: []string{"corp.example"}, SplitDNS: []string{"corp.example"}, TunnelAllDNS: true,
		Include: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Exclude: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")},
		ExcludeLocalLAN: true, DynamicExclude: []string{"a.example"}, BypassProtocol: true, Banner: "hi",
		DPD: 30 * time.Second, Keepalive: 20 * time.Second, DTLSDPD: 31 * time.Second, DTLSKeepalive: 21 * time.Second, Rekey: 100 * time.Second,
		IdleTimeout: 30 * time.Minute, DisconnectedTimeout: 1801 * time.Second, Expires: now.Add(time.Hour), ExpiryWarning: time.Minute,
		Proxy: transport.Proxy{Server: "p:1"}, SmartcardRemovalDisconnect: true, DisableAlwaysOn: true, Quarantine: true, DynamicAddress: true,
		PostAuthXML: r.PostAuthXML,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestLeaseOfLimits(t *testing.T) {
	for _, test := range []struct {
		header string
		mtu    int // 0: no lease
		text   string
	}{
		{"X-CSTP-Address: 10.0.0.7\r\nX-CSTP-MTU: 1400\r\n", 1400, ""},
		{"X-CSTP-Address: 10.0.0.7\r\nX-DTLS-MTU: 1399\r\n", 1399, ""},
		{"X-CSTP-Address: 10.0.0.7\r\nX-CSTP-MTU: 1400\r\nX-DTLS-MTU: 99999\r\n", 1400, ""},
		{"X-CSTP-Address: 10.0.0.7\r\nX-CSTP-MTU: 65535\r\n", wire.MaxPayload, ""},
		{"X-CSTP-Address: 10.0.0.7\r\nX-CSTP-Address-IP6: fd00::1/64\r\nX-CSTP-MTU: 1000\r\n", 1000, ""},
		{"X-CSTP-Address: 10.0.0.7\r\n", 0, "no MTU"},
		{"X-CSTP-Address: 10.0.0.7\r\nX-CSTP-MTU: 0\r\n", 0, "no MTU"},
		{"X-CSTP-Address: 10.0.0.7\r\nX-CSTP-MTU: 70000\r\n", 0, "70000"},
		{"X-CSTP-Address: 10.0.0.7\r\nX-CSTP-MTU: 500\r\n", 0, "500"},
		{"X-CSTP-MTU: 1400\r\n", 0, "no address"},
		{"X-CSTP-Address: 10.0.0.777\r\nX-CSTP-MTU: 1400\r\n", 0, "X-CSTP-Address makes no sense"},
		{"X-CSTP-Address-IP6: 10.0.0.7/24\r\nX-CSTP-MTU: 1400\r\n", 0, "X-CSTP-Address-IP6 makes no sense"},
		{"X-CSTP-Address-IP6: fd00::1/64\r\nX-CSTP-MTU: 1000\r\n", 0, "MTU of 1280"},
		{"X-CSTP-Address: 127.0.0.1\r\nX-CSTP-MTU: 1400\r\n", 0, "not the address of a host"},
		{"X-CSTP-Address: 0.0.0.0\r\nX-CSTP-Address-IP6: ff02::1/64\r\nX-CSTP-MTU: 1400\r\n", 0, "not the address of a host"},
	} {
		r, err := wire.ReadConnectReply(bufio.NewReader(strings.NewReader("HTTP/1.1 200 OK\r\n" + test.header + "\r\n")))
		if err != nil {
			t.Fatal(err)
		}
		l, err := LeaseOf(r, netip.AddrPort{}, time.Now())
		if test.mtu == 0 {
			if !errors.Is(err, transport.ErrProtocol) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%q: %+v, %v", test.header, l, err)
			}
		} else if err != nil || l.MTU != test.mtu || len(l.Addresses) != 1 {
			t.Errorf("%q: %+v, %v", test.header, l, err)
		}
	}
}

// TestHijack has the gateway's end come from net/http, as a gateway with a web server has it.
func TestHijack(t *testing.T) {
	a, b := loopback(t)
	scfg, ccfg := configs()
	server := Server(b, scfg)
	conns := make(chan *Conn, 1)
	hs := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req := wire.ParseConnectRequest(r.Header)
		nc, brw, err := http.NewResponseController(w).Hijack()
		if err != nil || nc != net.Conn(server) || req.Cookie != "abc" {
			t.Errorf("%v, %v, %+v", err, nc, req)
			return
		}
		nc.Write([]byte(good + "\r\n"))
		conns <- NewConn(server, brw.Reader, quiet)
	})}
	l := &oneListener{c: make(chan net.Conn, 1)}
	l.c <- server
	defer close(l.c)
	go hs.Serve(l)
	client := Client(a, ccfg)
	_, br, err := Connect(t.Context(), client, &wire.ConnectRequest{Host: "gw.example", Cookie: "abc"})
	if err != nil {
		t.Fatal(err)
	}
	cc, sc := NewConn(client, br, quiet), <-conns
	defer cc.Close()
	defer sc.Close()
	for _, c := range [][2]packet.Conn{{cc, sc}, {sc, cc}} {
		b := batch(100, 1400)
		if n, err := c[0].WriteBatch(b); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		same(t, readN(t, c[1], 2), b)
	}
}

// A oneListener accepts what is in c.
type oneListener struct{ c chan net.Conn }

func (l *oneListener) Accept() (net.Conn, error) {
	if c, ok := <-l.c; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l *oneListener) Close() error   { return nil }
func (l *oneListener) Addr() net.Addr { return &net.TCPAddr{} }
