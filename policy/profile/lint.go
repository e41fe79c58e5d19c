package profile

import (
	"fmt"
	"slices"
	"strings"

	"culvert.example/vpn/policy/document"
)

const (
	// RuleContradiction: two settings exclude each other, so one of them cannot be what is meant.
	RuleContradiction document.Rule = "contradiction"
	// RuleNoEffect: a setting has no effect beside another.
	RuleNoEffect document.Rule = "no-effect"
	// RuleDuplicateHost: two gateways have the same name or, in one list, the same address.
	RuleDuplicateHost document.Rule = "duplicate-host"
	// RuleHostAddress: there is no telling where a gateway is, or more is written than an address.
	RuleHostAddress document.Rule = "host-address"
	// RuleNotImplemented: no part of this client does what the setting asks for.
	RuleNotImplemented document.Rule = "not-implemented"
	// RuleNoHost: the profile lists no gateway.
	RuleNoHost document.Rule = "no-host"
	// RuleConsequence: the setting does more than its name says.
	RuleConsequence document.Rule = "consequence"
	// RuleTooMany: a list is longer than this client takes.
	RuleTooMany document.Rule = "too-many"
)

// checkMeaning adds to c what the table cannot say: settings that contradict each other, and gateways that cannot be.
func (p *Profile) checkMeaning(c *document.Collector) {
	add := func(n *document.Node, severity document.Severity, rule document.Rule, message, hint string) {
		if n == nil {
			n = p.doc.Root()
		}
		c.Add(n, severity, rule, message, hint)
	}
	value := func(path string) string {
		if v, ok := p.Get(path); ok {
			return v
		}
		return p.schema.Root.Find(settings + "/" + path).Default
	}
	is := func(path string) bool { return value(path) == "true" }
	has := func(path string) bool { return value(path) != "" }
	controllable := func(path string) bool {
		return p.userControllable(path, p.schema.Root.Find(settings+"/"+path))
	}
	const (
		err  = document.SeverityError
		warn = document.SeverityWarning
		note = document.SeverityNote

		auto     = "AutomaticVPNPolicy"
		always   = auto + "/AlwaysOn"
		failure  = always + "/ConnectFailurePolicy"
		portal   = failure + "/AllowCaptivePortalRemediation"
		lastRule = failure + "/ApplyLastVPNLocalResourceRules"
	)

	alwaysOn, hosts := is(always), p.Hosts()
	reachable := slices.ContainsFunc(hosts, func(h Host) bool {
		_, err := h.Server()
		return err == nil && h.Protocol != "IPsec"
	})
	if alwaysOn && !is(auto) {
		add(p.node(always), err, RuleContradiction, "AlwaysOn is true and AutomaticVPNPolicy, which it is a part of, is false",
			"write true into AutomaticVPNPolicy, or false into AlwaysOn")
	}
	if alwaysOn && is("ServiceDisable") {
		add(p.node("ServiceDisable"), err, RuleContradiction, "ServiceDisable keeps the client from connecting and AlwaysOn demands that it is connected", "")
	}
	if alwaysOn && is(auto) && value(auto+"/UntrustedNetworkPolicy") == "DoNothing" {
		add(p.node(auto+"/UntrustedNetworkPolicy"), err, RuleContradiction, "UntrustedNetworkPolicy is DoNothing and AlwaysOn demands that untrusted networks connect",
			"write Connect")
	}
	switch {
	case reachable:
	case alwaysOn && len(hosts) > 0:
		add(p.node(always), err, RuleContradiction, "AlwaysOn is true and the profile has no gateway that this client can connect to",
			"add a HostEntry with an address and with SSL as its PrimaryProtocol")
	case alwaysOn:
		add(p.node(always), err, RuleContradiction, "AlwaysOn is true and the profile has no gateway to connect to", "add a ServerList")
	case len(hosts) == 0:
		add(nil, note, RuleNoHost, "the profile lists no gateway, so that the user has to type one in", "add a ServerList with a HostEntry")
	}
	if alwaysOn && is(auto) {
		add(p.node(always), note, RuleConsequence, "when a gateway sends this profile, all other profiles are deleted, since AlwaysOn is true", "")
		if v, _ := p.Get("AllowManualHostInput"); v == "true" {
			add(p.node("AllowManualHostInput"), note, RuleNoEffect, "AllowManualHostInput has no effect while AlwaysOn is true, which connects to listed gateways alone", "")
		}
	}
	if value(failure) == "Open" {
		for _, path := range []string{portal, lastRule} {
			if is(path) {
				add(p.node(path), warn, RuleNoEffect, fmt.Sprintf("%s has no effect while ConnectFailurePolicy is Open", last(path)), "")
			}
		}
	}
	if is(portal) && is("DisableCaptivePortalDetection") {
		add(p.node("DisableCaptivePortalDetection"), warn, RuleContradiction, "captive portals may be satisfied, but are not looked for", "write false")
	}
	if is(auto) && !has(auto+"/TrustedDNSDomains") && !has(auto+"/TrustedDNSServers") && len(p.TrustedHTTPSServers()) == 0 {
		add(p.node(auto), warn, RuleNoEffect, "AutomaticVPNPolicy is true and nothing tells the trusted network, so every network is untrusted",
			"name TrustedDNSDomains, TrustedDNSServers or TrustedHttpsServerList")
	}
	for _, o := range [][2]string{{"ProxySettings", "PublicProxyServerAddress"}, {"PPPExclusion", "PPPExclusionServerIP"}} {
		path := o[0] + "/" + o[1]
		if value(o[0]) != "Override" || has(path) {
			continue
		}
		severity, hint := warn, "the user has to give one"
		if !controllable(path) {
			severity, hint = err, "name it, or let the user name it with UserControllable"
		}
		add(p.node(o[0]), severity, RuleContradiction, fmt.Sprintf("%s is Override and %s names nothing", o[0], o[1]), hint)
	}
	if is("CertificatePinning") {
		pinned := len(pins(p.node("CertificatePinning"))) > 0
		for _, h := range hosts {
			pinned = pinned || len(h.Pins) > 0
		}
		if !pinned {
			add(p.node("CertificatePinning"), err, RuleContradiction, "CertificatePinning is true and there is no pin, so no gateway could be accepted", "add a CertificatePinList")
		}
	}
	if is("CertificateStoreOverride") && value("CertificateStore") == "User" {
		add(p.node("CertificateStoreOverride"), warn, RuleContradiction, "CertificateStoreOverride opens the machine's store and CertificateStore is User", "")
	}
	if is("AllowIPsecOverSSL") {
		add(p.node("AllowIPsecOverSSL"), warn, RuleNotImplemented, "IPsec inside of TLS is not built in", "")
	}
	for _, name := range []string{"RSASecurIDIntegration", "SafeWordSofTokenIntegration"} {
		if v, e := value(name), p.schema.Root.Find(settings+"/"+name); v != e.Default {
			add(p.node(name), note, RuleNotImplemented, "the software of tokens is not spoken with; codes are asked for", "")
		}
	}
	if n := p.node("MobilePolicy"); n != nil {
		add(n, note, RuleNoEffect, "MobilePolicy is for Windows Mobile, which no client runs on any more", "")
	}
	tooMany(p.node(auto+"/TrustedHttpsServerList").All("TrustedHttpsServer"), MaxTrustedServers, "servers", "", add)
	p.checkHosts(add)
}

