package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"culvert.example/vpn/policy/network/portal"
	"culvert.example/vpn/policy/network/selection"
	"culvert.example/vpn/policy/network/trusted"
	"culvert.example/vpn/policy/profile"
)

const (
	// askTime is how long AskTrusted may take before the network counts as untrusted, and measureTime how long Measure may.
	askTime     = 30 * time.Second
	measureTime = 2 * selection.Patience

	// flap is how long a tunnel must have been up for the next one to be dialled without a pause.
	flap = time.Minute

	// calm is the least time between two network changes that have pauses cut short.
	calm = 2 * time.Second

	// portalRetry is how often a gateway is dialled although a portal seems to be before it.
	portalRetry = time.Minute

	// firewallRetry is when a firewall that could not be set is tried again.
	firewallRetry = 2 * time.Second

	maxUsers = 256
)

// again are the pauses after which a network is asked again that looks like the trusted one and has not proved it, since a network
// that has just come up may not carry anything yet.
var again = [...]time.Duration{5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute}

// A phase is what a Manager has done last about the tunnel.
type phase string

const (
	down       phase = "disconnected"
	measuring  phase = "choosing a gateway"
	connecting phase = "connecting"
	up         phase = "connected"
	paused     phase = "paused"
	resuming   phase = "resuming"
)

// A hold keeps a Manager from connecting by itself.
type hold string

const (
	free            hold = ""
	heldByUser      hold = "a person has disconnected"
	heldByTimeout   hold = "the session was too old, and BypassConnectUponSessionTimeout is set"
	heldByLogin     hold = "the login was refused"
	heldByLogonRule hold = "the rules about users do not permit a tunnel"
	heldByLogoff    hold = "the user has logged off"
)

// A Manager decides. Make one with [New]. It is not for use by several goroutines at once.
type Manager struct {
	cfg     Config
	running bool
	exempt  bool

	// The network.
	links    []trusted.Link
	finding  trusted.Finding
	askRun   uint64
	asking   bool
	askAt    time.Time // when it is asked again, or is given up
	askTries int
	home     bool // the last verdict that was one was Trusted

	// What a person wants.
	manual     bool // a tunnel
	onStart    bool // manual is not a person's word, but ConnectOnStart's
	chosen     string
	userPaused bool
	hold       hold
	users      map[string]bool // who are logged on, and whether only over a network
	turns      uint64          // how often somebody has logged on or off
	asAsked    uint64          // turns when the last attempt began
	owner      string          // of the tunnel
	retained   bool            // the owner has logged off

	// The tunnel.
	phase       phase
	run         uint64
	host        string // its name
	server      string
	seq         *selection.Sequence
	selector    *selection.Selector
	selectWhy   string
	candidates  map[string]string // server to name, while measuring
	measureBy   time.Time
	homeGrown   bool // it was started, or last seen, in the trusted network that the machine is in
	fresh       bool // no verdict since it was started
	since       time.Time
	notBefore   time.Time
	flapPause   time.Duration
	restartedAt time.Time
	lastReason  Reason
	lastErr     string

	// Captive portals.
	portal      *portal.Machine
	portalNext  time.Time
	portalWaits time.Time // no attempt before
	look, looks bool
	allowed     bool

	// The firewall.
	current    Firewall
	told       bool
	firewallAt time.Time

	actions []Action
	next    time.Time
}

// New returns a Manager, which knows what an earlier one had saved, and which has not been started. The configuration must be valid.
func New(cfg Config, cache selection.Cache, now time.Time) (*Manager, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m := &Manager{cfg: cfg, phase: down, since: now, users: map[string]bool{}, selector: selection.NewSelector(cfg.Selection, cache, now)}
	m.portal = portal.New(m.portalConfig())
	m.finding = trusted.Finding{Why: "the network has not been looked at yet"}
	return m, nil
}

func (m *Manager) portalConfig() portal.Config {
	if !m.cfg.AlwaysOn.Remediation || !m.cfg.AlwaysOn.Closed {
		return portal.Config{}
	}
	return portal.Config{Window: m.cfg.AlwaysOn.Window}
}

