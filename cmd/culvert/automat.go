package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/host/firewall"
	"culvert.example/vpn/policy/logon"
	"culvert.example/vpn/policy/network"
	"culvert.example/vpn/policy/network/portal"
	"culvert.example/vpn/policy/network/selection"
	"culvert.example/vpn/policy/network/trusted"
	"culvert.example/vpn/system"
)

// lookAgain is how often the machine is asked which DNS servers and domains its network has, beside whenever addresses change.
const lookAgain = 2 * time.Second

// An automat does what a profile demands of the networks that the machine comes to: it connects and disconnects without anybody
// saying so. A nil one does nothing.
type automat struct {
	flags *clientFlags
	ask   *asker
	wake  chan struct{} // the network may have changed
	named bool          // somebody has named the gateway
	own   bool          // the kill switch is that of --always-on, which demands more than the profile does
	cache gatewayCache

	// Of run, from its beginning.
	ready  chan struct{} // closed when runner is there
	usage  *usage
	runner *network.Runner

	// left gets the end that somebody wanted while a gateway was dialled.
	left    chan ending
	tunnels sync.WaitGroup // who wait for the ends of tunnels
	paused  *vpn.Ticket    // the session that was paused, nil for none

	mu     sync.Mutex
	ending func() // ends what goes on beside the tunnel that is up
	mode   network.Mode
}

// newAutomat returns the one of the plan, nil if it leaves the tunnel to whoever starts the command.
func newAutomat(c *clientFlags, ask *asker) *automat {
	if c.plan == nil || c.plan.Profile == nil || !c.plan.Network.Automatic {
		return nil
	}
	return &automat{flags: c, ask: ask, wake: make(chan struct{}, 1), ready: make(chan struct{}), left: make(chan ending, 1)}
}

// closed reports whether nothing is to leave the machine when a tunnel has failed.
func (m *automat) closed() bool {
	return m.flags.plan.Network.AlwaysOn.Closed && m.runner != nil && m.runner.Status().Firewall.Mode != network.Open
}

