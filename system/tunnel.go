package system

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/flow"
	"culvert.example/vpn/flow/owner"
	"culvert.example/vpn/host"
	"culvert.example/vpn/host/proxysettings"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/split"
	"culvert.example/vpn/stack"
	"culvert.example/vpn/stack/tun"
	"culvert.example/vpn/transport"
)

// expireInterval is how often what was learned of names is looked through.
const expireInterval = 5 * time.Second

// A tunnel is the use of one tunnel by the machine.
type tunnel struct {
	s      *System
	device string
	index  int // of the device
	tun    *tun.Device
	router *split.Learned
	names  *names // nil if the resolver is left alone
	link   vpn.SystemLink
	script Connection // what a Configurator was told last; belongs to Attach, then to work, then to end

	// For the flow path.
	crossing   *crossing
	sw         *flow.Switch
	stack      *stack.Stack
	owners     *owner.Finder // nil if the system does not tell
	supervisor atomic.Pointer[flow.Supervisor]
	judge      *flow.Judge
	strict     atomic.Pointer[split.Table] // what a kill switch lets past the tunnel is direct

	sessions []proxysettings.Session // whose desktops get the gateway's proxy

	// Guarded by the lock of the System.
	badProxy   string           // what was said of the proxy that cannot be used
	given      *transport.Lease // as the tunnel has it
	lease      *transport.Lease // what is made of it
	mtu        int
	lan        bool // connected networks stay outside
	noIPv6     bool // the machine has none
	intercepts bool // all destinations are routed to the device, for the flow path
	in, out    []netip.Prefix

	toldWhole    bool     // see tellWhole
	toldFiltered []string // see tellFiltered

	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
	worker   sync.WaitGroup // the goroutine of work, which calls the Configurator
	closing  sync.Once
	detached error

	changes   chan struct{} // has something when the ways out may have changed
	elsewhere atomic.Bool   // the machine may be in another place

	mu    sync.Mutex
	cause error // why the device has failed
	todo  work
	next  *round        // that what is to do belongs to
	wake  chan struct{} // has something when there is something to do
	state vpn.State
}

// A round is one pass of the tunnel's goroutine. Done is closed when it is over.
type round struct{ done chan struct{} }

// work is what a round has to do.
type work uint8

const (
	workRoutes  work = 1 << iota // apply the settings
	workLease                    // there is another lease
	workNetwork                  // the network outside has changed
	workState                    // the tunnel is up again, or not
)

// Attach implements [vpn.System]: it opens the network interface, and sets addresses, routes, resolver and firewall as the lease
// and the Config say. If it fails, the machine is as it was.
//
// Errors match [ErrAttached], [ErrClosed], [ErrNoTUN], [ErrNotPermitted], [ErrNoIPv6] if the lease has IPv6 only, [ErrCapture],
// [ErrConflict], transport.ErrProtocol for a lease that makes no sense, that of ctx, or others of the packages host and dns.
func (s *System) Attach(ctx context.Context, link vpn.SystemLink) (vpn.SystemDevice, error) {
	s.mu.Lock()
	switch {
	case s.closed:
		s.mu.Unlock()
		return nil, ErrClosed
	case s.tunnel != nil || !s.attach.TryLock():
		s.mu.Unlock()
		return nil, ErrAttached
	}
	s.mu.Unlock()
	defer s.attach.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	if link.Lease == nil || len(link.Lease.Addresses) == 0 {
		return nil, fmt.Errorf("system: %w: the lease has no address", transport.ErrProtocol)
	}
	t := &tunnel{s: s, link: link, given: link.Lease, mtu: link.MTU, router: split.NewLearned(nil), wake: make(chan struct{}, 1), changes: make(chan struct{}, 1)}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	s.mu.Lock()
	lifted := s.lifted
	s.mu.Unlock()
	if err := t.attach(ctx); err != nil {
		s.mu.Lock()
		s.lifted = s.lifted || lifted
		if s.closed {
			err = fmt.Errorf("%w: %w", ErrClosed, err)
		}
		s.mu.Unlock()
		t.blame(err)
		return nil, errors.Join(err, t.detach())
	}
	if t.crossing != nil {
		return t.crossing, nil
	}
	return &wire{t}, nil
}

