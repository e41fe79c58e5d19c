package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"culvert.example/vpn/policy/network"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/policy/preferences"
)

// TestChooser: the gateway that answers fastest, measured once for a place and kept in a file, unless the local policy forbids
// that (A.13, B.1, B.8, B.12).
func TestChooser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "culvert", "gateways.json")
	delays := map[string]time.Duration{"us": 90, "eu": 20, "as": 50}
	var measured atomic.Int32
	place, warned := "192.0.2.53:53", ""
	start := func(anything bool) *chooser {
		p := &plan.Plan{Keep: preferences.Keep{Anything: anything}, Network: network.Config{Hosts: []network.Host{
			{Name: "America", Server: "us"}, {Name: "Europe", Server: "eu", Backups: []string{"eu2"}}, {Name: "Asia", Server: "as"},
		}}}
		c := newChooser(p, gatewayCache{path, anything, func(format string, _ ...any) { warned = format }})
		c.where = func(context.Context) ([]netip.AddrPort, []string, error) {
			return []netip.AddrPort{netip.MustParseAddrPort(place)}, []string{"home.example"}, nil
		}
		c.roundTrip = func(_ context.Context, server string) (time.Duration, error) {
			measured.Add(1)
			if delays[server] == 0 {
				return 0, errors.New("dead")
			}
			return delays[server], nil
		}
		return c
	}
	// chosen returns whom a new process dials, and whether it has measured.
	chosen := func(c *chooser) (string, bool) {
		measured.Store(0)
		order, why := c.choose(t.Context())
		if why == "" || order.Rounds != 1 || len(order.Others) != 4 {
			t.Errorf("%+v, %s", order, why)
		}
		return strings.Join(order.Servers, " "), measured.Load() > 0
	}
	check := func(row string, c *chooser, want string, measures bool) {
		t.Helper()
		if got, did := chosen(c); got != want || did != measures {
			t.Errorf("%s: %s, measured %v", row, got, did)
		}
	}

	c := start(true)
	check("B.12: at the first connect", c, "eu eu2", true)
	if c.host("eu2").Name != "Europe" || c.host("nobody").Name != "" {
		t.Error("the entries of servers")
	}
	delays["us"] = 5
	check("B.12: cached for the place", start(true), "eu eu2", false)
	place = "192.0.2.54:53"
	check("another place", start(true), "us", true)
	c = start(true)
	c.used("eu2")
	c.ended()
	place = "192.0.2.55:53"
	check("B.12: less than 4 h after the last tunnel", start(true), "eu eu2", false)

	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	check("a file that is broken", start(true), "us", true)
	if !strings.Contains(warned, "measured again") {
		t.Errorf("nobody is told: %q", warned)
	}
	check("B.8: RestrictPreferenceCaching All", start(false), "us", true)
	check("and nothing was kept", start(true), "us", true)
	check("until it may be", start(true), "us", false)
	start(false)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was kept before is still there: %v", err)
	}
	var none *chooser
	none.used("us")
	none.ended()
}
