package host

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"culvert.example/vpn/internal/netns"
)

// look opens a view of a host.
func look(t *testing.T, h *netns.Host, cfg NetworkConfig) *Network {
	t.Helper()
	var n *Network
	var err error
	h.Do(func() { n, err = OpenNetwork(cfg) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// TestExits is row D117 with two cables: what they are made of is said by the embedder.
func TestExits(t *testing.T) {
	lab := netns.New(t)
	client, a, b := lab.Host("client"), lab.Host("a"), lab.Host("b")
	one, _ := lab.Join(client, "192.0.2.2/24 2001:db8:a::2/64", a, "192.0.2.1/24 2001:db8:a::1/64")
	two, _ := lab.Join(client, "198.51.100.2/24", b, "198.51.100.1/24")
	client.IP("route", "add", "default", "via", "192.0.2.1", "metric", "600")
	client.IP("route", "add", "default", "via", "198.51.100.1", "metric", "100")
	client.IP("-6", "route", "add", "default", "via", "2001:db8:a::1")
	kinds := map[string]Kind{one: Wired, two: Mobile}
	n := look(t, client, NetworkConfig{Kind: func(i Interface) Kind {
		if k, ok := kinds[i.Name]; ok {
			return k
		}
		return i.Kind
	}})
	expect := func(dst string, want ...Exit) {
		t.Helper()
		got, err := n.Exits(addr(dst), DefaultMark)
		if len(want) == 0 && !errors.Is(err, ErrNoExit) || len(want) > 0 && err != nil {
			t.Errorf("%s: %v, %v", dst, got, err)
		}
		for i := range got {
			if got[i].Index == 0 {
				t.Errorf("%s: no index in %+v", dst, got[i])
			}
			got[i].Index = 0
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %+v, want %+v", dst, got, want)
		}
	}
	wired := Exit{Interface: one, Kind: Wired, Source: addr("192.0.2.2"), Router: addr("192.0.2.1"), Route: pfx("0.0.0.0/0"), Metric: 600}
	mobile := Exit{Interface: two, Kind: Mobile, Source: addr("198.51.100.2"), Router: addr("198.51.100.1"), Route: pfx("0.0.0.0/0"), Metric: 100}
	// The kernel would take the one of the lower metric.
	expect("8.8.8.8", wired, mobile)
	if e, err := n.Route(addr("8.8.8.8"), 0); err != nil || e.Interface != two {
		t.Errorf("%+v, %v", e, err)
	}
	onLink := mobile
	onLink.Route, onLink.Router, onLink.Metric = pfx("198.51.100.0/24"), netip.Addr{}, 0
	expect("198.51.100.1", onLink, wired)
	expect("2001:4860::8", Exit{Interface: one, Kind: Wired, Source: addr("2001:db8:a::2"), Router: addr("2001:db8:a::1"), Route: pfx("::/0"), Metric: 1024})

	// A cable without a carrier is none, and neither is an interface without a route.
	client.IP("link", "set", one, "down")
	expect("8.8.8.8", mobile)
	client.IP("route", "del", "default")
	expect("8.8.8.8")
	if _, err := n.Route(addr("8.8.8.8"), 0); !errors.Is(err, ErrNoExit) {
		t.Error(err)
	}
	expect("198.51.100.1", onLink)

	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Interfaces(); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := n.Watch(t.Context(), nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// TestExitsAround finds the ways around a tunnel that has everything.
func TestExitsAround(t *testing.T) {
	s := newSite(t)
	s.device()
	m := s.open(Config{})
	if err := m.Apply(t.Context(), inside()); err != nil {
		t.Fatal(err)
	}
	n := m.Network()
	for _, dst := range []string{"8.8.8.8", "198.51.100.7", "2001:4860::8"} {
		exits, err := n.Exits(addr(dst), DefaultMark)
		if err != nil || len(exits) != 1 || exits[0].Interface != s.outside || !exits[0].Source.IsValid() {
			t.Errorf("%s: %+v, %v", dst, exits, err)
		}
	}
	// Row D182: whether somebody logged in from there would be cut off.
	if e, err := n.Route(addr("8.8.8.8"), 0); err != nil || e.Interface != "culvert0" || e.Kind != Tunnel || e.Source != addr("10.8.0.5") {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err := n.Route(addr("198.51.100.7"), 0); err != nil || e.Interface != s.outside {
		t.Errorf("%+v, %v", e, err)
	}
	for mark, want := range map[uint32]string{0: "culvert0", DefaultMark: s.outside} {
		l, err := n.link(want)
		if err != nil {
			t.Fatal(err)
		}
		if index, err := n.Leads(addr("8.8.8.8"), mark); err != nil || index != l.index {
			t.Errorf("with the mark %#x: %d, %v, want %d", mark, index, err, l.index)
		}
	}
	if index, err := n.Leads(addr("203.0.113.200"), 0); !errors.Is(err, ErrNoExit) {
		t.Error(index, err)
	}
	if _, err := n.Route(addr("203.0.113.200"), 0); !errors.Is(err, ErrNoExit) {
		t.Error(err)
	}
	ifs, err := n.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range ifs {
		switch i.Name {
		case "lo":
			if i.Kind != Loopback {
				t.Errorf("%+v", i)
			}
		case "culvert0":
			if i.Kind != Tunnel || i.MTU != 1400 || !i.Up || !slices.Contains(i.Addrs, pfx("10.8.0.5/32")) {
				t.Errorf("%+v", i)
			}
		case s.outside:
			if i.Kind != Virtual || !i.Running || !slices.Contains(i.Addrs, pfx("192.0.2.2/24")) || !slices.Contains(i.Addrs, pfx("2001:db8::2/64")) {
				t.Errorf("%+v", i)
			}
		}
	}
}

// A watcher gathers the events of a Watch.
type watcher struct {
	t      *testing.T
	events chan Event
}

func watching(t *testing.T, watch func(context.Context, func(Event)) error) *watcher {
	t.Helper()
	w := &watcher{t, make(chan Event, 1000)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- watch(ctx, func(e Event) { w.events <- e }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch ended with %v", err)
		}
	})
	time.Sleep(100 * time.Millisecond) // until it listens
	return w
}

// wait returns the first event that is wanted.
func (w *watcher) wait(what string, wanted func(Event) bool) Event {
	w.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case e := <-w.events:
			if wanted(e) {
				return e
			}
		case <-timeout:
			w.t.Fatalf("no event: %s", what)
		}
	}
}

// quiet fails if something happens for a while.
func (w *watcher) quiet() {
	w.t.Helper()
	select {
	case e := <-w.events:
		w.t.Errorf("%+v, but nothing has happened", e)
	case <-time.After(300 * time.Millisecond):
	}
}

// drain waits until there has been no event for a second.
func (w *watcher) drain() {
	for {
		select {
		case <-w.events:
		case <-time.After(time.Second):
			return
		}
	}
}

func TestWatchKernel(t *testing.T) {
	s := newSite(t)
	// Interfaces would get addresses of their own, sooner or later.
	s.client.Sysctl("net.ipv6.conf.all.disable_ipv6", "1")
	s.client.Sysctl("net.ipv6.conf.default.disable_ipv6", "1")
	n := look(t, s.client, NetworkConfig{})
	w := watching(t, n.Watch)
	if err := n.Watch(t.Context(), nil); !errors.Is(err, ErrBusy) {
		t.Errorf("a second Watch: %v", err)
	}
	w.drain()
	s.client.IP("addr", "add", "192.0.2.3/24", "dev", s.outside)
	e := w.wait("an address", func(e Event) bool { return e.Changed&Addresses != 0 })
	if e.Changed != Addresses || !slices.Equal(e.Interfaces, []string{s.outside}) {
		t.Errorf("%+v", e)
	}
	// A router that says the same again says nothing.
	s.client.IP("addr", "change", "192.0.2.3/24", "dev", s.outside, "valid_lft", "1000", "preferred_lft", "1000")
	w.quiet()
	s.client.IP("route", "add", "10.99.0.0/16", "via", "192.0.2.1")
	if e = w.wait("a route", func(Event) bool { return true }); e.Changed != Routes {
		t.Errorf("%+v", e)
	}
	s.client.IP("rule", "add", "from", "10.99.0.1", "lookup", "99")
	if e = w.wait("a rule", func(Event) bool { return true }); e.Changed != Rules {
		t.Errorf("%+v", e)
	}
	s.lab.Join(s.client, "", s.router, "")
	if e = w.wait("a new interface", func(Event) bool { return true }); e.Changed&Links == 0 || len(e.Interfaces) != 1 || e.Interfaces[0] == s.outside {
		t.Errorf("%+v", e)
	}
	s.client.IP("link", "set", s.outside, "down")
	cable := func(e Event) bool { return e.Changed&Links != 0 && slices.Contains(e.Interfaces, s.outside) }
	w.wait("the cable went down", cable)
	s.client.IP("link", "set", s.outside, "up")
	w.wait("the cable came up", cable)
}

// TestAsleep has the clocks of the machine jump, as they do when it was suspended: that is told with whatever happens next.
func TestAsleep(t *testing.T) {
	s := newSite(t)
	s.device()
	m := s.open(Config{})
	if err := m.Apply(t.Context(), inside()); err != nil {
		t.Fatal(err)
	}
	var asleep atomic.Int64
	m.Network().clock = func() reading {
		r := readClock()
		r.boot += time.Duration(asleep.Load())
		return r
	}
	w := watching(t, m.Watch)
	w.drain()
	asleep.Store(int64(time.Hour))
	s.client.IP("addr", "add", "192.0.2.3/24", "dev", s.outside)
	if e := w.wait("a sleep", func(e Event) bool { return e.Asleep != 0 }); e.Asleep.Round(time.Minute) != time.Hour || e.Changed&Addresses == 0 {
		t.Errorf("%+v", e)
	}
	s.client.IP("addr", "del", "192.0.2.3/24", "dev", s.outside)
	if e := w.wait("another address", func(e Event) bool { return e.Changed&Addresses != 0 }); e.Asleep != 0 {
		t.Errorf("%+v", e)
	}
}

// TestOverrun changes more than the kernel can remember while nobody listens.
func TestOverrun(t *testing.T) {
	s := newSite(t)
	n := look(t, s.client, NetworkConfig{})
	begun, release := make(chan bool), make(chan bool)
	first := true
	w := watching(t, func(ctx context.Context, f func(Event)) error {
		return n.Watch(ctx, func(e Event) {
			if first {
				first = false
				begun <- true
				<-release
			}
			f(e)
		})
	})
	s.client.IP("addr", "add", "192.0.2.3/24", "dev", s.outside)
	<-begun
	m := s.open(Config{})
	k, err := m.network.kernel()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for i := range 4000 {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 8), byte(i), 0}), 24)
			if err := k.setRoute(routeKey{99, p}, target{way: direct}); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.client.IP("addr", "add", "192.0.2.4/24", "dev", s.outside)
	release <- true
	w.wait("an overrun", func(e Event) bool { return e.Changed&Overrun != 0 })
	// And it goes on.
	s.client.IP("addr", "add", "192.0.2.5/24", "dev", s.outside)
	w.wait("an address", func(e Event) bool { return e.Changed&Addresses != 0 })
}

