package main

import (
	"errors"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/gateway/gatewaytest"
)

func TestParseForward(t *testing.T) {
	for _, tt := range []struct{ value, listen, target string }{
		{"8080:intranet:80", "127.0.0.1:8080", "intranet:80"},
		{"0:10.0.0.1:22", "127.0.0.1:0", "10.0.0.1:22"},
		{"8080:[fd00::1]:80", "127.0.0.1:8080", "[fd00::1]:80"},
		{"127.0.0.2:8080:h.example:80", "127.0.0.2:8080", "h.example:80"},
		{"localhost:8080:h_1.example:80", "localhost:8080", "h_1.example:80"},
		{"[::1]:8080:[fd00::1]:80", "[::1]:8080", "[fd00::1]:80"},
		{"0.0.0.0:8080:h:80", "0.0.0.0:8080", "h:80"},
		{"*:8080:h:80", ":8080", "h:80"},
		{"", "", ""},
		{"8080", "", ""},
		{"8080:80", "", ""},
		{"8080::80", "", ""},
		{":8080:h:80", "", ""},
		{"8080:h:80:", "", ""},
		{"8080:h:0", "", ""},
		{"8080:h:http", "", ""},
		{"65536:h:80", "", ""},
		{"-1:h:80", "", ""},
		{"8080:h:65536", "", ""},
		{"8080:fd00::1:80", "", ""},
		{"8080:[h]:80", "", ""},
		{"8080:[10.0.0.1]:80", "", ""},
		{"8080:[fd00::1:80", "", ""},
		{"8080:[fd00::1]80", "", ""},
		{"8080:h h:80", "", ""},
		{"8080:*:80", "", ""},
		{"8080:h/x:80", "", ""},
		{"a:8080:h:80:b", "", ""},
	} {
		f, err := parseForward(tt.value)
		if f != (forward{tt.listen, tt.target}) || (err == nil) != (tt.target != "") {
			t.Errorf("%q: %+v, %v", tt.value, f, err)
		}
	}
}

func FuzzForward(f *testing.F) {
	f.Add("[::1]:8080:[fd00::1]:80")
	f.Add("*:1:h:2")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := parseForward(s)
		if err != nil {
			return
		}
		for _, a := range []string{v.listen, v.target} {
			if _, _, err := net.SplitHostPort(a); err != nil {
				t.Errorf("%q becomes %q: %v", s, a, err)
			}
		}
	})
}

// TestForward binds ports to a web server and an echo server behind the gateway, and to a port where nothing listens.
func TestForward(t *testing.T) {
	gw := gatewaytest.New(t)
	p := start(t, gatewaytest.Password+"\n", "proxy", "-u", gatewaytest.User, "--passwd-on-stdin", "--non-inter", "--servercert", gw.Pin,
		"--listen", "127.0.0.1:0", "-L", "0:"+gatewaytest.WebName+":80", "-L", "127.0.0.1:0:"+gw.Echo.String(),
		"--local-forward", "0:"+net.JoinHostPort(gw.Echo.Addr().String(), "9"), gw.URL)
	var told int
	listening := func() event {
		return p.wait(&told, "a forward listens", func(e event) bool { return e.Event == "forward" && e.State == "listening" })
	}
	dial := func(e event) *net.TCPConn {
		c, err := net.Dial("tcp", e.Address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(10 * time.Second))
		return c.(*net.TCPConn)
	}
	web, echo, nothing := listening(), listening(), listening()
	if web.Target != gatewaytest.WebName+":80" || echo.Target != gw.Echo.String() {
		t.Errorf("%+v, %+v", web, echo)
	}

	c := dial(web)
	io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	if got, err := io.ReadAll(c); err != nil || len(got) < len(gatewaytest.Page) || string(got[len(got)-len(gatewaytest.Page):]) != gatewaytest.Page {
		t.Errorf("the page is %q, %v", got, err)
	}

	// What is said before the end is answered after it.
	c = dial(echo)
	io.WriteString(c, "there and back")
	c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "there and back" {
		t.Errorf("echo: %q, %v", got, err)
	}

	c = dial(nothing)
	if n, err := c.Read(make([]byte, 1)); err == nil || runtime.GOOS == "linux" && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("where nothing listens: %d bytes, %v", n, err)
	}
	e := p.wait(&told, "the forward failed", func(e event) bool { return e.Event == "forward" && e.State == "failed" })
	if e.Target != nothing.Target || e.Error == "" {
		t.Errorf("%+v", e)
	}
	t.Logf("the user is told: %s", e.Error)
}

func TestForwardPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	// Nobody is asked for a password before the ports are there.
	got := culvert(t, "", "proxy", "--listen", "127.0.0.1:0", "-L", port+":h:80", "192.0.2.1")
	if got.code != exitFailed {
		t.Errorf("%+v", got)
	}
}
