package system_test

import (
	"slices"
	"strings"
	"testing"

	"culvert.example/vpn/system"
	"culvert.example/vpn/transport"
)

// Where the kernel drops the answers to what leaves past the tunnel, that is said with what helps, and only there.
func TestReversePathFilter(t *testing.T) {
	t.Parallel()
	whole := func(l *transport.Lease) { l.SplitDNS = nil }
	half := func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12") }
	for name, tc := range map[string]struct {
		sysctl, mode string
		lease        func(*transport.Lease)
		path         system.DataPath
		drops        bool
	}{
		"strict on all":                      {"all", "1", whole, system.Packet, true},
		"strict on the interface":            {"", "1", whole, system.Packet, true},
		"loose":                              {"all", "2", whole, system.Packet, false},
		"off":                                {"all", "0", whole, system.Packet, false},
		"strict beside the tunnel":           {"all", "1", half, system.Packet, false},
		"strict beside the flow path":        {"all", "1", half, system.Flow, true},
		"strict around a DNS server outside": {"all", "1", func(l *transport.Lease) { l.Include = prefixes("192.0.2.48/28") }, system.Packet, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			for _, of := range []string{"all", w.clientIf} {
				w.client.Sysctl("net.ipv4.conf."+of+".rp_filter", "0")
			}
			if tc.sysctl == "" {
				tc.sysctl = w.clientIf
			}
			w.client.Sysctl("net.ipv4.conf."+tc.sysctl+".rp_filter", tc.mode)
			cfg := w.config()
			cfg.DataPath = tc.path
			s := w.open(cfg)
			w.attach(s, lease(tc.lease))
			told := func() int {
				n := 0
				for _, e := range s.Status().Events {
					if e.Kind == system.EventRoutes && strings.Contains(e.What, w.clientIf) && strings.Contains(e.What, "sysctl net.ipv4.conf.all.rp_filter=2") {
						n++
					}
				}
				return n
			}
			// A strict filter matters to what leaves by a mark to where the tunnel leads, which is one place or another here.
			past := func() bool { return w.dial(s, "tcp", "192.0.2.53:8080") == nil }
			if got := s.Status().Routes.Filtered; slices.Equal(got, []string{w.clientIf}) != tc.drops || (told() == 1) != tc.drops || past() == tc.drops {
				t.Errorf("the status says %v, it was told %d times, and something gets past the tunnel: %v", got, told(), past())
			}
			// What it says helps.
			w.client.Sysctl("net.ipv4.conf.all.rp_filter", "2")
			if got := s.Status().Routes.Filtered; len(got) > 0 || !past() {
				t.Errorf("with a loose filter the status says %v, and something gets past the tunnel: %v", got, past())
			}
		})
	}
}