func TestHealKernel(t *testing.T) {
	for _, heal := range []bool{false, true} {
		name := "report"
		if heal {
			name = "heal"
		}
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.device()
			before := s.picture()
			m := s.open(Config{Heal: heal})
			w := watching(t, m.Watch)
			settings := inside()
			settings.Local = LocalNetworks
			if err := m.Apply(t.Context(), settings); err != nil {
				t.Fatal(err)
			}
			w.quiet() // what Apply does is no event
			during := s.picture()
			for _, c := range [][]string{
				{"rule", "del", "priority", "10400"},
				{"-6", "rule", "del", "priority", "10400"},
				{"route", "flush", "table", "10400"},
				{"route", "del", "198.51.100.7", "table", "10400"},
				{"-6", "route", "replace", "2001:db8:dead::/48", "dev", s.outside, "table", "10400", "proto", "207"},
				{"addr", "del", "10.8.0.5/32", "dev", "culvert0"},
				{"link", "set", "culvert0", "mtu", "1500"},
				{"link", "set", "culvert0", "down"},
			} {
				s.client.IP(c...)
				e := w.wait("loss", func(e Event) bool { return len(e.Lost) > 0 })
				if e.Healed != heal || e.Err != nil || e.Changed != 0 {
					t.Errorf("%v: %+v", c, e)
				}
				if !heal {
					if err := m.Renew(t.Context()); err != nil {
						t.Error(err)
					}
				}
				if now := s.picture(); sorted(now) != sorted(during) {
					t.Errorf("%v: not as it was:\n%s", c, difference(during, now))
				}
			}
			// A stranger in our table.
			s.client.IP("route", "add", "9.0.0.0/8", "via", "192.0.2.1", "table", "10400")
			if e := w.wait("a stranger", func(e Event) bool { return len(e.Foreign) > 0 }); e.Foreign[0] != "9.0.0.0/8 in table 10400" {
				t.Errorf("%+v", e)
			}
			s.client.IP("route", "del", "9.0.0.0/8", "table", "10400")

			// A network of the machine's own comes and goes.
			s.client.IP("addr", "add", "192.168.7.2/24", "dev", s.outside)
			w.wait("an address", func(e Event) bool { return e.Changed&Addresses != 0 })
			s.goes("", map[string]string{"192.168.7.9": s.outside})
			s.client.IP("addr", "del", "192.168.7.2/24", "dev", s.outside)
			w.wait("an address", func(e Event) bool { return e.Changed&Addresses != 0 })
			s.goes("", map[string]string{"192.168.7.9": "culvert0"})

			if _, err := m.Undo(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.same(before)
		})
	}
}

