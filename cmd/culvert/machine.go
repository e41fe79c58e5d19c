package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/system"
)

// Between two attempts to have a tunnel again, as a kill switch demands, lie firstRetry at least and lastRetry at most.
const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// An ending is why a machine does not use a tunnel any more.
type ending struct {
	err       error      // nil if somebody wanted it
	departure *departure // who waits for the end, or nil
	keep      bool       // the session is to live on at the gateway
}

// wanted reports whether somebody wanted it.
func (e ending) wanted() bool { return e.err == nil }

// runMachine connects, and has this machine use the tunnel until somebody wants an end of it or the tunnel fails.
func (a *app) runMachine(ctx context.Context, c *clientFlags, m *machineFlags, args []string) error {
	a.endure()
	if err := c.govern(a, args, true); err != nil {
		return err
	}
	server, err := c.target(args)
	if err != nil {
		return err
	}
	scfg, err := m.systemConfig(a)
	if err != nil {
		return err
	}
	wanted := scfg.KillSwitch
	if err := m.obey(a, c.plan, &scfg); err != nil {
		return err
	}
	if m.background {
		if parent, err := a.forkBackground(ctx, m.logPath()); parent {
			return err
		}
	}
	c.remind(a)
	c.sayUnapplied(a)
	_, ask, err := c.vpnConfig(ctx, a)
	if err != nil {
		return err
	}
	r := a.reporter()
	over := make(chan error, 1)
	auto := newAutomat(c, ask)
	if auto != nil {
		auto.named, auto.cache = !c.selects(args), m.gatewayCache(a, c.plan)
		auto.own = wanted != nil && scfg.KillSwitch == wanted
	}
	scfg.OnEvent = func(e system.Event) {
		if auto != nil {
			auto.event(e)
		} else if e.Kind == system.EventAsleep && c.plan != nil && c.plan.Profile != nil && c.plan.Reconnect.Automatic && !c.plan.Reconnect.AfterResume {
			offer(over, asleep(c.plan))
		}
		if e.Kind != system.EventNetwork || a.json || a.verbose > 0 {
			tellMachine(r, e)
		}
	}
	var told func()
	scfg.OnFlow, told = tellFlows(r)
	defer told()
	// Nothing of the machine is changed for somebody who may not connect. A service that upholds Always-On acts for nobody, and what
	// that keeps closed is not open because a tunnel may not come up yet.
	keeper := newDoorkeeper(c.plan, scfg.User, scfg.Logger)
	if err := keeper.admit(ctx); err != nil && !(auto != nil && c.plan.Network.AlwaysOn.On && keeper.service()) {
		return err
	}
	sys, err := system.Open(ctx, scfg)
	if errors.Is(err, system.ErrConfig) {
		return &usageError{err: err}
	}
	if err != nil {
		return err
	}
	c.heedDesktop(a)
	c.base.System, c.upstream.dial = sys, sys.DialContext
	if keeper != nil {
		c.base.System = guarded{sys, keeper}
	}
	scripts := newHooks(a, c, scfg.Logger)
	c.base.System = scripts.watch(c.base.System, func() string { return sys.Status().Device })
	g := newAgent(sys, server)
	if scripts != nil {
		g.scripts = scripts.cfg.Dir
	}
	g.plan, g.auto = c.plan, auto
	view := machineView{plan: c.plan, sys: sys, file: m.filterFile, wanted: wanted, demanded: scfg.KillSwitch != wanted, said: a.said}
	if g.explain, err = view.explainer(scfg.Filter, auto); err != nil {
		return errors.Join(err, sys.Close())
	}
	stop, err := a.serveAgent(m.whereFlags, g)
	if err != nil {
		return errors.Join(err, sys.Close())
	}
	defer stop()
	if mode := sys.Status().Firewall.Mode; m.alwaysOn != "" && mode == system.FirewallClosed {
		r.say(event{Event: "system", State: "closed", KillSwitch: mode}, "kill switch, %s: nothing leaves this machine but what makes the tunnel", failureOf(sys.Status().Firewall))
	}
	u := &usage{
		app: a, sys: sys, agent: g, flags: c, hangup: hangupSignal(ctx), removePID: func() {}, over: over, keeper: keeper, hooks: scripts,
	}
	if auto == nil && c.selects(args) && len(c.plan.Network.Hosts) > 0 {
		u.choice = newChooser(c.plan, m.gatewayCache(a, c.plan))
		u.choice.where, u.choice.roundTrip = sys.Outside, u.roundTrip
	}
	if auto == nil {
		return u.leave(u.run(ctx, server, ask, m.alwaysOn != ""), m.closed())
	}
	return u.leave(auto.run(ctx, u), m.closed() || auto.closed())
}

