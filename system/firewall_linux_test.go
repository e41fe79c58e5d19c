package system_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/system"
	"culvert.example/vpn/transport"
)

// What may be seen of a client with a kill switch that connects to the gateway.
var gatewayOnly = []string{
	fmt.Sprintf("tcp %v %d", gatewayAddr.Addr(), gatewayAddr.Port()), fmt.Sprintf("udp %v %d", gatewayAddr.Addr(), gatewayAddr.Port()),
}

// dial connects as the tunnel does.
func (w *world) dial(s *system.System, network, address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c, err := s.DialContext(ctx, network, address)
	if err == nil {
		c.Close()
	}
	return err
}

// probe has programs try to get out by all ways.
func (w *world) probe() {
	for _, a := range []string{"203.0.113.80", "192.168.7.1", "198.51.100.1", "2001:db8:9::1"} {
		c, err := w.client.DialContext(context.Background(), "udp", netip.AddrPortFrom(netip.MustParseAddr(a), 4000).String())
		if err == nil {
			c.Write([]byte("leak"))
			c.Close()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
		if c, err := w.client.DialContext(ctx, "tcp", netip.AddrPortFrom(netip.MustParseAddr(a), 4001).String()); err == nil {
			c.Close()
		}
		cancel()
	}
	if c, err := w.client.DialContext(context.Background(), "udp", outsideDNS.String()); err == nil {
		c.Write([]byte("a question"))
		c.Close()
	}
	time.Sleep(50 * time.Millisecond)
}

// From before the login until after the tunnel, nothing leaves but what makes the tunnel.
func TestKillSwitch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.teach()
	w.outside.set("vpn.example.com", gatewayAddr.Addr().String())
	l, err := w.router.Listen("tcp", ":443")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := w.config()
	cfg.KillSwitch = &system.KillSwitch{}
	before := w.state()
	w.probe()
	if leaks := w.leaks(); !slices.Contains(leaks, "udp 203.0.113.80 4000") || !slices.Contains(leaks, "tcp 2001:db8:9::1 4001") {
		t.Fatalf("without a kill switch only this leaves the machine: %v", leaks)
	}
	s := w.open(cfg)
	closed := func(when string, may ...string) {
		t.Helper()
		w.air.Forget()
		w.probe()
		if leaks := w.leaks(may...); len(leaks) > 0 {
			t.Errorf("%s: left the machine: %v", when, leaks)
		}
	}
	closed("before the login")
	if st := s.Status().Firewall; st.Mode != system.FirewallClosed || st.OnFailure != "closed" || st.Counters == nil || st.Counters.DroppedOut.Packets == 0 {
		t.Errorf("before the login: status %+v", st)
	}
	// The gateway is found by its name, and reached.
	if err := w.dial(s, "tcp", "vpn.example.com:443"); err != nil {
		t.Fatalf("the gateway: %v", err)
	}
	k := w.attach(s, lease(func(l *transport.Lease) { l.SplitDNS = nil }))
	w.expect(map[string]string{"203.0.113.80": "inside", "2001:db8:9::1": "inside"})
	closed("connected")
	if st := s.Status().Firewall; st.Mode != system.FirewallTunnel || st.Counters.Tunnel.Packets == 0 {
		t.Errorf("connected: status %+v", st)
	}

	// A DHCP server that sends traffic past the tunnel (TunnelVision) has no success.
	w.client.IP("route", "add", "0.0.0.0/1", "via", routerAddr.String())
	w.client.IP("route", "add", "203.0.113.0/24", "via", routerAddr.String())
	closed("with routes of a stranger's")
	w.expect(map[string]string{"203.0.113.80": "inside"})
	w.client.IP("route", "del", "0.0.0.0/1")
	w.client.IP("route", "del", "203.0.113.0/24")

	// Somebody takes the rule away. Until it is back, the wall stands.
	w.client.IP("rule", "del", "priority", "10400")
	closed("without our rule")
	eventually(t, 3*time.Second, "the rule is back", func() bool { return w.from("203.0.113.80") == "inside" })
	if !slices.ContainsFunc(s.Status().Events, func(e system.Event) bool { return e.Kind == system.EventRoutes && e.Healed }) {
		t.Errorf("no event tells of the rule: %+v", s.Status().Events)
	}

	k.device.Changed(vpn.Reconnecting, nil)
	if err := w.dial(s, "tcp", "vpn.example.com:443"); err != nil {
		t.Errorf("reconnecting: %v", err)
	}
	closed("reconnecting", gatewayOnly...)
	k.close()
	closed("without a tunnel", gatewayOnly...)
	if err := w.dial(s, "tcp", "vpn.example.com:443"); err != nil {
		t.Errorf("again: %v", err)
	}
	w.attach(s, lease(nil)).close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if after := w.state(); after != before {
		t.Errorf("the machine was\n%s\nand is\n%s", before, after)
	}
}

