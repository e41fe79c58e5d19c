package vpn_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
)

// TestStatus tells what the gateway assigned and what the paths do.
func TestStatus(t *testing.T) {
	leak.Check(t)
	before := time.Now()
	gw := gatewaytest.New(t, gatewaytest.Options{Config: func(c *gateway.Config) {
		c.Network.Banner = "Be nice.\nOr else."
		c.Network.NoRoutes = []netip.Prefix{netip.MustParsePrefix("10.211.0.64/26")}
		c.SessionTimeout = time.Hour
	}})
	tun := dial(t, gw.URL, settings(gw, func(c *vpn.Config) { c.MTU = 1300 }))
	s := tun.Status()
	if s.State != vpn.Connected || s.Path == "" || s.Reconnects != 0 || s.Err != nil {
		t.Errorf("at the beginning: %+v", s)
	}
	over(t, tun, "dtls", 10*time.Second)
	s = tun.Status()
	session := only(t, gw)
	var inner []netip.Addr
	for _, p := range s.Addresses {
		inner = append(inner, p.Addr())
	}
	same(t, "Server", s.Server, gw.URL)
	same(t, "Gateway", s.Gateway, gw.Addr)
	same(t, "Addresses", inner, session.Addresses)
	same(t, "DNS", s.DNS, []netip.Addr{gw.Web.Addr(), gw.Web6.Addr()})
	same(t, "SplitDNS", s.SplitDNS, []string{gatewaytest.Zone})
	same(t, "SearchDomains", s.SearchDomains, []string{gatewaytest.Zone})
	same(t, "Include", s.Include, []netip.Prefix{netip.MustParsePrefix("10.211.0.0/24"), netip.MustParsePrefix("fd21:c01:7e57::/64")})
	same(t, "Exclude", s.Exclude, []netip.Prefix{netip.MustParsePrefix("10.211.0.64/26")})
	same(t, "Banner", s.Banner, "Be nice.\nOr else.")
	same(t, "MTU", s.MTU, 1300)
	if s.Started.Before(before) || s.Since.Before(s.Started) || time.Until(s.Expires) > time.Hour || time.Until(s.Expires) < 50*time.Minute {
		t.Errorf("times: %v, %v, %v", s.Started, s.Since, s.Expires)
	}
	if len(s.Paths) != 2 {
		t.Fatalf("paths: %+v", s.Paths)
	}
	for i, name := range []string{"dtls", "tls"} {
		if p := s.Paths[i]; p.Name != name || !p.Open || p.Active != (name == s.Path) || p.Opens != 1 || p.Failures != 0 || p.Detail == "" ||
			p.LastError != "" || p.Since.Before(before) || !p.NextTry.IsZero() {
			t.Errorf("path %s: %+v", name, p)
		}
	}
	if detail := s.Paths[0].Detail; detail != session.DTLSCipher || !strings.Contains(detail, "AES256-GCM") {
		t.Errorf("cipher suite %q, and the gateway says %q", detail, session.DTLSCipher)
	}

	conn, err := tun.DialContext(timeout(t, 10*time.Second), "tcp", gw.Echo.String())
	if err != nil {
		t.Fatal(err)
	}
	transfer(t, conn, 100_000)
	was, s := s.Counters, tun.Status()
	if n := s.Counters; n.SentBytes < was.SentBytes+100_000 || n.ReceivedBytes < was.ReceivedBytes+100_000 ||
		n.SentPackets < was.SentPackets+70 || n.ReceivedPackets < was.ReceivedPackets+70 || n.Dropped != 0 {
		t.Errorf("counters after 100,000 bytes both ways: %+v", n)
	}

	tun.Close()
	s = tun.Status()
	if s.State != vpn.Closed || s.Path != "" || !errors.Is(s.Err, net.ErrClosed) {
		t.Errorf("at the end: %+v", s)
	}
	for _, p := range s.Paths {
		if p.Open || p.Active {
			t.Errorf("path %s at the end: %+v", p.Name, p)
		}
	}
}

// same fails unless got prints like want.
func same(t *testing.T, what string, got, want any) {
	t.Helper()
	g, err1 := json.Marshal(got)
	w, err2 := json.Marshal(want)
	if !bytes.Equal(g, w) || err1 != nil || err2 != nil {
		t.Errorf("%s: %s, want %s", what, g, w)
	}
}

// A record is what Watch tells, in order.
type record struct {
	mu   sync.Mutex
	seen []vpn.Status
}

func (r *record) note(s vpn.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, s)
}

func (r *record) all() []vpn.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[:len(r.seen):len(r.seen)]
}

// saw waits until the last that was told is as wanted.
func (r *record) saw(t *testing.T, within time.Duration, what string, ok func(vpn.Status) bool) {
	t.Helper()
	eventually(t, within, what, func() bool {
		seen := r.all()
		return len(seen) > 0 && ok(seen[len(seen)-1])
	})
}