// Step tells the Manager what has happened, and that it is now. It returns when it wants to be told of the time at the latest, the
// zero time for never, and what is to be done. An error says that a command of a person, a redirect or a Config was refused and
// nothing has changed; for what policy does not allow it is a [*NotAllowedError]. Times must not go back.
func (m *Manager) Step(now time.Time, e Event) (next time.Time, actions []Action, err error) {
	if err := m.refuse(e); err != nil {
		return m.next, nil, err
	}
	m.actions, m.next = nil, time.Time{}
	switch e.Kind {
	case Start:
		if e.Links != nil {
			m.links = slices.Clone(e.Links[:min(len(e.Links), trusted.MaxLinks)])
		}
		m.start(now)
	case Stop:
		m.drop(now, ByStop)
		m.running, m.manual, m.userPaused, m.hold = false, false, false, free
	case Reconfigured:
		m.configure(now, *e.Config)
	case NetworkChanged:
		m.links = slices.Clone(e.Links[:min(len(e.Links), trusted.MaxLinks)])
		m.changed(now)
	case Suspend:
		m.suspended(now, now)
	case Resume:
		m.suspended(now, now.Add(-max(e.Asleep, 0)))
		m.changed(now)
	case Logon:
		m.turns++
		m.logon(now, e.User, e.Remote)
	case Logoff:
		m.turns++
		m.logoff(now, e.User)
	case UserConnect:
		m.userConnect(now, e.Host)
	case UserDisconnect:
		m.drop(now, ByUser)
		m.manual, m.userPaused, m.hold = false, false, heldByUser
	case UserPause:
		m.userPaused = true
	case UserResume:
		m.userPaused = false
	case UserPortal:
		m.step(now, portal.Event{Kind: portal.Again})
	case Redirected:
		if e.Run == m.run && m.phase == connecting && m.seq != nil {
			if err = m.seq.Redirected(e.Server); err == nil {
				m.server = e.Server
			}
		} else {
			err = errors.New("network: that attempt is over")
		}
	case TunnelUp:
		m.tunnelUp(now, e)
	case TunnelDown:
		if e.Run == m.run && m.phase != down {
			m.tunnelDown(now, e)
		}
	case Asked:
		if m.asking && e.Run == m.askRun {
			m.asked(now, m.cfg.Trusted.Judge(m.links, e.Answers))
		}
	case Looked:
		m.step(now, portal.Event{Kind: portal.Reported, Run: e.Run, Report: e.Report})
	case Measured:
		if m.phase == measuring && e.Run == m.run {
			m.measured(now, e.Samples)
		}
	case FirewallFailed:
		m.told, m.firewallAt = false, now.Add(firewallRetry)
	}
	m.timers(now)
	m.reconcile(now)
	m.setFirewall(now)
	m.wake(m.firewallAt)
	m.wake(m.portalNext)
	return m.next, m.actions, err
}

func (m *Manager) do(a Action) { m.actions = append(m.actions, a) }

// wake asks to be told of a time; the zero time is none.
func (m *Manager) wake(at time.Time) {
	if !at.IsZero() && (m.next.IsZero() || at.Before(m.next)) {
		m.next = at
	}
}

func (m *Manager) notify(kind, format string, args ...any) {
	m.do(Action{Do: Notify, Notice: Notice{Kind: kind, Text: fmt.Sprintf(format, args...)}})
}

func (m *Manager) start(now time.Time) {
	if m.running {
		return
	}
	m.running = true
	if m.cfg.ConnectOnStart && !m.cfg.Disabled {
		m.manual, m.onStart = true, true
	}
	m.changed(now)
}

func (m *Manager) configure(now time.Time, cfg Config) {
	if m.phase == connecting || m.phase == measuring {
		m.drop(now, ByChange) // the gateway may be none any more
	}
	m.cfg = cfg
	m.selector.Configure(cfg.Selection)
	m.portal.Configure(m.portalConfig())
	m.seq = nil
	m.asking, m.askAt = false, time.Time{}
	m.changed(now)
}

// timers does what is due.
func (m *Manager) timers(now time.Time) {
	if !m.askAt.IsZero() && !now.Before(m.askAt) {
		if m.asking {
			m.asked(now, trusted.Finding{Verdict: trusted.Untrusted, Why: "the trusted servers were not asked in time"})
		} else {
			m.judge(now)
		}
	}
	if m.phase == measuring && !now.Before(m.measureBy) {
		m.measured(now, nil)
	}
	if !m.portalNext.IsZero() && !now.Before(m.portalNext) {
		m.step(now, portal.Event{})
	}
	m.wake(m.askAt)
	if m.phase == measuring {
		m.wake(m.measureBy)
	}
}

