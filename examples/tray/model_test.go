package main

import (
	"bytes"
	"encoding/binary"
	"image/png"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// up is a model with a tunnel since half past ten.
func up(path string) model {
	return model{
		state: connected, hosts: []string{"North", "South"}, host: "South", proxy: "127.0.0.1:1080",
		status: vpn.Status{
			Path: path, Addresses: []netip.Prefix{netip.MustParsePrefix("10.20.0.5/24"), netip.MustParsePrefix("fd00:20::5/64")},
			Gateway: netip.MustParseAddrPort("192.0.2.1:443"), Started: noon.Add(-90 * time.Minute), Banner: "Hello",
			Counters: vpn.Counters{ReceivedBytes: 1_234_567, SentBytes: 999},
		},
	}
}

func with(m model, change func(*model)) model {
	change(&m)
	return m
}

func TestModel(t *testing.T) {
	idle := model{hosts: []string{"North", "South"}, proxy: "127.0.0.1:1080"}
	for name, c := range map[string]struct {
		m        model
		symbol   symbol
		headline string
		// shown and hidden are titles that the menu has and has not, disabled identifiers of entries, checked likewise.
		shown, hidden     []string
		enabled, disabled []string
		checked           []string
	}{
		"disconnected": {m: idle, symbol: symbolOff, headline: "Disconnected",
			shown: []string{"Proxy: 127.0.0.1:1080"}, hidden: []string{"This machine: ", "Disconnect this machine", "Path: ", "Address: ", "Since: ", "Traffic: ", "Answer the question..."},
			enabled: []string{"connect/0", "connect/1", cmdQuit}, disabled: []string{cmdDisconnect, cmdBanner}},
		"connecting": {m: with(idle, func(m *model) { m.state, m.host = connecting, "North" }), symbol: symbolBusy, headline: "Connecting, North",
			enabled: []string{cmdDisconnect, cmdQuit}, disabled: []string{"connect/0", "connect/1", cmdBanner}, checked: []string{"connect/0"}},
		"asking": {m: with(idle, func(m *model) { m.state, m.host, m.asking = connecting, "North", true }), symbol: symbolAttention,
			headline: "North has a question", shown: []string{"Answer the question..."}, enabled: []string{cmdDisconnect, cmdAnswer},
			checked: []string{"connect/0"}},
		"over DTLS": {m: up("dtls"), symbol: symbolDTLS, headline: "Connected to South over DTLS",
			shown: []string{"Path: DTLS", "Address: 10.20.0.5, fd00:20::5", "Gateway: 192.0.2.1:443", "Since: 10:30 (1 h 30 min)",
				"Traffic: 1.2 MB received, 999 B sent"},
			hidden: []string{"Reconnected: ", "Ends at the latest: "}, enabled: []string{cmdDisconnect, cmdBanner},
			disabled: []string{"connect/0", "connect/1", "path"}, checked: []string{"connect/1"}},
		"over TLS": {m: up("tls"), symbol: symbolTLS, headline: "Connected to South over TLS", shown: []string{"Path: TLS"}, checked: []string{"connect/1"}},
		"expires, has reconnected": {m: with(up("dtls"), func(m *model) { m.status.Expires, m.status.Reconnects = noon.Add(time.Hour), 2 }),
			symbol: symbolDTLS, headline: "Connected to South over DTLS", shown: []string{"Ends at the latest: Sun 13:00", "Reconnected: 2"},
			checked: []string{"connect/1"}},
		"reconnecting": {m: with(up(""), func(m *model) { m.state = reconnecting }), symbol: symbolWaiting, headline: "Reconnecting, South",
			shown: []string{"Address: 10.20.0.5, fd00:20::5"}, hidden: []string{"Path: "}, enabled: []string{cmdDisconnect},
			checked: []string{"connect/1"}},
		"disconnecting": {m: with(up("tls"), func(m *model) { m.state = disconnecting }), symbol: symbolBusy, headline: "Disconnecting, South",
			disabled: []string{cmdDisconnect, "connect/0"}, checked: []string{"connect/1"}},
		"ended by itself": {m: with(idle, func(m *model) { m.host, m.problem = "South", "session expired" }), symbol: symbolAttention,
			headline: "Disconnected: session expired", enabled: []string{"connect/0", "connect/1"}, disabled: []string{cmdDisconnect}},
		"with preferences": {m: with(idle, func(m *model) {
			m.boxes = []box{{setting: "A", title: "a", checked: true}, {setting: "B", title: "b", why: "fixed"}}
		}), symbol: symbolOff, headline: "Disconnected", enabled: []string{"preference/A"}, disabled: []string{"preference/B"}, checked: []string{"preference/A"}},
		"machine": {m: with(idle, func(m *model) {
			m.machine = machineTunnel{State: "connected", Server: "https://gw.example", Path: "tls"}
		}),
			symbol: symbolOff, headline: "Disconnected", shown: []string{"This machine: connected, gw.example over TLS"}, enabled: []string{cmdMachine}},
		"machine, leaving": {m: with(idle, func(m *model) { m.machine, m.leaving = machineTunnel{State: "connected"}, true }),
			symbol: symbolOff, headline: "Disconnected", shown: []string{"This machine: connected"}, disabled: []string{cmdMachine}},
		"demonstration": {m: with(up("tls"), func(m *model) { m.faults = &faults{udp: true} }), symbol: symbolTLS, headline: "Connected to South over TLS",
			enabled: []string{"fault/all", "fault/end"}, checked: []string{"connect/1", "fault/udp"}},
	} {
		t.Run(name, func(t *testing.T) {
			if s := c.m.symbol(); s != c.symbol {
				t.Errorf("the symbol is %d, want %d", s, c.symbol)
			}
			if h := c.m.headline(); h != c.headline {
				t.Errorf("the headline is %q, want %q", h, c.headline)
			}
			if !strings.Contains(c.m.tooltip(), c.headline) {
				t.Errorf("the tooltip is %q", c.m.tooltip())
			}
			entries := map[string]entry{}
			var titles, hidden []string
			var walk func([]entry)
			walk = func(list []entry) {
				for _, e := range list {
					if _, twice := entries[e.id]; twice || e.id == "" {
						t.Errorf("%q stands for two entries", e.id)
					}
					entries[e.id] = e
					if e.hidden {
						hidden = append(hidden, e.title)
					} else {
						titles = append(titles, e.title)
					}
					walk(e.children)
				}
			}
			walk(c.m.menu(noon))
			for _, s := range c.shown {
				if !slices.Contains(titles, s) {
					t.Errorf("no %q in %q", s, titles)
				}
			}
			for _, s := range c.hidden {
				if !slices.ContainsFunc(hidden, func(h string) bool { return strings.HasPrefix(h, s) }) {
					t.Errorf("%q is not hidden", s)
				}
			}
			for _, id := range c.enabled {
				if e, ok := entries[id]; !ok || e.disabled || e.hidden {
					t.Errorf("%s cannot be chosen: %+v", id, e)
				}
			}
			for _, id := range c.disabled {
				if e, ok := entries[id]; !ok || !e.disabled {
					t.Errorf("%s can be chosen: %+v", id, e)
				}
			}
			for id, e := range entries {
				if e.checked != slices.Contains(c.checked, id) {
					t.Errorf("%s: checked is %v", id, e.checked)
				}
			}
		})
	}
}

// TestMenuShape checks that menus differ only in what an item can change.
func TestMenuShape(t *testing.T) {
	var shape func([]entry) string
	shape = func(list []entry) string {
		s := ""
		for _, e := range list {
			s += e.id + "(" + shape(e.children) + ")"
			if e.title == "" {
				s += "-"
			}
			if e.check {
				s += "?"
			}
		}
		return s
	}
	want := shape(up("dtls").menu(noon))
	for _, m := range []model{
		{hosts: []string{"North", "South"}}, up("tls"), up(""), with(up(""), func(m *model) { m.state, m.asking = disconnecting, true }),
		with(up(""), func(m *model) { m.state, m.problem = disconnected, "x" }),
	} {
		if s := shape(m.menu(noon)); s != want {
			t.Errorf("got  %s\nwant %s", s, want)
		}
	}
}

func TestNotices(t *testing.T) {
	idle := model{hosts: []string{"North", "South"}, host: "South"}
	dialing := with(idle, func(m *model) { m.state = connecting })
	quiet := func(m model) model { return with(m, func(m *model) { m.status.Banner = "" }) }
	waiting := with(quiet(up("")), func(m *model) { m.state = reconnecting })
	closing := with(quiet(up("tls")), func(m *model) { m.state = disconnecting })
	failed := with(idle, func(m *model) { m.problem = "no route" })
	for name, c := range map[string]struct {
		old, now model
		want     []string
		urgent   bool
		command  string
	}{
		"nothing":            {old: idle, now: idle},
		"dialing":            {old: idle, now: dialing},
		"question":           {old: dialing, now: with(dialing, func(m *model) { m.asking = true }), want: []string{"South has a question"}, command: cmdAnswer},
		"answered":           {old: with(dialing, func(m *model) { m.asking = true }), now: dialing},
		"connected":          {old: dialing, now: quiet(up("tls")), want: []string{"Connected to South"}},
		"connected, banner":  {old: dialing, now: up("tls"), want: []string{"Connected to South", "Message from South"}, command: cmdBanner},
		"path changed":       {old: up("tls"), now: up("dtls")},
		"lost":               {old: quiet(up("dtls")), now: waiting, want: []string{"The connection to South is lost"}},
		"back":               {old: waiting, now: quiet(up("tls")), want: []string{"Connected again to South"}},
		"given up":           {old: waiting, now: failed, want: []string{"The tunnel to South has ended"}, urgent: true, command: "connect/1"},
		"ended":              {old: up("tls"), now: failed, want: []string{"The tunnel to South has ended"}, urgent: true, command: "connect/1"},
		"not come about":     {old: dialing, now: failed, want: []string{"No tunnel to South"}, urgent: true, command: "connect/1"},
		"disconnecting":      {old: up("tls"), now: closing},
		"disconnected":       {old: closing, now: idle, want: []string{"Disconnected from South"}},
		"expires soon":       {old: up("tls"), now: with(up("tls"), func(m *model) { m.expiring = true }), want: []string{"The session ends soon"}, urgent: true},
		"still expires soon": {old: with(up("tls"), func(m *model) { m.expiring = true }), now: with(up("dtls"), func(m *model) { m.expiring = true })},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			urgent, command := false, ""
			for _, n := range notices(c.old, c.now) {
				got = append(got, n.title)
				urgent = urgent || n.urgent
				if n.command != "" {
					command = n.command
				}
				if (n.command == "") != (n.button == "") {
					t.Errorf("a button without command, or the other way round: %+v", n)
				}
			}
			if !slices.Equal(got, c.want) || urgent != c.urgent || command != c.command {
				t.Errorf("got %q, urgent %v, command %q; want %q, %v, %q", got, urgent, command, c.want, c.urgent, c.command)
			}
		})
	}
}

