package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"culvert.example/vpn/dns"
	"culvert.example/vpn/flow/filter"
	"culvert.example/vpn/split"
	"culvert.example/vpn/system"
)

// whereFlags say which client that a whole machine uses is meant. The commands that speak to it have the same.
type whereFlags struct {
	netns   string
	journal string
	control string

	asked *cobra.Command // that the flags belong to; nil: some command
}

// asRoot is the command to call instead where this user may not.
func (w *whereFlags) asRoot() string {
	if w.asked == nil {
		return "sudo culvert status"
	}
	return "sudo " + w.asked.CommandPath()
}

// addWhereFlags adds the flags to a command.
func addWhereFlags(cmd *cobra.Command) *whereFlags {
	w := &whereFlags{asked: cmd}
	f := cmd.Flags()
	f.StringVar(&w.netns, "netns", "", "the tunnel is in the network namespace `NAME`, as ip netns knows it, or a path such as /proc/PID/ns/net")
	f.StringVar(&w.journal, "journal", "", "what has to be undone is recorded in `FILE` (default: "+system.DefaultJournal+")")
	f.StringVar(&w.control, "control", "", "\"culvert status\" and the like ask at the socket `PATH` (default: /run/culvert/"+connectSocket+")")
	cmd.RegisterFlagCompletionFunc("netns", completeNamespaces)
	return w
}

// completeNamespaces offers the names of network namespaces.
func completeNamespaces(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	entries, err := os.ReadDir("/run/netns")
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault // it may be a path
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, cobra.ShellCompDirectiveDefault
}

// of returns a name that is different for each namespace.
func (w *whereFlags) of(name string) string {
	if w.netns == "" {
		return name
	}
	ns, _ := system.NamespaceName(w.netns) // check has said what is wrong with it
	ext := filepath.Ext(name)
	return strings.TrimSuffix(name, ext) + "-" + ns + ext
}

// journalPath returns where the journal is.
func (w *whereFlags) journalPath() string {
	if w.journal != "" {
		return w.journal
	}
	return w.of(system.DefaultJournal)
}

// controlPaths returns where the control socket may be, the best place first.
func (w *whereFlags) controlPaths(getenv func(string) string) []string {
	if w.control != "" {
		return []string{w.control}
	}
	if paths := controlPaths(getenv, w.of(connectSocket)); len(paths) > 0 {
		return paths
	}
	return []string{filepath.Join(rootSockets, w.of(connectSocket))}
}

// defaultLog is where a client in the background writes what it has to say.
const defaultLog = "/var/log/culvert.log"

// logPath returns where a client in the background writes what it has to say.
func (m *machineFlags) logPath() string { return cmp.Or(m.logFile, m.of(defaultLog)) }

// check reports what cannot be meant.
func (w *whereFlags) check() error {
	if w.journal != "" && !filepath.IsAbs(w.journal) {
		return usagef("--journal %s: want an absolute path", oneLine(w.journal))
	}
	if w.netns != "" {
		if _, err := system.NamespaceName(w.netns); err != nil {
			return &usageError{err: fmt.Errorf("--netns: %w", err)}
		}
	}
	return nil
}

// checkNamespace reports a namespace that does not exist.
func (w *whereFlags) checkNamespace() error {
	if w.netns == "" || strings.Contains(w.netns, "/") {
		return nil
	}
	if _, err := os.Stat(filepath.Join("/run/netns", w.netns)); errors.Is(err, fs.ErrNotExist) {
		return usagef("--netns %s: there is no such namespace; make it with: ip netns add %s", oneLine(w.netns), oneLine(w.netns))
	}
	return nil
}

// machineFlags are the flags of connect that are about this machine.
type machineFlags struct {
	*whereFlags
	iface      string
	script     string
	background bool
	logFile    string

	dataPath   string
	filterFile string
	include    []string
	exclude    []string
	localLAN   bool
	noDNS      bool
	dnsListen  string
	dnsOutside []string
	noIPv6     bool
	noProxy    bool
	alwaysOn   string
	allowHosts []string
	heal       string
	argv       *pflag.FlagSet
}