// event takes what has happened to the machine.
func (m *automat) event(e system.Event) {
	switch e.Kind {
	case system.EventAsleep:
		m.post(network.Event{Kind: network.Resume, Asleep: e.Asleep})
	case system.EventNetwork, system.EventResolver:
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}

func (m *automat) post(e network.Event) {
	select {
	case <-m.ready:
		// After the end nobody needs to know.
		_ = m.runner.Post(e)
	default:
	}
}

// A networkReport is what a profile makes of the network that the machine is in.
type networkReport struct {
	// Verdict is trusted, untrusted or unknown, and Why the reason. Proven says that a server has proved it.
	Verdict string `json:"verdict"`
	Why     string `json:"why,omitempty"`
	Proven  bool   `json:"proven,omitempty"`
	// Tunnel is what the tunnel does, Server whom to, and Held why none is dialled although one could be.
	Tunnel string `json:"tunnel"`
	Server string `json:"server,omitempty"`
	Held   string `json:"held,omitempty"`
	// AlwaysOn is off, lifted, trusted, connected, closed or open. MayDisconnect says whether a person may end the tunnel.
	AlwaysOn      string `json:"always_on"`
	MayDisconnect bool   `json:"may_disconnect"`
	// Portal is what is known of a captive portal, none, portal, offline or unknown, and PortalURL its page. PortalUntil is until
	// when the kill switch lets a person get there.
	Portal      string    `json:"portal,omitempty"`
	PortalURL   string    `json:"portal_url,omitempty"`
	PortalUntil time.Time `json:"portal_until,omitzero"`
}

// text is the report in words.
func (n *networkReport) text() string {
	text := fmt.Sprintf("%s%s; tunnel %s%s; Always-On %s", n.Verdict, orNothing(": ", n.Why), n.Tunnel, orNothing(", ", n.Held), n.AlwaysOn)
	if n.Portal == portal.Portal.String() {
		text += "; behind a captive portal" + orNothing(" ", n.PortalURL)
	}
	return text
}

// status returns what was decided, nil if there is nothing that decides.
func (m *automat) status() *networkReport {
	s := m.decided()
	if s == nil {
		return nil
	}
	r := &networkReport{
		Verdict: s.Network.Verdict.String(), Why: s.Network.Why, Proven: s.Network.Proven, Tunnel: s.Tunnel, Server: s.Server, Held: s.Held,
		AlwaysOn: s.AlwaysOn, MayDisconnect: s.MayDisconnect, PortalUntil: s.PortalWindow,
	}
	if s.Portal != nil {
		r.Portal, r.PortalURL = s.Portal.Verdict.String(), s.Portal.URL
	}
	return r
}

// decided returns what the manager has decided, nil if there is none.
func (m *automat) decided() *network.Status {
	if m == nil {
		return nil
	}
	select {
	case <-m.ready:
		s := m.runner.Status()
		return &s
	default:
		return nil
	}
}

// mayLeave says why a person may not end the tunnel, if so.
func (m *automat) mayLeave(ctx context.Context) error {
	if m == nil {
		return nil
	}
	select {
	case <-m.ready:
	default:
		return nil
	}
	err := m.runner.Do(ctx, network.Event{Kind: network.UserDisconnect})
	if errors.Is(err, network.ErrClosed) {
		return nil
	}
	return err
}

// run has tunnels as the profile demands until somebody wants an end of it, or it cannot go on.
func (m *automat) run(ctx context.Context, u *usage) ending {
	cfg := m.flags.plan.Network
	cfg.Spread, cfg.NeedUser = rand.Float64, logonsKept() && !m.flags.plan.BeforeLogon
	cfg.Select = cfg.Select && !m.named
	var known selection.Cache
	if cfg.Select {
		known = m.cache.load()
	}
	manager, err := network.New(cfg, known, time.Now())
	if err != nil {
		return ending{err: err}
	}
	m.usage, m.runner = u, network.NewRunner(manager, m, m.flags.base.Logger)
	close(m.ready)
	running, stop := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	links := m.links(ctx)
	wait.Go(func() { _ = m.runner.Run(running, links) })
	wait.Go(func() { m.watch(running, links) })
	wait.Go(func() { m.watchLogons(running) })
	defer func() {
		stop()
		wait.Wait()
		m.finish()
		m.tunnels.Wait()
	}()
	if cfg.UntrustedPolicy == "DoNothing" && !cfg.AlwaysOn.On {
		// Nothing happens by itself, so whoever starts the command wants it to.
		host := cfg.Default
		if cfg.Select {
			host = "" // the fastest
		}
		if err := m.runner.Do(ctx, network.Event{Kind: network.UserConnect, Host: host}); err != nil {
			return ending{err: err}
		}
	}
	select {
	case <-ctx.Done():
		return ending{}
	case end := <-m.left:
		return end
	case d := <-u.agent.leave:
		return ending{departure: d}
	case <-u.hangup:
		return ending{keep: true}
	case err := <-u.over:
		return ending{err: err}
	}
}

// links returns what the network says about DNS.
func (m *automat) links(ctx context.Context) []trusted.Link {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	servers, search, err := m.usage.sys.Outside(ctx)
	if err != nil {
		return []trusted.Link{}
	}
	link := trusted.Link{Suffixes: search, Servers: []netip.Addr{}}
	for _, s := range servers {
		link.Servers = append(link.Servers, s.Addr())
	}
	return []trusted.Link{link}
}

// watch tells when the network has changed, until ctx ends.
func (m *automat) watch(ctx context.Context, last []trusted.Link) {
	news := addressNews(ctx)
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	addresses := machineAddresses()
	for {
		select {
		case <-ctx.Done():
			return
		case <-news:
		case <-m.wake:
		case <-tick.C:
		}
		links, now := m.links(ctx), addresses
		if !m.usage.sys.Status().Attached {
			// Those of the tunnel itself are not looked at.
			now = machineAddresses()
		}
		if reflect.DeepEqual(links, last) && now == addresses {
			continue
		}
		last, addresses = links, now
		m.post(network.Event{Kind: network.NetworkChanged, Links: links})
	}
}

// Connect implements network.Hooks.
func (m *automat) Connect(ctx context.Context, a network.Attempt) (network.Up, error) {
	return m.connect(ctx, a, nil)
}

// connect opens a tunnel, with the ticket of a session if there is one.
func (m *automat) connect(ctx context.Context, a network.Attempt, ticket *vpn.Ticket) (network.Up, error) {
	u := m.usage
	if err := u.keeper.admit(ctx); err != nil {
		u.agent.tunnel(nil, err)
		return network.Up{}, &network.Failure{Reason: network.LogonRules, Err: err}
	}
	t, end := u.dialServer(ctx, a.Server, a.Host, ticket, func(to string) error { return m.redirected(a.Run, to) })
	if t == nil {
		err := end.err
		if end.departure != nil || end.keep {
			m.left <- end
		}
		if err == nil {
			err = context.Canceled
		}
		reason := reasonOf(err)
		// The end of a session that was paused is followed by a login, and the rules about users hold as long as those are logged on.
		again := reason == network.LogonRules || reason == network.SessionTimeout && ticket != nil || errors.Is(err, selection.ErrRedirect)
		if ctx.Err() == nil && !again && !passing(err, m.ask) {
			offer(u.over, err) // nobody but a person can help
		}
		u.agent.tunnel(nil, err)
		return network.Up{}, &network.Failure{Reason: reason, Err: err}
	}
	broken := make(chan error, 1) // a rule about users
	stop, err := u.begin(t, m.ask, broken)
	finished := make(chan struct{})
	var once sync.Once
	m.mu.Lock()
	m.ending = func() {
		once.Do(func() {
			close(finished)
			stop()
		})
	}
	ended, mode := m.ending, m.mode
	m.mu.Unlock()
	if err != nil {
		offer(u.over, err)
	}
	if mode == network.Open && m.flags.plan.Network.AlwaysOn.On && !m.own {
		// A tunnel brings the kill switch with it, which the policy does not want here.
		if err := u.sys.Enforce(ctx, system.Waived); err != nil && !errors.Is(err, system.ErrNoKillSwitch) {
			u.app.reporter().warn("the kill switch was not lifted: %v", err)
		}
	}
	m.tunnels.Go(func() {
		var why error
		select {
		case <-finished:
			return
		case why = <-broken:
		case <-t.Done():
			why = t.Err()
		}
		select {
		case <-finished:
			return // it has ended because that was wanted
		default:
		}
		ended()
		t.Close()
		u.agent.tunnel(nil, why)
		m.post(network.Event{Kind: network.TunnelDown, Run: a.Run, Reason: reasonOf(why), Err: fmt.Sprint(why)})
	})
	return network.Up{User: u.keeper.owner(), Exempt: t.Status().DisableAlwaysOn}, nil
}

// redirected decides whether the gateway of an attempt may send on to another one. Always-On goes only to those that the profile lists.
func (m *automat) redirected(run uint64, to string) error {
	var listed []string
	for _, h := range m.flags.plan.Network.Hosts {
		listed = append(append(append(listed, h.Server), h.Backups...), h.Members...)
	}
	to = selection.Canonical(to)
	known := slices.ContainsFunc(listed, func(s string) bool { return selection.Canonical(s) == to })
	if state := m.runner.Status().AlwaysOn; !known && state != "off" && state != "lifted" {
		r := m.flags.plan.Refuse("AutomaticVPNPolicy/AlwaysOn", to+" is neither in the ServerList nor in a LoadBalancingServerList")
		r.Err = selection.ErrRedirect
		return r
	}
	m.post(network.Event{Kind: network.Redirected, Run: run, Server: to})
	return nil
}

// reasonOf says in the words of the policy why there is no tunnel.
func reasonOf(err error) network.Reason {
	var rule *logon.Reason
	switch {
	case errors.As(err, &rule):
		return network.LogonRules
	case errors.Is(err, vpn.ErrLogin), errors.Is(err, vpn.ErrPrompt):
		return network.LoginFailed
	case errors.Is(err, vpn.ErrUntrusted):
		return network.Untrusted
	case errors.Is(err, vpn.ErrExpired):
		return network.SessionTimeout
	case errors.Is(err, vpn.ErrRefused):
		return network.Refused
	case errors.Is(err, vpn.ErrDisconnected):
		return network.ByGateway
	}
	return network.Unreachable
}

// Resume implements network.Hooks.
func (m *automat) Resume(ctx context.Context, a network.Attempt) (network.Up, error) {
	ticket := m.paused
	m.paused = nil
	return m.connect(ctx, a, ticket)
}

// finish ends what goes on beside the tunnel.
func (m *automat) finish() {
	m.mu.Lock()
	ending := m.ending
	m.ending = nil
	m.mu.Unlock()
	if ending != nil {
		ending()
	}
}

// Disconnect implements network.Hooks.
func (m *automat) Disconnect(_ context.Context, why network.Reason) error {
	u := m.usage
	m.finish()
	m.paused = nil
	u.agent.tunnel(nil, fmt.Errorf("disconnected: %s", why))
	if t := u.tunnel; t != nil {
		u.tunnel = nil
		t.Close()
		u.app.reporter().say(event{Event: "tunnel", State: "closed", Message: string(why)}, "logged out: %s", why)
	}
	return nil
}

// Pause implements network.Hooks. The gateway keeps the session for as long as it lets one be without a connection.
func (m *automat) Pause(context.Context) error {
	u := m.usage
	m.finish()
	u.agent.tunnel(nil, errors.New("paused, and the session is kept"))
	t := u.tunnel
	if t == nil {
		return nil
	}
	u.tunnel = nil
	var err error
	if m.paused, err = t.Suspend(); err != nil {
		return err // it has ended by itself, so that there will be a login
	}
	u.app.reporter().say(event{Event: "tunnel", State: "paused"}, "paused; the session is kept")
	return nil
}

// SetFirewall implements network.Hooks.
func (m *automat) SetFirewall(ctx context.Context, f network.Firewall) error {
	m.mu.Lock()
	m.mode = f.Mode
	m.mu.Unlock()
	if !m.flags.plan.Network.AlwaysOn.On {
		return nil // a kill switch is the user's own then
	}
	return m.usage.sys.Enforce(ctx, m.enforcement(f.Mode))
}

// enforcement returns what a mode of the policy demands of the kill switch.
func (m *automat) enforcement(mode network.Mode) system.Enforcement {
	switch {
	case mode == network.Closed:
		return system.Shut
	case mode == network.Tunnel:
		return system.Upheld
	case m.own:
		// The policy demands nothing here, and whoever starts the command wants it closed all the same.
		return system.Unsaid
	}
	return system.Waived
}

// OpenPortal implements network.Hooks.
func (m *automat) OpenPortal(ctx context.Context, d time.Duration) error {
	return m.usage.sys.OpenPortalWindow(ctx, min(d, firewall.MaxPortal))
}

// ClosePortal implements network.Hooks.
func (m *automat) ClosePortal(ctx context.Context) error {
	return m.usage.sys.OpenPortalWindow(ctx, 0)
}

// AskTrusted implements network.Hooks.
func (m *automat) AskTrusted(ctx context.Context, r trusted.Rules) trusted.Answers {
	return (&trusted.Prober{Dial: m.usage.sys.DialContext}).Ask(ctx, r)
}

// AskPortal implements network.Hooks.
func (m *automat) AskPortal(ctx context.Context, gateways []string) portal.Report {
	cfg, err := m.flags.prober()
	if err != nil {
		return portal.Report{Why: err.Error()}
	}
	return (&portal.Prober{Dial: m.usage.sys.DialContext, TLS: cfg}).Ask(ctx, gateways)
}

// RoundTrip implements network.Hooks.
func (m *automat) RoundTrip(ctx context.Context, server string) (time.Duration, error) {
	return m.usage.roundTrip(ctx, server)
}

// Save implements network.Hooks.
func (m *automat) Save(c selection.Cache) { m.cache.save(c) }

// Notify implements network.Hooks.
func (m *automat) Notify(n network.Notice) {
	text := oneLine(n.Text + orNothing(" ", n.URL))
	if n.Kind == "portal-expired" {
		text += " Open it once more with: culvert portal"
	}
	m.usage.app.reporter().say(event{Event: "message", Kind: n.Kind, Message: text}, "%s", text)
}
