package proxysettings

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func script(list []Command) string {
	var b strings.Builder
	for _, c := range list {
		fmt.Fprintf(&b, "%s %q\n%s", c.Name, c.Args, c.Input)
	}
	return b.String()
}

// TestMacPlan compares the commands with ones that people have read.
func TestMacPlan(t *testing.T) {
	c, err := New("", "proxy.corp.example:3128", "", []string{"*.corp.example", "10.*", "<local>"}, false)
	if err != nil {
		t.Fatal(err)
	}
	p, err := MacPlan(c, "utun7")
	if err != nil {
		t.Fatal(err)
	}
	const want = `/usr/sbin/scutil []
d.init
d.add HTTPEnable # 1
d.add HTTPProxy proxy.corp.example
d.add HTTPPort # 3128
d.add HTTPSEnable # 1
d.add HTTPSProxy proxy.corp.example
d.add HTTPSPort # 3128
d.add ExceptionsList * localhost 127.0.0.0/8 ::1 *.corp.example 10.0.0.0/8
d.add ExcludeSimpleHostnames # 1
d.add InterfaceName utun7
d.add SupplementalMatchDomains * ""
d.add SupplementalMatchDomainsNoSearch # 1
set State:/Network/Service/culvert-utun7/Proxies
quit
`
	if got := script(p.Apply); got != want {
		t.Errorf("the commands are\n%s", got)
	}
	if got := script(p.Undo); got != "/usr/sbin/scutil []\nremove State:/Network/Service/culvert-utun7/Proxies\nquit\n" || len(p.Notes) != 1 {
		t.Errorf("undone by\n%s, notes %q", got, p.Notes)
	}
	for _, device := range []string{"", "utun 7", "utun7\nquit"} {
		if _, err := MacPlan(c, device); !errors.Is(err, ErrInvalid) {
			t.Errorf("the device %q: %v", device, err)
		}
	}
	p, err = MacPlan(Config{Method: Auto, PAC: "http://h/x.pac?a=1"}, "utun7")
	if err != nil || !strings.Contains(p.Apply[0].Input, "d.add ProxyAutoConfigURLString \"http://h/x.pac?a=1\"\n") {
		t.Errorf("%s, %v", script(p.Apply), err)
	}
}

// TestWindowsPlan: D146 (undone), D150 (a lock that was there stays), D152 (the page of Settings since 1703).
func TestWindowsPlan(t *testing.T) {
	const output = "\r\nHKEY_CURRENT_USER\\Software\\Microsoft\\Windows\\CurrentVersion\\Internet Settings\r\n" +
		"    ProxyEnable    REG_DWORD    0x1\r\n    ProxyServer    REG_SZ    mine:8080\r\n    AutoConfigURL    REG_SZ    http://mine/x.pac\r\n    User Agent    REG_SZ    Mozilla/4.0 (x)\r\n\r\n"
	var state WindowsState
	if err := state.ParseWindowsQuery(output); err != nil || state.Values[internetSettings+`\User Agent`].Data != "Mozilla/4.0 (x)" {
		t.Fatalf("%v, %v", state, err)
	}
	state.Build = 19045
	c, err := New("", "p:3128", "", []string{"10.*", "192.168.4.0/22", "<local>"}, false)
	if err != nil {
		t.Fatal(err)
	}
	p, err := WindowsPlan(c, state)
	if err != nil {
		t.Fatal(err)
	}
	apply, undo := script(p.Apply), script(p.Undo)
	for _, want := range []string{`"ProxyServer" "/t" "REG_SZ" "/d" "http=p:3128;https=p:3128"`, `"/d" "localhost;127.*;[::1];10.*;<local>"`,
		`"delete" "HKCU\\Software\\Microsoft\\Windows\\CurrentVersion\\Internet Settings" "/v" "AutoConfigURL"`, `"ConnectionsTab" "/t" "REG_DWORD" "/d" "0x1"`, `"hide:network-proxy"`} {
		if !strings.Contains(apply, want) {
			t.Errorf("%s is not in\n%s", want, apply)
		}
	}
	for _, want := range []string{`"ProxyServer" "/t" "REG_SZ" "/d" "mine:8080"`, `"AutoConfigURL" "/t" "REG_SZ" "/d" "http://mine/x.pac"`, `"/v" "ConnectionsTab" "/f"`, `"/v" "SettingsPageVisibility" "/f"`} {
		if !strings.Contains(undo, want) {
			t.Errorf("%s is not in\n%s", want, undo)
		}
	}
	if strings.Contains(apply, `"ProxyEnable"`) || len(p.Notes) != 1 || len(p.Apply) != len(p.Undo) {
		t.Errorf("%s\n%q", apply, p.Notes)
	}
	state.Values[controlPanel+`\ConnectionsTab`] = RegistryValue{"REG_DWORD", "0x1"}
	state.Values[explorerPolicies+`\SettingsPageVisibility`] = RegistryValue{"REG_SZ", "hide:about"}
	p, err = WindowsPlan(c, state)
	if err != nil || strings.Contains(script(p.Apply)+script(p.Undo), "ConnectionsTab") || strings.Contains(script(p.Apply), "SettingsPageVisibility") || len(p.Notes) != 2 {
		t.Errorf("what policies have set does not stay: %v\n%s", err, script(p.Apply))
	}
	p, err = WindowsPlan(c, WindowsState{Build: 14393})
	if err != nil || strings.Contains(script(p.Apply), "SettingsPageVisibility") {
		t.Errorf("before 1703 there is no such page: %v", err)
	}
	state.Values[internetSettings+`\ProxyServer`] = RegistryValue{"REG_SZ", "a\"b"}
	if _, err := WindowsPlan(c, state); !errors.Is(err, ErrInvalid) {
		t.Errorf("a value that cannot be put back: %v", err)
	}
	if err := state.ParseWindowsQuery(strings.Repeat("x", 2<<20)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a long output: %v", err)
	}
	if q := WindowsQueries(); len(q) != 3 || !slices.Contains(q[0].Args, internetSettings) {
		t.Errorf("queries %v", q)
	}
}

// FuzzWindowsPlan takes whatever reg.exe prints. What is put back is one line for each change.
func FuzzWindowsPlan(f *testing.F) {
	f.Add("HKEY_CURRENT_USER\\Software\\Microsoft\\Windows\\CurrentVersion\\Internet Settings\r\n" +
		"    ProxyServer    REG_SZ    mine:8080\r\n    ProxyOverride    REG_SZ    a\"b\r\n    AutoConfigURL    REG_SZ\r\n")
	f.Add("    ProxyEnable    REG_DWORD    0x1\nHKEY_CURRENT_USER\\\n    a    b    c\n")
	f.Fuzz(func(t *testing.T, output string) {
		var state WindowsState
		if err := state.ParseWindowsQuery(output); err != nil {
			return
		}
		c, err := New("", "p:3128", "", []string{"10.*"}, false)
		if err != nil {
			t.Fatal(err)
		}
		p, err := WindowsPlan(c, state)
		if err != nil {
			return
		}
		if len(p.Apply) != len(p.Undo) {
			t.Errorf("%d changes, %d that put them back", len(p.Apply), len(p.Undo))
		}
		for _, c := range p.Undo {
			for _, arg := range c.Args {
				if strings.ContainsAny(arg, "\x00\r\n\"") {
					t.Errorf("%q puts something back", c.Args)
				}
			}
		}
	})
}
