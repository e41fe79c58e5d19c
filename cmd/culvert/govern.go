package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/network/selection"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/policy/preferences"
	"culvert.example/vpn/policy/profile"
	"culvert.example/vpn/system"
)

// govern reads the documents of this machine, and keeps the plan that they make for the gateway that was named if they say anything.
// Machine says that the tunnel is for the whole machine. It fails if the documents cannot be used, or refuse the connection. It must
// come before standard input is read, because the process may have to be started again in FIPS 140-3 mode.
func (c *clientFlags) govern(a *app, args []string, machine bool) error {
	c.documents.machine = machine
	p, err := a.documents(&c.documents, c.typed(args))
	if p != nil && p.TLS.FIPS {
		exe, xerr := os.Executable()
		if xerr != nil {
			return xerr
		}
		if err := enterFIPS(p, exe, os.Args, os.Environ()); err != nil {
			return err
		}
	}
	if errors.Is(err, plan.ErrNoHost) {
		return nil // what is missing is said where the gateway is needed
	}
	if p != nil {
		if err := c.notListed(p, c.typed(args)); err != nil {
			return err
		}
		if p.Listed && c.usergroup == "" {
			c.usergroup = typedGroup(p.InForce(), c.typed(args))
		}
	}
	if err != nil {
		return err
	}
	if p.Documents.LocalPath != "" || len(p.Documents.Profiles.Profiles) > 0 || p.Chosen() {
		c.plan = p
	}
	return nil
}

// listedName returns the name by which a profile lists the gateway that was named, perhaps as a URL, or else just what was named.
func listedName(profiles *profile.Collection, name string) string {
	if _, _, ok := profiles.Host(name); ok {
		return name
	}
	host := name
	if u, err := url.Parse(name); err == nil && u.Scheme == "https" && u.Host != "" {
		host = u.Host
	} else if before, _, ok := strings.Cut(name, "/"); ok && before != "" && !strings.Contains(name, "://") {
		host = before
	}
	return strings.TrimSuffix(host, ":443")
}

// An unlistedError is a name that no profile lists, since there is none, and that is no name of a host either.
type unlistedError struct {
	error
	name   string
	places []string
}

// Unwrap returns why it is no host.
func (e *unlistedError) Unwrap() error { return e.error }

// typedGroup returns the group in the URL of a gateway that was named, which takes the place of the one that its entry has, or "".
func typedGroup(profiles *profile.Collection, name string) string {
	if _, _, ok := profiles.Host(name); ok {
		return ""
	}
	rest := strings.TrimPrefix(name, "https://")
	_, group, _ := strings.Cut(rest, "/")
	return group
}

// notListed refuses a name that is like those of entries and that no profile lists, which would otherwise be looked up as that of a host.
// Who means a host writes a dot, a colon or a URL.
func (c *clientFlags) notListed(p *plan.Plan, typed string) error {
	profiles := p.InForce()
	hosts := profiles.Hosts()
	if len(hosts) == 0 && typed != "" && !strings.ContainsAny(typed, ".:/") {
		c.unlisted = typed
	}
	if p.Listed || typed == "" || len(hosts) == 0 || strings.ContainsAny(typed, ".:") {
		return nil
	}
	name := listedName(profiles, typed)
	names := make([]string, len(hosts))
	for i, h := range hosts {
		names[i] = h.Name
	}
	const most = 10
	entries := strings.Join(names[:min(most, len(names))], ", ")
	if more := len(names) - most; more > 0 {
		entries += fmt.Sprintf(" and %d more", more)
	}
	hint := "For a host of that name write https://" + oneLine(name) + "."
	if near := document.Nearest(name, names); near != "" {
		hint = fmt.Sprintf("Did you mean %q? ", near) + hint
	}
	return &usageError{hint: hint, err: fmt.Errorf("%q is no entry of %s, whose entries are %s", name,
		cmp.Or(c.documents.profileFile, "the VPN profiles of this machine"), oneLine(entries))}
}

// listedURL returns the URL of a gateway, which stands for the entry with that name, or "" for the one that was chosen.
func listedURL(p *plan.Plan, server, name string) (string, error) {
	h := p.Host
	if other, _, ok := p.InForce().Host(name); ok && name != "" {
		h = other
	}
	if first, err := h.Server(); err != nil || server != first {
		h.Address = server
	}
	at, err := h.URL()
	if err != nil {
		return "", asUsage(fmt.Errorf("%s: %w", p.Document(false), err))
	}
	return at, nil
}

// remind shows what the user is to be shown before connecting.
func (c *clientFlags) remind(a *app) {
	if c.plan == nil || !c.plan.Message.Show {
		return
	}
	text := oneLine(c.plan.Message.Text)
	a.reporter().say(event{Event: "message", Message: text}, "%s", text)
}

