//go:build unix

package main

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway/gatewaytest"
)

// TestProxy carries TCP and UDP through the proxy command, with a password, while the path below it changes.
func TestProxy(t *testing.T) {
	gw := gatewaytest.New(t)
	auth := filepath.Join(t.TempDir(), "auth")
	if err := os.WriteFile(auth, []byte("ann:secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, gatewaytest.Password+"\n", "proxy", "-u", gatewaytest.User, "--passwd-on-stdin", "--non-inter", "--servercert", gw.Pin,
		"--listen", "127.0.0.1:0", "--listen-auth", auth, gw.URL)
	var told int
	e := p.wait(&told, "connected", func(e event) bool { return e.State == "connected" && e.Path == "dtls" })
	if len(e.Addresses) == 0 || e.Address != e.Addresses[0].String() || e.MTU == 0 {
		t.Errorf("%+v", e)
	}
	at := p.wait(&told, "listening", func(e event) bool { return e.State == "listening" }).Address

	fetch := func(page string, user *url.Userinfo) (string, error) {
		tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5h", Host: at, User: user})}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get(page)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	get := func(user *url.Userinfo) (string, error) { return fetch("http://"+gatewaytest.WebName+"/", user) }
	if _, err := get(nil); err == nil {
		t.Error("the proxy serves a client without password")
	}
	ann := url.UserPassword("ann", "secret")
	if page, err := get(ann); err != nil || page != gatewaytest.Page {
		t.Errorf("over DTLS: %q, %v", page, err)
	}

	// The gateway does not claim the loopback network.
	here := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") }))
	defer here.Close()
	if strings.Contains(p.said(), "--no-direct") {
		t.Error("nothing has gone outside yet")
	}
	for range 2 {
		if page, err := fetch(here.URL, ann); err != nil || page != "here" {
			t.Errorf("outside: %q, %v", page, err)
		}
	}
	p.wait(&told, "that it goes directly", func(e event) bool { return e.Event == "message" && strings.Contains(e.Message, "--no-direct") })

	relay := associate(t, at, "ann", "secret")
	for _, payload := range []string{"one", "two"} {
		if got := relay(gw.Echo, payload); got != payload {
			t.Errorf("UDP: sent %q, got %q", payload, got)
		}
	}

	gw.CutUDP(true)
	if page, err := get(ann); err != nil || page != gatewaytest.Page {
		t.Errorf("over TLS: %q, %v", page, err)
	}
	p.wait(&told, "over TLS", func(e event) bool { return e.Event == "tunnel" && e.Path == "tls" })
	if got := relay(gw.Echo, "three"); got != "three" {
		t.Errorf("UDP over TLS: got %q", got)
	}

	p.cmd.Process.Signal(syscall.SIGINT)
	if code := p.exit(); code != exitInterrupted {
		t.Errorf("exit status after SIGINT: %d", code)
	}
	if n := strings.Count(p.said(), "--no-direct"); n != 1 {
		t.Errorf("it tells %d times that destinations are reached directly", n)
	}
	if _, err := direct(nil, true)(t.Context(), "tcp", here.Listener.Addr().String()); !errors.Is(err, vpn.ErrNoRoute) {
		t.Errorf("with --no-direct: %v", err)
	}
	// The gateway keeps a session for a while, without a connection, even of a client that has said goodbye.
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if s := gw.Sessions(); len(s) == 0 || s[0].Path == "" {
			break
		}
		if time.Since(begin) > 5*time.Second {
			t.Fatal("the tunnel was not closed")
		}
	}
}

// associate makes a SOCKS5 UDP association, and returns what sends a datagram through it and returns the answer.
func associate(t *testing.T, proxy, user, password string) func(to netip.AddrPort, payload string) string {
	t.Helper()
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	say := func(b []byte, answer int) []byte {
		c.Write(b)
		got := make([]byte, answer)
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	say([]byte{5, 1, 2}, 2)
	login := append([]byte{1, byte(len(user))}, user...)
	if got := say(append(append(login, byte(len(password))), password...), 2); got[1] != 0 {
		t.Fatalf("login: %x", got)
	}
	r := say([]byte{5, 3, 0, 1, 0, 0, 0, 0, 0, 0}, 10)
	if r[1] != 0 || r[3] != 1 {
		t.Fatalf("reply: %x", r)
	}
	u, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte(r[4:8])), binary.BigEndian.Uint16(r[8:]))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	return func(to netip.AddrPort, payload string) string {
		head := binary.BigEndian.AppendUint16(append([]byte{0, 0, 0, 1}, to.Addr().AsSlice()...), to.Port())
		u.Write(append(head, payload...))
		b := make([]byte, 2048)
		u.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := u.Read(b)
		if err != nil || n < len(head) {
			t.Fatalf("%d bytes, %v", n, err)
		}
		return string(b[len(head):n])
	}
}

// TestInterruptedWhileConnecting has a gateway that says nothing.
func TestInterruptedWhileConnecting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := start(t, "", "proxy", "--non-inter", "-u", "alice", "--listen", "127.0.0.1:0", "https://"+l.Addr().String())
	var told int
	p.wait(&told, "connecting", func(e event) bool { return e.State == "connecting" })
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	begin := time.Now()
	p.cmd.Process.Signal(syscall.SIGINT)
	if code := p.exit(); code != exitInterrupted {
		t.Errorf("exit status %d", code)
	}
	if d := time.Since(begin); d > 3*time.Second {
		t.Errorf("it took %v", d)
	}
}
