package system

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"culvert.example/vpn/flow"
	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/flow/owner"
	"culvert.example/vpn/split"
	"culvert.example/vpn/stack"
)

// How patient the flow path is watched. All together a failure is over within a second.
const (
	flowInterval = 100 * time.Millisecond
	flowSilence  = 400 * time.Millisecond
	decideTime   = 200 * time.Millisecond
	switchTime   = 400 * time.Millisecond
	startTime    = 5 * time.Second
	routeTime    = 250 * time.Millisecond // of it, for the routes
)

// openCrossing makes what the flow path needs for as long as the tunnel lives.
func (t *tunnel) openCrossing() error {
	var err error
	t.stack, err = stack.New(stack.Config{
		Addresses: t.lease.Addresses, MTU: t.mtu, Logger: t.s.log,
		AcceptTCP: func(ctx context.Context, r *stack.TCPRequest) {
			if in := t.interceptor(); in != nil {
				in.InwardTCP(ctx, r)
			}
		},
		AcceptUDP: func(ctx context.Context, r *stack.UDPRequest) {
			if in := t.interceptor(); in != nil {
				in.InwardUDP(ctx, r)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("system: %w", err)
	}
	err = t.s.inner.do(func() (err error) {
		t.owners, err = owner.New(owner.Config{})
		return err
	})
	if errors.Is(err, owner.ErrUnsupported) {
		t.s.log.Warn("the programs of flows are not known", "err", err)
	} else if err != nil {
		return fmt.Errorf("system: %w", err)
	}
	t.sw = flow.NewSwitch(t.tun)
	t.crossing = &crossing{t: t, side: t.sw.Side(), inner: t.stack, link: t.stack.Link()}
	t.judge = flow.NewJudge(t.s.rules, t.way)
	t.judge.Names = true
	return nil
}

// supervise starts the flow path. Until it is there, nothing passes.
func (t *tunnel) supervise(ctx context.Context) error {
	k := t.s.cfg.KillSwitch
	current := new(atomic.Pointer[flow.Side])
	var last Event // that was noted of the path
	sv, err := flow.Supervise(flow.SupervisorConfig{
		Health:   health.Config{Close: k != nil && !k.Open, Silence: flowSilence, SwitchTime: switchTime},
		Interval: flowInterval,
		Open: func(failed func(health.Part, health.Reason, error)) (*flow.Interceptor, error) {
			return t.intercept(current, failed)
		},
		Switch: func(ctx context.Context, to health.Path) error { return t.take(ctx, current, to) },
		Changed: func(r health.Report) {
			e := pathEvent(r)
			if t.s.rules != nil && r.Path == health.Packet && r.Reason != health.None {
				e.What += "; the content filter is not in force there, until: " + health.RevertCommand
			}
			if e != last && e.What != "" {
				last = e
				t.s.note(e)
			}
		},
		Logger: t.s.log,
	})
	if err != nil {
		return fmt.Errorf("system: %w", err)
	}
	t.supervisor.Store(sv)
	// A tunnel that is up is one that packets get through, or that says why not.
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	sv.Watch(ctx, func(r health.Report) {
		if r.Healthy || r.Reason != health.None {
			cancel()
		}
	})
	return nil
}

// pathEvent is the event that packets take the path of r. It says nothing while the path only comes or goes with the tunnel.
func pathEvent(r health.Report) Event {
	why := r.Why()
	if why == "" && r.Path != health.Flow {
		return Event{}
	}
	e := Event{Kind: EventDataPath, Err: r.Err}
	switch r.Path {
	case health.Nowhere:
		e.What = "nothing passes any more"
	default:
		e.What = "packets take the " + r.Path.String() + " path"
	}
	if why != "" {
		e.What += ", since " + why
	}
	return e
}

// interceptor returns the flow path that runs, nil if there is none.
func (t *tunnel) interceptor() *flow.Interceptor {
	if sv := t.supervisor.Load(); sv != nil {
		return sv.Interceptor()
	}
	return nil
}

// intercept starts a flow path.
func (t *tunnel) intercept(current *atomic.Pointer[flow.Side], failed func(health.Part, health.Reason, error)) (*flow.Interceptor, error) {
	s := t.s
	side := t.sw.Side()
	cfg := flow.Config{
		Device: side, Decider: t.judge, Tunnel: t.stack.DialContext, Direct: s.dialDirect, Ping: t.ping, Failed: failed, DecideTime: decideTime, Noted: s.cfg.OnFlow, Logger: s.log,
	}
	if s.interpose != nil {
		cfg.Decider = s.interpose(t.judge)
	}
	if t.owners != nil {
		cfg.Owners = t.owners
	}
	if t.names != nil {
		cfg.Names, cfg.Confirm = t.names.seen.known, t.names.seen.confirm
		if server := t.names.server; server != nil {
			cfg.DNS = func(ctx context.Context, _ *flow.Flow, query []byte) ([]byte, error) {
				return server.Exchange(ctx, query)
			}
		}
	}
	in, err := flow.New(cfg)
	if err != nil {
		return nil, err
	}
	current.Store(side)
	return in, nil
}

// take has packets take another path.
func (t *tunnel) take(ctx context.Context, current *atomic.Pointer[flow.Side], to health.Path) error {
	var side *flow.Side
	switch to {
	case health.Flow:
		side = current.Load()
	case health.Packet:
		side = t.crossing.side
	}
	t.s.mu.Lock()
	was := t.intercepts
	t.intercepts = to != health.Packet
	now := t.intercepts
	t.s.mu.Unlock()
	if was != now {
		// For a moment nothing passes, so that nothing takes the one path by the routes of the other.
		t.sw.Select(nil)
		t.crossing.path.Store(uint32(health.Nowhere))
		ctx, cancel := context.WithTimeout(ctx, routeTime)
		err := t.s.apply(ctx)
		cancel()
		if err != nil {
			// What belongs outside goes through the tunnel until it can be changed, which is no leak.
			t.s.log.Warn("the routes for another data path are late", "err", err)
			t.kick(workRoutes)
		}
	}
	t.crossing.path.Store(uint32(to))
	return t.sw.Select(side)
}

// way is the way of a flow. With a kill switch only what was excluded on purpose leaves past the tunnel, as on the packet path.
func (t *tunnel) way(name string, addr netip.Addr) flow.Way {
	switch t.router.Route(name, addr) {
	case split.Tunnel:
		return flow.Tunnel
	case split.Direct:
		if !t.mayLeave(name, addr) {
			return flow.Nowhere
		}
		return flow.Direct
	}
	return flow.Nowhere
}

// mayLeave reports whether the kill switch lets a flow past the tunnel.
func (t *tunnel) mayLeave(name string, addr netip.Addr) bool {
	k := t.s.cfg.KillSwitch
	if k == nil {
		return true
	}
	for _, p := range k.AllowedHosts {
		if p.Contains(addr) {
			return true
		}
	}
	t.s.mu.Lock()
	passes := t.s.inForce == nil || slices.ContainsFunc(t.s.allowed.hosts, func(p netip.Prefix) bool { return p.Contains(addr) })
	t.s.mu.Unlock()
	if passes {
		return true
	}
	return t.strict.Load().Route(name, addr) == split.Direct && (k.LocalLAN || k.SessionLAN || t.router.Why(name, addr).Origin != split.FromMachine)
}

// dialInside connects to a DNS server in the tunnel, by the path that is taken. It never leaves by another interface.
func (t *tunnel) dialInside(ctx context.Context, network, address string) (net.Conn, error) {
	if t.crossing != nil && t.stack != nil {
		switch health.Path(t.crossing.path.Load()) {
		case health.Flow:
			return t.stack.DialContext(ctx, network, address)
		case health.Nowhere:
			return nil, fmt.Errorf("system: no data path: %w", syscall.ENETDOWN)
		}
	}
	return t.s.inner.dial(ctx, network, address, func(_, _ string, c syscall.RawConn) error { return bind(c, t.device) })
}

// Confirm confirms that packets take the path want, and that this is in order. Errors match health.ErrNotConfirmed,
// or [ErrNoFlowPath] if there is no tunnel.
func (s *System) Confirm(want health.Path) error {
	t := s.current()
	if t == nil {
		return fmt.Errorf("%w: there is no tunnel", ErrNoFlowPath)
	}
	if sv := t.supervisor.Load(); sv != nil {
		return sv.Confirm(want)
	}
	if want == health.Packet {
		return nil
	}
	return fmt.Errorf("%w: packets take the packet path, as this tunnel has no other", health.ErrNotConfirmed)
}

// Revert goes back to the flow path after it was left, and waits until packets take it. Errors match [ErrNoFlowPath],
// flow.ErrNoRevert or health.ErrNotConfirmed, or are that of ctx.
func (s *System) Revert(ctx context.Context) error {
	sv := s.supervisor()
	if sv == nil {
		return ErrNoFlowPath
	}
	return sv.Revert(ctx)
}

// Failover leaves the flow path, for the packet path or, with a kill switch that is not open, for none. The error matches
// [ErrNoFlowPath] if there is none.
func (s *System) Failover() error {
	sv := s.supervisor()
	if sv == nil {
		return ErrNoFlowPath
	}
	sv.FailOver()
	return nil
}

// Flows returns the flows on the flow path, the oldest first.
func (s *System) Flows() []flow.Info {
	t := s.current()
	if t == nil {
		return nil
	}
	in := t.interceptor()
	if in == nil {
		return nil
	}
	return in.Flows()
}

// supervisor returns what looks after the flow path, nil if there is none.
func (s *System) supervisor() *flow.Supervisor {
	if t := s.current(); t != nil {
		return t.supervisor.Load()
	}
	return nil
}

// current returns the tunnel that is in use, nil if there is none.
func (s *System) current() *tunnel {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tunnel
}
