package flow

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/flow/filter"
	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/flow/owner"
	"culvert.example/vpn/packet"
)

// A part that panics is reported, and what it was asked is refused.
func TestPanics(t *testing.T) {
	w := newWorld(t, Config{
		Decider: DeciderFunc(func(_ context.Context, f *Flow) (Verdict, error) {
			if f.Destination.Port() == 1 {
				panic("no rule 7")
			}
			return Verdict{Allow: true, Way: Tunnel}, nil
		}),
		DNS: func(context.Context, *Flow, []byte) ([]byte, error) { panic("label") },
	})
	if _, err := w.dial("tcp", "198.51.100.7:1"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v", err)
	}
	if got := exchange(t, w.mustDial("udp", "198.51.100.53:53"), query(1, "a.example")); got[3]&15 != 2 {
		t.Errorf("%x", got)
	}
	want := "content-filter: panic: no rule 7, dns-proxy: panic: label"
	if got := strings.Join(w.failures(), ", "); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A connection that panics takes neither the process nor the other flows with it.
func TestPanicInCopy(t *testing.T) {
	w := openWorld(t)
	_, dev := pipe(t, w, nil)
	cfg := w.config(Config{Decider: viaTunnel, Device: dev})
	dial := cfg.Tunnel
	cfg.Tunnel = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if strings.HasSuffix(addr, ".66:7") {
			return panicking{c}, err
		}
		return c, err
	}
	var err error
	if w.in, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	defer w.in.Close()
	c, err := w.dial("tcp", "198.51.100.66:7")
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection: %v", err)
	}
	eventually(t, "it is reported", func() bool { return len(w.failures()) > 0 })
	if got := w.ask(w.mustDial("tcp", "198.51.100.7:7"), "x"); got != "x" {
		t.Errorf("%q", got)
	}
	if got := w.failures(); len(got) != 1 || got[0] != "transparent-proxy: panic: no memory" {
		t.Errorf("%q", got)
	}
}

type panicking struct{ net.Conn }

func (panicking) Read([]byte) (int, error) { panic("no memory") }

