package system_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/split"
	"culvert.example/vpn/system"
	"culvert.example/vpn/transport"
)

// neighbour returns the link-local address of the router, with the number of the client's interface.
func (w *world) neighbour() string {
	w.tb.Helper()
	type link struct {
		Index int `json:"ifindex"`
		Addrs []struct {
			Local netip.Addr `json:"local"`
		} `json:"addr_info"`
	}
	list := func(out string) (links []link) {
		if err := json.Unmarshal([]byte(out), &links); err != nil {
			w.tb.Fatalf("%v: %s", err, out)
		}
		return links
	}
	index := list(w.client.Run("ip", "-j", "link", "show", w.clientIf))[0].Index
	for _, l := range list(w.router.Run("ip", "-j", "-6", "address", "show", "scope", "link")) {
		for _, a := range l.Addrs {
			if a.Local.IsValid() {
				return a.Local.WithZone(fmt.Sprint(index)).String()
			}
		}
	}
	w.tb.Fatal("the router has no link-local address")
	return ""
}

// A record keeps what is logged.
type record struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(b)
}

func (r *record) count(s string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.buf.String(), s)
}

// A gateway that assigns an IPv6 address and names networks of IPv4 only gets all IPv6, which is said. What is on the link stays there, and
// connected networks are treated as with IPv4.
func TestWholeFamily(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	neighbour := w.neighbour()
	const told = "all IPv6 goes through the tunnel"
	include := func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12") }
	local := func(l *transport.Lease) { include(l); l.ExcludeLocalLAN = true }
	flows := func(c *system.Config) { c.DataPath = system.Flow }
	for _, tc := range []struct {
		name   string
		lease  func(*transport.Lease)
		config func(*system.Config)
		want   map[string]string
		told   int
	}{
		{"packet path", include, nil, map[string]string{"172.20.1.1": "inside", "203.0.113.80": "outside", "2001:db8:9::1": "inside", "2001:db8:7::1": "inside"}, 1},
		{"flow path", include, flows, map[string]string{"172.20.1.1": "inside", "203.0.113.80": "outside", "2001:db8:9::1": "inside", "2001:db8:7::1": "inside"}, 1},
		{"local network", local, nil, map[string]string{"2001:db8:9::1": "inside", "2001:db8:7::1": "outside"}, 1},
		{"local network on the flow path", local, flows, map[string]string{"2001:db8:9::1": "inside", "2001:db8:7::1": "outside"}, 1},
		{"excluded by the user", include, func(c *system.Config) { c.User = split.Rules{Exclude: prefixes("::/0")} },
			map[string]string{"172.20.1.1": "inside", "2001:db8:9::1": "outside"}, 0},
		{"networks of both", func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12", "2001:db8:9::/48") }, nil,
			map[string]string{"2001:db8:9::1": "inside", "2001:db8:8::1": "outside"}, 0},
		{"no networks", func(*transport.Lease) {}, nil, map[string]string{"203.0.113.80": "inside", "2001:db8:9::1": "inside"}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := *w
			w.tb = t
			cfg := w.config()
			log := new(record)
			cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
			if tc.config != nil {
				tc.config(&cfg)
			}
			s := w.open(cfg)
			k := w.attach(s, lease(tc.lease))
			w.expect(tc.want)
			w.expect(map[string]string{neighbour: "outside"})
			if r, err := s.Explain(t.Context(), neighbour); err != nil || r[0].Way != split.Direct || r[0].Rule != "on the link" {
				t.Errorf("%s: %+v, %v", neighbour, r, err)
			}
			for _, group := range []string{"ff02::fb", "ff0e::1"} {
				if way := w.client.Run("ip", "-6", "route", "get", group); strings.Contains(way, system.DefaultDevice) {
					t.Errorf("%s goes into the tunnel: %s", group, way)
				}
			}
			if r := s.Status().Routes; (r.Tunnel[0].Bits() == 0) != (tc.want["2001:db8:8::1"] == "" && tc.want["2001:db8:9::1"] == "inside") {
				t.Errorf("status %+v", r)
			}
			k.device.Changed(vpn.Connected, lease(func(l *transport.Lease) { tc.lease(l); l.SearchDomains = nil }))
			eventually(t, 3*time.Second, "another lease", func() bool { return log.count("assigned something else") > 0 })
			if n := log.count(told); n != tc.told {
				t.Errorf("it is told %d times, want %d: %s", n, tc.told, log.buf.String())
			}
			k.close()
		})
	}
}