// changed looks at the network anew.
func (m *Manager) changed(now time.Time) {
	if !m.running {
		return
	}
	m.askTries = 0
	m.judge(now)
	m.look, m.portalWaits = true, time.Time{}
	if m.seq != nil && now.Sub(m.restartedAt) >= calm && m.phase != connecting {
		m.seq.Restart()
		m.restartedAt = now
	}
}

// judge finds out whether the network is trusted, and asks the servers that have to prove it.
func (m *Manager) judge(now time.Time) {
	m.asking, m.askAt = false, time.Time{}
	if !m.cfg.Automatic {
		m.finding = trusted.Finding{Why: "AutomaticVPNPolicy is off"}
		return
	}
	f := m.cfg.Trusted.Links(m.links)
	if f.Verdict == trusted.Untrusted || len(m.cfg.Trusted.HTTPS) == 0 && (m.cfg.LeaveDNSAlone || len(m.cfg.Trusted.Asks()) == 0) {
		m.found(f)
		return
	}
	f.Verdict, f.Why = trusted.Unknown, "the servers of the trusted network are being asked"
	m.found(f)
	m.askRun++
	m.asking, m.askAt = true, now.Add(askTime)
	rules := m.cfg.Trusted
	if m.cfg.LeaveDNSAlone {
		rules.Servers = nil
	}
	m.do(Action{Do: AskTrusted, Run: m.askRun, Rules: rules})
}

// asked takes what came of asking.
func (m *Manager) asked(now time.Time, f trusted.Finding) {
	m.asking, m.askAt = false, time.Time{}
	m.found(f)
	if f.Verdict == trusted.Untrusted {
		m.askAt = now.Add(again[min(m.askTries, len(again)-1)])
		m.askTries++
	}
}

// found takes a verdict, and what it does to the words of a person.
func (m *Manager) found(f trusted.Finding) {
	m.finding = f
	switch f.Verdict {
	case trusted.Trusted:
		if m.fresh {
			m.homeGrown = true
		}
		m.fresh = false
		if !m.home && (m.hold == heldByUser || m.hold == heldByTimeout) {
			m.hold = free // the machine has come home, and what comes after that is another matter
		}
		m.home = true
	case trusted.Untrusted:
		m.fresh, m.homeGrown, m.home = false, false, false
	}
}

func (m *Manager) suspended(now, at time.Time) {
	if m.phase != up && m.phase != resuming {
		return
	}
	m.selector.Ended(at)
	if m.cfg.DisconnectOnSuspend {
		m.drop(now, BySuspend)
		m.manual = false
	}
}

func (m *Manager) logon(now time.Time, user string, remote bool) {
	_, known := m.users[user]
	if len(m.users) == 0 && m.hold != heldByUser {
		m.hold = free
	}
	if m.phase == up && m.owner == "" && !remote && len(m.locals()) == 0 {
		m.owner = user // it came up before anybody had logged on, for whoever would
	}
	if known || len(m.users) < maxUsers {
		m.users[user] = remote
	}
	if m.hold == heldByLogonRule || m.hold == heldByLogoff && !known {
		m.hold = free
	}
	if !m.retained || known {
		return
	}
	m.retained = false
	if user != m.owner && !m.cfg.AnyUser {
		m.drop(now, ByLogoff)
		m.manual = false
	}
}

// locals returns the users who are logged on at the machine itself.
func (m *Manager) locals() (users []string) {
	for u, remote := range m.users {
		if !remote {
			users = append(users, u)
		}
	}
	return users
}

// sole returns the user of a tunnel that nobody in particular has asked for: the only one at the machine, "" if there are none or several.
func (m *Manager) sole() string {
	if users := m.locals(); len(users) == 1 {
		return users[0]
	}
	return ""
}

func (m *Manager) logoff(now time.Time, user string) {
	delete(m.users, user)
	if m.hold == heldByLogonRule {
		m.hold = free
	}
	if user != m.owner || m.owner == "" || m.phase == down {
		return
	}
	if m.cfg.RetainOnLogoff && (m.phase == up || m.phase == paused || m.phase == resuming) {
		m.retained = true
		return
	}
	m.drop(now, ByLogoff)
	m.manual, m.hold = false, heldByLogoff
}

