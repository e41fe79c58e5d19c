package host

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the command lists in testdata anew")

func commandSettings() (Settings, Surroundings, CommandDNS) {
	return Settings{
			Device: "utun7", Addresses: pfxs("10.8.0.5/24", "fd08::5/64"), MTU: 1400,
			Tunnel: pfxs("0.0.0.0/0", "2001:db8:1::/48"), Direct: pfxs("203.0.113.0/24", "2001:db8:1:2::/64"),
			Blocked: pfxs("203.0.113.128/25", "2001:db8:1:3::/64"), Gateways: []netip.Addr{addr("198.51.100.7")},
		}, Surroundings{Interface: "en0", Router4: addr("192.0.2.1"), Router6: addr("fe80::1")},
		CommandDNS{Servers: []netip.Addr{addr("10.8.0.1"), addr("fd08::1")}, Search: []string{"corp.example", "lab.example."}, Match: []string{"corp.example"}}
}

func print(list []Command) string {
	var b strings.Builder
	for _, c := range list {
		fmt.Fprintf(&b, "do   %q\n", c.Do)
		for line := range strings.Lines(c.Input) {
			fmt.Fprintf(&b, "     < %s", line)
		}
		if len(c.Undo) > 0 {
			fmt.Fprintf(&b, "undo %q\n", c.Undo)
		}
		for line := range strings.Lines(c.UndoInput) {
			fmt.Fprintf(&b, "     < %s", line)
		}
	}
	return b.String()
}

// TestCommandLists compares the commands with lists that people have read.
func TestCommandLists(t *testing.T) {
	everything := CommandDNS{Servers: []netip.Addr{addr("10.8.0.1")}, Search: []string{"corp.example"}}
	for name, make := range map[string]func() ([]Command, error){
		"macos-split-dns": func() ([]Command, error) { return MacCommands(commandSettings()) },
		"macos-all-dns": func() ([]Command, error) {
			s, o, _ := commandSettings()
			return MacCommands(s, o, everything)
		},
		"windows-split-dns": func() ([]Command, error) {
			s, o, d := commandSettings()
			s.Device, o.Interface = "culvert0", "Ethernet 2"
			return WindowsCommands(s, o, d)
		},
		"windows-all-dns": func() ([]Command, error) {
			s, o, _ := commandSettings()
			s.Device, o.Interface = "culvert0", "Ethernet 2"
			return WindowsCommands(s, o, everything)
		},
	} {
		list, err := make()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, file := print(list), "testdata/"+name+".txt"
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s:\n%s", name, difference(string(want), got))
		}
	}
}

// TestRouting compares the routes for systems with one table with a slow reading of the settings.
func TestRouting(t *testing.T) {
	router4, router6 := addr("192.0.2.254"), addr("fe80::1")
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		s := randomSettings(r)
		s.Local = LocalTunnelled
		routes, err := s.routing(Surroundings{Router4: router4, Router6: router6})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range universe() {
			got, bits := direct, -1
			for _, w := range routes {
				if w.prefix.Bits() == 0 {
					t.Fatalf("seed %d: the default route is replaced", seed)
				}
				if w.prefix.Contains(a) && w.prefix.Bits() > bits {
					got, bits = w.way, w.prefix.Bits()
				}
			}
			if want := slowWay(s, nil, nil, a); got != want {
				t.Fatalf("seed %d: %v has the way %v, want %v, for %+v\n%v", seed, a, got, want, s, routes)
			}
		}
		seen := make(map[netip.Prefix]bool)
		for _, w := range routes {
			if seen[w.prefix] {
				t.Fatalf("seed %d: %v twice", seed, w.prefix)
			}
			seen[w.prefix] = true
		}
	}
}

func TestCommandsRefuse(t *testing.T) {
	for name, change := range map[string]func(*Settings, *Surroundings, *CommandDNS){
		"no device":      func(s *Settings, o *Surroundings, d *CommandDNS) { *s = Settings{} },
		"hostile device": func(s *Settings, o *Surroundings, d *CommandDNS) { s.Device = "x y" },
		"an option":      func(s *Settings, o *Surroundings, d *CommandDNS) { s.Device = "-x" },
		"local":          func(s *Settings, o *Surroundings, d *CommandDNS) { s.Local = LocalNetworks },
		"no router":      func(s *Settings, o *Surroundings, d *CommandDNS) { o.Router4 = netip.Addr{} },
		"wrong router":   func(s *Settings, o *Surroundings, d *CommandDNS) { o.Router4 = addr("fe80::1") },
		"hostile search": func(s *Settings, o *Surroundings, d *CommandDNS) {
			d.Search = []string{"x'; Remove-Item C:\\ -Recurse; '"}
		},
		"hostile match": func(s *Settings, o *Surroundings, d *CommandDNS) {
			d.Match = []string{"a\nset State:/Network/Global/DNS"}
		},
		"typographic": func(s *Settings, o *Surroundings, d *CommandDNS) { d.Match = []string{"a\u2019b"} },
		"empty label": func(s *Settings, o *Surroundings, d *CommandDNS) { d.Match = []string{"a..b"} },
		"no server":   func(s *Settings, o *Surroundings, d *CommandDNS) { d.Servers = []netip.Addr{{}} },
		"too many":    func(s *Settings, o *Surroundings, d *CommandDNS) { d.Servers = make([]netip.Addr, 100) },
	} {
		s, o, d := commandSettings()
		change(&s, &o, &d)
		if _, err := MacCommands(s, o, d); !errors.Is(err, ErrSettings) {
			t.Errorf("macOS, %s: %v", name, err)
		}
		if _, err := WindowsCommands(s, o, d); !errors.Is(err, ErrSettings) {
			t.Errorf("Windows, %s: %v", name, err)
		}
	}
	s, o, d := commandSettings()
	o.Interface = "Ethernet\" 2"
	if _, err := MacCommands(s, o, d); !errors.Is(err, ErrSettings) {
		t.Error(err)
	}
	if _, err := WindowsCommands(s, o, d); !errors.Is(err, ErrSettings) {
		t.Error(err)
	}
}

// FuzzCommands looks for names that leave their argument.
func FuzzCommands(f *testing.F) {
	f.Add("culvert0", "corp.example", "Ethernet 2")
	f.Add("a'b", "_x.y", "'")
	f.Fuzz(func(t *testing.T, device, domain, outside string) {
		s, o, d := commandSettings()
		s.Device, o.Interface, d.Search, d.Match = device, outside, []string{domain}, []string{domain}
		mac, err := MacCommands(s, o, d)
		if err != nil {
			return
		}
		for _, c := range mac {
			if lines := strings.Count(c.Input, "\n"); lines != 0 && lines != 7 {
				t.Errorf("%d lines for scutil: %q", lines, c.Input)
			}
		}
		windows, err := WindowsCommands(s, o, d)
		if err != nil {
			return
		}
		for _, c := range append(mac, windows...) {
			for _, arg := range append(c.Do, c.Undo...) {
				if strings.ContainsAny(arg, "\x00\n\r\"") {
					t.Errorf("argument %q", arg)
				}
				// PowerShell has more quotes than one.
				if strings.Contains(arg, "Dns") && (strings.Count(arg, "'")%2 != 0 || strings.ContainsAny(arg, "\u2018\u2019\u201a\u201b")) {
					t.Errorf("a quote is open in %q", arg)
				}
			}
		}
	})
}