// TestTexts checks that texts of a gateway cannot do more than be read.
func TestTexts(t *testing.T) {
	hostile := "a\x1b[2Jb\u202ec\x00\xff" + strings.Repeat("x", 5000)
	got := text(hostile)
	if len(got) > mostText+10 || strings.ContainsAny(got, "\x1b\x00\u202e") || !strings.HasPrefix(got, "a[2Jbc") {
		t.Errorf("%q", got)
	}
	if got := line("one\n two\tthree "); got != "one two three" {
		t.Errorf("%q", got)
	}
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_949: "999.9 kB", 999_960: "1.0 MB", 5_400_000_000: "5.4 GB", 1 << 63: "9223372.0 TB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-time.Hour: "less than a minute", 59 * time.Second: "less than a minute", time.Minute: "1 min", 61 * time.Minute: "1 h 1 min"} {
		if got := period(d); got != want {
			t.Errorf("period(%v) = %q, want %q", d, got, want)
		}
	}
	for server, want := range map[string]string{
		"https://alice:secret@vpn.example.com/staff?key=secret": "vpn.example.com/staff", "vpn.example.com:8443": "vpn.example.com:8443",
		"https://vpn.example.com/": "vpn.example.com",
	} {
		if got := displayName(server); got != want {
			t.Errorf("displayName(%q) = %q, want %q", server, got, want)
		}
	}
}

