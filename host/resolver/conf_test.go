package resolver

import (
	"bytes"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestConfigNormal(t *testing.T) {
	got, err := Config{Device: "culvert0", Servers: addrPorts("10.0.0.53:0", "[::ffff:10.0.0.53]:53", "[fe80::1%eth0]:5353"),
		Search: []string{"Corp.Example.", "*.corp.example"}, Routes: []string{"~lab.example", ".corp.example", "_tcp.x--y"}, TunnelAll: true}.normal()
	if err != nil {
		t.Fatal(err)
	}
	want := Config{Device: "culvert0", Servers: addrPorts("10.0.0.53:53", "[fe80::1%eth0]:5353"), Search: []string{"corp.example"},
		Routes: []string{"lab.example", "_tcp.x--y"}, TunnelAll: true, Default: true}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("normal = %+v, want %+v", got, want)
	}
	one := addrPorts("10.0.0.53:53")
	for _, test := range []struct {
		cfg  Config
		want string
	}{
		{Config{Servers: one}, "Device"},
		{Config{Device: "a\nb", Servers: one}, "Device"},
		{Config{Device: "a/b", Servers: one}, "Device"},
		{Config{Device: "a", Index: -1, Servers: one}, "Index"},
		{Config{Device: "a"}, "Servers"},
		{Config{Device: "a", Servers: make([]netip.AddrPort, 17)}, "Servers"},
		{Config{Device: "a", Servers: make([]netip.AddrPort, 1)}, "Servers[0]"},
		{Config{Device: "a", Servers: addrPorts("10.0.0.53:53", "0.0.0.0:53")}, "Servers[1]"},
		{Config{Device: "a", Servers: one, Search: []string{"ok", "a..b"}}, "Search[1]"},
		{Config{Device: "a", Servers: one, Search: []string{"a b"}}, "Search[0]"},
		{Config{Device: "a", Servers: one, Search: []string{"bücher.example"}}, "xn--"},
		{Config{Device: "a", Servers: one, Search: []string{strings.Repeat("a.", 130)}}, "253"},
		{Config{Device: "a", Servers: one, Routes: []string{strings.Repeat("a", 64)}}, "63"},
		{Config{Device: "a", Servers: one, Routes: []string{"."}}, "TunnelAll"},
		{Config{Device: "a", Servers: one, Routes: []string{"~."}}, "TunnelAll"},
		{Config{Device: "a", Servers: one, TunnelAll: true, Fallback: true}, "Fallback"},
		{Config{Device: "a", Servers: one, Search: make([]string, 65)}, "Search"},
		{Config{Device: "a", Servers: one, Routes: make([]string, 1025)}, "Routes"},
	} {
		if _, err := test.cfg.normal(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.200v: %v, want an error that says %q", test.cfg, err, test.want)
		}
	}
}

func TestParseConf(t *testing.T) {
	got, err := ParseConf([]byte("# comment\n; another\n  nameserver 1.1.1.1\nnameserver 10.0.0.1 # why\nnameserver fe80::1%eth0\n" +
		"nameserver nonsense\nnameserver\ndomain first.example\nsearch a.example b.example.\noptions edns0\toptions\noptions ndots:2\n" +
		"sortlist 10.0.0.0/255.0.0.0\nlookup file bind\nnameserver 10.0.0.2"))
	want := Conf{
		Servers: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("10.0.0.2")},
		Search:  []string{"a.example", "b.example"}, Options: []string{"edns0", "options", "ndots:2"}, SortList: []string{"10.0.0.0/255.0.0.0"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ParseConf = %+v, %v\nwant %+v", got, err, want)
	}
	for _, long := range []string{strings.Repeat("\n", maxLines+1), strings.Repeat("x", maxConf+1)} {
		if _, err := ParseConf([]byte(long)); !errors.Is(err, ErrInvalid) {
			t.Errorf("a file of %d bytes: %v", len(long), err)
		}
	}
}

const testID = "0123456789abcdef"

func TestCompose(t *testing.T) {
	before, _ := ParseConf([]byte("nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch home.example bad..name\noptions edns0 rotate\nsortlist 10.0.0.0\n"))
	one := addrPorts("10.0.0.53:53", "[fd00::53]:53")
	for _, test := range []struct {
		cfg  Config
		want string
		left []string
	}{
		{Config{Device: "t", Servers: one, Default: true}, "nameserver 10.0.0.53\nnameserver fd00::53\nsearch home.example\noptions edns0 rotate\nsortlist 10.0.0.0\n", nil},
		{Config{Device: "t", Servers: one, TunnelAll: true}, "nameserver 10.0.0.53\nnameserver fd00::53\noptions edns0 rotate\nsortlist 10.0.0.0\n", nil},
		{Config{Device: "t", Servers: one, Default: true, Fallback: true, Search: []string{"corp.example"}},
			"nameserver 10.0.0.53\nnameserver fd00::53\nnameserver 192.0.2.1\nsearch corp.example\noptions edns0 rotate\nsortlist 10.0.0.0\n", []string{"192.0.2.2"}},
	} {
		b, left, err := compose(testID, test.cfg, before)
		if err != nil {
			t.Fatal(err)
		}
		head, rest, _ := strings.Cut(string(b), "\n")
		if rest != test.want || !slices.Equal(left, test.left) || !strings.HasPrefix(head, "# culvert "+testID) {
			t.Errorf("%+v:\n%s\nleft %q, want\n%s", test.cfg, b, left, test.want)
		}
		if id, intact := ownerOf(b); id != testID || !intact {
			t.Errorf("ownerOf = %q, %v", id, intact)
		}
		if id, intact := ownerOf(append(b, '\n', '\n')); id != testID || !intact {
			t.Errorf("with empty lines, ownerOf = %q, %v", id, intact)
		}
		if id, intact := ownerOf(append(b, "nameserver 8.8.8.8\n"...)); id != testID || intact {
			t.Errorf("edited, ownerOf = %q, %v", id, intact)
		}
	}
	if _, _, err := compose(testID, Config{Device: "t", Servers: addrPorts("10.0.0.53:5353")}, before); !errors.Is(err, ErrInvalid) {
		t.Errorf("a port: %v", err)
	}
	var many []string
	for range maxSearch {
		many = append(many, strings.Repeat("a", 60)+"."+strings.Repeat("b", 60))
	}
	if _, _, err := compose(testID, Config{Device: "t", Servers: one, Search: many}, before); !errors.Is(err, ErrInvalid) {
		t.Errorf("too much: %v", err)
	}
	for _, not := range []string{"", "# culvert", "# culvert x", "nameserver 1.1.1.1\n", "# culvert 0123456789abcdef 0123456789abcdeg"} {
		if id, _ := ownerOf([]byte(not)); id != "" {
			t.Errorf("ownerOf(%q) = %q", not, id)
		}
	}
}