// attach does what Attach says. What it has done when it fails, detach undoes.
func (t *tunnel) attach(ctx context.Context) error {
	s := t.s
	if p, ok := s.cfg.Configurator.(Preparer); ok {
		if err := p.Prepare(ctx, t.connection(t.given)); err != nil {
			return fmt.Errorf("system: preparing: %w", err)
		}
	}
	err := s.inner.do(func() (err error) {
		t.tun, err = tun.Open(tun.Config{Name: s.cfg.Device, MTU: max(t.mtu, packet.MinMTU4)})
		return err
	})
	if err != nil {
		return fmt.Errorf("system: %w", err)
	}
	t.device = t.tun.Name()
	if t.index, err = s.inner.index(t.device); err != nil {
		return fmt.Errorf("system: %s: %w", t.device, err)
	}
	if err := t.describe(t.given, s.connected()); err != nil {
		return fmt.Errorf("%w: %w", transport.ErrProtocol, err)
	}
	t.tellWhole(t.given)
	flows := s.cfg.DataPath == Flow || s.cfg.DataPath == Auto && s.cfg.Filter != nil
	if flows {
		if err := t.openCrossing(); err != nil {
			return err
		}
	}
	if s.manageNames() {
		if t.names, err = openNames(ctx, t); err != nil {
			return err
		}
	}
	t.sessions = s.sessions()
	s.mu.Lock()
	if s.allowed.abandon != nil {
		s.allowed.abandon() // what is asked from now on would keep the kill switch open for it
	}
	s.tunnel, s.lifted, s.searching, s.since = t, s.closed && s.lifted, false, time.Now()
	t.intercepts = flows
	s.mu.Unlock()
	if err := t.apply(ctx); err != nil {
		return err
	}
	t.tellFiltered()
	if c := s.cfg.Configurator; c != nil {
		if err := c.Connect(ctx, t.connection(t.lease)); err != nil {
			return fmt.Errorf("system: configuring: %w", err)
		}
		t.script = t.connection(t.lease)
	}
	if flows {
		if err := t.supervise(ctx); err != nil {
			return err
		}
	}
	t.worker.Go(t.work)
	if link := t.link; link.Roam != nil && link.Lease.Gateway.IsValid() {
		t.running.Go(t.roam)
	}
	if t.names != nil {
		t.running.Go(t.watchResolver)
	}
	return nil
}

// apply applies the settings of the System. Where the machine has no IPv6, the tunnel goes without as well if it can.
func (t *tunnel) apply(ctx context.Context) error {
	err := t.s.apply(ctx)
	if !errors.Is(err, host.ErrNoIPv6) {
		return wrap(err)
	}
	t.s.mu.Lock()
	lease := withoutIPv6(t.given)
	tried := t.noIPv6
	t.noIPv6 = true
	t.s.mu.Unlock()
	if tried || len(lease.Addresses) == 0 {
		return wrap(err)
	}
	if e := t.adopt(ctx, lease); e != nil {
		return e
	}
	if e := t.s.apply(ctx); e != nil {
		return wrap(e)
	}
	t.s.note(Event{Kind: EventLease, What: "IPv6 is disabled on this machine, so the tunnel goes without", Err: err.Error()})
	return nil
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("system: %w", err)
}

// adopt makes lease the one in use, without applying it.
func (t *tunnel) adopt(ctx context.Context, lease *transport.Lease) error {
	networks := t.s.connected()
	t.s.mu.Lock()
	err := t.describe(lease, networks)
	t.s.mu.Unlock()
	if err != nil {
		return err
	}
	t.tellWhole(lease)
	if t.names != nil {
		return t.names.configure(ctx, lease)
	}
	return nil
}

// connection returns what a Configurator is told.
func (t *tunnel) connection(lease *transport.Lease) Connection {
	c := &t.s.cfg
	return Connection{
		Device: c.Device, MTU: t.mtu, Gateway: lease.Gateway, Lease: lease, Namespace: t.s.inner.path,
		User: c.User, LocalLAN: c.LocalLAN.or(lease.ExcludeLocalLAN),
	}
}

