package system_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"culvert.example/vpn/host"
	"culvert.example/vpn/host/resolver"
	"culvert.example/vpn/internal/resolved"
	"culvert.example/vpn/split"
	"culvert.example/vpn/system"
	"culvert.example/vpn/transport"
)

const proxy = system.DefaultListen

// teach gives both zones their names. Some are in both, with other addresses.
func (w *world) teach() {
	w.inside.set("git.corp.example", "172.20.1.1")
	w.inside.set("printer.corp.example", "172.20.1.2")
	w.outside.set("git.corp.example", "203.0.113.66")
	w.outside.set("www.example.org", "203.0.113.80", "2001:db8:9::80")
	w.inside.set("www.example.org", "203.0.113.81")
	w.outside.set("cdn.example.net", "203.0.113.90")
	w.inside.set("cdn.example.net", "203.0.113.90")
	w.outside.set("app.example.net", "203.0.113.91")
	w.inside.set("app.example.net", "203.0.113.91")
}

// Names of the inside are asked for inside, and by nobody outside: not by another resolver, nor while the tunnel has no server that
// answers.
func TestSplitNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.teach()
	w.write("resolv.conf", w.read("resolv.conf")+"search .\n") // as in a container
	s := w.open(w.config())
	before := w.read("resolv.conf")
	k := w.attach(s, lease(func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12") }))
	if conf := w.read("resolv.conf"); !strings.Contains(conf, "nameserver 127.0.40.53") || !strings.Contains(conf, "corp.example") {
		t.Errorf("resolv.conf is\n%s", conf)
	}
	for name, want := range map[string]string{
		"git.corp.example": "172.20.1.1", "GIT.corp.example": "172.20.1.1", "www.example.org": "203.0.113.80",
		"nothing.corp.example": "RCodeNameError", "nothing.example.org": "RCodeNameError",
	} {
		if got := w.query(proxy, name, false); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	st := s.Status().Resolver
	if st.Backend != "resolv.conf" || st.Reason == "" || st.All || st.Listen != proxy || len(st.Outside) != 1 || st.Proxy == nil || st.Proxy.Queries < 5 {
		t.Errorf("status %+v", st)
	}
	w.inside.mu.Lock()
	w.inside.silent = true
	w.inside.mu.Unlock()
	if got := w.query(proxy, "printer.corp.example", false); got != "RCodeServerFailure" {
		t.Errorf("with a server that is silent: %s", got)
	}
	for _, name := range w.outside.heard() {
		if strings.HasSuffix(name, "corp.example") {
			t.Errorf("%s was asked for outside", name)
		}
	}
	k.close()
	if after := w.read("resolv.conf"); after != before {
		t.Errorf("resolv.conf was\n%s\nand is\n%s", before, after)
	}
}

// Where the gateway wants all names, or the user does, nobody outside is asked for any.
func TestAllNames(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		lease  func(*transport.Lease)
		config func(*system.Config)
	}{
		"no split DNS":    {func(l *transport.Lease) { l.SplitDNS = nil }, nil},
		"tunnel-all-DNS":  {func(l *transport.Lease) { l.TunnelAllDNS = true }, nil},
		"the user's wish": {nil, func(c *system.Config) { c.DNS.TunnelAll = true }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.teach()
			cfg := w.config()
			if tc.config != nil {
				tc.config(&cfg)
			}
			s := w.open(cfg)
			w.attach(s, lease(tc.lease))
			if got := w.query(proxy, "www.example.org", false); got != "203.0.113.81" {
				t.Errorf("www.example.org is %s", got)
			}
			if heard := w.outside.heard(); len(heard) > 0 {
				t.Errorf("asked outside for %v", heard)
			}
		})
	}
}

// lookUp asks for a name as a program of the machine does: the first server that resolv.conf names.
func (w *world) lookUp(name string) string {
	w.tb.Helper()
	conf, err := resolver.ParseConf([]byte(w.read("resolv.conf")))
	if err != nil || len(conf.Servers) == 0 {
		w.tb.Fatalf("resolv.conf names no server: %v", err)
	}
	return w.query(netip.AddrPortFrom(conf.Servers[0], 53).String(), name, false)
}