// TestTorn stops writeInPlace after each byte.
func TestTorn(t *testing.T) {
	for _, test := range []struct{ was, now string }{
		{"nameserver 1.1.1.1\n", "# culvert\nnameserver 10.0.0.53\nsearch corp.example\n"},
		{"# a long one\n" + strings.Repeat("nameserver 1.1.1.1\n", 9), "# culvert\nnameserver 10.0.0.53\n"},
		{"", "# culvert\n"},
	} {
		was, now := []byte(test.was), []byte(test.now)
		whole := pad(now, len(was))
		for k := range len(whole) + 1 {
			b := bytes.Clone(whole[:k])
			if k < len(was) {
				b = append(b, was[k:]...)
			}
			if !torn(b, was, now) && len(b) > 0 {
				t.Errorf("after %d bytes %q does not count as torn", k, b)
			}
		}
		for _, other := range []string{"nameserver 8.8.8.8\n", test.was + "options x\n", test.now + "options x\n", "x" + test.was} {
			if torn([]byte(other), was, now) {
				t.Errorf("%q counts as torn between %q and %q", other, was, now)
			}
		}
	}
	for _, empty := range []string{"", "\x00\x00\x00"} {
		if !torn([]byte(empty), []byte("x"), []byte("y")) {
			t.Errorf("%q does not count as torn", empty)
		}
	}
}

func TestSwitched(t *testing.T) {
	for s, want := range map[string]bool{
		"hosts: files resolve [!UNAVAIL=return] dns\n": true,
		"passwd: files\n hosts:\tresolve":              true,
		"hosts: files dns # resolve\n":                 false,
		"hosts: files myresolve\npasswd: resolve\n":    false,
		"": false,
	} {
		if got := switched([]byte(s)); got != want {
			t.Errorf("switched(%q) = %v", s, got)
		}
	}
}

func TestPacer(t *testing.T) {
	var p pacer
	now := time.Unix(0, 0)
	for i := range 5 {
		if !p.allow(now.Add(time.Duration(i) * time.Second)) {
			t.Fatalf("repair %d is not allowed", i)
		}
	}
	if p.allow(now.Add(59 * time.Second)) {
		t.Error("the sixth repair in a minute is allowed")
	}
	if !p.allow(now.Add(60 * time.Second)) {
		t.Error("a repair a minute after the first is not allowed")
	}
}

func FuzzParseConf(f *testing.F) {
	f.Add([]byte("nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n"))
	f.Add([]byte("# culvert 0123456789abcdef 0123456789abcdef: x\nnameserver fe80::1%eth0\nsortlist a b\n"))
	f.Add([]byte("search a.example b\ndomain c\nnameserver ::ffff:1.2.3.4\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ownerOf(b)
		switched(b)
		before, err := ParseConf(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%v does not match ErrInvalid", err)
			}
			return
		}
		cfg := Config{Device: "t", Servers: addrPorts("10.0.0.53:53"), Default: true, Fallback: true}
		out, left, err := compose(testID, cfg, before)
		if err != nil {
			return
		}
		if id, intact := ownerOf(out); id != testID || !intact {
			t.Fatalf("%q is not ours", out)
		}
		after, err := ParseConf(out)
		if err != nil {
			t.Fatal(err)
		}
		if len(after.Servers)+len(left) != len(before.Servers)+1 || !slices.Equal(after.Options, before.Options) ||
			!slices.Equal(after.SortList, before.SortList) {
			t.Errorf("%+v became %+v", before, after)
		}
	})
}

func FuzzUndoRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"link":{"device":"tun0","index":3,"before":{"servers":["1.1.1.1:53"]},"servers":["x"],"domains":[]}}`))
	f.Add([]byte(`{"version":1,"file":{"target":"/etc/resolv.conf","owner":"0123456789abcdef","existed":true,"original":"eA==","mode":420,"written":"eQ=="}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decode(b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("%v does not match ErrInvalid", err)
			}
			return
		}
		again, err := encode(r)
		if err != nil {
			return
		}
		if _, err := decode(again); err != nil {
			t.Errorf("%s: %v", again, err)
		}
	})
}