// A usage is the use of tunnels by this machine, one after the other.
type usage struct {
	app    *app
	sys    *system.System
	agent  *agent
	flags  *clientFlags
	hangup <-chan struct{} // closed by SIGHUP
	up     bool            // it was up once
	tunnel *vpn.Tunnel     // the last one, nil if it is closed

	// over gets why the documents end the tunnel.
	over   chan error
	keeper *doorkeeper
	hooks  *hooks
	choice *chooser // of the gateway, nil if nothing is to be measured

	resolver string // by which the names of the last tunnel were asked for

	removePID func()
}

// run has the machine use tunnels. With again, it makes another one when one ends without anybody wanting that.
func (u *usage) run(ctx context.Context, server string, ask *asker, again bool) ending {
	r := u.app.reporter()
	pause := firstRetry
	for {
		t, end := u.dialAny(ctx, server)
		if t != nil {
			pause = firstRetry
			end = u.use(ctx, t, ask)
		}
		if end.wanted() || !again || !passing(end.err, ask) {
			return end
		}
		u.agent.tunnel(nil, end.err)
		r.warn("%s; trying again in %v", oneLine(plainText(end.err)), pause)
		if end, over := u.wait(ctx, time.After(pause)); over {
			return end
		}
		pause = min(2*pause, lastRetry)
	}
}

// passing reports whether another attempt may succeed where one has failed with err.
func passing(err error, ask *asker) bool {
	switch codeOf(err) {
	case exitUnreachable:
		return true
	case exitEnded:
		// A session that is over needs another login, for which there may be nobody to ask.
		return !errors.Is(err, vpn.ErrExpired) || ask.Unattended()
	}
	return errors.Is(err, system.ErrDeleted)
}

// wait waits for somebody who wants an end, or for other.
func (u *usage) wait(ctx context.Context, other <-chan time.Time) (end ending, over bool) {
	select {
	case <-ctx.Done():
		return ending{}, true
	case d := <-u.agent.leave:
		return ending{departure: d}, true
	case <-u.hangup:
		return ending{keep: true}, true
	case <-other:
		return ending{}, false
	}
}

// dial opens a tunnel. Without one it says why.
func (u *usage) dial(ctx context.Context, server string, cfg *vpn.Config) (*vpn.Tunnel, ending) {
	dialing, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		t   *vpn.Tunnel
		err error
	}
	results := make(chan result, 1)
	go func() {
		t, err := vpn.Dial(dialing, server, cfg)
		results <- result{t, err}
	}()
	finish := func(end ending) (*vpn.Tunnel, ending) {
		cancel()
		if r := <-results; r.t != nil {
			r.t.Close()
		}
		return nil, end
	}
	select {
	case r := <-results:
		if r.err != nil && ctx.Err() != nil {
			return nil, ending{}
		}
		return r.t, ending{err: u.flags.blame(r.err)}
	case d := <-u.agent.leave:
		return finish(ending{departure: d})
	case <-u.hangup:
		return finish(ending{keep: true})
	}
}

// use has the machine use an open tunnel until somebody wants an end, or it ends by itself.
func (u *usage) use(ctx context.Context, t *vpn.Tunnel, ask *asker) ending {
	end, err := u.begin(t, ask, u.over)
	defer end()
	defer u.choice.ended()
	if err != nil {
		return ending{err: err}
	}
	select {
	case <-ctx.Done():
		return ending{}
	case d := <-u.agent.leave:
		return ending{departure: d}
	case <-u.hangup:
		return ending{keep: true}
	case err := <-u.over:
		return ending{err: err}
	case <-t.Done():
		u.tunnel = nil
		t.Close()
		return ending{err: t.Err()}
	}
}

// begin begins the use of an open tunnel, and tells over if the rules about users end it. The function that it returns ends what goes
// on beside it, and does not close it.
func (u *usage) begin(t *vpn.Tunnel, ask *asker, over chan<- error) (end func(), err error) {
	r := u.app.reporter()
	ask.leaveAlone()
	u.agent.tunnel(t.Status, nil)
	u.tunnel = t
	if banner := oneLine(t.Status().Banner); banner != "" {
		r.say(event{Event: "message", Message: banner}, "the gateway says: %s", banner)
	}
	watching, unwatch := context.WithCancel(context.Background())
	states := tell(r, t)
	go watchSignals(watching, r, t)
	guarding := make(chan struct{})
	go func() {
		defer close(guarding)
		u.keeper.watch(watching, over)
	}()
	end = func() {
		unwatch()
		<-guarding
		states.stop(t)
	}
	used := u.sys.Status()
	u.resolver = used.Resolver.Backend
	sayMachine(r, used)
	u.hooks.connected(t)
	if !u.up {
		u.up = true
		remove, err := writePID(u.flags.pidFile)
		if err != nil {
			return end, err
		}
		u.removePID = remove
		u.flags.remember(u.app)
		return end, u.app.inBackground()
	}
	return end, nil
}