// remember writes down which gateway was used, as far as the documents let it.
func (c *clientFlags) remember(a *app) {
	p := c.plan
	if p == nil || p.Profile == nil || !p.Listed {
		return
	}
	h := p.Host
	if other, _, ok := p.InForce().Host(c.entry); ok && c.entry != "" {
		h = other
	}
	used := func(last *preferences.Last) {
		last.HostName, last.HostAddress, last.Group, last.User = h.Name, h.Servers()[0], h.UserGroup, cmp.Or(c.user, last.User)
		last.ClientCertificateThumbprint = cmp.Or(c.thumbprint, last.ClientCertificateThumbprint)
	}
	if err := a.savePreferences(&c.documents, p, used, p.Message.Show); err != nil {
		a.reporter().warn("the preferences were not written: %v", err)
	}
}

// obey has a configuration be as the documents demand.
func (c *clientFlags) obey(ctx context.Context, a *app, cfg *vpn.Config, ask *asker) error {
	p := c.plan
	if err := planFlags(p, c); err != nil {
		return err
	}
	if !c.documents.machine {
		c.heedDesktop(a)
	}
	problems, err := a.planConfig(p, &c.documents, c, cfg)
	for _, problem := range problems {
		a.reporter().warn("certificates: %s", oneLine(problem.Error()))
	}
	if err != nil {
		return err
	}
	if c.certificate == "" {
		cfg.TLS.GetClientCertificate = c.identify(ctx, a, ask)
	}
	if p.Profile == nil {
		return nil
	}
	cfg.LoginTimeout, cfg.IPProtocols = p.AuthenticationTimeout, p.IPProtocols
	if !p.Reconnect.Automatic {
		// The first moment without a connection is the end of the tunnel.
		cfg.ReconnectTimeout = time.Millisecond
	}
	return nil
}

// killSwitch returns the one that Always-On of the plan demands, nil if it demands none.
func killSwitch(a *app, p *plan.Plan) *system.KillSwitch {
	on := p.Network.AlwaysOn
	if !p.Network.Automatic || !on.On || p.Network.Disabled {
		return nil
	}
	k := &system.KillSwitch{Open: !on.Closed, Locked: on.Closed && !on.AllowDisconnect, SessionLAN: true, LastRules: on.Closed && on.LastRules}
	for _, s := range on.Allowed {
		prefix, err := parsePrefix(s)
		switch {
		case err == nil:
			k.AllowedHosts = append(k.AllowedHosts, prefix)
		case len(k.AllowedNames) == system.MaxAllowedNames:
			a.reporter().warn("%s: AllowedHosts: %s is not let through the kill switch, which has room for %d names", p.Document(false), oneLine(s), system.MaxAllowedNames)
		case isDomain(s) && !strings.Contains(s, "*"):
			k.AllowedNames = append(k.AllowedNames, strings.Trim(s, "."))
		default:
			a.reporter().warn("%s: AllowedHosts: %s is not let through the kill switch: it is no address, network or name", p.Document(false), oneLine(s))
		}
	}
	return k
}

// obey has the use of the machine be as the documents demand. The plan is nil without any.
func (m *machineFlags) obey(a *app, p *plan.Plan, cfg *system.Config) error {
	if p == nil || p.Profile == nil {
		return nil
	}
	if cfg.LocalLAN == system.Yes || cfg.KillSwitch != nil && cfg.KillSwitch.LocalLAN {
		if v, ok := p.Effective.Get("LocalLanAccess"); ok && v.Value != "true" && !v.UserControllable {
			return p.Refuse(v.Path, "the user may not choose this; leave out --local-lan")
		}
	}
	k := killSwitch(a, p)
	if k != nil {
		// What may be reached beside the tunnel is up to the profile and the gateway.
		why := ""
		switch own := cfg.KillSwitch; {
		case len(cfg.User.Exclude)+len(cfg.User.DynamicExclude) > 0:
			why = "nothing may pass beside the tunnel by the choice of a user; leave out --exclude"
		case own != nil && len(own.AllowedHosts) > 0:
			why = "what may pass without a tunnel is in AllowedHosts; leave out --allow-host"
		}
		if why != "" {
			return p.Refuse("AutomaticVPNPolicy/AlwaysOn", why)
		}
	}
	if k != nil && (cfg.KillSwitch == nil || cfg.KillSwitch.Open || !k.Open) {
		k.Locked = k.Locked || cfg.KillSwitch != nil && cfg.KillSwitch.Locked
		cfg.KillSwitch = k
	}
	if cfg.LocalLAN == system.AsGateway && !p.LocalLAN {
		cfg.LocalLAN = system.No
	}
	servers, err := pppExclusion(p.PPP)
	if err != nil {
		return p.Refuse("PPPExclusion", err.Error())
	}
	for _, s := range servers {
		cfg.User.Exclude = append(cfg.User.Exclude, netip.PrefixFrom(s, s.BitLen()))
	}
	return nil
}

