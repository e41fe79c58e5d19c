package host

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// WindowsCommands returns the commands that make a machine with Windows be as s says, in their order. Whoever runs them notes
// each Undo on the disk before its Do, and runs the Undos in reverse order at the end. The device is the alias of an interface,
// such as one of Wintun. Nothing is stored beyond the next start of the machine but the rules of the resolver, whose Undo finds
// them by their comment.
//
// There are no packet marks: programs cannot be told apart, and [Settings.Local] has to be written out as prefixes. There
// are no unreachable routes either: what is blocked goes to the device, where the tunnel's gate drops it. Parts are
// left out. Errors match [ErrSettings].
func WindowsCommands(s Settings, o Surroundings, dns CommandDNS) ([]Command, error) {
	if err := s.forCommands(o, dns); err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	routes, err := s.routing(o)
	if err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	for _, r := range routes {
		if r.way == direct {
			if err := checkAlias(o.Interface); err != nil {
				return nil, fmt.Errorf("host: %w: Interface: %w", ErrSettings, err)
			}
		}
	}
	var list []Command
	if s.MTU != 0 {
		for _, family := range windowsFamilies(s) {
			list = append(list, Command{Do: netsh(family, "set", "subinterface", s.Device, "mtu="+strconv.Itoa(s.MTU), "store=active")})
		}
	}
	for _, family := range windowsFamilies(s) {
		// The lowest metric, so that of the servers of all interfaces those of the tunnel are asked first.
		list = append(list, Command{Do: netsh(family, "set", "interface", s.Device, "metric=1", "store=active")})
	}
	for _, p := range s.Addresses {
		a := p.Addr().WithZone("").String()
		if p.Addr().Is4() {
			list = append(list, Command{
				Do:   netsh("ipv4", "add", "address", "name="+s.Device, "address="+a, "mask=255.255.255.255", "store=active"),
				Undo: netsh("ipv4", "delete", "address", "name="+s.Device, "address="+a, "store=active"),
			})
		} else {
			list = append(list, Command{
				Do:   netsh("ipv6", "add", "address", "interface="+s.Device, "address="+a+"/128", "store=active"),
				Undo: netsh("ipv6", "delete", "address", "interface="+s.Device, "address="+a, "store=active"),
			})
		}
	}
	for _, r := range routes {
		list = append(list, windowsRoute(s.Device, o.Interface, r))
	}
	return append(list, windowsDNS(s.Device, dns)...), nil
}

// windowsFamilies returns the families of the lease.
func windowsFamilies(s Settings) []string {
	var families []string
	v4, v6 := false, false
	for _, p := range s.Addresses {
		if v4, v6 = v4 || p.Addr().Is4(), v6 || p.Addr().Is6(); v4 && v6 {
			break
		}
	}
	if v4 {
		families = append(families, "ipv4")
	}
	if v6 {
		families = append(families, "ipv6")
	}
	return families
}

func netsh(family string, args ...string) []string {
	return append([]string{"netsh.exe", "interface", family}, args...)
}

func windowsRoute(device, outside string, r wayTo) Command {
	family, hop := "ipv4", "0.0.0.0"
	if r.prefix.Addr().Is6() {
		family, hop = "ipv6", "::"
	}
	through := device
	if r.way == direct {
		through, hop = outside, r.router.WithZone("").String()
	}
	target := []string{"prefix=" + r.prefix.String(), "interface=" + through, "nexthop=" + hop, "store=active"}
	return Command{
		Do:   netsh(family, append([]string{"add", "route"}, append(target, "metric=0")...)...),
		Undo: netsh(family, append([]string{"delete", "route"}, target...)...),
	}
}

// windowsDNS returns the commands for the resolver: servers of the interface if they are asked for everything, else rules of
// the Name Resolution Policy Table.
func windowsDNS(device string, dns CommandDNS) []Command {
	if len(dns.Servers) == 0 {
		return nil
	}
	var list []Command
	servers := make([]string, len(dns.Servers))
	for i, a := range dns.Servers {
		servers[i] = quote(a.WithZone("").String())
	}
	all := strings.Join(servers, ",")
	// Each suffix has a rule; the rule of the root keeps Windows from asking the servers of all interfaces at once.
	names := []string{quote(".")}
	if len(dns.Match) > 0 {
		names = nil
		for _, name := range trimDots(dns.Match) {
			names = append(names, quote("."+name), quote(name))
		}
	}
	comment := quote("culvert " + device)
	list = append(list, Command{
		Do: powershell("Add-DnsClientNrptRule -Namespace " + strings.Join(names, ",") + " -NameServers " + all + " -Comment " + comment),
		Undo: powershell("Get-DnsClientNrptRule | Where-Object Comment -eq " + comment +
			" | ForEach-Object { Remove-DnsClientNrptRule -Name $_.Name -Force }"),
	})
	if len(dns.Match) == 0 {
		list = append(list, Command{
			Do:   powershell("Set-DnsClientServerAddress -InterfaceAlias " + quote(device) + " -ServerAddresses " + all),
			Undo: powershell("Set-DnsClientServerAddress -InterfaceAlias " + quote(device) + " -ResetServerAddresses"),
		})
	}
	if len(dns.Search) > 0 {
		suffixes := make([]string, len(dns.Search))
		for i, name := range trimDots(dns.Search) {
			suffixes[i] = quote(name)
		}
		list = append(list, Command{
			Do:   powershell("Set-DnsClient -InterfaceAlias " + quote(device) + " -ConnectionSpecificSuffix " + suffixes[0]),
			Undo: powershell("Set-DnsClient -InterfaceAlias " + quote(device) + " -ConnectionSpecificSuffix ''"),
		})
		if len(suffixes) > 1 {
			// The list of suffixes is one for the whole machine, so only ours are added and taken away.
			mine := strings.Join(suffixes, ",")
			change := func(expression string) string {
				return "$s = @((Get-DnsClientGlobalSetting).SuffixSearchList); Set-DnsClientGlobalSetting -SuffixSearchList " + expression
			}
			list = append(list, Command{
				Do:   powershell(change("@($s + @(" + mine + ") | Select-Object -Unique)")),
				Undo: powershell(change("@($s | Where-Object { @(" + mine + ") -notcontains $_ })")),
			})
		}
	}
	return list
}

func powershell(command string) []string {
	return []string{"powershell.exe", "-NoProfile", "-NonInteractive", "-Command", command}
}

// quote returns s as a literal of PowerShell, in which only the quote itself has a meaning. PowerShell takes typographic
// quotes for quotes, which checkName and checkDomain let nobody use.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// checkAlias checks the alias of an interface of Windows, which may have spaces.
func checkAlias(name string) error {
	if name == "" || len(name) > 256 {
		return fmt.Errorf("the alias %q is not between 1 and 256 bytes long", name)
	}
	for _, c := range name {
		if c < ' ' || c == 0x7f || c == '"' || c == '=' || c == utf8.RuneError {
			return fmt.Errorf("the alias %q has the character %q", name, c)
		}
	}
	return nil
}