func (m *Manager) userConnect(now time.Time, host string) {
	m.hold, m.userPaused, m.notBefore, m.flapPause = free, false, time.Time{}, 0
	if host != "" && m.phase != down && host != m.host {
		if h, ok := m.cfg.host(host); !ok || h.Name != m.host {
			m.drop(now, ByChange)
		}
	}
	if host != m.chosen {
		m.seq = nil
	}
	if !m.manual || m.phase == down {
		m.fresh, m.homeGrown = m.finding.Verdict == trusted.Unknown, m.finding.Verdict == trusted.Trusted
	}
	m.manual, m.onStart, m.chosen = true, false, host
	if m.seq != nil && m.phase == down {
		m.seq.Restart()
	}
	m.portalWaits = time.Time{}
}

func (m *Manager) tunnelUp(now time.Time, e Event) {
	if e.Run != m.run || m.phase != connecting && m.phase != resuming {
		return
	}
	m.enter(now, up)
	m.seq, m.lastReason, m.lastErr = nil, "", ""
	m.exempt = m.exempt || e.Exempt
	if e.User != "" {
		m.owner = e.User
	} else if m.owner == "" {
		m.owner = m.sole()
	}
	_, here := m.users[m.owner]
	m.retained = m.cfg.RetainOnLogoff && m.owner != "" && len(m.users) > 0 && !here
	if m.cfg.Select {
		if h, ok := m.cfg.host(m.host); ok {
			m.selector.Used(h.Server)
		}
		m.do(Action{Do: Save, Cache: m.selector.Cache()})
	}
}

func (m *Manager) tunnelDown(now time.Time, e Event) {
	was := m.phase
	m.lastReason, m.lastErr = e.Reason, clip(e.Err)
	if was == up || was == paused {
		m.ended(now)
		// A tunnel that falls down as soon as it is up is not to be dialled in a circle, unless the gateway had no part in that.
		if now.Sub(m.since) < flap && e.Reason != LogonRules {
			m.flapPause = min(max(2*m.flapPause, selection.DefaultPause), selection.DefaultMaxPause)
			m.notBefore = now.Add(m.flapPause)
		} else {
			m.flapPause = 0
		}
	}
	m.enter(now, down)
	switch e.Reason {
	case LoginFailed:
		m.hold, m.manual, m.seq = heldByLogin, false, nil
		m.notify("failed", "The login was refused. Connect again to try another time.")
	case LogonRules:
		if was == connecting && m.turns != m.asAsked {
			break // it was judged by who was logged on before
		}
		m.hold, m.manual, m.seq = heldByLogonRule, false, nil
		m.notify("ended", "The rules about users do not permit a tunnel now.")
	case SessionTimeout:
		if m.cfg.Automatic && m.cfg.BypassSessionTimeout {
			m.hold, m.manual = heldByTimeout, false
			m.notify("ended", "The session has ended for its age. Connect again to log in.")
		} else if !m.cfg.Automatic {
			m.manual = false
			m.notify("ended", "The session has ended for its age.")
		}
	case IdleTimeout, ByGateway, ByUser:
		m.manual = false
		if e.Reason == ByUser {
			m.hold = heldByUser
		}
		m.notBefore = maxTime(m.notBefore, now.Add(selection.DefaultPause))
		m.notify("ended", "The tunnel has ended: %s.", e.Reason)
	default:
		if was == connecting && m.seq != nil {
			m.seq.Failed(now)
		}
		if !m.looks {
			m.look = true
		}
	}
}

func clip(s string) string { return s[:min(len(s), 500)] }

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (m *Manager) enter(now time.Time, p phase) { m.phase, m.since = p, now }

// ended notes that a tunnel that was up is none any more.
func (m *Manager) ended(now time.Time) {
	m.selector.Ended(now)
	if m.cfg.Select {
		m.do(Action{Do: Save, Cache: m.selector.Cache()})
	}
}

// drop ends the tunnel or the attempt.
func (m *Manager) drop(now time.Time, why Reason) {
	if m.phase == down {
		return
	}
	if m.phase == up {
		m.ended(now)
	}
	m.do(Action{Do: Disconnect, Run: m.run, Reason: why})
	m.enter(now, down)
	m.run++ // what still comes of it is about the past
	m.lastReason, m.lastErr = why, ""
	m.seq, m.retained = nil, false
}