// A gateway that takes all destinations and names no DNS server leaves the machine one that answers: the one at home, through the
// proxy if the tunnel has taken the way there, and one that can be asked through the tunnel as before.
func TestNoNamesInside(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		server string
		kill   *system.KillSwitch
		lan    bool
		proxy  bool
		want   string
	}{
		"at home":                      {routerAddr.String(), nil, false, true, "203.0.113.80"},
		"at home, outside":             {routerAddr.String(), nil, true, false, "203.0.113.80"},
		"at home, kill switch":         {routerAddr.String(), &system.KillSwitch{}, false, true, "RCodeNameError"},
		"at home, allowed":             {routerAddr.String(), &system.KillSwitch{LocalLAN: true}, true, false, "203.0.113.80"},
		"behind home":                  {"172.31.0.1", nil, false, true, "203.0.113.80"},
		"in the Internet":              {outsideDNS.Addr().String(), nil, false, false, "203.0.113.81"},
		"in the Internet, kill switch": {outsideDNS.Addr().String(), &system.KillSwitch{}, false, false, "203.0.113.81"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.teach()
			if tc.server != outsideDNS.Addr().String() {
				w.serveAt(tc.server)
			}
			w.write("resolv.conf", "nameserver "+tc.server+"\nsearch home.example\n")
			before := w.read("resolv.conf")
			cfg := w.config()
			cfg.DataPath, cfg.KillSwitch = system.Packet, tc.kill
			s := w.open(cfg)
			k := w.attach(s, lease(func(l *transport.Lease) {
				l.DNS, l.SplitDNS, l.SearchDomains, l.ExcludeLocalLAN = nil, nil, nil, tc.lan
			}))
			if got := w.lookUp("www.example.org"); got != tc.want {
				t.Errorf("www.example.org is %s, want %s; resolv.conf is\n%s", got, tc.want, w.read("resolv.conf"))
			}
			if conf := w.read("resolv.conf"); strings.Contains(conf, "127.0.40.53") != tc.proxy || !strings.Contains(conf, "search home.example") {
				t.Errorf("resolv.conf is\n%s", conf)
			}
			k.close()
			if after := w.read("resolv.conf"); after != before {
				t.Errorf("resolv.conf was\n%s\nand is\n%s", before, after)
			}
		})
	}
}

// serveAt has the router answer for the names outside at another of its addresses.
func (w *world) serveAt(addr string) {
	w.tb.Helper()
	if addr != routerAddr.String() {
		w.router.IP("addr", "add", addr+"/32", "dev", "lo")
	}
	pc, err := w.router.ListenPacket("udp", netip.AddrPortFrom(netip.MustParseAddr(addr), 53).String())
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() { pc.Close() })
	go w.outside.serve(pc)
}

// Without IPv6 in the tunnel, names have no such addresses if the user wants it so.
func TestNoIPv6Names(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.teach()
	cfg := w.config()
	cfg.DNS.NoIPv6 = true
	s := w.open(cfg)
	w.attach(s, lease(func(l *transport.Lease) { l.Addresses = l.Addresses[:1] }))
	if got := w.query(proxy, "www.example.org", true); got != "" {
		t.Errorf("www.example.org has the IPv6 address %s", got)
	}
	if got := w.query(proxy, "www.example.org", false); got != "203.0.113.80" {
		t.Errorf("www.example.org is %s", got)
	}
}

// Destinations that are split by name go their way from the moment the name is known, and until the answer is over.
func TestDynamicSplit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.teach()
	cfg := w.config()
	cfg.User = split.Rules{DynamicExclude: []string{"app.example.net"}}
	s := w.open(cfg)
	w.attach(s, lease(func(l *transport.Lease) {
		l.Include = prefixes("172.16.0.0/12")
		l.DynamicInclude = []string{"cdn.example.net"}
	}))
	w.expect(map[string]string{"203.0.113.90": "outside"})
	if got := w.query(proxy, "cdn.example.net", false); got != "203.0.113.90" {
		t.Fatalf("cdn.example.net is %s", got)
	}
	w.expect(map[string]string{"203.0.113.90": "inside", "203.0.113.89": "outside"})
	if st := s.Status().Routes; st.Learned != 1 {
		t.Errorf("status %+v", st)
	}
	for host, want := range map[string]string{
		"www.cdn.example.net": "invalid IP: tunnel by dynamic include cdn.example.net of gateway; ",
		"www.example.org":     "203.0.113.80: direct by not included of gateway; 2001:db8:9::80: tunnel by everything of IPv6 of lease; ",
		"172.20.1.1":          "172.20.1.1: tunnel by include 172.16.0.0/12 of gateway; ",
		"none.example.org":    "no such host",
	} {
		got := ""
		routes, err := s.Explain(t.Context(), host)
		if err != nil {
			got = err.Error()
		}
		for _, r := range routes {
			got += fmt.Sprintf("%v: %v by %s of %v; ", r.Addr, r.Way, r.Rule, r.Origin)
		}
		if got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}

