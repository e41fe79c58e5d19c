package system_test

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/split"
	"culvert.example/vpn/system"
	"culvert.example/vpn/transport"
)

func testLogger(tb testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(logWriter{tb}, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// logWriter writes to the log of a test.
type logWriter struct{ tb testing.TB }

func (l logWriter) Write(b []byte) (int, error) {
	if l.tb.Context().Err() == nil {
		l.tb.Logf("%s", strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// The packet path carries what the lease and the user want inside, and the machine is afterwards as it was before.
func TestPacketPath(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	before := w.state()
	for _, tc := range []struct {
		name   string
		lease  func(*transport.Lease)
		config func(*system.Config)
		want   map[string]string
	}{
		{"everything", nil, nil, map[string]string{
			"203.0.113.80": "inside", "10.8.0.77": "inside", "2001:db8:9::1": "inside", "198.51.100.1": "outside", "192.168.7.1": "inside"}},
		{"include", func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12") }, nil, map[string]string{
			"172.20.1.1": "inside", "10.8.0.77": "inside", "203.0.113.80": "outside", "192.168.7.1": "outside",
			"2001:db8:9::1": "inside", "198.51.100.1": "outside"}},
		{"exclude", func(l *transport.Lease) {
			l.Exclude = prefixes("203.0.113.0/24", "2001:db8:9::/48")
		}, nil, map[string]string{
			"203.0.113.80": "outside", "203.0.114.1": "inside", "2001:db8:9::1": "outside", "2001:db8:8::1": "inside"}},
		{"contradiction", func(l *transport.Lease) {
			l.Include = prefixes("203.0.113.0/24", "10.0.0.0/8", "203.0.113.128/25", "203.0.113.0/24")
			l.Exclude = prefixes("203.0.113.0/24", "10.9.0.0/16")
		}, nil, map[string]string{
			"203.0.113.1": "outside", "203.0.113.200": "inside", "10.9.1.1": "outside", "10.10.1.1": "inside"}},
		{"the gateway inside", func(l *transport.Lease) { l.Include = prefixes("198.51.100.0/24") }, nil, map[string]string{
			"198.51.100.1": "outside", "198.51.100.2": "inside"}},
		{"local network", func(l *transport.Lease) { l.ExcludeLocalLAN = true }, nil, map[string]string{
			"192.168.7.1": "outside", "203.0.113.80": "inside"}},
		{"no local network for the user", func(l *transport.Lease) { l.ExcludeLocalLAN = true },
			func(c *system.Config) { c.LocalLAN = system.No }, map[string]string{"192.168.7.1": "inside"}},
		{"user", func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12") }, func(c *system.Config) {
			c.User = split.Rules{Include: prefixes("203.0.113.80/32"), Exclude: prefixes("172.20.0.0/16")}
		}, map[string]string{"203.0.113.80": "inside", "172.20.1.1": "outside", "172.21.1.1": "inside"}},
		{"no IPv6", func(l *transport.Lease) { l.Addresses = l.Addresses[:1] }, nil, map[string]string{
			"203.0.113.80": "inside", "2001:db8:9::1": "nowhere"}},
		{"bypass", func(l *transport.Lease) { l.Addresses, l.BypassProtocol = l.Addresses[:1], true }, nil, map[string]string{
			"203.0.113.80": "inside", "2001:db8:9::1": "outside"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := *w
			w.tb = t
			cfg := w.config()
			if tc.config != nil {
				tc.config(&cfg)
			}
			s := w.open(cfg)
			k := w.attach(s, lease(tc.lease))
			w.expect(tc.want)
			if st := s.Status(); !st.Attached || st.DataPath.Path.String() != "packet" || st.MTU != 1400 || len(st.Addresses) == 0 {
				t.Errorf("status %+v", st)
			}
			k.close()
			if after := w.state(); after != before {
				t.Errorf("the machine was\n%s\nand is\n%s", before, after)
			}
		})
	}
}

// A lease that changes at a reconnect changes the routes, and what is impossible ends the tunnel.
func TestLeaseChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open(w.config())
	first := lease(func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12") })
	k := w.attach(s, first)
	w.expect(map[string]string{"172.20.1.1": "inside", "203.0.113.80": "outside"})
	k.device.Changed(vpn.Reconnecting, first)
	second := lease(func(l *transport.Lease) { l.Include = prefixes("203.0.113.0/24"); l.MTU = 1300 })
	k.device.Changed(vpn.Connected, second)
	if err := k.device.SetMTU(1300); err != nil {
		t.Fatal(err)
	}
	eventually(t, 3*time.Second, "the routes follow", func() bool { return w.from("203.0.113.80") == "inside" && s.Status().MTU == 1300 })
	w.expect(map[string]string{"172.20.1.1": "outside"})

	// A gateway that claims its own address for the client cannot be reached any more.
	third := lease(func(l *transport.Lease) { l.Addresses = prefixes("198.51.100.1/24") })
	k.device.Changed(vpn.Connected, third)
	select {
	case err := <-k.ended:
		if !errors.Is(err, system.ErrCapture) {
			t.Errorf("the tunnel ended with %v", err)
		}
	case <-time.After(3 * time.Second):
		t.Error("the tunnel goes on")
	}
}

// A System that is closed before its tunnel, whose routes take a while to remove, does not take itself for a stranger.
func TestCloseWithTunnel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.state()
	s := w.open(w.config())
	k := w.attach(s, lease(func(l *transport.Lease) {
		for i := range 10000 {
			l.Include = append(l.Include, netip.PrefixFrom(netip.AddrFrom4([4]byte{21, byte(i >> 7), byte(i << 1), 0}), 24))
		}
	}))
	w.expect(map[string]string{"21.1.2.1": "inside", "21.1.3.1": "outside"})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-k.ended; !errors.Is(err, system.ErrClosed) {
		t.Errorf("the tunnel ended with %v", err)
	}
	for _, e := range s.Status().Events {
		if e.Kind == system.EventRoutes {
			t.Errorf("event %+v", e)
		}
	}
	if after := w.state(); after != before {
		t.Error("the machine is not as it was")
	}
}

// A System that is closed while a tunnel comes about leaves nothing behind.
func TestCloseDuringAttach(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	before := w.state()
	for i := range 12 {
		cfg := w.config()
		cfg.DataPath = system.Flow
		s := w.open(cfg)
		done := make(chan error)
		go func() {
			k, err := w.tryAttach(s, lease(nil))
			if err == nil {
				k.close()
			}
			done <- err
		}()
		time.Sleep(time.Duration(i) * 4 * time.Millisecond)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil && !errors.Is(err, system.ErrClosed) {
			t.Errorf("Attach: %v", err)
		}
		if after := w.state(); after != before {
			t.Fatalf("the machine was\n%s\nand is\n%s", before, after)
		}
	}
}

// A tunnel that cannot be leaves the machine as it is, and another one can come.
func TestBadLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open(w.config())
	before := w.state()
	for name, tc := range map[string]struct {
		change func(*transport.Lease)
		want   error
	}{
		"captures the gateway":  {func(l *transport.Lease) { l.Addresses = prefixes("198.51.100.1/32") }, system.ErrCapture},
		"address of the client": {func(l *transport.Lease) { l.Addresses = prefixes("192.168.7.2/24") }, system.ErrConflict},
		"no address":            {func(l *transport.Lease) { l.Addresses = nil }, transport.ErrProtocol},
		"too many routes": {func(l *transport.Lease) {
			l.Include = make([]netip.Prefix, split.MaxPrefixes+1)
			for i := range l.Include {
				l.Include[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
			}
		}, transport.ErrProtocol},
		"bad suffix": {func(l *transport.Lease) { l.DynamicExclude = []string{"a..b"} }, transport.ErrProtocol},
	} {
		if _, err := w.tryAttach(s, lease(tc.change)); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
		if after := w.state(); after != before {
			t.Errorf("%s: the machine was\n%s\nand is\n%s", name, before, after)
		}
	}
	many := lease(func(l *transport.Lease) {
		for i := range 3000 {
			l.Include = append(l.Include, netip.PrefixFrom(netip.AddrFrom4([4]byte{21, byte(i >> 8), byte(i), 0}), 25))
		}
	})
	w.attach(s, many)
	w.expect(map[string]string{"21.1.1.1": "inside", "21.1.1.200": "outside"})
	if _, err := w.tryAttach(s, many); !errors.Is(err, system.ErrAttached) {
		t.Errorf("a second tunnel: %v", err)
	}
}