// The values of flags with few, which the shell completes.
var (
	dataPaths  = []string{"auto\tthe flow path if something needs it", "packet\tpackets go as they are", "flow\tconnections end here and are decided about"}
	onFailures = []string{"closed\tnothing leaves the machine without a tunnel", "open\twithout a tunnel the machine is as before", "locked\tclosed, and disconnect does not lift it"}
	heals      = []string{"all\trepair what other programs change", "routes\trepair all but DNS", "nothing\ttell only"}
)

// addMachineFlags adds the flags to a command.
func addMachineFlags(cmd *cobra.Command) *machineFlags {
	m := &machineFlags{whereFlags: addWhereFlags(cmd), argv: cmd.Flags()}
	f := cmd.Flags()
	f.StringVarP(&m.iface, "interface", "i", "", "name of the network interface (default: "+system.DefaultDevice+")")
	f.StringVarP(&m.script, "script", "s", "", "let the vpnc-script `PROGRAM` configure the machine, instead of this command")
	f.BoolVarP(&m.background, "background", "b", false, "go on in the background once the tunnel is up")
	f.StringVar(&m.logFile, "log-file", "", "in the background, write events and errors to `FILE` (default: "+defaultLog+")")
	f.StringVar(&m.dataPath, "data-path", "auto", "the way of packets between programs and the gateway: `packet|flow|auto`")
	f.StringVar(&m.filterFile, "filter", "", "rules of the content filter, for the flow path, in the TOML `FILE`; see above")
	f.StringArrayVar(&m.include, "include", nil, "send `PREFIX|DOMAIN` through the tunnel, whatever the gateway says (repeatable)")
	f.StringArrayVar(&m.exclude, "exclude", nil, "keep `PREFIX|DOMAIN` out of the tunnel (repeatable)")
	f.BoolVar(&m.localLAN, "local-lan", false, "keep the private networks that this machine is connected to out of the tunnel; =false keeps them in")
	f.BoolVar(&m.noDNS, "no-dns", false, "leave the machine's DNS settings as they are")
	f.StringVar(&m.dnsListen, "dns-listen", "", "the DNS proxy listens on the loopback address `ADDR:PORT` (default: "+system.DefaultListen+")")
	f.StringArrayVar(&m.dnsOutside, "dns-outside", nil, "ask `SERVER` for names that are not the gateway's: an address, tls://NAME@ADDRESS or https://NAME@ADDRESS/PATH (repeatable; default: the servers of this machine)")
	f.BoolVar(&m.noIPv6, "no-ipv6-names", false, "leave IPv6 addresses out of DNS answers if the tunnel has no IPv6, so that programs do not try them in vain")
	f.BoolVar(&m.noProxy, "no-desktop-proxy", false, "leave the proxy settings of desktops as they are, whatever the gateway says")
	f.StringVar(&m.alwaysOn, "always-on", "", "kill switch: nothing leaves the machine but through the tunnel; without one it is `closed|open|locked`, and disconnect does not lift a locked one")
	f.StringArrayVar(&m.allowHosts, "allow-host", nil, "the kill switch always lets `ADDRESS|PREFIX` pass (repeatable)")
	f.StringVar(&m.heal, "heal", "all", "repair what other programs change of this command's routes, DNS settings and firewall: `all|routes|nothing`")
	for name, values := range map[string][]string{"data-path": dataPaths, "always-on": onFailures, "heal": heals} {
		cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	for _, name := range []string{"include", "exclude", "allow-host", "interface", "dns-listen"} {
		cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	f.String("setuid", "", "refused: see the error")
	f.MarkHidden("setuid")
	return m
}

// onlyMachine are the flags that make no sense where no tunnel is opened.
var onlyMachine = []string{"interface", "script", "background", "log-file", "data-path", "filter", "include", "exclude", "local-lan", "no-dns", "dns-listen", "dns-outside", "no-ipv6-names",
	"no-desktop-proxy", "always-on", "allow-host", "heal", "netns", "journal", "control"}

// systemConfig makes the configuration of system mode. Its errors are mistakes of the user.
func (m *machineFlags) systemConfig(a *app) (system.Config, error) {
	fail := func(err error) (system.Config, error) { return system.Config{}, err }
	if err := m.check(); err != nil {
		return fail(err)
	}
	cfg := system.Config{Device: m.iface, Namespace: m.netns, Journal: m.journalPath(), Logger: a.reporter().logger(a.verbose)}
	if err := m.checkNamespace(); err != nil {
		return fail(err)
	}
	if m.logFile != "" && !m.background && !a.fromFile("log-file") {
		return fail(usagef("--log-file is for --background; in the foreground redirect standard error"))
	}
	if m.argv.Changed("setuid") {
		return fail(usagef("--setuid is refused: this command needs its rights to the end, to undo what it has changed"))
	}
	if err := cfg.DataPath.UnmarshalText([]byte(m.dataPath)); err != nil {
		return fail(usagef("--data-path %s: want packet, flow or auto", oneLine(m.dataPath)))
	}
	if err := cfg.Heal.UnmarshalText([]byte(m.heal)); err != nil {
		return fail(usagef("--heal %s: want all, routes or nothing", oneLine(m.heal)))
	}
	cfg.Desktop.Off = m.noProxy
	var err error
	if cfg.User.Include, cfg.User.DynamicInclude, err = destinations("include", m.include); err != nil {
		return fail(err)
	}
	if cfg.User.Exclude, cfg.User.DynamicExclude, err = destinations("exclude", m.exclude); err != nil {
		return fail(err)
	}
	if m.argv.Changed("local-lan") || a.fromFile("local-lan") {
		cfg.LocalLAN = system.No
		if m.localLAN {
			cfg.LocalLAN = system.Yes
		}
	}
	if cfg.DNS, err = m.dns(); err != nil {
		return fail(err)
	}
	if cfg.KillSwitch, err = m.killSwitch(); err != nil {
		return fail(err)
	}
	if cfg.Filter, err = readFilter(m.filterFile); err != nil {
		return fail(err)
	}
	if cfg.Filter != nil && cfg.DataPath == system.Packet {
		return fail(usagef("--filter needs the flow path, where connections and not packets are judged; leave out --data-path %s", oneLine(m.dataPath)))
	}
	warnUsers(a.reporter(), m.filterFile, cfg.Filter)
	if cfg.Configurator, err = m.configurator(a); err != nil {
		return fail(err)
	}
	return cfg, nil
}

// dns says how names are asked for.
func (m *machineFlags) dns() (system.DNS, error) {
	d := system.DNS{Off: m.noDNS, Upstreams: m.dnsOutside, NoIPv6: m.noIPv6}
	if m.noDNS && len(m.dnsOutside) > 0 {
		return d, usagef("--no-dns and --dns-outside exclude each other")
	}
	for _, server := range m.dnsOutside {
		if _, err := dns.ParseUpstream(server, nil, nil); err != nil {
			return d, &usageError{err: fmt.Errorf("--dns-outside: %w", err)}
		}
	}
	if m.dnsListen == "" {
		return d, nil
	}
	if m.noDNS {
		return d, usagef("--no-dns and --dns-listen exclude each other")
	}
	var err error
	if d.Listen, err = netip.ParseAddrPort(m.dnsListen); err != nil || !d.Listen.Addr().IsLoopback() || d.Listen.Port() == 0 {
		return d, usagef("--dns-listen %s: want a loopback address with a port, such as %s", oneLine(m.dnsListen), system.DefaultListen)
	}
	return d, nil
}

// killSwitch returns the kill switch that is wanted, or nil.
func (m *machineFlags) killSwitch() (*system.KillSwitch, error) {
	k := &system.KillSwitch{LocalLAN: m.localLAN}
	switch m.alwaysOn {
	case "":
		if len(m.allowHosts) > 0 {
			return nil, usagef("--allow-host needs --always-on")
		}
		return nil, nil
	case "closed":
	case "locked":
		k.Locked = true
	case "open":
		k.Open = true
	default:
		return nil, usagef("--always-on %s: want closed, open or locked", oneLine(m.alwaysOn))
	}
	for _, s := range m.allowHosts {
		p, err := parsePrefix(s)
		if err != nil {
			return nil, usagef("--allow-host %s: want an address or a prefix", oneLine(s))
		}
		k.AllowedHosts = append(k.AllowedHosts, p)
	}
	return k, nil
}

// closed reports whether a kill switch is to stay when the tunnel has failed.
func (m *machineFlags) closed() bool { return m.alwaysOn == "closed" || m.alwaysOn == "locked" }

// destinations sorts the values of --include or --exclude into prefixes and domains.
func destinations(flag string, values []string) (prefixes []netip.Prefix, domains []string, err error) {
	for _, v := range values {
		p, perr := parsePrefix(v)
		switch {
		case perr == nil && split.IsLocalLAN(p):
			return nil, nil, usagef("--%s %s: that is no destination; local networks are the business of --local-lan", flag, v)
		case perr == nil:
			prefixes = append(prefixes, p.Masked())
		case isDomain(v):
			domains = append(domains, strings.ToLower(strings.Trim(strings.TrimPrefix(v, "*"), ".")))
		default:
			return nil, nil, usagef("--%s %s: want an address, a prefix such as 10.0.0.0/8, or a domain such as corp.example", flag, oneLine(v))
		}
	}
	return prefixes, domains, nil
}

// parsePrefix parses an address or a prefix.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}

// isDomain reports whether s may be a domain suffix: labels of letters, digits, hyphens and underscores, the last of which is no
// number (RFC 1123 section 2.1).
func isDomain(s string) bool {
	s = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(s, "*"), "."), ".")
	if s == "" || len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || strings.Trim(strings.ToLower(l), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// filterExample is a file of rules.
const filterExample = `  default = "allow"

  [[rules]]
  name = "payroll"
  action = "block"
  names = ["payroll.corp.example"]
  users = ["guest", "1001"]

  [[rules]]
  name = "mail of everybody else"
  action = "log"
  ports = ["25", "465", "587"]
  prefixes = ["10.0.0.0/8", "2001:db8::/32"]
`

// readFilter reads the rules of the content filter, if there is a file of them.
func readFilter(file string) (*filter.Config, error) {
	if file == "" {
		return nil, nil
	}
	b, err := readSmall(file)
	if err != nil {
		return nil, &usageError{err: fmt.Errorf("--filter: %w", err)}
	}
	cfg := &filter.Config{Default: filter.Allow}
	md, err := toml.Decode(string(b), cfg)
	if err != nil {
		return nil, &usageError{err: fmt.Errorf("--filter %s: %w", file, err)}
	}
	if extra := md.Undecoded(); len(extra) > 0 {
		of := reflect.TypeFor[filter.Config]()
		if len(extra[0]) > 1 {
			of = reflect.TypeFor[filter.Rule]()
		}
		return nil, usagef("--filter %s: unknown key %q; want %s", file, extra[0].String(), strings.Join(keysOf(of), ", "))
	}
	if _, err := filter.Compile(*cfg); err != nil {
		return nil, &usageError{err: fmt.Errorf("--filter %s: %w", file, err)}
	}
	return cfg, nil
}

// keysOf returns the keys that a TOML table for a struct may have.
func keysOf(of reflect.Type) []string {
	var keys []string
	for i := range of.NumField() {
		key, _, _ := strings.Cut(of.Field(i).Tag.Get("toml"), ",")
		keys = append(keys, key)
	}
	return keys
}