// kick has work done soon, and returns the round that will do it.
func (t *tunnel) kick(w work) *round {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.todo |= w
	if t.next == nil {
		t.next = &round{make(chan struct{})}
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return t.next
}

// settle waits until the routes are what has been learned by now, but not longer than most.
func (t *tunnel) settle(most time.Duration) {
	r := t.kick(workRoutes)
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-timer.C:
		t.s.log.Warn("routes for a name came late")
	case <-t.ctx.Done():
	}
}

// work does what is to do until the tunnel ends.
func (t *tunnel) work() {
	tick := time.NewTicker(expireInterval)
	defer tick.Stop()
	for {
		select {
		case <-t.wake:
		case <-tick.C:
			t.keep()
			if changed, _ := t.router.Expire(time.Now()); changed {
				t.kick(workRoutes)
			}
			continue
		case <-t.ctx.Done():
			return
		}
		t.mu.Lock()
		todo, r, state := t.todo, t.next, t.state
		t.todo, t.next = 0, nil
		t.mu.Unlock()
		if todo == 0 {
			continue
		}
		if err := t.do(todo, state); err != nil && t.ctx.Err() == nil {
			t.s.log.Error("cannot change the machine", "err", err)
			t.s.note(Event{Kind: EventRoutes, What: "the machine could not be changed as the tunnel wants it", Err: err.Error()})
			// Routes that are not as they should be could let out what belongs inside.
			if todo&workLease != 0 || errors.Is(err, ErrCapture) {
				t.fail(err)
			}
		}
		if r != nil {
			close(r.done)
		}
	}
}

// do does a round of work.
func (t *tunnel) do(todo work, state vpn.State) error {
	s := t.s
	ctx, cancel := context.WithTimeout(t.ctx, s.applyTime)
	defer cancel()
	s.mu.Lock()
	lease := t.given
	if t.noIPv6 {
		lease = withoutIPv6(lease)
	}
	if todo&(workState|workLease) != 0 && state == vpn.Connected {
		s.searching = false
	}
	s.mu.Unlock()
	if todo&(workLease|workNetwork) != 0 {
		if err := t.adopt(ctx, lease); err != nil {
			return err
		}
		if todo&workNetwork != 0 && t.names != nil && t.names.server != nil {
			t.names.server.Flush()
		}
	}
	if todo&workLease != 0 {
		s.note(Event{Kind: EventLease, What: "the gateway has assigned something else, or is reached by another address"})
	}
	if err := t.apply(ctx); err != nil {
		return err
	}
	if todo&(workLease|workNetwork) != 0 {
		t.tellFiltered()
	}
	if todo&workState != 0 {
		t.tellConfigurator(state)
	}
	return nil
}

// tellConfigurator tells a Configurator of an interruption, or its end. How long that takes is the Configurator's business, but at the end of
// the tunnel it is asked to come to one as well.
func (t *tunnel) tellConfigurator(state vpn.State) {
	c := t.s.cfg.Configurator
	if c == nil {
		return
	}
	var err error
	t.s.mu.Lock()
	now := t.connection(t.lease)
	t.s.mu.Unlock()
	switch state {
	case vpn.Connected:
		err = c.Reconnect(t.ctx, now)
		t.script = now
	case vpn.Reconnecting:
		if i, ok := c.(Interrupted); ok {
			err = i.Reconnecting(t.ctx, now)
		}
	}
	if err != nil {
		t.s.log.Warn("the configurator failed", "state", state.String(), "err", err)
	}
}

// changed takes in the state of the tunnel and its lease.
func (t *tunnel) changed(state vpn.State, lease *transport.Lease) {
	t.s.mu.Lock()
	fresh := lease != nil && len(lease.Addresses) > 0 && !same(lease, t.given)
	if fresh {
		t.given = lease
	}
	t.s.mu.Unlock()
	t.mu.Lock()
	turned := state != t.state && state != vpn.Closed
	if turned {
		t.state = state
	}
	t.mu.Unlock()
	var w work
	if fresh {
		w |= workLease
	}
	if turned {
		w |= workState
	}
	if w != 0 {
		t.kick(w)
	}
}

