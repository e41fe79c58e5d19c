package decision

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"culvert.example/vpn/policy/logon"
	"culvert.example/vpn/policy/network"
	"culvert.example/vpn/policy/network/trusted"
	"culvert.example/vpn/policy/profile"
)

// alwaysOnPath is the setting that Always-On is switched by.
const alwaysOnPath = "AutomaticVPNPolicy/AlwaysOn"

// A judge collects the chain of one verdict.
type judge struct {
	in    Inputs
	query Query
	chain []Step
	up    bool // there is a tunnel
}

// Judge says what becomes of a flow. It keeps nothing of its arguments.
func Judge(in Inputs, q Query) Verdict {
	j := &judge{in: in, query: q.normal()}
	v := Verdict{Query: j.query, Outcome: j.judge(), Chain: j.chain}
	if j.up {
		down := &judge{in: in, query: j.query}
		v.Down, v.DownChain = down.without(false), down.chain
	}
	return v
}

// say adds a step that leaves it to the next.
func (j *judge) say(s Step) { j.chain = append(j.chain, s) }

// end adds the step that decides.
func (j *judge) end(s Step, o Outcome) Outcome {
	s.Effect = o
	j.chain = append(j.chain, s)
	return o
}

func (j *judge) judge() Outcome {
	if j.query.Addr.IsLoopback() || strings.EqualFold(j.query.Host, "localhost") {
		return j.end(Step{Says: "it never leaves this machine"}, Direct)
	}
	if !j.tunnelAllowed() {
		return j.without(true)
	}
	if j.in.Network != nil && j.in.Network.Tunnel != connected {
		j.whyDown(*j.in.Network)
		return j.without(false)
	}
	if j.in.Down && j.in.Network == nil {
		j.say(Step{Setting: "tunnel", Says: "there is none now"})
		return j.without(false)
	}
	j.up = true
	return j.with()
}

// connected is what network.Status.Tunnel is while the tunnel is up.
const connected = "connected"

// profileStep returns a step about a setting of the profile, with its place.
func (j *judge) profileStep(path, says string) Step {
	name := path[strings.LastIndexByte(path, '/')+1:]
	s := Step{Setting: name, Says: says}
	if j.in.Plan == nil {
		return s
	}
	v, ok := j.in.Plan.Effective.Get(path)
	if !ok {
		return s
	}
	s.Value = v.Value
	switch v.Origin {
	case profile.FromProfile:
		s.Document = j.in.Plan.Document(false)
	case profile.FromPreference:
		s.Document = "preferences"
	default:
		s.Document = string(v.Origin)
	}
	if v.Where != nil && v.Origin == profile.FromProfile {
		s.Line, s.Column = v.Where.Line, v.Where.Column
	}
	return s
}

// tunnelAllowed asks whether there may be a tunnel at all.
func (j *judge) tunnelAllowed() bool {
	if p := j.in.Plan; p != nil {
		for _, r := range p.Refusals {
			j.say(Step{Document: r.Document, Setting: r.Setting, Value: r.Value, Line: r.Line, Column: r.Column,
				Says: "there may be no tunnel: " + r.Reason})
		}
		if len(p.Refusals) > 0 {
			return false
		}
		document, says := p.Document(true), "it allows tunnels over TLS"
		if document == "" {
			document, says = "local policy", "there is none, so it forbids nothing"
		}
		j.say(Step{Document: document, Says: says})
		switch documents, entries := p.Entries(); {
		case p.Profile == nil && documents != "":
			j.say(Step{Document: documents, Setting: "HostEntry", Says: fmt.Sprintf("there is no entry %s, so the features that need a profile "+
				"are off; the entries are: %s", p.Host.Name, entries)})
		case p.Profile == nil:
			j.say(Step{Document: "profile", Says: "there is none, so the features that need one are off"})
		case p.Listed:
			j.say(Step{Document: p.Document(false), Setting: "HostEntry", Value: p.Host.Name, Line: p.Host.Line, Column: p.Host.Column,
				Says: "it lists the gateway, and does not keep the client from connecting"})
		default:
			j.say(Step{Document: p.Document(false), Says: "it does not keep the client from connecting"})
		}
	}
	switch v := j.in.Logon; {
	case v == nil:
	case v.Allow:
		j.say(Step{Setting: "logon", Says: "who is logged on permits a tunnel"})
	case v.Reason == nil:
		j.say(Step{Setting: "logon", Says: "who is logged on permits no tunnel"})
		return false
	default:
		j.say(logonStep(j, v.Reason))
		return false
	}
	return true
}

func logonStep(j *judge, r *logon.Reason) Step {
	s := j.profileStep(r.Setting, "there may be no tunnel: "+r.Error())
	s.Value = r.Value
	if r.Document != "" && s.Document == "" {
		s.Document = r.Document
	}
	return s
}

