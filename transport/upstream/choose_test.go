package upstream

import (
	"errors"
	"strings"
	"testing"
)

// TestChoose is the table of who decides. The rows of the profile are those of features.md, B.1: ProxySettings (default Native,
// UserControllable), PublicProxyServerAddress (UserControllable) and AllowLocalProxyConnections.
func TestChoose(t *testing.T) {
	env := func(pairs ...string) func(string) string {
		return func(name string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1]
				}
			}
			return ""
		}
	}
	web := env("https_proxy", "http://env:1")
	for _, tt := range []struct {
		name   string
		s      Sources
		want   string // the proxy, or ""
		reason string
		err    error
	}{
		{"nothing", Sources{}, "", "nothing names a proxy", nil},
		{"named", Sources{Explicit: "socks5://a:1", Getenv: web}, "socks5://a:1", "named by the user", nil},
		{"none wanted", Sources{None: true, Getenv: web}, "", "the user wants none", nil},
		{"both", Sources{None: true, Explicit: "a:1"}, "", "", ErrAddress},
		{"named badly", Sources{Explicit: "http://u:secret@a:x"}, "", "", ErrAddress},

		{"native", Sources{Mode: Native, Getenv: web}, "http://env:1", "https_proxy of the environment", nil},
		{"upper case", Sources{Getenv: env("HTTPS_PROXY", "a:1", "all_proxy", "b:1")}, "http://a:1", "HTTPS_PROXY", nil},
		{"lower case first", Sources{Getenv: env("HTTPS_PROXY", "a:1", "https_proxy", "b:1")}, "http://b:1", "https_proxy", nil},
		{"for all", Sources{Getenv: env("ALL_PROXY", "socks5h://b:1", "http_proxy", "a:1")}, "socks5://b:1", "ALL_PROXY", nil},
		{"http_proxy is not for https", Sources{Getenv: env("http_proxy", "a:1")}, "", "nothing names a proxy", nil},
		{"excepted", Sources{Getenv: env("https_proxy", "a:1", "no_proxy", "x, .Example.com")}, "", "no_proxy excepts the gateway (.Example.com)", nil},
		{"lower case hides upper case", Sources{Getenv: env("https_proxy", "a:1", "no_proxy", "x", "NO_PROXY", "*")}, "http://a:1", "", nil},
		{"this machine", Sources{Gateway: "127.0.0.9:443", Getenv: web}, "", "this machine", nil},
		{"this machine, but asked for", Sources{Gateway: "localhost:443", Explicit: "a:1"}, "http://a:1", "", nil},
		{"bad environment", Sources{Getenv: env("https_proxy", "u:secret@:")}, "", "", ErrAddress},

		{"desktop", Sources{Desktop: Desktop{Name: "GNOME", HTTPS: "d:1", SOCKS: "s:1"}}, "http://d:1", "the settings of GNOME", nil},
		{"desktop with SOCKS", Sources{Desktop: Desktop{SOCKS: "s:1"}}, "socks5://s:1", "the desktop", nil},
		{"environment before desktop", Sources{Getenv: web, Desktop: Desktop{HTTPS: "d:1"}}, "http://env:1", "", nil},
		{"excepted by the desktop", Sources{Desktop: Desktop{HTTPS: "d:1", Except: []string{"*.example.com"}}}, "", "excepts", nil},
		{"PAC", Sources{Desktop: Desktop{Name: "GNOME", Automatic: true, PAC: "http://u:secret@wpad/x.pac"}}, "", "", ErrPAC},
		{"PAC to be found", Sources{Desktop: Desktop{Automatic: true}}, "", "", ErrPAC},
		{"PAC, but named", Sources{Explicit: "a:1", Desktop: Desktop{Automatic: true}}, "http://a:1", "", nil},
		{"PAC, but none wanted", Sources{None: true, Desktop: Desktop{Automatic: true}}, "", "the user", nil},

		{"ignore", Sources{Mode: Ignore, Getenv: web, Desktop: Desktop{Automatic: true}}, "", "IgnoreProxy", nil},
		{"ignore, user's choice", Sources{Mode: Ignore, Explicit: "a:1"}, "http://a:1", "", nil},
		{"ignore, locked", Sources{Mode: Ignore, Locked: true, Explicit: "a:1"}, "", "", ErrLocked},
		{"ignore, locked, none", Sources{Mode: Ignore, Locked: true, None: true}, "", "the user", nil},

		{"override", Sources{Mode: Override, Public: "pub:8080", Getenv: web}, "http://pub:8080", "Override", nil},
		{"override without an address", Sources{Mode: Override, Getenv: web}, "", "", ErrAddress},
		{"override without an address, named", Sources{Mode: Override, Locked: true, Explicit: "a:1"}, "http://a:1", "", nil},
		{"override, address of the user's", Sources{Mode: Override, Public: "pub:8080", Locked: true, Explicit: "a:1"}, "http://a:1", "", nil},
		{"override, locked", Sources{Mode: Override, Public: "pub:8080", Locked: true, PublicLocked: true, Explicit: "a:1"}, "", "", ErrLocked},
		{"override, locked, with the password", Sources{Mode: Override, Public: "pub:8080", Locked: true, PublicLocked: true, Explicit: "http://u:secret@PUB:8080"}, "http://PUB:8080", "", nil},
		{"override, locked, none", Sources{Mode: Override, Public: "pub:8080", Locked: true, None: true}, "", "", ErrLocked},
		{"override, none", Sources{Mode: Override, Public: "pub:8080", None: true}, "", "the user", nil},
		{"a mode of the future", Sources{Mode: "Else"}, "", "", ErrAddress},

		// D1217: local proxy connections.
		{"local", Sources{Explicit: "127.0.0.1:3128"}, "http://127.0.0.1:3128", "", nil},
		{"local, forbidden", Sources{Explicit: "127.0.0.1:3128", NoLocal: true}, "", "", ErrLocal},
		{"local name, forbidden", Sources{Getenv: env("all_proxy", "socks5://LocalHost.:1"), NoLocal: true}, "", "", ErrLocal},
		{"local IPv6, forbidden", Sources{Mode: Override, Public: "[::1]:1", NoLocal: true}, "", "", ErrLocal},
		{"local mapped, forbidden", Sources{Explicit: "[::ffff:127.0.0.1]:1", NoLocal: true}, "", "", ErrLocal},
		{"elsewhere", Sources{Explicit: "192.0.2.1:1", NoLocal: true}, "http://192.0.2.1:1", "", nil},
	} {
		if tt.s.Gateway == "" {
			tt.s.Gateway = "vpn.example.com:443"
		}
		c, err := Choose(tt.s)
		if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
			t.Errorf("%s: error %v, want %v", tt.name, err, tt.err)
			continue
		}
		if err != nil {
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: error %v", tt.name, err)
			}
			continue
		}
		got := ""
		if c.Proxy != nil {
			got = c.Proxy.String()
		}
		if got != tt.want || !strings.Contains(c.Reason, tt.reason) || strings.Contains(c.String(), "secret") {
			t.Errorf("%s: %v, want %q because %q", tt.name, c, tt.want, tt.reason)
		}
	}
	if _, err := Choose(Sources{Gateway: "nowhere"}); !errors.Is(err, ErrAddress) {
		t.Error(err)
	}
}