func TestIcons(t *testing.T) {
	seen := map[string]symbol{}
	for s := symbolOff; s <= symbolAttention; s++ {
		data := icon(s, "linux")
		img, err := png.Decode(bytes.NewReader(data))
		if err != nil || img.Bounds().Dx() != iconSize || img.Bounds().Dy() != iconSize {
			t.Fatalf("symbol %d: %v", s, err)
		}
		if _, _, _, a := img.At(0, 0).RGBA(); a != 0 {
			t.Errorf("symbol %d: the corner is not transparent", s)
		}
		// Shapes must differ, and not only colours.
		shape := ""
		for y := range iconSize {
			for x := range iconSize {
				_, _, _, a := img.At(x, y).RGBA()
				shape += string(rune('0' + a>>14))
			}
		}
		if other, ok := seen[shape]; ok {
			t.Errorf("symbols %d and %d have the same shape", s, other)
		}
		seen[shape] = s

		ico := icon(s, "windows")
		size, offset := binary.LittleEndian.Uint32(ico[14:]), binary.LittleEndian.Uint32(ico[18:])
		if int(offset+size) != len(ico) || binary.LittleEndian.Uint32(ico[offset:]) != 40 {
			t.Errorf("symbol %d: the ICO says %d bytes from %d of %d", s, size, offset, len(ico))
		}
		x, y := 5, 9
		at := int(offset) + 40 + ((iconSize-1-y)*iconSize+x)*4
		want := draw(s).NRGBAAt(x, y)
		if ico[at] != want.B || ico[at+1] != want.G || ico[at+2] != want.R || ico[at+3] != want.A {
			t.Errorf("symbol %d: the ICO has another picture", s)
		}
	}
}
