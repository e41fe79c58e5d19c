package proxysettings

import (
	"bufio"
	"cmp"
	"fmt"
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

// MacPlan returns what gives macOS the proxy of cfg: an entry of the dynamic store, which configd keeps in memory, so that a
// restart undoes it in any case. The entry is named after the device of the tunnel.
func MacPlan(cfg Config, device string) (Plan, error) {
	if err := cfg.check(); err != nil {
		return Plan{}, err
	}
	if device == "" || len(device) > 15 || strings.Trim(device, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return Plan{}, invalid("the device %.32q is no interface of macOS", device)
	}
	var p Plan
	if cfg.Lockdown {
		p.Notes = append(p.Notes, "lockdown is not applicable: macOS locks its proxy settings by a configuration profile only")
	}
	if cfg.Method == NoModify {
		return p, nil
	}
	var b strings.Builder
	line := func(words ...string) { b.WriteString(strings.Join(words, " ") + "\n") }
	line("d.init")
	switch cfg.Method {
	case Auto:
		if cfg.PAC == "" {
			line("d.add", "ProxyAutoDiscoveryEnable", "#", "1")
		} else {
			line("d.add", "ProxyAutoConfigEnable", "#", "1")
			line("d.add", "ProxyAutoConfigURLString", `"`+cfg.PAC+`"`)
		}
	case Manual:
		for _, s := range [][2]string{{"HTTP", cfg.HTTP}, {"HTTPS", cfg.HTTPS}, {"SOCKS", cfg.SOCKS}} {
			if s[1] == "" {
				continue
			}
			host, port := hostPort(s[1])
			line("d.add", s[0]+"Enable", "#", "1")
			line("d.add", s[0]+"Proxy", host)
			line("d.add", s[0]+"Port", "#", strconv.Itoa(port))
		}
		line(append([]string{"d.add", "ExceptionsList", "*", "localhost", "127.0.0.0/8", "::1"}, cfg.Exceptions...)...)
		if cfg.Short {
			line("d.add", "ExcludeSimpleHostnames", "#", "1")
		}
	}
	line("d.add", "InterfaceName", device)
	// The empty domain is the one that every name is below.
	line("d.add", "SupplementalMatchDomains", "*", `""`)
	line("d.add", "SupplementalMatchDomainsNoSearch", "#", "1")
	key := "State:/Network/Service/culvert-" + device + "/Proxies"
	line("set", key)
	line("quit")
	p.Apply = []Command{{Name: "/usr/sbin/scutil", Input: b.String()}}
	p.Undo = []Command{{Name: "/usr/sbin/scutil", Input: "remove " + key + "\nquit\n"}}
	return p, nil
}

// Keys of the registry of Windows, of the user whose programs they are for.
const (
	internetSettings = `HKCU\Software\Microsoft\Windows\CurrentVersion\Internet Settings`
	controlPanel     = `HKCU\Software\Policies\Microsoft\Internet Explorer\Control Panel`
	explorerPolicies = `HKCU\Software\Microsoft\Windows\CurrentVersion\Policies\Explorer`
)

// build1703 is the build of Windows 10 that has the proxy page in its Settings.
const build1703 = 15063

// A RegistryValue is a value of the registry as reg.exe shows it.
type RegistryValue struct {
	// Type is REG_SZ, REG_DWORD and so on; Data is 0x1 for a number, or the text.
	Type, Data string
}

// A WindowsState is what the registry held before: the values of the keys that [WindowsQueries] asks for, by key and name, such
// as HKCU\...\Internet Settings\ProxyEnable.
type WindowsState struct {
	// Build is the number of the build of Windows.
	Build  int
	Values map[string]RegistryValue
}

// WindowsQueries returns the commands whose output [ParseWindowsQuery] reads. One that fails means that there is no such key.
func WindowsQueries() []Command {
	var list []Command
	for _, key := range []string{internetSettings, controlPanel, explorerPolicies} {
		list = append(list, Command{Name: "reg.exe", Args: []string{"query", key}})
	}
	return list
}

// ParseWindowsQuery adds what "reg query" has printed to the state. It takes at most 1 MiB and 10,000 values.
func (s *WindowsState) ParseWindowsQuery(output string) error {
	if len(output) > 1<<20 {
		return invalid("the output of reg query has more than 1 MiB")
	}
	if s.Values == nil {
		s.Values = make(map[string]RegistryValue)
	}
	key := ""
	lines := bufio.NewScanner(strings.NewReader(output))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		text := strings.TrimRight(lines.Text(), "\r")
		if rest, ok := strings.CutPrefix(text, `HKEY_CURRENT_USER\`); ok {
			key = `HKCU\` + rest
			continue
		}
		name, rest, ok := strings.Cut(strings.TrimPrefix(text, "    "), "    ")
		if !ok || key == "" || !strings.HasPrefix(text, "    ") {
			continue
		}
		typ, data, _ := strings.Cut(rest, "    ")
		if !strings.HasPrefix(typ, "REG_") {
			continue
		}
		if len(s.Values) == 10000 {
			return invalid("the output of reg query has more than 10000 values")
		}
		s.Values[key+`\`+name] = RegistryValue{typ, data}
	}
	return nil
}

// WindowsPlan returns what gives Windows the proxy of cfg, in the registry of the user who runs it, and puts back what state says
// was there. It hides the Connections tab, and the proxy page of Settings since Windows 10 1703, if there is Lockdown; a tab that a
// policy has hidden before stays hidden afterwards, and values that policies have set stay.
func WindowsPlan(cfg Config, state WindowsState) (Plan, error) {
	if err := cfg.check(); err != nil {
		return Plan{}, err
	}
	var p Plan
	var failed error
	// change adds the command that changes a value and the one that puts back what was there.
	change := func(key, name string, args ...string) {
		undo := Command{Name: "reg.exe", Args: []string{"delete", key, "/v", name, "/f"}}
		if was, existed := state.Values[key+`\`+name]; existed {
			// Newlines and the like cannot come from reg.exe, but from whoever calls.
			if strings.ContainsAny(was.Data+was.Type, "\x00\r\n\"") || !strings.HasPrefix(was.Type, "REG_") {
				failed = cmp.Or(failed, invalid("the value %s of the registry cannot be put back", name))
			}
			undo.Args = []string{"add", key, "/v", name, "/t", was.Type, "/d", was.Data, "/f"}
		}
		p.Apply = append(p.Apply, Command{Name: "reg.exe", Args: args})
		p.Undo = append([]Command{undo}, p.Undo...)
	}
	set := func(key, name, typ, data string) {
		if was, existed := state.Values[key+`\`+name]; !existed || was != (RegistryValue{typ, data}) {
			change(key, name, "add", key, "/v", name, "/t", typ, "/d", data, "/f")
		}
	}
	remove := func(key, name string) {
		if _, existed := state.Values[key+`\`+name]; existed {
			change(key, name, "delete", key, "/v", name, "/f")
		}
	}
	number := func(b bool) string {
		if b {
			return "0x1"
		}
		return "0x0"
	}
	if cfg.Method != NoModify {
		set(internetSettings, "ProxyEnable", "REG_DWORD", number(cfg.Method == Manual))
		set(internetSettings, "AutoDetect", "REG_DWORD", number(cfg.Method == Auto && cfg.PAC == ""))
		if cfg.PAC != "" && cfg.Method == Auto {
			set(internetSettings, "AutoConfigURL", "REG_SZ", cfg.PAC)
		} else {
			remove(internetSettings, "AutoConfigURL")
		}
	}
	if cfg.Method == Manual {
		var servers []string
		for _, s := range [][2]string{{"http", cfg.HTTP}, {"https", cfg.HTTPS}, {"socks", cfg.SOCKS}} {
			if s[1] != "" {
				servers = append(servers, s[0]+"="+s[1])
			}
		}
		set(internetSettings, "ProxyServer", "REG_SZ", strings.Join(servers, ";"))
		except := []string{"localhost", "127.*", "[::1]"}
		for _, e := range cfg.Exceptions {
			w, note := windowsException(e)
			if note != "" {
				p.Notes = append(p.Notes, note)
				continue
			}
			except = append(except, w)
		}
		if cfg.Short {
			except = append(except, "<local>")
		}
		set(internetSettings, "ProxyOverride", "REG_SZ", strings.Join(except, ";"))
	}
	if cfg.Lockdown {
		set(controlPanel, "ConnectionsTab", "REG_DWORD", "0x1")
		if state.Build >= build1703 {
			if page, ok := state.Values[explorerPolicies+`\SettingsPageVisibility`]; ok {
				p.Notes = append(p.Notes, fmt.Sprintf("a policy decides already which pages of Settings are shown (%.80s), and stays", page.Data))
			} else {
				set(explorerPolicies, "SettingsPageVisibility", "REG_SZ", "hide:network-proxy")
			}
		}
	}
	if failed != nil {
		return Plan{}, failed
	}
	return p, nil
}

// windowsException writes an exception as Windows does, or says why that cannot be.
func windowsException(e string) (string, string) {
	ip, bits, ok := strings.Cut(e, "/")
	if !ok {
		return e, ""
	}
	if n, err := strconv.Atoi(bits); err == nil && n%8 == 0 && n > 0 && !strings.Contains(ip, ":") {
		parts := strings.Split(ip, ".")
		if n == 32 {
			return ip, ""
		}
		return strings.Join(parts[:n/8], ".") + ".*", ""
	}
	return "", "Windows has no exception for the prefix " + e
}