// A want is what a Manager wants of the tunnel.
type want uint8

const (
	keep want = iota // it as it is
	wantUp
	wantDown
	wantPaused
)

// wants is the decision table about the tunnel.
func (m *Manager) wants() want {
	home := m.cfg.Automatic && m.finding.Verdict == trusted.Trusted
	switch {
	case !m.running, m.cfg.Disabled, m.hold != free:
		return wantDown
	case m.userPaused:
		return wantPaused
	case home && !(m.manual && m.homeGrown):
		switch m.cfg.TrustedPolicy {
		case profile.Connect:
			return m.byItself()
		case profile.Pause:
			return wantPaused
		case profile.DoNothing:
			if m.manual {
				return wantUp
			}
			return keep
		}
		return wantDown // Disconnect is the default
	case m.onStart && m.phase == down && m.cfg.Automatic && m.finding.Verdict == trusted.Unknown:
		return keep // not yet
	case m.manual:
		return wantUp
	case !m.cfg.Automatic, m.finding.Verdict == trusted.Unknown:
		return keep
	case m.phase == paused:
		return wantUp
	case m.cfg.UntrustedPolicy == profile.DoNothing && !m.alwaysOn():
		return keep
	}
	return m.byItself()
}

// unattended reports whether no tunnel is made because nobody is logged on.
func (m *Manager) unattended() bool { return m.cfg.NeedUser && len(m.users) == 0 }

// byItself says that a tunnel is wanted without a person's word.
func (m *Manager) byItself() want {
	if m.unattended() || len(m.cfg.Hosts) == 0 && m.chosen == "" {
		return keep
	}
	return wantUp
}

// reconcile does what makes the tunnel as it is wanted, and then has the portal machine follow, which may change that once.
func (m *Manager) reconcile(now time.Time) {
	for range 3 {
		m.steer(now, m.wants())
		if !m.follow(now, m.wants()) {
			return
		}
	}
}

func (m *Manager) steer(now time.Time, w want) {
	switch {
	case w == wantDown, w == wantPaused && (m.phase == measuring || m.phase == connecting):
		if m.phase != down {
			why := ByPolicy
			if m.cfg.Disabled {
				why = ByStop
			} else if m.hold == heldByUser {
				why = ByUser
			}
			m.drop(now, why)
		}
		if home := m.finding.Verdict == trusted.Trusted; home && w == wantDown {
			m.manual = false
		}
	case w == wantPaused && (m.phase == up || m.phase == resuming):
		m.do(Action{Do: Pause, Run: m.run})
		m.enter(now, paused)
	case w == wantUp && m.phase == paused:
		m.do(Action{Do: ResumeTunnel, Run: m.run, Server: m.server, Host: m.host})
		m.enter(now, resuming)
	case w == wantUp && m.phase == down:
		m.connect(now)
	}
}

// connect makes the next attempt, or waits for its time.
func (m *Manager) connect(now time.Time) {
	if now.Before(m.notBefore) {
		m.wake(m.notBefore)
		return
	}
	if r, ok := m.portal.Report(); ok && r.Verdict == portal.Portal {
		if m.portalWaits.IsZero() {
			m.portalWaits = now.Add(portalRetry)
		}
		if now.Before(m.portalWaits) {
			m.wake(m.portalWaits)
			return
		}
		m.portalWaits = now.Add(portalRetry)
	}
	if m.seq == nil && !m.plan(now) {
		return
	}
	server, at, ok := m.seq.Next()
	switch {
	case !ok:
		m.manual, m.seq = false, nil
		m.notBefore = now.Add(selection.DefaultPause)
		m.notify("failed", "No gateway could be reached.")
	case at.After(now):
		m.wake(at)
	default:
		m.run++
		m.server, m.host = server, m.hostOf(server)
		m.asAsked, m.owner = m.turns, m.sole()
		m.enter(now, connecting)
		m.do(Action{Do: Connect, Run: m.run, Server: server, Host: m.host})
	}
}