// A filter that does not return is not alive, and neither is a DNS proxy that does not.
func TestHangs(t *testing.T) {
	release := make(chan struct{})
	hang := func() { <-release }
	w := newWorld(t, Config{
		DecideTime: 50 * time.Millisecond, QueryTime: 50 * time.Millisecond,
		Decider: DeciderFunc(func(_ context.Context, f *Flow) (Verdict, error) {
			if f.Destination.Port() == 1 {
				hang()
			}
			return Verdict{Allow: true}, nil
		}),
		DNS: func(context.Context, *Flow, []byte) ([]byte, error) { hang(); return nil, nil },
	})
	defer close(release)
	for p := range health.Parts {
		if err := w.in.Alive(health.Part(p)); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	w.programs.DialContext(ctx, "tcp", "198.51.100.7:1")
	w.mustDial("udp", "198.51.100.53:53").Write(query(1, "a.example"))
	eventually(t, "the filter is found hanging", func() bool { return w.in.Alive(health.ContentFilter) != nil })
	eventually(t, "the DNS proxy is found hanging", func() bool { return w.in.Alive(health.DNSProxy) != nil })
	if err := w.in.Alive(health.TransparentProxy); err != nil {
		t.Error(err)
	}
}

// A device that takes no packets is noticed.
func TestDeviceHangs(t *testing.T) {
	w := openWorld(t)
	_, dev := pipe(t, w, nil)
	stuck := &stuckConn{Conn: dev, closed: make(chan struct{})}
	w.intercept(Config{Decider: viaTunnel}, stuck)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	w.programs.DialContext(ctx, "tcp", "198.51.100.7:7")
	eventually(t, "it is noticed", func() bool { return w.in.Alive(health.TransparentProxy) != nil })
}

// A stuckConn takes no packets until it is closed.
type stuckConn struct {
	packet.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *stuckConn) WriteBatch(packet.Batch) (int, error) {
	<-c.closed
	return 0, net.ErrClosed
}

func (c *stuckConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// A device that fails takes the transparent proxy with it.
func TestDeviceFails(t *testing.T) {
	w := openWorld(t)
	_, dev := pipe(t, w, nil)
	w.intercept(Config{Decider: viaTunnel}, dev)
	dev.Close()
	eventually(t, "it is reported", func() bool {
		f := w.failures()
		return len(f) > 0 && strings.HasPrefix(f[0], "transparent-proxy: failure: carrying packets:")
	})
}

func TestOverload(t *testing.T) {
	w := newWorld(t, Config{Decider: viaTunnel, MaxFlows: 1})
	w.ask(w.mustDial("tcp", "198.51.100.7:7"), "x")
	for i := range overloadStreak {
		if f := w.failures(); f != nil {
			t.Fatalf("after %d: %q", i, f)
		}
		w.dial("tcp", "198.51.100.7:7")
		w.in.Alive(health.TransparentProxy)
	}
	if f := w.failures(); len(f) != 1 || f[0] != "transparent-proxy: overload: work was refused 3 times" {
		t.Errorf("%q", f)
	}
	// A pause makes it good again.
	w.in.Alive(health.TransparentProxy)
	w.dial("tcp", "198.51.100.7:7")
	if err := w.in.Alive(health.TransparentProxy); err != nil {
		t.Error(err)
	}
}

// A user with many flows does not take the place of others, nor does that count as an overload.
func TestMaxPerUser(t *testing.T) {
	w := newWorld(t, Config{Decider: viaTunnel, MaxFlows: 4, Owners: owners(func(f owner.Flow) owner.Owner {
		return owner.Owner{UID: int(f.Remote.Port())}
	})})
	w.ask(w.mustDial("tcp", "198.51.100.7:7"), "x")
	w.ask(w.mustDial("tcp", "198.51.100.7:7"), "x")
	if _, err := w.dial("tcp", "198.51.100.7:7"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v", err)
	}
	w.mustDial("tcp", "198.51.100.7:25")
	for range 5 {
		w.dial("tcp", "198.51.100.7:7")
		if err := w.in.Alive(health.TransparentProxy); err != nil {
			t.Error(err)
		}
	}
}

// owners is an Owners without errors.
type owners func(owner.Flow) owner.Owner

func (o owners) Find(_ context.Context, f owner.Flow) (owner.Owner, error) { return o(f), nil }

// TestJudge has the rules of a content filter decide about real flows.
func TestJudge(t *testing.T) {
	rules, err := filter.Compile(filter.Config{Default: filter.Allow, Rules: []filter.Rule{
		{Name: "guest", Action: filter.Block, Users: []string{"guest"}},
		{Name: "editor", Action: filter.Block, Programs: []string{"/usr/bin/editor"}, Note: true},
		{Name: "blocked", Action: filter.Block, Names: []string{"blocked.example"}},
		{Name: "pings", Action: filter.Block, Protocols: []string{"icmp"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	route := func(name string, a netip.Addr) Way {
		if name == "inside.example" {
			return Tunnel
		}
		return Direct
	}
	j := NewJudge(rules, route)
	j.Names = true
	var log bytes.Buffer
	w := newWorld(t, Config{
		Decider: j, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Names: func(a netip.Addr) []string {
			if a == netip.MustParseAddr("198.51.100.8") {
				return []string{"blocked.example"}
			}
			return nil
		},
		Owners: owners(func(f owner.Flow) owner.Owner {
			switch f.Remote.Addr().As4()[3] {
			case 1:
				return owner.Owner{UID: 5, User: "guest"}
			case 2:
				return owner.Owner{UID: 6, User: "ann", Program: "/usr/bin/editor"}
			case 3:
				return owner.Owner{UID: 6, User: "ann", Program: "/usr/bin/editor", Contained: true}
			}
			return owner.Owner{UID: 6, User: "ann", Program: "/usr/bin/browser"}
		}),
	})
	say := func(to, name string) (string, error) {
		c, err := w.dial("tcp", to+":443")
		if err != nil {
			return "", err
		}
		return readTLS(c, name)
	}
	for _, tt := range []struct {
		to, name string
		want     string
		err      error
	}{
		{"198.51.100.1", "www.example", "", syscall.ECONNREFUSED},   // guest
		{"198.51.100.2", "www.example", "", syscall.ECONNREFUSED},   // editor
		{"198.51.100.3", "www.example", "direct: www.example", nil}, // an editor of a container is another program
		{"198.51.100.7", "www.example", "direct: www.example", nil},
		{"198.51.100.7", "inside.example", "tunnel: inside.example", nil},
		{"198.51.100.7", "a.blocked.example", "", syscall.ECONNRESET},
		{"198.51.100.8", "blocked.example", "", syscall.ECONNRESET},
		{"198.51.100.8", "www.example", "direct: www.example", nil}, // another name at the same address
	} {
		if got, err := say(tt.to, tt.name); got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s %s: %q, %v", tt.to, tt.name, got, err)
		}
	}
	if _, err := w.programs.Ping(soon(t), netip.MustParseAddr("198.51.100.7")); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("ping: %v", err)
	}
	var counts []uint64
	for _, c := range rules.Counters() {
		counts = append(counts, c.Flows)
	}
	if len(counts) != 5 || counts[0] != 1 || counts[1] != 1 || counts[2] != 2 || counts[3] != 1 || counts[4] != 4 {
		t.Errorf("counted %v", counts)
	}
	w.in.Close()
	if got := log.String(); strings.Count(got, "msg=flow ") != 1 || !strings.Contains(got, "allow=false") || !strings.Contains(got, "log_rule=editor") ||
		!strings.Contains(got, "flow.program=/usr/bin/editor") || !strings.Contains(got, "flow.user=ann") {
		t.Errorf("%s", got)
	}
	// Without rules, all is allowed.
	j.SetRules(nil)
	if v, err := j.Decide(t.Context(), &Flow{Network: "tcp", Owner: owner.Unknown, Final: true}); err != nil || v != (Verdict{Allow: true, Way: Direct, Rule: "no rules"}) {
		t.Errorf("%+v, %v", v, err)
	}
	j.SetRules(rules)
	if _, err := j.Decide(t.Context(), &Flow{Network: "sctp"}); err == nil {
		t.Error("a flow of sctp is judged")
	}
}

func TestLimiter(t *testing.T) {
	var l limiter
	now := time.Unix(1000, 0)
	count := func() (n int) {
		for range 1000 {
			if l.allow(now) {
				n++
			}
		}
		return n
	}
	if n := count(); n != noteBurst {
		t.Errorf("%d at once", n)
	}
	now = now.Add(10 * noteEvery)
	if n := count(); n != 10 {
		t.Errorf("%d after a while", n)
	}
	if n := l.skipped(); n != 2000-noteBurst-10 {
		t.Errorf("%d skipped", n)
	}
	if n := l.skipped(); n != 0 {
		t.Errorf("%d skipped again", n)
	}
}

func TestNewErrors(t *testing.T) {
	if _, err := New(Config{Decider: viaTunnel}); err == nil {
		t.Error("without a device")
	}
	a, _ := packet.Pipe(1400, 1)
	if _, err := New(Config{Device: a}); err == nil {
		t.Error("without a decider")
	}
	b, _ := packet.Pipe(100, 1)
	if _, err := New(Config{Device: b, Decider: viaTunnel}); err == nil {
		t.Error("with an MTU of 100")
	}
}