// whyDown says why there is no tunnel now.
func (j *judge) whyDown(n network.Status) {
	says := "the tunnel is " + n.Tunnel
	if n.Held != "" {
		says += ": " + n.Held
	}
	policy, path := n.UntrustedPolicy, "AutomaticVPNPolicy/UntrustedNetworkPolicy"
	if n.Network.Verdict == trusted.Trusted {
		policy, path = n.TrustedPolicy, "AutomaticVPNPolicy/TrustedNetworkPolicy"
	}
	if !n.Automatic || policy == "" {
		if n.LastReason != "" && n.Held == "" {
			says += fmt.Sprintf(": %s", n.LastReason)
		}
		j.say(Step{Setting: "tunnel", Says: says})
		return
	}
	rule := n.Network.Rule
	if rule != "" {
		j.say(j.profileStep("AutomaticVPNPolicy/"+rule, n.Network.Why))
	} else if n.Network.Why != "" {
		j.say(Step{Setting: "network", Says: n.Network.Why})
	}
	s := j.profileStep(path, fmt.Sprintf("the network is %v; %s", n.Network.Verdict, says))
	s.Value = string(policy)
	j.say(s)
}

// without says what becomes of a flow while there is no tunnel. Refused says that there may be none.
func (j *judge) without(refused bool) Outcome {
	if j.in.Left != nil {
		a := j.in.Left(j.query)
		j.take(a)
		return j.decided(a.Outcome, "kill switch")
	}
	firewall, known := j.firewall()
	if !known || firewall.Mode != network.Closed {
		if j.in.KillSwitch == nil {
			return j.open(known)
		}
		j.say(j.notClosed(known))
		a := j.in.KillSwitch(j.query)
		if a.Outcome != Direct {
			a.Outcome = Nowhere
		}
		j.take(a)
		return j.decided(a.Outcome, "kill switch")
	}
	closed := j.profileStep("AutomaticVPNPolicy/AlwaysOn/ConnectFailurePolicy", "nothing passes while the tunnel is down but what it takes to get one, and AllowedHosts")
	if closed.Document == "" {
		closed = j.profileStep(alwaysOnPath, closed.Says)
	}
	if n := j.in.Network; n != nil && !n.PortalWindow.IsZero() && j.web() {
		j.say(closed)
		path := alwaysOnPath + "/ConnectFailurePolicy/AllowCaptivePortalRemediation"
		return j.end(j.profileStep(path, "the firewall is open for a captive portal until "+n.PortalWindow.UTC().Format("15:04:05 MST")), Direct)
	}
	if host, ok := j.among(firewall.Allowed); ok {
		j.say(closed)
		return j.end(j.profileStep(alwaysOnPath+"/AllowedHosts", host+" is allowed"), Direct)
	}
	if host, ok := j.among(firewall.Gateways); ok && !refused {
		j.say(closed)
		return j.end(Step{Document: closed.Document, Setting: "ServerList", Says: host + " is a gateway, which must be reachable"}, Direct)
	}
	if probe, ok := j.among(firewall.Probes); ok {
		j.say(closed)
		return j.end(Step{Document: closed.Document, Setting: "TrustedHttpsServerList", Says: probe + " can prove a trusted network, so it may be asked"}, Direct)
	}
	if j.query.Port == 53 && slices.Contains(firewall.DNS, j.query.Addr) {
		j.say(closed)
		return j.end(j.profileStep("AutomaticVPNPolicy/TrustedDNSServers", "it is a DNS server that tells a trusted network, so it may be asked"), Direct)
	}
	if firewall.LastRules && nearby(j.query.Addr) {
		j.say(closed)
		return j.end(j.profileStep(alwaysOnPath+"/ConnectFailurePolicy/ApplyLastVPNLocalResourceRules",
			"what the last session let through to the local network stays let through, if it was among that"), Direct)
	}
	return j.end(closed, Nowhere)
}

// open is without where no firewall is closed.
func (j *judge) open(known bool) Outcome {
	if p := j.in.Plan; p != nil && !p.Environment.WholeMachine {
		return j.end(Step{Setting: "tunnel", Says: "there is none, and this program reaches nothing without it"}, Nowhere)
	}
	return j.end(j.notClosed(known), Direct)
}

// notClosed is the step about Always-On where it is not closed.
func (j *judge) notClosed(known bool) Step {
	says := "Always-On keeps nothing from passing while there is no tunnel"
	if n := j.in.Network; n != nil {
		switch n.AlwaysOn {
		case "lifted":
			says += ": it is lifted"
		case "trusted":
			says += ": this network is trusted"
		case "connected", "open":
			says += ": ConnectFailurePolicy is Open"
		}
	}
	s := j.profileStep(alwaysOnPath, says)
	if !known && s.Value == "true" {
		s.Says = "it keeps nothing from passing, since the client is disabled"
	}
	return s
}