// pppExclusion returns the servers of PPP connections that stay out of the tunnel.
func pppExclusion(p plan.PPP) ([]netip.Addr, error) {
	switch {
	case p.Choice == profile.PPPAutomatic:
		return pppServers()
	case p.Choice == profile.PPPOverride && p.Server.IsValid():
		return []netip.Addr{p.Server.Unmap().WithZone("")}, nil
	}
	return nil, nil
}

// offer hands over an error unless there is one already.
func offer(to chan<- error, err error) {
	select {
	case to <- err:
	default:
	}
}

// asleep is why a tunnel ends whose machine was asleep.
func asleep(p *plan.Plan) error {
	return p.Refuse("AutoReconnect/AutoReconnectBehavior", "the machine was asleep, and the tunnel ends with that")
}

// dialAny opens a tunnel to the gateway, or to the first of its backups that can be reached.
func (u *usage) dialAny(ctx context.Context, server string) (*vpn.Tunnel, ending) {
	servers := []string{server}
	if p := u.flags.plan; p != nil && p.Listed {
		servers = p.Servers
	}
	walk := selection.NewSequence(selection.Plan{Servers: servers, Rounds: 1})
	if err := u.keeper.admit(ctx); err != nil {
		return nil, ending{err: err}
	}
	r := u.app.reporter()
	if u.choice != nil {
		order, why := u.choice.choose(ctx)
		walk, servers = selection.NewSequence(order), append(order.Servers, order.Others...)
		r.say(event{Event: "message", Kind: "selection", Message: why}, "%s: %s", oneLine(servers[0]), why)
	}
	var last ending
	for {
		next, _, ok := walk.Next()
		if !ok {
			last.err = u.flags.behindPortal(ctx, u.sys.DialContext, last.err)
			return nil, last
		}
		t, end := u.dialServer(ctx, next, u.choice.host(next).Name, nil, nil)
		if t != nil {
			u.choice.used(next)
		}
		if t != nil || end.wanted() || codeOf(end.err) != exitUnreachable {
			end.err = u.flags.behindPortal(ctx, u.sys.DialContext, end.err)
			return t, end
		}
		if len(servers) > 1 {
			r.warn("%s cannot be reached: %s", oneLine(next), oneLine(plainText(end.err)))
		}
		last = end
		walk.Failed(time.Now())
	}
}

// dialServer opens a tunnel to one gateway: of the plan, or the one that was named. With a ticket it takes up that session. Redirected
// is asked whether the gateway may send on to another one, and may be nil.
func (u *usage) dialServer(ctx context.Context, server, name string, ticket *vpn.Ticket, redirected func(to string) error) (*vpn.Tunnel, ending) {
	var err error
	if p := u.flags.plan; p != nil && p.Listed {
		if server, err = listedURL(p, server, name); err != nil {
			return nil, ending{err: err}
		}
	}
	if server, err = u.flags.locate(server); err != nil {
		return nil, ending{err: err}
	}
	u.flags.entry = name
	cfg, err := u.flags.reach(u.app)
	if err != nil {
		return nil, ending{err: err}
	}
	cfg.Ticket, cfg.Redirected = ticket, redirected
	u.agent.dials(server, u.flags.upstream.choice)
	u.app.reporter().say(event{Event: "tunnel", State: "connecting", Gateway: server}, "connecting to %s", oneLine(server))
	t, end := u.dial(ctx, server, cfg)
	end.err = u.flags.explained(u.app, end.err)
	return t, end
}

// govern says which documents are in force.
func (r *machineReport) govern(p *plan.Plan) {
	if p == nil {
		p, _ = plan.New("", plan.Documents{}, plan.Environment{System: runtime.GOOS, WholeMachine: true})
	}
	r.Profile, r.LocalPolicy, r.Features, r.Ignored = p.Document(false), p.Document(true), p.Features, p.Ignored
}

// documents prints which documents are in force, and the features that need a profile.
func (p *page) documents(r *machineReport) {
	p.line("Documents", "%s", strings.Join(nonEmpty(r.Profile, r.LocalPolicy), ", "))
	p.line("Scripts", "%s", r.Scripts)
	p.line("By proxy", "%s", r.Proxy)
	if n := r.Network; n != nil {
		p.line("Network", "%s", n.text())
	}
	if len(r.Features) == 0 {
		return
	}
	if r.Profile == "" {
		names := make([]string, len(r.Features))
		for i, f := range r.Features {
			names[i] = f.Name
		}
		p.line("Features", "off: no profile (%s)", strings.Join(names, ", "))
		return
	}
	label := "Features"
	for _, f := range r.Features {
		p.line(label, "%s: %s%s%s", f.Name, f.State, orNothing(" = ", f.Value), orNothing(", ", f.Why))
		label = ""
	}
	label = "No effect"
	for _, line := range unapplied(r.Ignored, true) {
		p.line(label, "%s", line)
		label = ""
	}
}

// nonEmpty returns those that are not empty.
func nonEmpty(all ...string) (some []string) {
	for _, s := range all {
		if s != "" {
			some = append(some, s)
		}
	}
	return some
}