// plan decides which gateways are tried. It reports false if they have to be measured first.
func (m *Manager) plan(now time.Time) bool {
	if m.chosen != "" {
		h, ok := m.cfg.host(m.chosen)
		if !ok {
			h = Host{Name: m.chosen, Server: m.chosen}
		}
		m.walk(h, true)
		return true
	}
	if len(m.cfg.Hosts) == 0 {
		m.walk(Host{}, false)
		return true
	}
	if m.cfg.Select {
		m.candidates = map[string]string{}
		var servers []string
		for _, h := range m.cfg.Hosts {
			if !slices.Contains(m.cfg.Exclude, h.Name) && m.candidates[h.Server] == "" {
				m.candidates[h.Server] = h.Name
				servers = append(servers, h.Server)
			}
		}
		if len(servers) > 0 {
			c := m.selector.Choose(now, m.location(), servers)
			m.selectWhy = c.Why
			if c.Measure {
				m.run++
				m.enter(now, measuring)
				m.measureBy = now.Add(measureTime)
				m.wake(m.measureBy)
				m.do(Action{Do: Measure, Run: m.run, Servers: servers})
				return false
			}
			h, _ := m.cfg.host(m.candidates[c.Server])
			m.walk(h, false)
			return true
		}
	}
	h, ok := m.cfg.host(m.cfg.Default)
	if !ok || m.cfg.Default == "" {
		h = m.cfg.Hosts[0]
	}
	m.walk(h, false)
	return true
}

func (m *Manager) measured(now time.Time, samples []selection.Sample) {
	var servers []string
	for _, h := range m.cfg.Hosts {
		if m.candidates[h.Server] == h.Name {
			servers = append(servers, h.Server)
		}
	}
	c := m.selector.Measured(now, m.location(), servers, samples)
	m.selectWhy = c.Why
	m.enter(now, down)
	h, ok := m.cfg.host(m.candidates[c.Server])
	if !ok && len(m.cfg.Hosts) > 0 {
		h = m.cfg.Hosts[0]
	}
	m.walk(h, false)
	m.do(Action{Do: Save, Cache: m.selector.Cache()})
}

// walk makes the sequence for a host.
func (m *Manager) walk(h Host, fixed bool) {
	p := selection.Plan{Servers: append([]string{h.Server}, h.Backups...), Members: h.Members, ListedOnly: m.alwaysOn(), Spread: m.cfg.Spread}
	if !fixed {
		for _, o := range m.cfg.Hosts {
			p.Others = append(p.Others, o.Server)
			p.Others = append(p.Others, o.Backups...)
			p.Members = append(p.Members, o.Members...)
		}
	}
	if persistent := m.cfg.Automatic && m.finding.Verdict != trusted.Trusted && (m.alwaysOn() || m.cfg.UntrustedPolicy != profile.DoNothing) ||
		m.cfg.Automatic && m.finding.Verdict == trusted.Trusted && m.cfg.TrustedPolicy == profile.Connect; !persistent {
		p.Rounds = 1
	}
	m.seq, m.host = selection.NewSequence(p), h.Name
}

// hostOf returns the name of the host that a server belongs to, of several the one that is being tried.
func (m *Manager) hostOf(server string) string {
	of := func(h Host) bool { return h.Server == server || slices.Contains(h.Backups, server) }
	if h, ok := m.cfg.host(m.host); !ok || of(h) {
		return m.host
	}
	if i := slices.IndexFunc(m.cfg.Hosts, of); i >= 0 {
		return m.cfg.Hosts[i].Name
	}
	return m.host
}

func (m *Manager) location() selection.Location {
	var suffixes []string
	var servers []netip.Addr
	for _, l := range m.links {
		suffixes = append(suffixes, l.Suffixes...)
		servers = append(servers, l.Servers...)
	}
	return selection.LocationOf(suffixes, servers)
}

// follow has the portal machine know what the tunnel and the firewall are about. It reports whether that has changed what is
// wanted of the tunnel.
func (m *Manager) follow(now time.Time, w want) (again bool) {
	if allow := m.mode() == Closed && m.cfg.AlwaysOn.Closed && m.cfg.AlwaysOn.Remediation; allow != m.allowed {
		m.allowed = allow
		kind := portal.Forbid
		if allow {
			kind = portal.Allow
		}
		again = m.step(now, portal.Event{Kind: kind})
	}
	if m.cfg.NoPortals || w != wantUp || m.phase == up || m.phase == resuming {
		if m.looks {
			m.looks = false
			again = m.step(now, portal.Event{Kind: portal.Rest}) || again
		}
	} else if m.look {
		m.look, m.looks = false, true
		again = m.step(now, portal.Event{Kind: portal.Look}) || again
	}
	return again
}