// leave undoes what was changed, unless a tunnel has failed that nothing is to leave the machine without.
func (u *usage) leave(end ending, closed bool) error {
	r := u.app.reporter()
	defer u.removePID()
	defer u.hooks.finish()
	status := u.sys.Status()
	if u.tunnel != nil {
		how := "logged out"
		if end.keep {
			how = "left without logging out"
			_, _ = u.tunnel.Suspend() // or it has ended by itself
		}
		u.tunnel.Close()
		r.say(event{Event: "tunnel", State: "closed"}, "%s", how)
	}
	if mode := status.Firewall.Mode; !end.wanted() && closed && mode != system.FirewallOff && mode != "" {
		r.warn("the kill switch stays closed; connect again, or lift it with: culvert repair")
		return end.err
	}
	err := u.sys.Close()
	mode := u.sys.Status().Firewall.Mode
	locked := mode == system.FirewallClosed
	if err != nil {
		err = fmt.Errorf("undoing the changes of this machine: %w", err)
	} else if text := undone(status, u.up, cmp.Or(status.Resolver.Backend, u.resolver), locked); text != "" {
		r.say(event{Event: "system", State: "closed", KillSwitch: mode}, "%s", text)
	}
	if d := end.departure; d != nil {
		d.err, d.locked = err, locked
		close(d.done)
	}
	return errors.Join(notCanceled(end.err), err)
}

// stillLocked is what becomes of a locked kill switch at the end.
const stillLocked = "the kill switch stays closed, as it is locked or policy demands it; what lifts it is culvert repair"

// undone says what of s is as before, and "" if nothing was changed. Up says that a tunnel was up, resolver by what names were asked for,
// locked that the kill switch stays.
func undone(s system.Status, up bool, resolver string, locked bool) string {
	var what []string
	if up {
		what = append(what, "addresses and routes")
	}
	if resolver != "" {
		what = append(what, "DNS ("+resolver+")")
	}
	if s.Firewall.Mode != system.FirewallOff && s.Firewall.Mode != "" && !locked {
		what = append(what, "kill switch")
	}
	var parts []string
	if len(what) > 0 {
		parts = append(parts, "undone: "+strings.Join(what, ", "))
	}
	if locked {
		parts = append(parts, stillLocked)
	}
	return strings.Join(parts, "; ")
}

// sayMachine tells how the machine uses a tunnel.
func sayMachine(r *reporter, s system.Status) {
	e := event{
		Event: "system", State: "connected", Device: s.Device, Namespace: s.Namespace, MTU: s.MTU, Routes: s.Routes.Tunnel, Direct: s.Routes.Direct,
		Resolver: s.Resolver.Backend, DataPath: s.DataPath.Path.String(), KillSwitch: s.Firewall.Mode,
	}
	for _, p := range s.Addresses {
		e.Addresses = append(e.Addresses, p.Addr())
	}
	for _, d := range s.Resolver.Servers {
		e.DNS = append(e.DNS, d.String())
	}
	r.say(e, "%s", machineText(s))
}

// machineText says how the machine uses a tunnel.
func machineText(s system.Status) string {
	parts := []string{"this machine uses " + s.Device + orNothing(" in the namespace ", s.Namespace)}
	if s.Routes.Tunnels > 0 {
		parts = append(parts, "for "+some(s.Routes.Tunnel[:min(6, len(s.Routes.Tunnel))], s.Routes.Tunnels))
	}
	text := strings.Join(parts, " ")
	if s.Routes.Directs > 0 {
		text += "; outside stay " + some(s.Routes.Direct[:min(6, len(s.Routes.Direct))], s.Routes.Directs)
	}
	if s.Routes.Judged {
		text += "; all flows are taken to be judged"
	}
	if n := s.Resolver; n.Backend != "" {
		text += "; names by " + n.Backend
		if n.Reason != "" {
			text += " (" + n.Reason + ")"
		}
		if n.Listen != "" {
			text += " and the proxy at " + n.Listen
		}
	}
	text += "; " + s.DataPath.Path.String() + " path" + orNothing(": ", s.DataPath.Reason)
	if s.Firewall.Mode != system.FirewallOff && s.Firewall.Mode != "" {
		text += "; kill switch " + failureOf(s.Firewall)
	}
	return oneLine(text)
}

// failureOf says what the kill switch is when the tunnel fails: closed, open or locked.
func failureOf(f system.FirewallStatus) string {
	if f.Locked && f.OnFailure == "closed" {
		return "locked"
	}
	return f.OnFailure
}

// tellMachine tells what happens to the machine.
func tellMachine(r *reporter, e system.Event) {
	r.say(event{Event: "system", Kind: e.Kind, Message: oneLine(e.What), Healed: e.Healed, Error: oneLine(e.Err)}, "%s", eventText(e))
}
