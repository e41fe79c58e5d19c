package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/flow/filter"
	"culvert.example/vpn/policy"
	"culvert.example/vpn/policy/decision"
	"culvert.example/vpn/policy/network/selection"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/policy/preferences"
	"culvert.example/vpn/policy/profile"
	"culvert.example/vpn/system"
)

// govern reads the documents of this machine, and keeps the plan that they make for the gateway that was named if there are any.
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
	if err != nil {
		return err
	}
	if p.Documents.LocalPath != "" || len(p.Documents.Profiles.Profiles) > 0 {
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

// listedURL returns the URL of a gateway, which stands for the entry with that name, or "" for the one that was chosen.
func listedURL(p *plan.Plan, server, name string) (string, error) {
	h := p.Host
	if other, _, ok := p.Documents.Profiles.Host(name); ok && name != "" {
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
	last := preferences.Last{}
	if user := p.Documents.Preferences.User; user != nil {
		last = user.Last()
	}
	last.HostName, last.HostAddress, last.Group, last.User = p.Host.Name, p.Servers[0], p.Group, cmp.Or(c.user, last.User)
	if err := a.savePreferences(&c.documents, p, last, p.Message.Show); err != nil {
		a.reporter().warn("the preferences were not written: %v", err)
	}
}

// obey has a configuration be as the documents demand.
func (c *clientFlags) obey(ctx context.Context, a *app, cfg *vpn.Config, ask *asker) error {
	p := c.plan
	if err := planFlags(p, c); err != nil {
		return err
	}
	_, problems, err := a.planConfig(p, &c.documents, c, cfg)
	for _, problem := range problems {
		a.reporter().warn("certificates: %s", oneLine(problem.Error()))
	}
	if err != nil {
		return err
	}
	if c.certificate == "" {
		cfg.TLS.GetClientCertificate = c.identify(ctx, a, ask)
	}
	if p.Profile != nil && !p.Reconnect.Automatic {
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
			at := policy.RefusedError{Document: p.Document(false), Setting: v.Path, Value: v.Value, Reason: "the user may not choose this; leave out --local-lan"}
			if v.Where != nil {
				at.Line, at.Column = v.Where.Line, v.Where.Column
			}
			return &at
		}
	}
	if k := killSwitch(a, p); k != nil && (cfg.KillSwitch == nil || cfg.KillSwitch.Open || !k.Open) {
		cfg.KillSwitch = k
	}
	if cfg.LocalLAN == system.AsGateway && !p.LocalLAN {
		cfg.LocalLAN = system.No
	}
	return nil
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
	r := &policy.RefusedError{Document: p.Document(false), Setting: "AutoReconnectBehavior", Value: "DisconnectOnSuspend",
		Reason: "the machine was asleep, and the tunnel ends with that"}
	if v, ok := p.Effective.Get("AutoReconnect/AutoReconnectBehavior"); ok && v.Where != nil {
		r.Line, r.Column = v.Where.Line, v.Where.Column
	}
	return r
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
			return nil, last
		}
		t, end := u.dialServer(ctx, next, u.choice.host(next).Name, nil)
		if t != nil {
			u.choice.used(next)
		}
		if t != nil || end.wanted() || codeOf(end.err) != exitUnreachable {
			return t, end
		}
		if len(servers) > 1 {
			r.warn("%s cannot be reached: %s", oneLine(next), oneLine(plainText(end.err)))
		}
		last = end
		walk.Failed(time.Now())
	}
}

// dialServer opens a tunnel to one gateway: of the plan, or the one that was named. With a ticket it takes up that session.
func (u *usage) dialServer(ctx context.Context, server, name string, ticket *vpn.Ticket) (*vpn.Tunnel, ending) {
	var err error
	if p := u.flags.plan; p != nil && p.Listed {
		if server, err = listedURL(p, server, name); err != nil {
			return nil, ending{err: err}
		}
	}
	if server, err = u.flags.locate(server); err != nil {
		return nil, ending{err: err}
	}
	cfg, err := u.flags.reach(u.app)
	if err != nil {
		return nil, ending{err: err}
	}
	cfg.Ticket = ticket
	u.agent.dials(server)
	u.app.reporter().say(event{Event: "tunnel", State: "connecting", Gateway: server}, "to %s", oneLine(server))
	return u.dial(ctx, server, cfg)
}

// govern says which documents are in force.
func (r *machineReport) govern(p *plan.Plan) {
	if p == nil {
		p, _ = plan.New("", plan.Documents{}, plan.Environment{System: runtime.GOOS, WholeMachine: true})
	}
	r.Profile, r.LocalPolicy, r.Features = p.Document(false), p.Document(true), p.Features
}

// documents prints which documents are in force, and the features that need a profile.
func (p *page) documents(r *machineReport) {
	p.line("Documents", "%s", strings.Join(nonEmpty(r.Profile, r.LocalPolicy), ", "))
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

// explainer returns what says of a flow what becomes of it on this machine, and why.
func explainer(p *plan.Plan, sys *system.System, rules *filter.Config, file string, auto *automat) (func(context.Context, decision.Query) decision.Verdict, error) {
	var compiled *filter.Rules
	if rules != nil {
		var err error
		if compiled, err = filter.Compile(*rules); err != nil {
			return nil, err
		}
	}
	return func(_ context.Context, q decision.Query) decision.Verdict {
		in := machineInputs(p, sys, compiled, file)
		in.Network = auto.decided()
		return decision.Judge(in, q)
	}, nil
}