// TestWatch follows a tunnel through its troubles.
func TestWatch(t *testing.T) {
	t.Parallel()
	gw, tun := simple(t)
	over(t, tun, "dtls", 10*time.Second)
	var r record
	watched := make(chan error, 1)
	go func() { watched <- tun.Watch(context.Background(), r.note) }()
	r.saw(t, 20*time.Second, "the present state", func(s vpn.Status) bool { return s.State == vpn.Connected && s.Path == "dtls" })

	// UDP goes away. What is sent makes the tunnel notice.
	f := flowTo(t, tun, gw.Echo)
	gw.CutUDP(true)
	r.saw(t, 20*time.Second, "DTLS is given up", func(s vpn.Status) bool { return s.Path == "tls" && !s.Paths[0].Open && s.Paths[0].LastError != "" })
	// Then everything.
	gw.CutTCP(true)
	gw.ResetTCP()
	r.saw(t, 20*time.Second, "nothing works", func(s vpn.Status) bool { return s.State == vpn.Reconnecting && s.Path == "" })
	down := r.all()[len(r.all())-1]
	gw.CutTCP(false)
	r.saw(t, 20*time.Second, "TLS is back", func(s vpn.Status) bool {
		return s.State == vpn.Connected && s.Path == "tls" && s.Reconnects == 1 && s.Since.After(down.Since)
	})
	gw.CutUDP(false)
	tun.NetworkChanged()
	r.saw(t, 30*time.Second, "DTLS is back", func(s vpn.Status) bool { return s.Path == "dtls" && s.Reconnects == 1 })
	f.finish(t)

	tun.Close()
	select {
	case err := <-watched:
		if err != nil {
			t.Errorf("Watch: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Watch does not return after the end")
	}
	seen := r.all()
	last := seen[len(seen)-1]
	if last.State != vpn.Closed || !errors.Is(last.Err, net.ErrClosed) {
		t.Errorf("the last state: %+v", last)
	}
	for i, s := range seen {
		if s.State == vpn.Closed && i != len(seen)-1 {
			t.Errorf("Closed is number %d of %d", i, len(seen))
		}
		if (s.State == vpn.Connected) != (s.Path != "") {
			t.Errorf("state %v on path %q", s.State, s.Path)
		}
		same(t, "the addresses", s.Addresses, seen[0].Addresses)
	}
	if err := tun.Watch(context.Background(), func(s vpn.Status) { last = s }); err != nil || last.State != vpn.Closed {
		t.Errorf("Watch after the end: %v, %+v", err, last)
	}
}

// TestWatchSlowly has a watcher that takes its time. It misses what came and went, but not how it ended up.
func TestWatchSlowly(t *testing.T) {
	t.Parallel()
	gw, tun := simple(t, onlyTLS)
	var r record
	watched := make(chan error, 1)
	entered := make(chan struct{}, 1)
	go func() {
		watched <- tun.Watch(context.Background(), func(s vpn.Status) {
			r.note(s)
			select {
			case entered <- struct{}{}:
			default:
			}
			time.Sleep(300 * time.Millisecond)
		})
	}()
	<-entered
	for range 2 {
		opens := tun.Status().Paths[0].Opens
		gw.ResetTCP()
		eventually(t, 10*time.Second, "TLS comes back", func() bool {
			p := tun.Status().Paths[0]
			return p.Open && p.Opens > opens
		})
	}
	want := tun.Status()
	r.saw(t, 20*time.Second, "the last state", func(s vpn.Status) bool {
		return s.State == vpn.Connected && s.Reconnects == want.Reconnects && s.Paths[0].Opens == want.Paths[0].Opens
	})
	tun.Close()
	if err := <-watched; err != nil {
		t.Errorf("Watch: %v", err)
	}
	if last := r.all()[len(r.all())-1]; last.State != vpn.Closed {
		t.Errorf("the last state: %+v", last)
	}
}

// TestWatchEnds ends with its context.
func TestWatchEnds(t *testing.T) {
	leak.Check(t)
	gw, tun := simple(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := tun.Watch(ctx, func(vpn.Status) { cancel() })
	checkError(t, "watch", gw.URL, "", err)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Watch: %v, want the error of the context", err)
	}
}

// TestStatusEncodings writes a status for machines and for logs.
func TestStatusEncodings(t *testing.T) {
	leak.Check(t)
	gw, tun := simple(t)
	over(t, tun, "dtls", 10*time.Second)
	b, err := json.Marshal(tun.Status())
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"state": "connected", "path": "dtls", "server": gw.URL, "gateway": gw.Addr.String(), "reconnects": 0.0} {
		if fields[name] != want {
			t.Errorf("%s is %v, want %v", name, fields[name], want)
		}
	}
	for _, name := range []string{"paths", "addresses", "dns", "split_dns", "search_domains", "include", "mtu", "since", "started", "expires", "counters"} {
		if fields[name] == nil {
			t.Errorf("there is no %s in %s", name, b)
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("now", "status", tun.Status())
	if !strings.Contains(log.String(), "status.state=connected status.path=dtls") {
		t.Errorf("in a log: %s", log.String())
	}
	for s, want := range map[vpn.State]string{vpn.Connected: "connected", vpn.Reconnecting: "reconnecting", vpn.Closed: "closed"} {
		if s.String() != want {
			t.Errorf("state %d is %q", s, s)
		}
	}
}