// firewall returns the firewall that is in force whenever the tunnel is down, by what is known now or by the documents. While the tunnel is
// up that is not the one of the moment, which lets the tunnel through and nothing else.
func (j *judge) firewall() (f network.Firewall, known bool) {
	if j.in.Network != nil {
		return j.in.Network.WhenDown, true
	}
	p := j.in.Plan
	if p == nil || !p.Environment.WholeMachine || !p.Network.Automatic || !p.Network.AlwaysOn.On || p.Network.Disabled {
		return f, false
	}
	if p.Network.AlwaysOn.Closed {
		f.Mode = network.Closed
	}
	f.Allowed, f.LastRules = p.Network.AlwaysOn.Allowed, p.Network.AlwaysOn.LastRules
	for _, h := range p.Network.Hosts {
		f.Gateways = append(append(append(f.Gateways, h.Server), h.Backups...), h.Members...)
	}
	return f, true
}

// with says what becomes of a flow while there is a tunnel.
func (j *judge) with() Outcome {
	if n := j.in.Network; n != nil {
		says := "it is " + n.Tunnel + to(n.Host)
		if j.in.Reconnecting {
			says = "it is reconnecting" + to(n.Host) + ": what goes through it waits"
		}
		j.say(Step{Setting: "tunnel", Says: says})
	} else if j.in.Reconnecting {
		j.say(Step{Setting: "tunnel", Says: "it is reconnecting: what goes through it waits"})
	}
	if j.in.Filter == nil {
		j.say(Step{Document: "flow rules", Says: "there are none"})
	} else {
		a := j.in.Filter(j.query)
		if a.Outcome != Block {
			a.Outcome = Allow
		}
		if j.in.FilterOff {
			j.filterOff(a)
		} else {
			if j.in.FilterWhy != "" {
				j.say(Step{Document: "flow rules", Says: "they are in force: " + j.in.FilterWhy})
			}
			j.take(a)
			if a.Outcome == Block {
				return j.decided(Block, "flow rules")
			}
		}
	}
	if p := j.in.Plan; p != nil && nearby(j.query.Addr) {
		says := "the networks that the machine is connected to are reached through the tunnel too"
		if p.LocalLAN {
			says = "the networks that the machine is connected to are reached past the tunnel, if the gateway allows that too"
		}
		j.say(j.profileStep("LocalLanAccess", says))
	}
	if j.in.Route == nil {
		return j.end(Step{Document: "gateway", Says: "its routes say whether it goes through the tunnel; they are known while one is up"}, Allow)
	}
	a := j.in.Route(j.query)
	j.take(a)
	switch a.Outcome {
	case Tunnel, Direct, Nowhere:
		return j.decided(a.Outcome, "routes")
	}
	return j.end(Step{Document: "routes", Says: "they know no way"}, Nowhere)
}

// filterOff says what the rules about flows would say if they were in force.
func (j *judge) filterOff(a Answer) {
	s := Step{Document: "flow rules"}
	if n := len(a.Steps); n > 0 {
		s = a.Steps[n-1]
	}
	would := "they would allow this"
	if a.Outcome == Block {
		would = "they would block this"
	}
	s.Says, s.Effect = "the rules are not in force: "+j.in.FilterWhy+"; otherwise "+would, ""
	j.say(s)
}

// take adds the steps of an answer. Only a last one can decide, and only Block, Tunnel, Direct and Nowhere are words that count.
func (j *judge) take(a Answer) {
	for i, s := range a.Steps {
		switch final := i == len(a.Steps)-1 && s.Effect == a.Outcome; {
		case final && slices.Contains([]Outcome{Block, Tunnel, Direct, Nowhere}, a.Outcome):
		default:
			s.Effect = ""
		}
		j.chain = append(j.chain, s)
	}
}

// decided makes sure that the last step is the one that decided, whoever made it.
func (j *judge) decided(o Outcome, who string) Outcome {
	if n := len(j.chain); n > 0 && j.chain[n-1].Effect == o {
		return o
	}
	return j.end(Step{Document: who, Says: "so it is decided"}, o)
}

func to(host string) string {
	if host == "" {
		return ""
	}
	return " to " + host
}

// web reports whether the flow is one that a captive portal needs.
func (j *judge) web() bool { return j.query.Port == 80 || j.query.Port == 443 || j.query.Port == 53 }

// nearby reports whether an address may belong to a network that the machine is connected to.
func nearby(a netip.Addr) bool { return a.IsPrivate() || a.IsLinkLocalUnicast() }

// among returns the entry of a list of hosts, networks, and hosts with ports that the flow goes to.
func (j *judge) among(list []string) (string, bool) {
	for _, entry := range list {
		if p, err := netip.ParsePrefix(entry); err == nil {
			if j.query.Addr.IsValid() && p.Masked().Contains(j.query.Addr) {
				return entry, true
			}
			continue
		}
		host := entry
		if h, _, err := net.SplitHostPort(entry); err == nil {
			host = h
		}
		host = strings.Trim(host, "[]")
		if a, err := netip.ParseAddr(host); err == nil {
			if a.Unmap() == j.query.Addr {
				return entry, true
			}
			continue
		}
		if strings.EqualFold(strings.TrimSuffix(host, "."), j.query.Host) {
			return entry, true
		}
	}
	return "", false
}