// In a tunnel that has everything, names lead out of it.
func TestDynamicExclude(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.teach()
	s := w.open(w.config())
	w.attach(s, lease(func(l *transport.Lease) {
		l.SplitDNS = nil
		l.DynamicExclude = []string{"example.net"}
	}))
	w.expect(map[string]string{"203.0.113.90": "inside"})
	w.query(proxy, "cdn.example.net", false)
	w.expect(map[string]string{"203.0.113.90": "outside", "203.0.113.91": "inside"})
}

// A short name goes the way of the one that the search domains make of it.
func TestDynamicSearch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.inside.set("wiki.corp.example", "203.0.113.70")
	w.inside.set("www.lab.example", "203.0.113.71")
	s := w.open(w.config())
	w.attach(s, lease(func(l *transport.Lease) {
		l.Include = prefixes("172.16.0.0/12", "203.0.113.64/28")
		l.SplitDNS, l.SearchDomains = []string{"corp.example", "lab.example"}, []string{"corp.example", "lab.example"}
		l.DynamicInclude, l.DynamicExclude = []string{"vpn.corp.example"}, []string{"lab.example"}
	}))
	w.inside.set("vpn.corp.example", "203.0.113.72", "203.0.113.90")
	w.expect(map[string]string{"203.0.113.70": "inside", "203.0.113.71": "inside", "203.0.113.90": "outside"})
	for short, want := range map[string]string{"wiki": "203.0.113.70", "www": "203.0.113.71", "vpn": "203.0.113.72 203.0.113.90"} {
		if got := w.query(proxy, short, false); got != want {
			t.Errorf("%s is %s, want %s", short, got, want)
		}
	}
	w.expect(map[string]string{"203.0.113.70": "inside", "203.0.113.71": "outside", "203.0.113.72": "inside", "203.0.113.90": "inside"})
}

// The resolver of the machine is not touched if nobody wants it changed, or is told of the gateway's servers alone.
func TestWithoutProxy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.read("resolv.conf")
	cfg := w.config()
	cfg.DNS.Off = true
	s := w.open(cfg)
	k := w.attach(s, lease(nil))
	if now := w.read("resolv.conf"); now != before {
		t.Errorf("resolv.conf is\n%s", now)
	}
	k.close()
	s.Close()

	cfg = w.config()
	cfg.DNS.NoProxy = true
	s = w.open(cfg)
	if _, err := w.tryAttach(s, lease(nil)); err == nil || !strings.Contains(err.Error(), resolver.ErrNoSplit.Error()) {
		t.Errorf("split DNS without a proxy and with a resolv.conf: %v", err)
	}
	w.attach(s, lease(func(l *transport.Lease) { l.SplitDNS = nil }))
	if now := w.read("resolv.conf"); !strings.Contains(now, "nameserver 10.8.0.1\n") {
		t.Errorf("resolv.conf is\n%s", now)
	}
}

// A program that rewrites resolv.conf is noticed and answered, until it is clear that it wants to win.
func TestResolverIsRewritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.teach()
	s := w.open(w.config())
	w.attach(s, lease(nil))
	theirs := "nameserver 192.0.2.99\n"
	w.write("resolv.conf", theirs)
	eventually(t, 3*time.Second, "resolv.conf is ours again", func() bool { return strings.Contains(w.read("resolv.conf"), "nameserver 127.0.40.53") })
	eventually(t, time.Second, "the event", func() bool {
		return slices.ContainsFunc(s.Status().Events, func(e system.Event) bool { return e.Kind == system.EventResolver && e.Healed })
	})
	eventually(t, 5*time.Second, "their server is asked outside", func() bool {
		out := s.Status().Resolver.Outside
		return len(out) == 1 && out[0].String() == "192.0.2.99:53"
	})
	s.Close()
	if now := w.read("resolv.conf"); now != theirs {
		t.Errorf("resolv.conf is\n%s", now)
	}
}

// With HealNothing it stays as they want it.
func TestResolverIsLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config()
	cfg.Heal = system.HealNothing
	s := w.open(cfg)
	w.attach(s, lease(nil))
	theirs := "nameserver 192.0.2.99\n"
	w.write("resolv.conf", theirs)
	eventually(t, 3*time.Second, "the event", func() bool {
		return slices.ContainsFunc(s.Status().Events, func(e system.Event) bool { return e.Kind == system.EventResolver && !e.Healed })
	})
	if now := w.read("resolv.conf"); now != theirs {
		t.Errorf("resolv.conf is\n%s", now)
	}
}

