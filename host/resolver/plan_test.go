package resolver

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func addrPorts(s ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range s {
		out = append(out, netip.MustParseAddrPort(a))
	}
	return out
}

// script writes commands as a person would type them.
func script(commands []Command) string {
	var b strings.Builder
	for _, c := range commands {
		b.WriteString(c.Name)
		for _, a := range c.Args {
			if a == "" || strings.ContainsAny(a, " '") {
				a = `"` + a + `"`
			}
			b.WriteString(" " + a)
		}
		b.WriteString("\n")
		for line := range strings.Lines(c.Input) {
			b.WriteString("< " + line)
		}
	}
	return b.String()
}

func TestMacPlan(t *testing.T) {
	p, err := MacPlan(Config{Device: "utun4", Servers: addrPorts("10.0.0.53:0", "[fd00::53]:53"), Search: []string{"corp.example"},
		Routes: []string{"lab.example", "10.in-addr.arpa"}})
	if err != nil {
		t.Fatal(err)
	}
	flush := "/usr/bin/dscacheutil -flushcache\n/usr/bin/killall -HUP mDNSResponder\n"
	want := `/usr/sbin/scutil
< d.init
< d.add ServerAddresses * 10.0.0.53 fd00::53
< d.add InterfaceName utun4
< d.add SearchDomains * corp.example
< d.add SupplementalMatchDomains * corp.example lab.example 10.in-addr.arpa
< d.add SupplementalMatchDomainsNoSearch # 1
< set State:/Network/Service/culvert-utun4/DNS
< quit
` + flush
	if got := script(p.Apply); got != want {
		t.Errorf("Apply is\n%swant\n%s", got, want)
	}
	if got, want := script(p.Undo), "/usr/sbin/scutil\n< remove State:/Network/Service/culvert-utun4/DNS\n< quit\n"+flush; got != want {
		t.Errorf("Undo is\n%swant\n%s", got, want)
	}
	p, err = MacPlan(Config{Device: "utun4", Servers: addrPorts("127.0.0.1:5353"), TunnelAll: true})
	if err != nil || len(p.Notes) != 1 {
		t.Fatal(err, p.Notes)
	}
	for _, want := range []string{"d.add ServerPort # 5353\n", `d.add SupplementalMatchDomains * ""` + "\n"} {
		if !strings.Contains(p.Apply[0].Input, want) {
			t.Errorf("Apply lacks %q:\n%s", want, p.Apply[0].Input)
		}
	}
	for _, bad := range []Config{
		{Device: "utun4"},
		{Device: "utun 4", Servers: addrPorts("10.0.0.53:53")},
		{Device: "utun4\nremove x", Servers: addrPorts("10.0.0.53:53")},
		{Device: "utun4", Servers: addrPorts("10.0.0.53:53", "10.0.0.54:54")},
		{Device: "utun4", Servers: addrPorts("10.0.0.53:53"), Search: []string{"a b"}},
	} {
		if _, err := MacPlan(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("MacPlan(%+v) = %v", bad, err)
		}
	}
}

func TestWindowsPlan(t *testing.T) {
	p, err := WindowsPlan(Config{Device: "Culvert Tunnel", Servers: addrPorts("10.0.0.53:53", "10.0.0.54:53", "[fd00::53]:53"),
		Search: []string{"corp.example", "example.org"}, Routes: []string{"lab.example"}})
	if err != nil {
		t.Fatal(err)
	}
	key := `"HKLM\SYSTEM\CurrentControlSet\Services\Dnscache\Parameters\DnsPolicyConfig\` + rule("Culvert Tunnel", 2) + `"`
	key = strings.Trim(key, `"`)
	want := fmt.Sprintf(`netsh.exe interface ipv4 set dnsservers "name=Culvert Tunnel" source=static address=10.0.0.53 register=none validate=no
netsh.exe interface ipv4 add dnsservers "name=Culvert Tunnel" address=10.0.0.54 index=2 validate=no
netsh.exe interface ipv6 set dnsservers "name=Culvert Tunnel" source=static address=fd00::53 register=none validate=no
reg.exe add %[1]s /v Version /t REG_DWORD /d 2 /f
reg.exe add %[1]s /v Name /t REG_MULTI_SZ /d .corp.example\0.example.org\0.lab.example /f
reg.exe add %[1]s /v IPSECCARestriction /t REG_SZ /d "" /f
reg.exe add %[1]s /v GenericDNSServers /t REG_SZ /d "10.0.0.53; 10.0.0.54; fd00::53" /f
reg.exe add %[1]s /v ConfigOptions /t REG_DWORD /d 8 /f
reg.exe add %[1]s /v Comment /t REG_SZ /d "culvert Culvert Tunnel" /f
powershell.exe -NoProfile -NonInteractive -Command "Set-DnsClient -InterfaceAlias 'Culvert Tunnel' -ConnectionSpecificSuffix 'corp.example'"
ipconfig.exe /flushdns
`, key)
	if got := script(p.Apply); got != want {
		t.Errorf("Apply is\n%swant\n%s", got, want)
	}
	want = fmt.Sprintf(`powershell.exe -NoProfile -NonInteractive -Command "Set-DnsClient -InterfaceAlias 'Culvert Tunnel' -ConnectionSpecificSuffix ''"
reg.exe delete %s /f
netsh.exe interface ipv6 set dnsservers "name=Culvert Tunnel" source=dhcp
netsh.exe interface ipv4 set dnsservers "name=Culvert Tunnel" source=dhcp
ipconfig.exe /flushdns
`, key)
	if got := script(p.Undo); got != want {
		t.Errorf("Undo is\n%swant\n%s", got, want)
	}
	if len(p.Notes) != 1 {
		t.Errorf("notes %q", p.Notes)
	}
	var many []string
	for i := range 120 {
		many = append(many, fmt.Sprintf("d%d.example", i))
	}
	if p, err = WindowsPlan(Config{Device: "x", Servers: addrPorts("10.0.0.53:53"), Routes: many}); err != nil {
		t.Fatal(err)
	}
	rules := map[string]bool{}
	for _, c := range p.Apply {
		if c.Name == "reg.exe" && c.Args[3] == "Name" {
			rules[c.Args[1]] = true
			if n := strings.Count(c.Args[7], `\0`); n >= maxRuleDomains {
				t.Errorf("%d domains in a rule", n+1)
			}
		}
	}
	if len(rules) != 3 {
		t.Errorf("%d rules for 120 domains, want 3", len(rules))
	}
	if p, err = WindowsPlan(Config{Device: "x", Servers: addrPorts("10.0.0.53:53"), Routes: many, TunnelAll: true}); err != nil ||
		!strings.Contains(script(p.Apply), "/v Name /t REG_MULTI_SZ /d . /f") {
		t.Errorf("all names: %v\n%s", err, script(p.Apply))
	}
	for _, bad := range []Config{
		{Device: "x", Servers: addrPorts("10.0.0.53:5353")},
		{Device: "x'; evil; '", Servers: addrPorts("10.0.0.53:53")},
		{Device: `x"`, Servers: addrPorts("10.0.0.53:53")},
	} {
		if _, err := WindowsPlan(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("WindowsPlan(%+v) = %v", bad, err)
		}
	}
}