// step tells the portal machine something and does what it says.
func (m *Manager) step(now time.Time, e portal.Event) (again bool) {
	next, actions := m.portal.Step(now, e)
	m.portalNext = next
	report, _ := m.portal.Report()
	for _, a := range actions {
		switch a.Do {
		case portal.Probe:
			m.do(Action{Do: AskPortal, Run: a.Run, Servers: m.gateways()})
		case portal.Open:
			m.do(Action{Do: OpenPortal, For: a.For})
		case portal.Close:
			m.do(Action{Do: ClosePortal})
		case portal.Found:
			n := Notice{Kind: "portal", Text: "A captive portal lies before the gateway: log in to the network.", URL: report.URL, Browser: m.cfg.PortalBrowser}
			if m.mode() == Closed && !m.allowed {
				n = Notice{Kind: "portal-blocked", Text: "This network wants you to log in to it, which the policy of your organisation (AllowCaptivePortalRemediation) does not allow."}
			}
			m.do(Action{Do: Notify, Notice: n})
			if m.phase == connecting || m.phase == measuring {
				m.drop(now, BehindPortal)
				again = true
			}
		case portal.Clean:
			m.portalWaits = time.Time{}
			m.notify("portal-clean", "The gateway can be reached.")
			if m.seq != nil && m.phase == down {
				m.seq.Restart()
			}
			again = true
		case portal.Expired:
			m.notify("portal-expired", "The time to log in to the network is over, and it is closed again.")
		}
	}
	return again
}

// gateways returns whom to ask about a portal: the server of the last attempt, what stands in for it, and then all others. The first
// may be dead, so that one alone would never tell that the portal is gone.
func (m *Manager) gateways() []string {
	all := []string{m.server}
	name := m.host
	if name == "" {
		name = m.cfg.Default
	}
	if h, ok := m.cfg.host(name); ok && name != "" {
		all = append(append(all, h.Server), h.Backups...)
	}
	var few []string
	for _, s := range append(all, m.reachable()...) {
		if s != "" && !slices.Contains(few, s) && len(few) < 4 {
			few = append(few, s)
		}
	}
	return few
}

// refuse returns why an event must not happen.
func (m *Manager) refuse(e Event) error {
	no := func(what, setting, value string) error {
		return &NotAllowedError{What: what, Setting: setting, Value: value, Document: m.cfg.Document}
	}
	switch e.Kind {
	case Reconfigured:
		if e.Config == nil {
			return fmt.Errorf("%w: there is none", ErrInvalid)
		}
		return e.Config.Validate()
	case UserConnect:
		if m.cfg.Disabled {
			return no("connect", "ServiceDisable", "true")
		}
		if !m.running {
			return errors.New("network: not started")
		}
		if _, listed := m.cfg.host(e.Host); e.Host != "" && !listed {
			if len(e.Host) > 260 {
				return errors.New("network: the name of a gateway has at most 260 characters")
			}
			if m.alwaysOn() {
				return no("connect to a gateway that is not in the ServerList", "AlwaysOn", "true")
			}
			if !m.cfg.ManualHosts {
				return no("connect to a gateway that is not in the ServerList", "AllowManualHostInput", "false")
			}
		}
		if e.Host == "" && len(m.cfg.Hosts) == 0 {
			return errors.New("network: name a gateway, since the ServerList has none")
		}
	case UserDisconnect, UserPause:
		if m.enforced() && !m.cfg.AlwaysOn.AllowDisconnect {
			return no(map[Kind]string{UserDisconnect: "disconnect", UserPause: "pause"}[e.Kind], "AllowVPNDisconnect", "false")
		}
		if e.Kind == UserPause && m.phase != up {
			return errors.New("network: there is no tunnel to pause")
		}
	case UserPortal:
		if m.mode() == Closed && !m.allowed {
			if !m.cfg.AlwaysOn.Remediation {
				return no("open the network for a captive portal", "AllowCaptivePortalRemediation", "false")
			}
			return no("open the network for a captive portal", "ConnectFailurePolicy", "Open")
		}
	}
	return nil
}
