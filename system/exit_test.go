package system

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"culvert.example/vpn/host"
)

func TestChooser(t *testing.T) {
	exit := func(index int, kind host.Kind, source string, metric int) host.Exit {
		return host.Exit{Index: index, Kind: kind, Source: netip.MustParseAddr(source), Route: netip.MustParsePrefix("0.0.0.0/0"), Metric: metric}
	}
	wired, wifi, mobile := exit(1, host.Wired, "192.0.2.1", 100), exit(2, host.WiFi, "192.0.3.1", 600), exit(3, host.Mobile, "192.0.4.1", 50)
	roamed := exit(2, host.WiFi, "192.0.9.1", 600) // the same interface in another network
	twin := exit(4, host.WiFi, "192.0.5.1", 600)
	begin := time.Unix(1000, 0)
	var c chooser
	for i, step := range []struct {
		at      time.Duration
		exits   []host.Exit
		current host.Exit
		to      int // index of the interface to move to, 0 for none
		again   time.Duration
		fails   bool
	}{
		{0, []host.Exit{wifi, mobile}, wifi, 0, 0, false},
		{1 * time.Second, []host.Exit{wifi, twin}, wifi, 0, 0, false}, // as good is not better
		{2 * time.Second, []host.Exit{wired, wifi}, wifi, 0, roamHold, false},
		{2500 * time.Millisecond, []host.Exit{wifi}, wifi, 0, 0, false}, // it was a loose contact
		{3 * time.Second, []host.Exit{wired, wifi}, wifi, 0, roamHold, false},
		{4 * time.Second, []host.Exit{wired, wifi}, wifi, 1, 0, true}, // D117: wired before Wi-Fi
		{5 * time.Second, []host.Exit{wired, wifi}, wifi, 0, 4 * time.Second, false},
		{9 * time.Second, []host.Exit{wired, wifi}, wifi, 1, 0, true},
		{10 * time.Second, []host.Exit{wired, wifi}, wifi, 0, 9 * time.Second, false}, // less and less often
		{19 * time.Second, []host.Exit{wired, wifi}, wifi, 1, 0, false},
		{20 * time.Second, []host.Exit{wired, wifi}, wired, 0, 0, false},
		{21 * time.Second, []host.Exit{wifi, mobile}, wired, 2, 0, false},              // gone, so at once
		{22 * time.Second, []host.Exit{wired, wifi}, wifi, 0, 15 * time.Second, false}, // and not trusted so soon
		{36 * time.Second, []host.Exit{wired, wifi}, wifi, 0, time.Second, false},
		{37 * time.Second, []host.Exit{wired, wifi}, wifi, 1, 0, false},
		{38 * time.Second, []host.Exit{wired, roamed}, wired, 0, 0, false},
		{39 * time.Second, []host.Exit{roamed}, wifi, 2, 0, true}, // what is left leads nowhere
		{40 * time.Second, []host.Exit{roamed, mobile}, wifi, 3, 0, false},
		{41 * time.Second, nil, mobile, 0, 0, false},
	} {
		now := begin.Add(step.at)
		to, move, again := c.choose(now, step.exits, step.current)
		if move != (step.to != 0) || to.Index != step.to {
			t.Errorf("step %d: to %d (%t), want %d", i, to.Index, move, step.to)
		}
		if again != step.again {
			t.Errorf("step %d: again after %v, want %v", i, again, step.again)
		}
		if move {
			var err error
			if step.fails {
				err = errors.New("captive")
			}
			c.tried(now, to, err)
		}
	}
	if len(c.known) != 0 {
		t.Errorf("remembers %v", c.known)
	}
}

func TestSameNetwork(t *testing.T) {
	for _, tc := range []struct {
		is, was string
		want    bool
	}{
		{"192.0.2.1", "192.0.2.1", true}, {"192.0.2.2", "192.0.2.1", false}, {"2001:db8::1", "2001:db8::ffff", true},
		{"2001:db8:0:1::1", "2001:db8::1", false}, {"192.0.2.1", "2001:db8::1", false},
	} {
		if got := sameNetwork(netip.MustParseAddr(tc.is), netip.MustParseAddr(tc.was)); got != tc.want {
			t.Errorf("%s and %s: %v", tc.is, tc.was, got)
		}
	}
}
