package resolver

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Command is a program to run, with what it reads from its standard input.
type Command struct {
	Name  string
	Args  []string
	Input string
}

// A Plan is what to run on a system that this package does not change itself, and what undoes it. Every command of Undo may be run
// any number of times, also if Apply was not, or not all of it; that some of them fail then is no harm.
type Plan struct {
	Apply, Undo []Command
	// Notes say what the system cannot do of what was asked, for a person to read.
	Notes []string
}

// planned checks a Config for a system whose resolver sends names of domains to servers with one port.
func planned(cfg Config) (Config, uint16, error) {
	cfg, err := cfg.normal()
	if err != nil {
		return cfg, 0, err
	}
	port := cfg.Servers[0].Port()
	for i, s := range cfg.Servers {
		if s.Port() != port {
			return cfg, 0, invalid("Servers[%d]: port %d, where the first one has %d; use the same for all", i, s.Port(), port)
		}
	}
	return cfg, port, nil
}

// MacPlan returns what gives macOS the servers of cfg: an entry of the dynamic store, which configd keeps in memory, so that a
// restart undoes it in any case. The entry is named after the device.
//
// Without Default, the servers are asked for the domains of Search and Routes. With it they are asked for all names.
func MacPlan(cfg Config) (Plan, error) {
	cfg, port, err := planned(cfg)
	if err != nil {
		return Plan{}, err
	}
	if strings.Contains(cfg.Device, " ") {
		return Plan{}, invalid("Device: %q has a space, and interfaces of macOS have none", cfg.Device)
	}
	key := "State:/Network/Service/culvert-" + cfg.Device + "/DNS"
	var b strings.Builder
	line := func(words ...string) { b.WriteString(strings.Join(words, " ") + "\n") }
	line("d.init")
	servers := []string{"d.add", "ServerAddresses", "*"}
	for _, s := range cfg.Servers {
		servers = append(servers, s.Addr().String())
	}
	line(servers...)
	if port != 53 {
		line("d.add", "ServerPort", "#", strconv.Itoa(int(port)))
	}
	line("d.add", "InterfaceName", cfg.Device)
	if len(cfg.Search) > 0 {
		line(append([]string{"d.add", "SearchDomains", "*"}, cfg.Search...)...)
	}
	match := slices.Concat(cfg.Search, cfg.Routes)
	if cfg.Default {
		// The empty domain is the one that every name is below.
		match = append(match, `""`)
	}
	if len(match) > 0 {
		line(append([]string{"d.add", "SupplementalMatchDomains", "*"}, match...)...)
		line("d.add", "SupplementalMatchDomainsNoSearch", "#", "1")
	}
	line("set", key)
	line("quit")
	flush := []Command{{Name: "/usr/bin/dscacheutil", Args: []string{"-flushcache"}},
		{Name: "/usr/bin/killall", Args: []string{"-HUP", "mDNSResponder"}}}
	p := Plan{
		Apply: append([]Command{{Name: "/usr/sbin/scutil", Input: b.String()}}, flush...),
		Undo:  append([]Command{{Name: "/usr/sbin/scutil", Input: "remove " + key + "\nquit\n"}}, flush...),
	}
	if cfg.TunnelAll {
		p.Notes = append(p.Notes, "servers that macOS knows for longer domains are still asked for these; a firewall must stop that")
	}
	return p, nil
}

// maxRuleDomains is how many domains Windows takes in one rule of the name resolution policy.
const maxRuleDomains = 50

// WindowsPlan returns what gives Windows the servers of cfg: addresses of servers for the interface, and rules in the name resolution
// policy table for the domains of Search and Routes, or for all names if TunnelAll is set. The rules are named after the device.
// Rules that a group policy sets make Windows ignore these.
func WindowsPlan(cfg Config) (Plan, error) {
	cfg, port, err := planned(cfg)
	if err != nil {
		return Plan{}, err
	}
	if port != 53 {
		return Plan{}, invalid("Servers: port %d; Windows knows no port but 53", port)
	}
	const policy = `HKLM\SYSTEM\CurrentControlSet\Services\Dnscache\Parameters\DnsPolicyConfig`
	flush := Command{Name: "ipconfig.exe", Args: []string{"/flushdns"}}
	var p Plan
	count := map[string]int{}
	var servers []string
	for _, s := range cfg.Servers {
		family := "ipv4"
		if s.Addr().Is6() {
			family = "ipv6"
		}
		servers = append(servers, s.Addr().String())
		count[family]++
		if count[family] == 1 {
			p.Apply = append(p.Apply, Command{Name: "netsh.exe", Args: []string{"interface", family, "set", "dnsservers",
				"name=" + cfg.Device, "source=static", "address=" + s.Addr().String(), "register=none", "validate=no"}})
			p.Undo = append(p.Undo, Command{Name: "netsh.exe", Args: []string{"interface", family, "set", "dnsservers",
				"name=" + cfg.Device, "source=dhcp"}})
			continue
		}
		p.Apply = append(p.Apply, Command{Name: "netsh.exe", Args: []string{"interface", family, "add", "dnsservers",
			"name=" + cfg.Device, "address=" + s.Addr().String(), "index=" + strconv.Itoa(count[family]), "validate=no"}})
	}
	var names []string
	for _, d := range slices.Concat(cfg.Search, cfg.Routes) {
		names = append(names, "."+d)
	}
	if cfg.TunnelAll {
		names = []string{"."}
	}
	for chunk := range slices.Chunk(names, maxRuleDomains) {
		key := policy + `\` + rule(cfg.Device, len(p.Undo))
		for _, v := range [][]string{
			{"Version", "REG_DWORD", "2"},
			{"Name", "REG_MULTI_SZ", strings.Join(chunk, `\0`)},
			{"IPSECCARestriction", "REG_SZ", ""},
			{"GenericDNSServers", "REG_SZ", strings.Join(servers, "; ")},
			{"ConfigOptions", "REG_DWORD", "8"}, // ask the servers named above
			{"Comment", "REG_SZ", "culvert " + cfg.Device},
		} {
			p.Apply = append(p.Apply, Command{Name: "reg.exe", Args: []string{"add", key, "/v", v[0], "/t", v[1], "/d", v[2], "/f"}})
		}
		p.Undo = append(p.Undo, Command{Name: "reg.exe", Args: []string{"delete", key, "/f"}})
	}
	if len(cfg.Search) > 1 {
		p.Notes = append(p.Notes, "Windows searches one suffix of an interface only: "+cfg.Search[0])
	}
	if len(cfg.Search) > 0 {
		set := func(suffix string) Command {
			// The name of the interface and the suffix hold no quotes.
			return Command{Name: "powershell.exe", Args: []string{"-NoProfile", "-NonInteractive", "-Command",
				fmt.Sprintf("Set-DnsClient -InterfaceAlias '%s' -ConnectionSpecificSuffix '%s'", cfg.Device, suffix)}}
		}
		p.Apply, p.Undo = append(p.Apply, set(cfg.Search[0])), append(p.Undo, set(""))
	}
	p.Apply, p.Undo = append(p.Apply, flush), append(p.Undo, flush)
	slices.Reverse(p.Undo[:len(p.Undo)-1])
	return p, nil
}

// rule names a rule of the name resolution policy table: a number like a GUID, always the same for the same device.
func rule(device string, n int) string {
	h := sha256.Sum256(fmt.Appendf(nil, "culvert %d %s", n, device))
	return fmt.Sprintf("{%X-%X-%X-%X-%X}", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}