// TestWatchLate finds what was broken before anybody watched.
func TestWatchLate(t *testing.T) {
	s := newSite(t)
	s.device()
	m := s.open(Config{Heal: true})
	if err := m.Apply(t.Context(), inside()); err != nil {
		t.Fatal(err)
	}
	during := s.picture()
	s.client.IP("rule", "del", "priority", "10400")
	w := watching(t, m.Watch)
	if e := w.wait("the loss", func(e Event) bool { return len(e.Lost) > 0 }); !e.Healed || e.Err != nil {
		t.Errorf("%+v", e)
	}
	if now := s.picture(); sorted(now) != sorted(during) {
		t.Errorf("not as it was:\n%s", difference(during, now))
	}
	if _, err := m.Undo(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestDeviceGoes: the device is deleted under our feet.
func TestDeviceGoes(t *testing.T) {
	s := newSite(t)
	before := s.picture()
	s.device()
	m := s.open(Config{Heal: true})
	w := watching(t, m.Watch)
	if err := m.Apply(t.Context(), inside()); err != nil {
		t.Fatal(err)
	}
	s.client.IP("link", "del", "culvert0")
	w.wait("that it is gone", func(e Event) bool { return errors.Is(e.Err, ErrNoDevice) })
	report, err := m.Undo(t.Context())
	if err != nil || len(report.Gone) == 0 {
		t.Errorf("%+v, %v", report, err)
	}
	s.same(before)
}