// Systemd-resolved keeps the names apart by itself: the proxy is asked for those of the inside alone.
func TestResolved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.teach()
	w.outside.set("tv.home.example", "203.0.113.84")
	d := resolved.Start(t, w.client)
	d.Control("dns", w.clientIf, outsideDNS.Addr().String())
	d.Control("default-route", w.clientIf, "yes")
	d.Control("domain", w.clientIf, "home.example")
	cfg := w.config()
	cfg.DNS.Bus, cfg.DNS.Backend = d.Address, resolver.Resolved
	s := w.open(cfg)
	state := func() string { return d.Control("dns") + d.Control("domain") + d.Control("default-route") }
	before := state()
	k := w.attach(s, lease(func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12") }))
	stub := "127.0.0.53:53"
	if got := w.query(stub, "git.corp.example", false); got != "172.20.1.1" {
		t.Errorf("git.corp.example is %s\n%s", got, d.Control("status"))
	}
	for name, want := range map[string]string{
		"www.example.org": "203.0.113.80", "tv.home.example": "203.0.113.84",
		"secret.corp.example": "RCodeNameError", "secret.corp.example.home.example": "RCodeNameError", // as the C library goes on
	} {
		if got := w.query(stub, name, false); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if st := s.Status().Resolver; st.Backend != "systemd-resolved" || st.Proxy.Queries == 0 {
		t.Errorf("status %+v", st)
	}
	for _, name := range w.outside.heard() {
		if strings.Contains(name, "corp.example") {
			t.Errorf("%s was asked for outside", name)
		}
	}
	k.close()
	if after := state(); after != before {
		t.Errorf("resolvectl said\n%s\nand says\n%s", before, after)
	}
	s.Close()

	// Where the user has a server for the names outside, systemd-resolved asks no other one beside it.
	own := newZone()
	own.set("own.example.org", "203.0.113.83")
	at := outsideDNS.Addr().String() + ":5353"
	pc, err := w.router.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go own.serve(pc)
	cfg.DNS.Upstreams = []string{at}
	s = w.reopen(cfg)
	k = w.attach(s, lease(func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12") }))
	if got := w.query(stub, "own.example.org", false); got != "203.0.113.83" {
		t.Errorf("own.example.org is %s\n%s", got, d.Control("status"))
	}
	if got := w.query(stub, "printer.corp.example", false); got != "172.20.1.2" {
		t.Errorf("printer.corp.example is %s", got)
	}
	if slices.Contains(w.outside.heard(), "own.example.org") {
		t.Error("the network's server was asked too")
	}
	k.close()
	if after := state(); after != before {
		t.Errorf("resolvectl said\n%s\nand says\n%s", before, after)
	}
}

// Behind a kill switch systemd-resolved asks the proxy for all names: it would wait for servers that it does not get through to, for those
// too that may leave. Lifted, they are asked as ever.
func TestResolvedKillSwitch(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*transport.Lease){
		"split":             func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12") },
		"no servers inside": func(l *transport.Lease) { l.DNS, l.SplitDNS, l.SearchDomains = nil, nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.teach()
			w.outside.set("a.allowed.example", "203.0.113.92")
			d := resolved.Start(t, w.client)
			d.Control("dns", w.clientIf, outsideDNS.Addr().String())
			d.Control("default-route", w.clientIf, "yes")
			state := func() string { return d.Control("dns") + d.Control("domain") + d.Control("default-route") }
			before := state()
			cfg := w.config()
			cfg.DNS.Bus, cfg.DNS.Backend = d.Address, resolver.Resolved
			cfg.KillSwitch = &system.KillSwitch{AllowedNames: []string{"a.allowed.example"}}
			s := w.open(cfg)
			k := w.attach(s, lease(change))
			const stub = "127.0.0.53:53"
			for name, want := range map[string]string{"a.allowed.example": "203.0.113.92", "www.example.org": "RCodeNameError"} {
				if got := w.query(stub, name, false); got != want {
					t.Errorf("%s is %s, want %s\n%s", name, got, want, d.Control("status"))
				}
			}
			if slices.Contains(w.outside.heard(), "www.example.org") {
				t.Error("www.example.org was asked for outside")
			}
			w.client.Do(func() {
				if err := s.Lift(t.Context()); err != nil {
					t.Error(err)
				}
			})
			if got := w.query(stub, "www.example.org", false); got != "203.0.113.80" {
				t.Errorf("lifted: www.example.org is %s\n%s", got, d.Control("status"))
			}
			if domains := d.Control("domain", system.DefaultDevice); strings.Contains(domains, "~.") {
				t.Errorf("lifted: the proxy is asked for all names: %s", domains)
			}
			k.close()
			if after := state(); after != before {
				t.Errorf("resolvectl said\n%s\nand says\n%s", before, after)
			}
		})
	}
}

// Where another link claims what is the tunnel's, systemd-resolved asks its servers, which an event and the status tell. A kill switch
// holds the questions back.
func TestResolvedClaims(t *testing.T) {
	t.Parallel()
	const stub = "127.0.0.53:53"
	for name, tc := range map[string]struct {
		domains []string // of the other link
		claimed string
		all     bool
		kill    *system.KillSwitch
		asked   bool // outside
	}{
		"other":            {[]string{"home.example", "~.", "evilcorp.example"}, "", false, nil, false},
		"same":             {[]string{"corp.example"}, "corp.example", false, nil, true},
		"longer":           {[]string{"home.example", "~git.corp.example"}, "git.corp.example", false, nil, true},
		"all":              {[]string{"~."}, ".", true, nil, true},
		"kill switch":      {[]string{"~git.corp.example"}, "git.corp.example", false, &system.KillSwitch{}, false},
		"all, kill switch": {[]string{"~."}, ".", true, &system.KillSwitch{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.teach()
			d := resolved.Start(t, w.client)
			d.Control("dns", w.clientIf, outsideDNS.Addr().String())
			d.Control("default-route", w.clientIf, "yes")
			cfg := w.config()
			cfg.DNS.Bus, cfg.DNS.Backend, cfg.KillSwitch = d.Address, resolver.Resolved, tc.kill
			s := w.open(cfg)
			k := w.attach(s, lease(func(l *transport.Lease) {
				l.Include, l.TunnelAllDNS = prefixes("172.16.0.0/12"), tc.all
			}))
			told := func() (what []string) {
				for _, e := range s.Status().Events {
					if e.Kind == system.EventResolver {
						what = append(what, e.What)
					}
				}
				return what
			}
			if c := s.Status().Resolver.Claims; len(c) > 0 || len(told()) > 0 {
				t.Errorf("nobody claims anything: %v, %q", c, told())
			}
			if got := w.query(stub, "git.corp.example", false); got != "172.20.1.1" {
				t.Errorf("git.corp.example is %s", got)
			}
			d.Control(append([]string{"domain", w.clientIf}, tc.domains...)...)
			// Systemd-resolved does not tell of domains; a change of the network has it asked at once.
			w.client.IP("addr", "add", "192.168.9.2/24", "dev", w.clientIf)
			if tc.claimed != "" {
				eventually(t, 5*time.Second, "the event", func() bool { return len(told()) > 0 })
				what, c := told(), s.Status().Resolver.Claims
				if len(c) != 1 || c[0].Domain != tc.claimed || len(what) != 1 || strings.Contains(what[0], "kill switch") != (tc.kill != nil) {
					t.Errorf("claims %v, events %q", c, what)
				}
			}
			asked := "git.corp.example"
			if tc.all {
				asked = "www.example.org"
			}
			d.Control("flush-caches")
			w.query(stub, asked, false)
			if outside := slices.Contains(w.outside.heard(), asked); outside != tc.asked {
				t.Errorf("%s was asked for outside: %v, want %v", asked, outside, tc.asked)
			}
			d.Control("domain", w.clientIf, "")
			w.client.IP("addr", "del", "192.168.9.2/24", "dev", w.clientIf)
			eventually(t, 5*time.Second, "the status is without claims", func() bool { return len(s.Status().Resolver.Claims) == 0 })
			if tc.claimed != "" {
				eventually(t, time.Second, "another event", func() bool { return len(told()) == 2 })
			} else if what := told(); len(what) > 0 {
				t.Errorf("events %q", what)
			}
			k.close()
		})
	}
}

// Where all names are the gateway's, those that it names, and what a search domain of the machine makes of them, are asked for inside
// alone even if another link has all names as well.
func TestResolvedAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.teach()
	w.inside.set("a.lab.example", "172.20.1.3")
	d := resolved.Start(t, w.client)
	d.Control("dns", w.clientIf, outsideDNS.Addr().String())
	d.Control("domain", w.clientIf, "~.", "home.example")
	cfg := w.config()
	cfg.DNS.Bus, cfg.DNS.Backend = d.Address, resolver.Resolved
	s := w.open(cfg)
	w.attach(s, lease(func(l *transport.Lease) {
		l.Include, l.TunnelAllDNS, l.SplitDNS = prefixes("172.16.0.0/12"), true, []string{"corp.example", "lab.example"}
	}))
	for name, want := range map[string]string{
		"git.corp.example": "172.20.1.1", "a.lab.example": "172.20.1.3", "secret.lab.example.home.example": "RCodeNameError",
	} {
		if got := w.query("127.0.0.53:53", name, false); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if heard := w.outside.heard(); len(heard) > 0 {
		t.Errorf("asked outside for %q", heard)
	}
}

// pointer asks a DNS server from the client, over TCP, for the name of an address.
func (w *world) pointer(server, name string) string {
	w.tb.Helper()
	q := dnsmessage.Question{Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 4712, RecursionDesired: true}, Questions: []dnsmessage.Question{q}}
	b, err := m.AppendPack(make([]byte, 2))
	if err != nil {
		w.tb.Fatal(err)
	}
	binary.BigEndian.PutUint16(b, uint16(len(b)-2))
	c, err := w.client.DialContext(context.Background(), "tcp", server)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(6 * time.Second))
	if _, err := c.Write(b); err != nil {
		return err.Error()
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return err.Error()
	}
	b = make([]byte, binary.BigEndian.Uint16(size[:]))
	var r dnsmessage.Message
	if _, err := io.ReadFull(c, b); err != nil {
		return err.Error()
	}
	if err := r.Unpack(b); err != nil {
		return err.Error()
	}
	return r.RCode.String()
}