// same reports whether two leases mean the same to the machine.
func same(a, b *transport.Lease) bool {
	if a == b {
		return true
	}
	x, y := *a, *b
	for _, l := range []*transport.Lease{&x, &y} {
		// These differ at each reconnect, or concern the session alone.
		l.Expires, l.PostAuthXML, l.Banner, l.MTU, l.BaseMTU = time.Time{}, "", "", 0, 0
	}
	return reflect.DeepEqual(x, y)
}

// setMTU has the device get another MTU.
func (t *tunnel) setMTU(mtu int) error {
	if mtu < packet.MinMTU4 || mtu > packet.MaxSize {
		return fmt.Errorf("system: an MTU of %d: want from %d to %d", mtu, packet.MinMTU4, packet.MaxSize)
	}
	t.s.mu.Lock()
	t.mtu = mtu
	t.s.mu.Unlock()
	if t.s.cfg.Configurator != nil {
		return t.tun.SetMTU(mtu)
	}
	t.kick(workRoutes)
	return nil
}

// fail has the device fail, because of err. It does not wait.
func (t *tunnel) fail(err error) {
	t.blame(err)
	// The device goes last: without it, what leads to it would look as if somebody else had removed it.
	t.s.running.Go(func() {
		if err := t.detach(); err != nil {
			t.s.log.Warn("cannot end the use of a tunnel", "err", err)
		}
	})
}

// blame says why the device fails. It reports false if that was said before.
func (t *tunnel) blame(err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cause != nil {
		return false
	}
	t.cause = err
	return true
}

// why returns the reason of an error of the device.
func (t *tunnel) why(err error) error {
	if err == nil {
		return nil
	}
	t.mu.Lock()
	cause := t.cause
	t.mu.Unlock()
	switch {
	case cause != nil:
		return cause
	case errors.Is(err, ErrDeleted):
		// Without its interface the tunnel is over. What led there must not wait until the gateway has been told.
		err = fmt.Errorf("system: %s: %w by another program", t.device, ErrDeleted)
		if t.blame(err) {
			t.s.note(Event{Kind: EventRoutes, What: "another program has deleted the network interface " + t.device + ", which ends the tunnel"})
			t.fail(err)
		}
	}
	return err
}

// detach ends the use of the tunnel, and makes the machine as it is without one.
func (t *tunnel) detach() error {
	t.closing.Do(func() { t.detached = t.end() })
	return t.detached
}

func (t *tunnel) end() error {
	s := t.s
	t.blame(net.ErrClosed)
	t.cancel()
	if sv := t.supervisor.Load(); sv != nil {
		sv.Close()
	}
	if c := s.cfg.Configurator; c != nil && t.tun != nil {
		// It may be told of something else just now.
		t.worker.Wait()
		last := t.script
		if last.Lease == nil {
			last = t.connection(t.given)
		}
		// What it does not come to undo stays on the machine, so that it has all the time that it gives itself.
		if err := c.Disconnect(context.Background(), last); err != nil {
			s.log.Warn("the configurator failed", "state", "disconnect", "err", err)
		}
	}
	s.mu.Lock()
	var err error
	if s.tunnel == t {
		s.tunnel, s.searching, s.since = nil, false, time.Now()
		keep := t.bequeath()
		s.mu.Unlock()
		// While the device is still there: no packet of it finds another way for a moment.
		ctx, cancel := context.WithTimeout(context.Background(), s.applyTime)
		err = s.apply(ctx)
		cancel()
		keep()
		s.wakeAllowed()
	} else {
		s.mu.Unlock()
	}
	if t.names != nil {
		t.names.close()
	}
	if t.stack != nil {
		t.stack.Close()
	}
	if t.sw != nil {
		t.sw.Close()
	} else if t.tun != nil {
		t.tun.Close()
	}
	if t.owners != nil {
		t.owners.Close()
	}
	t.worker.Wait()
	t.running.Wait()
	if err != nil {
		return fmt.Errorf("system: undoing what the tunnel needed: %w", err)
	}
	return nil
}