// tooMany finds at its first element too many that a list is too long.
func tooMany(list []*document.Node, most int, what, also string, add adder) {
	if len(list) > most {
		add(list[most], document.SeverityError, RuleTooMany, fmt.Sprintf("<%s> has %d %s, at most %d are allowed", list[most].Parent.Name, len(list), what, most),
			fmt.Sprintf("remove %d of them%s", len(list)-most, also))
	}
}

// An adder adds a finding about an element, nil for the outermost one.
type adder func(n *document.Node, severity document.Severity, rule document.Rule, message, hint string)

// last returns the last name of a path.
func last(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

func (p *Profile) checkHosts(add adder) {
	lists := func(n *document.Node, of string, own string) {
		seen, all := map[string]bool{}, n.All("HostAddress")
		tooMany(all, MaxServers, "gateways", "", add)
		for _, c := range all {
			v := strings.ToLower(c.Value())
			switch {
			case v == "":
				continue
			case seen[v]:
				add(c, document.SeverityWarning, RuleDuplicateHost, fmt.Sprintf("%q stands twice in the list", c.Value()), "remove it")
			case v == own:
				add(c, document.SeverityWarning, RuleDuplicateHost, fmt.Sprintf("%q stands in a list of its own %s", c.Value(), of), "remove it")
			}
			seen[v] = true
			p.checkWritten(c, add)
		}
	}
	lists(p.node("BackupServerList"), "backups", "")
	names := map[string]*document.Node{}
	entries := p.doc.Root().Child("ServerList").All("HostEntry")
	tooMany(entries, MaxHosts, "hosts", ", or divide them among several profiles", add)
	for _, n := range entries {
		name, address := n.Child("HostName"), n.Child("HostAddress")
		if name.Value() == "" {
			continue
		}
		folded := strings.ToLower(name.Value())
		// The table finds names that are exactly the same.
		if before, ok := names[folded]; ok && before.Value() != name.Value() {
			add(name, document.SeverityError, RuleDuplicateHost, fmt.Sprintf("the hosts %q and %q in line %d differ in capital and small letters only",
				name.Value(), before.Value(), before.Position().Line), "give each a name of its own")
		} else if !ok {
			names[folded] = name
		}
		own := strings.ToLower(address.Value())
		if own == "" {
			own = folded
			if err := checkAddress(name.Value()); err != nil {
				add(name, document.SeverityError, RuleHostAddress, fmt.Sprintf("the host %q has no HostAddress, and its name is none: %v", name.Value(), err),
					"add a HostAddress")
			}
		} else {
			p.checkWritten(address, add)
			if _, _, path, err := splitAddress(address.Value()); err == nil && path != "" && n.Child("UserGroup").Value() != "" {
				add(n.Child("UserGroup"), document.SeverityWarning, RuleContradiction, fmt.Sprintf("the group is also the path of the address %q", address.Value()),
					"remove the path from HostAddress")
			}
		}
		lists(n.Child("BackupServerList"), "backups", own)
		lists(n.Child("LoadBalancingServerList"), "cluster", "")
		if protocol := n.Child("PrimaryProtocol"); protocol.Value() == "IPsec" {
			add(protocol, document.SeverityWarning, RuleNotImplemented, "this client does not speak IPsec and refuses to connect to the gateway",
				"write SSL if the gateway also speaks TLS")
		} else if standard := protocol.Child("StandardAuthenticationOnly"); standard.Value() == "true" {
			add(standard, document.SeverityWarning, RuleNoEffect, "StandardAuthenticationOnly has no effect unless PrimaryProtocol is IPsec", "")
		}
	}
}

// checkWritten warns of an address that holds more than an address.
func (p *Profile) checkWritten(n *document.Node, add adder) {
	v := n.Value()
	host, port, _, err := splitAddress(v)
	if err == nil && (strings.HasPrefix(v, "https://") || strings.Contains(v, "/")) {
		plain := host
		if port != 0 {
			plain = fmt.Sprintf("%s:%d", host, port)
		}
		add(n, document.SeverityWarning, RuleHostAddress, fmt.Sprintf("%q is a URL and not an address", v), fmt.Sprintf("write %s, and a path into UserGroup", plain))
	}
}