// Whose address an inner one is, is asked for inside, of the tunnel's own network too, and of others outside. The proxy answers over TCP.
func TestReverseNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config()
	cfg.User = split.Rules{Include: prefixes("198.18.0.0/15")}
	s := w.open(cfg)
	w.attach(s, lease(func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12", "fd55::/16") }))
	inside := []string{
		"1.1.20.172.in-addr.arpa", "77.0.8.10.in-addr.arpa", "9.0.19.198.in-addr.arpa",
		strings.Repeat("0.", 28) + "8.0.d.f.ip6.arpa", strings.Repeat("1.", 28) + "5.5.d.f.ip6.arpa",
	}
	outside := []string{"80.113.0.203.in-addr.arpa", "1.7.168.192.in-addr.arpa", strings.Repeat("0.", 24) + "8.b.d.0.1.0.0.2.ip6.arpa"}
	for _, name := range slices.Concat(inside, outside) {
		if got := w.pointer(proxy, name); got != "RCodeNameError" {
			t.Errorf("%s: %s", name, got)
		}
	}
	for where, c := range map[string]struct {
		zone *zone
		want []string
	}{"inside": {w.inside, inside}, "outside": {w.outside, outside}} {
		if got := slices.DeleteFunc(c.zone.heard(), func(n string) bool { return !strings.HasSuffix(n, ".arpa") }); !slices.Equal(got, c.want) {
			t.Errorf("%s was asked for %v, want %v", where, got, c.want)
		}
	}
}

// A machine that was asleep may be elsewhere: the tunnel is told to look, and what DNS servers said before is not believed any more.
func TestAsleep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.teach()
	s := w.open(w.config())
	k := w.attach(s, lease(func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12") }))
	if got := w.query(proxy, "www.example.org", false); got != "203.0.113.80" {
		t.Errorf("before: %s", got)
	}
	w.outside.set("www.example.org", "203.0.113.86")
	if got := w.query(proxy, "www.example.org", false); got != "203.0.113.80" {
		t.Errorf("nothing was remembered: %s", got)
	}
	for len(k.news) > 0 {
		<-k.news
	}
	system.Happen(s, host.Event{Asleep: time.Hour})
	select {
	case <-k.news:
	case <-time.After(time.Second):
		t.Error("the tunnel was not told")
	}
	asleep := func(e system.Event) bool { return e.Kind == system.EventAsleep && e.Asleep == time.Hour }
	if list := s.Status().Events; !slices.ContainsFunc(list, asleep) {
		t.Errorf("events %+v", list)
	}
	eventually(t, 5*time.Second, "the name is asked for again", func() bool { return w.query(proxy, "www.example.org", false) == "203.0.113.86" })
}