// Behind a kill switch the proxy asks nobody outside for names either, on both paths and whatever the tunnel does, but for those
// whose hosts may be reached there.
func TestKillSwitchNames(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		open bool
		path system.DataPath
	}{"closed": {false, system.Packet}, "open": {true, system.Packet}, "closed, flow": {false, system.Flow}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.teach()
			w.outside.set("a.allowed.example", "203.0.113.92")
			w.outside.set("b.a.allowed.example", "203.0.113.93")
			cfg := w.config()
			cfg.DataPath = tc.path
			cfg.KillSwitch = &system.KillSwitch{Open: tc.open, AllowedNames: []string{"a.allowed.example"}}
			s := w.open(cfg)
			k := w.attach(s, lease(func(l *transport.Lease) {
				l.Include = prefixes("172.16.0.0/12")
				l.DynamicExclude = []string{"cdn.example.net"}
			}))
			refused := func(when string) {
				t.Helper()
				w.air.Forget()
				for _, name := range []string{"www.example.org", "app.example.net", "b.a.allowed.example", "allowed.example"} {
					if got := w.query(proxy, name, false); got != "RCodeNameError" {
						t.Errorf("%s: %s is %s", when, name, got)
					}
				}
				if leaks := w.leaks(gatewayOnly...); len(leaks) > 0 {
					t.Errorf("%s: left the machine: %v", when, leaks)
				}
			}
			refused("connected")
			k.device.Changed(vpn.Reconnecting, nil)
			if err := w.dial(s, "tcp", gatewayAddr.String()); err != nil && errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("reconnecting: %v", err)
			}
			refused("reconnecting")
			k.device.Changed(vpn.Connected, nil)
			for name, want := range map[string]string{"git.corp.example": "172.20.1.1", "a.allowed.example": "203.0.113.92", "cdn.example.net": "203.0.113.90"} {
				if got := w.query(proxy, name, false); got != want {
					t.Errorf("%s is %s, want %s", name, got, want)
				}
			}
			if heard := w.outside.heard(); !slices.Equal(slices.Compact(slices.Sorted(slices.Values(heard))), []string{"a.allowed.example", "cdn.example.net"}) {
				t.Errorf("asked outside for %v", heard)
			}
			if st := s.Status().Resolver; !st.Closed || !slices.Equal(st.Leaving, []string{"*.cdn.example.net", "a.allowed.example"}) {
				t.Errorf("status %+v", st)
			}
			// Without the switch they are as ever, and with it again as before.
			for _, lifted := range []system.Enforcement{system.Waived, system.Upheld} {
				if err := s.Enforce(t.Context(), lifted); err != nil {
					t.Fatal(err)
				}
				if lifted == system.Upheld {
					refused("in force again")
				} else if got := w.query(proxy, "www.example.org", false); got != "203.0.113.80" || s.Status().Resolver.Closed {
					t.Errorf("without the kill switch www.example.org is %s", got)
				}
			}
			if err := s.Lift(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := w.query(proxy, "www.example.org", false); got != "203.0.113.80" {
				t.Errorf("lifted: www.example.org is %s", got)
			}
		})
	}
}

// What is allowed passes the kill switch: hosts, the local network, what the tunnel leaves out.
func TestKillSwitchExceptions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.teach()
	cfg := w.config()
	cfg.KillSwitch = &system.KillSwitch{AllowedHosts: prefixes("203.0.113.128/25"), LocalLAN: true, Reject: true}
	s := w.open(cfg)
	w.expect(map[string]string{"203.0.113.200": "outside", "192.168.7.1": "outside", "203.0.113.1": "nowhere"})
	w.attach(s, lease(func(l *transport.Lease) {
		l.Exclude = prefixes("203.0.114.0/24", "0.0.0.0/1")
		l.DynamicExclude = []string{"example.net"}
		l.ExcludeLocalLAN = true
	}))
	w.expect(map[string]string{
		"203.0.114.1": "outside", "203.0.113.1": "inside", "192.168.7.1": "outside", "203.0.113.90": "inside",
		"100.1.1.1": "nowhere", // excluded, but as half of the world
	})
	w.query(proxy, "cdn.example.net", false)
	w.expect(map[string]string{"203.0.113.90": "outside"})
}