// TestExcepted compares hosts with exceptions.
func TestExcepted(t *testing.T) {
	for _, tt := range []struct {
		host, list string
		want       bool
	}{
		{"a.example.com", "example.com", true},
		{"a.example.com", ".example.com", true},
		{"a.example.com", "*.example.com", true},
		{"A.Example.COM.", "example.com.", true},
		{"example.com", ".example.com", true},
		{"evilexample.com", "example.com", false},
		{"example.com.evil", "example.com", false},
		{"a", "", false},
		{"a", "b c\ta", true},
		{"a", "b,*", true},
		{"a", "a:443", true},
		{"a", "a:80", false},
		{"a", ".", false},
		{"10.1.2.3", "10.0.0.0/8", true},
		{"11.1.2.3", "10.0.0.0/8", false},
		{"10.1.2.3", "10.1.2.3", true},
		{"10.1.2.3", "2.3", false},
		{"10.1.2.3", "10.1.2.3:443", true},
		{"::ffff:10.1.2.3", "10.1.2.3", true},
		{"2001:db8::1", "[2001:db8::1]", true},
		{"2001:db8::1", "2001:DB8:0::1", true},
		{"2001:db8::1", "[2001:db8::1]:443", true},
		{"2001:db8::1", "2001:db8::/32", true},
		{"name", "10.0.0.0/8", false},
	} {
		if _, got := excepted(tt.host, "443", split(tt.list)); got != tt.want {
			t.Errorf("%s in %q: %v", tt.host, tt.list, got)
		}
	}
}

// FuzzChoose takes any address and any exceptions without a panic, and tells no password.
func FuzzChoose(f *testing.F) {
	f.Add("http://alice:SECRET@proxy:3128", "10.0.0.0/8,*.corp.example", "vpn.example.com:443")
	f.Add("socks5://[::1]", "*", "[::1]:1")
	f.Fuzz(func(t *testing.T, text, list, gateway string) {
		p, err := Parse(text)
		if err == nil && (p.check() != nil || p.Port == 0) {
			t.Errorf("%q is %v", text, p)
		}
		Choose(Sources{Gateway: gateway, Explicit: text})
		Choose(Sources{Gateway: gateway, Getenv: func(name string) string {
			if strings.HasPrefix(name, "no") {
				return list
			}
			return text
		}})
	})
}