// Somebody who removes the rules has little time.
func TestKillSwitchIsRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config()
	cfg.KillSwitch = &system.KillSwitch{Reject: true}
	s := w.open(cfg)
	w.expect(map[string]string{"203.0.113.80": "nowhere"})
	w.client.Run("nft", "delete", "table", "inet", "culvert")
	eventually(t, 3*time.Second, "the event", func() bool {
		return slices.ContainsFunc(s.Status().Events, func(e system.Event) bool { return e.Kind == system.EventFirewall && e.Healed })
	})
	w.expect(map[string]string{"203.0.113.80": "nowhere"})
}

// The user lifts the switch, unless policy forbids it.
func TestLift(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config()
	s := w.open(cfg)
	if err := s.Lift(t.Context()); !errors.Is(err, system.ErrNoKillSwitch) {
		t.Errorf("Lift without a kill switch: %v", err)
	}
	s.Close()
	cfg.KillSwitch = &system.KillSwitch{Reject: true}
	s = w.open(cfg)
	w.expect(map[string]string{"203.0.113.80": "nowhere"})
	if err := s.Lift(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.expect(map[string]string{"203.0.113.80": "outside"})
	if st := s.Status().Firewall; st.Mode != system.FirewallLifted {
		t.Errorf("status %+v", st)
	}
	k := w.attach(s, lease(nil))
	if st := s.Status().Firewall; st.Mode != system.FirewallTunnel {
		t.Errorf("with another tunnel: status %+v", st)
	}
	k.close()
	s.Close()

	before := w.state()
	cfg.KillSwitch = &system.KillSwitch{Reject: true, Locked: true}
	s = w.open(cfg)
	if err := s.Lift(t.Context()); !errors.Is(err, system.ErrLocked) {
		t.Errorf("Lift of a locked kill switch: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	w.expect(map[string]string{"203.0.113.80": "nowhere"})
	if _, err := w.repair(cfg); !errors.Is(err, system.ErrLocked) {
		t.Errorf("Repair of a locked kill switch: %v", err)
	}
	w.expect(map[string]string{"203.0.113.80": "nowhere"})
	cfg.KillSwitch = nil
	if r, err := w.repair(cfg); err != nil || len(r.Undone) != 1 {
		t.Errorf("Repair: %+v, %v", r, err)
	}
	if after := w.state(); after != before {
		t.Errorf("the machine was\n%s\nand is\n%s", before, after)
	}
}

// An open kill switch stands while there is a tunnel, and for its lease after a crash.
func TestOpenKillSwitch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config()
	cfg.KillSwitch = &system.KillSwitch{Open: true, Lease: time.Second, Reject: true}
	s := w.open(cfg)
	w.expect(map[string]string{"203.0.113.80": "outside"})
	k := w.attach(s, lease(func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12") }))
	w.expect(map[string]string{"203.0.113.80": "nowhere", "172.20.1.1": "inside"})
	time.Sleep(1500 * time.Millisecond) // it is renewed
	w.expect(map[string]string{"203.0.113.80": "nowhere"})
	k.close()
	w.expect(map[string]string{"203.0.113.80": "outside"})
	if st := s.Status().Firewall; st.Mode != system.FirewallLifted || st.OnFailure != "open" {
		t.Errorf("status %+v", st)
	}
}

// Through the window for captive portals pass web pages and their names.
func TestPortalWindow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.teach()
	l, err := w.router.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			greet(c, "portal")
		}
	}()
	cfg := w.config()
	cfg.KillSwitch = &system.KillSwitch{Reject: true}
	// Which is nobody's address, but what some write for their own machine.
	w.write("resolv.conf", "nameserver 0.0.0.0\n"+w.read("resolv.conf"))
	s := w.open(cfg)
	web := net.JoinHostPort("203.0.113.80", "80")
	if got := w.ask(web, time.Second); got != "nowhere" {
		t.Errorf("before: %s", got)
	}
	if err := s.OpenPortalWindow(t.Context(), 2*time.Hour); !errors.Is(err, system.ErrConfig) {
		t.Errorf("for two hours: %v", err)
	}
	if err := s.OpenPortalWindow(t.Context(), 1500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if got := w.ask(web, time.Second); got != "portal" {
		t.Errorf("during: %s", got)
	}
	if got := w.query(outsideDNS.String(), "www.example.org", false); got != "203.0.113.80" {
		t.Errorf("a name: %s", got)
	}
	if s.Status().Firewall.PortalUntil.IsZero() {
		t.Error("the status does not show the window")
	}
	w.expect(map[string]string{"203.0.113.80": "nowhere"}) // another port
	eventually(t, 3*time.Second, "the window closes", func() bool { return w.ask(web, 300*time.Millisecond) == "nowhere" })
	w.air.Forget()
	w.probe()
	if leaks := w.leaks(); len(leaks) > 0 {
		t.Errorf("after the window: left the machine: %v", leaks)
	}
}
