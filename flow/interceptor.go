package flow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/flow/owner"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/stack"
)

// A Config says what an [Interceptor] works with. It must not change after [New].
type Config struct {
	// Device is where the packets of programs come from and go to, usually a Side of a [Switch]. The Interceptor closes it.
	Device packet.Conn

	// Decider is the content filter. It must be set.
	Decider Decider
	// Tunnel and Direct connect to destinations in the tunnel and outside of it. A flow whose function is nil is refused.
	Tunnel, Direct DialFunc
	// Ping returns nil when the host at addr has answered an echo request with that payload; syscall.EHOSTUNREACH,
	// syscall.ENETUNREACH and the like if the network says that it cannot be reached. With any other error, and when ctx is done, the
	// program gets no answer. If Ping is nil, every ping is told that the host is unreachable.
	Ping func(ctx context.Context, way Way, addr netip.Addr, payload []byte) error
	// DNS is the DNS proxy: it answers a message of DNS (RFC 1035 section 4), without the length that TCP puts in front, that f, of
	// network udp or tcp, has brought to port 53 of whatever address. It must return when ctx is done. An error is answered as
	// SERVFAIL, and an empty answer not at all. Both slices belong to the caller, so query must not be kept. If DNS is nil, such flows
	// are treated like all others.
	DNS func(ctx context.Context, f *Flow, query []byte) (answer []byte, err error)

	// Owners finds the programs and users of flows. If it is nil, they are not known.
	Owners Owners
	// Names returns what DNS has called the host at addr, the latest name last; the slice becomes the Interceptor's. Confirm reports
	// whether DNS has connected name with addr. Both must not wait, and nil is the same as knowing nothing.
	Names   func(addr netip.Addr) []string
	Confirm func(name string, addr netip.Addr) bool

	// Failed is told of a part that has failed and will not get well. It must not wait, nor call Close. Nil ignores it.
	Failed func(part health.Part, why health.Reason, err error)

	// Noted gets the flows that are to be noted, a few each second at most. It is called by several goroutines and must not wait. If it
	// is nil, they go to the Logger.
	Noted func(Note)

	// MaxFlows is how many flows there may be at a time, those that wait for their destination among them, and MaxPerUser how many of
	// them of one user; further ones are refused. Zero means 16384, and half of MaxFlows.
	MaxFlows, MaxPerUser int
	// MaxQueries is how many questions of DNS may be in work at a time; further ones are dropped. Zero means 1024.
	MaxQueries int

	// UDPIdle is how long a UDP flow lives without a datagram in either direction. Zero means three minutes, so that a QUIC connection
	// that keeps itself alive every 30 s, as most do, and a NAT of RFC 4787 section 4.3 behind it outlive a pause.
	UDPIdle time.Duration
	// DialTime is how long connecting may take, QueryTime how long a question of DNS, DecideTime how long a decision, OwnerTime how long
	// finding the owner, and HelloTime how long a program may take from its first byte to the end of its ClientHello or of the head of its HTTP request, or to its first
	// byte if the flow was not allowed without a name. Zero means 30 s, 5 s, 500 ms, 200 ms and 1 s.
	DialTime, QueryTime, DecideTime, OwnerTime, HelloTime time.Duration

	// Logger receives what may interest an operator. Nil discards.
	Logger *slog.Logger
}

const (
	defaultMaxFlows   = 16384
	defaultMaxQueries = 1024
	defaultUDPIdle    = 3 * time.Minute
	defaultDialTime   = 30 * time.Second
	defaultQueryTime  = 5 * time.Second
	defaultDecideTime = 500 * time.Millisecond
	defaultOwnerTime  = 200 * time.Millisecond
	defaultHelloTime  = time.Second

	portDNS = 53
	// batch is how many packets are carried at a time between device and stack.
	batch = 128
	// keepalive is how often the program's side of an idle connection is asked whether it is still there: the machine may have
	// forgotten it without a word, as when its address was taken away.
	keepalive = 2 * time.Minute
	// closeTime is how long Close waits for flows to be reset before it takes the network from them.
	closeTime = 250 * time.Millisecond
)

func (c *Config) setDefaults() {
	for _, f := range []struct {
		value *int
		or    int
	}{{&c.MaxFlows, defaultMaxFlows}, {&c.MaxQueries, defaultMaxQueries}} {
		if *f.value <= 0 {
			*f.value = f.or
		}
	}
	if c.MaxPerUser <= 0 {
		c.MaxPerUser = max(c.MaxFlows/2, 1)
	}
	for _, f := range []struct {
		value *time.Duration
		or    time.Duration
	}{
		{&c.UDPIdle, defaultUDPIdle}, {&c.DialTime, defaultDialTime}, {&c.QueryTime, defaultQueryTime},
		{&c.DecideTime, defaultDecideTime}, {&c.OwnerTime, defaultOwnerTime}, {&c.HelloTime, defaultHelloTime},
	} {
		if *f.value <= 0 {
			*f.value = f.or
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Stats count what an [Interceptor] did since it was made, except where they say "now".
type Stats struct {
	// TCP, UDP and Pings are the flows that came.
	TCP, UDP, Pings uint64
	// Allowed and Refused are what the Decider said in the end, and Failed are allowed flows whose destination could not be reached.
	Allowed, Refused, Failed uint64
	// Tunneled and Direct are the allowed flows that went either way.
	Tunneled, Direct uint64
	// Named are the flows that said a name.
	Named uint64
	// Limited are flows that were refused because there were too many.
	Limited uint64
	// Queries are questions of DNS, and QueriesDropped and QueriesFailed those that found too many others and those that were answered
	// SERVFAIL.
	Queries, QueriesDropped, QueriesFailed uint64
	// Flows are those now.
	Flows int
	// Stack are the counters of the TCP/IP stack.
	Stack stack.Stats
}

type counters struct {
	tcp, udp, pings                        atomic.Uint64
	allowed, refused, failed               atomic.Uint64
	tunneled, direct, named, limited       atomic.Uint64
	queries, queriesDropped, queriesFailed atomic.Uint64
}

// An Interceptor ends the flows of programs and carries them on. Its methods may be called from several goroutines.
type Interceptor struct {
	cfg    Config
	log    *slog.Logger
	notes  limiter
	stack  *stack.Stack
	ctx    context.Context
	cancel context.CancelFunc
	pumps  sync.WaitGroup
	out    watchedWriter // to the device

	closing   sync.Once
	closed    chan struct{}
	isClosing atomic.Bool

	stats    counters
	deciding pending // decisions that go on
	asking   pending // questions of DNS that go on
	load     [health.Parts]loads

	mu     sync.Mutex
	flows  map[*active]struct{}
	byUser map[int]int
	idle   chan struct{} // closed when the last flow ends while the Interceptor is closing; nil before that
}

// New returns a running Interceptor. Its owner closes it.
func New(cfg Config) (*Interceptor, error) {
	if cfg.Device == nil {
		return nil, errors.New("flow: Config.Device is not set")
	}
	if cfg.Decider == nil {
		return nil, errors.New("flow: Config.Decider is not set")
	}
	cfg.setDefaults()
	in := &Interceptor{
		cfg: cfg, log: cfg.Logger, closed: make(chan struct{}), flows: make(map[*active]struct{}), byUser: make(map[int]int),
	}
	in.ctx, in.cancel = context.WithCancel(context.Background())
	var err error
	in.stack, err = stack.New(stack.Config{
		MTU:       cfg.Device.MTU(),
		AcceptTCP: in.acceptTCP, AcceptUDP: in.acceptUDP, AcceptPing: in.acceptPing,
		MaxPending: cfg.MaxFlows, MaxFlows: cfg.MaxFlows, UDPIdle: cfg.UDPIdle, Logger: cfg.Logger,
	})
	if err != nil {
		in.cancel()
		cfg.Device.Close()
		return nil, fmt.Errorf("flow: %w", err)
	}
	in.out.w = cfg.Device
	link := in.stack.Link()
	size := max(cfg.Device.MTU(), packet.MinMTU6)
	pump := func(dst packet.Writer, src packet.Reader) {
		in.pumps.Go(func() {
			defer in.caught(health.TransparentProxy)
			in.pumped(packet.Copy(dst, src, size, batch))
		})
	}
	pump(link, cfg.Device)
	pump(&in.out, link)
	return in, nil
}

// pumped takes in why a pump has ended.
func (in *Interceptor) pumped(err error) {
	if !in.isClosing.Load() {
		in.failed(health.TransparentProxy, health.Failure, fmt.Errorf("carrying packets: %w", err))
	}
}

// failed reports that a part has failed.
func (in *Interceptor) failed(part health.Part, why health.Reason, err error) {
	if in.isClosing.Load() {
		return
	}
	in.log.Error("flow: a part has failed", "part", part.String(), "reason", why.String(), "err", err)
	if in.cfg.Failed != nil {
		in.cfg.Failed(part, why, err)
	}
}

// caught is deferred around what belongs to a part. It turns a panic into the failure of that part. It must be deferred itself, since
// only so recover works.
func (in *Interceptor) caught(part health.Part) {
	if v := recover(); v != nil {
		in.panicked(part, v)
	}
}

func (in *Interceptor) panicked(part health.Part, v any) {
	in.log.Debug("flow: panic", "part", part.String(), "stack", string(debug.Stack()))
	in.failed(part, health.Panic, fmt.Errorf("%.200s", fmt.Sprint(v)))
}

// SetMTU changes the size in bytes of the largest packet that goes to the device.
func (in *Interceptor) SetMTU(mtu int) error { return in.stack.SetMTU(mtu) }

// Stats returns the counters of now.
func (in *Interceptor) Stats() Stats {
	c := &in.stats
	in.mu.Lock()
	flows := len(in.flows)
	in.mu.Unlock()
	return Stats{
		TCP: c.tcp.Load(), UDP: c.udp.Load(), Pings: c.pings.Load(),
		Allowed: c.allowed.Load(), Refused: c.refused.Load(), Failed: c.failed.Load(),
		Tunneled: c.tunneled.Load(), Direct: c.direct.Load(), Named: c.named.Load(), Limited: c.limited.Load(),
		Queries: c.queries.Load(), QueriesDropped: c.queriesDropped.Load(), QueriesFailed: c.queriesFailed.Load(),
		Flows: flows, Stack: in.stack.Stats(),
	}
}

// Flows returns the flows that go on, the oldest first.
func (in *Interceptor) Flows() []Info {
	in.mu.Lock()
	out := make([]Info, 0, len(in.flows))
	for a := range in.flows {
		out = append(out, a.info())
	}
	in.mu.Unlock()
	slices.SortFunc(out, func(a, b Info) int { return a.Since.Compare(b.Since) })
	return out
}

// hangUp resets all flows, and waits for them for some time. From then on there are no new ones. Programs are told by a RST that their
// connections are over, for which the network is still needed.
func (in *Interceptor) hangUp(patience time.Duration) {
	in.mu.Lock()
	in.isClosing.Store(true)
	if in.idle == nil {
		in.idle = make(chan struct{})
		if len(in.flows) == 0 {
			close(in.idle)
		}
	}
	idle := in.idle
	in.mu.Unlock()
	in.cancel()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
		return
	}
	// What was said to them has to get out. The reader may have a batch in hand just now, so one look is not enough.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for quiet := 0; quiet < 3; {
		select {
		case <-tick.C:
		case <-timer.C:
			return
		}
		if in.stack.Waiting() || in.stack.Stats().PacketsOut != in.out.written.Load() {
			quiet = 0
		} else {
			quiet++
		}
	}
}

// Close resets all flows, and waits for them and for every goroutine of the Interceptor. Functions of the Config that are still running
// keep it waiting until they return.
func (in *Interceptor) Close() error {
	in.closing.Do(func() {
		defer close(in.closed)
		in.hangUp(closeTime)
		in.stack.Close()
		in.cfg.Device.Close()
		in.pumps.Wait()
	})
	<-in.closed
	return nil
}

// An active is a flow that goes on.
type active struct {
	in    *Interceptor
	since time.Time

	sent, received atomic.Uint64

	mu      sync.Mutex
	flow    Flow
	verdict Verdict
	conns   []net.Conn // what is reset when the Interceptor closes
	over    bool
}

func (a *active) info() Info {
	a.mu.Lock()
	defer a.mu.Unlock()
	return Info{Flow: a.flow, Verdict: a.verdict, Since: a.since, Sent: a.sent.Load(), Received: a.received.Load()}
}

// show notes what is known of the flow now.
func (a *active) show(f *Flow, v Verdict) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flow, a.verdict = *f, v
}

// own has c reset when the Interceptor closes. It reports false, and has reset c, if it does so already.
func (a *active) own(c net.Conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		reset(c)
		return false
	}
	a.conns = append(a.conns, c)
	return true
}

// disown forgets c, which the caller has closed.
func (a *active) disown(c net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns = slices.DeleteFunc(a.conns, func(d net.Conn) bool { return c == d })
}

// abort resets the connections of the flow.
func (a *active) abort() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	for _, c := range a.conns {
		reset(c)
	}
	a.conns = nil
}

// reset closes c in a way that its peer does not take for the end of what was said.
func reset(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		l.SetLinger(0)
	}
	c.Close()
}

// begin counts a flow that somebody has asked for with r, finds out whose it is and enters it. If there is no room for it, r is turned
// away and a is nil.
func (in *Interceptor) begin(ctx context.Context, f *Flow, r refusable) (a *active, flowCtx context.Context, leave func()) {
	if f.Network == "tcp" {
		in.stats.tcp.Add(1)
	} else {
		in.stats.udp.Add(1)
	}
	in.identify(ctx, f)
	if a, flowCtx, leave = in.enter(ctx, f); a == nil {
		in.turnAway(r)
	}
	return a, flowCtx, leave
}

// enter counts a flow in, unless there are too many, and returns its context, which ends with ctx and with the Interceptor. The
// caller calls leave at the end.
func (in *Interceptor) enter(ctx context.Context, f *Flow) (a *active, flowCtx context.Context, leave func()) {
	uid := f.Owner.UID
	in.mu.Lock()
	if in.isClosing.Load() || len(in.flows) >= in.cfg.MaxFlows || uid >= 0 && in.byUser[uid] >= in.cfg.MaxPerUser {
		full := len(in.flows) >= in.cfg.MaxFlows
		in.mu.Unlock()
		if full {
			in.load[health.TransparentProxy].refused.Add(1)
		}
		in.stats.limited.Add(1)
		return nil, nil, nil
	}
	a = &active{in: in, since: time.Now(), flow: *f}
	in.flows[a] = struct{}{}
	in.byUser[uid]++
	in.mu.Unlock()

	flowCtx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(in.ctx, func() {
		cancel()
		a.abort()
	})
	return a, flowCtx, func() {
		stop()
		cancel()
		in.mu.Lock()
		defer in.mu.Unlock()
		delete(in.flows, a)
		if in.byUser[uid]--; in.byUser[uid] <= 0 {
			delete(in.byUser, uid)
		}
		if in.idle != nil && len(in.flows) == 0 {
			close(in.idle) // which happens once: there are no new flows
		}
	}
}

// identify finds out what can be known of a flow before it begins.
func (in *Interceptor) identify(ctx context.Context, f *Flow) {
	f.Owner = owner.Unknown
	other := f.Other().Addr()
	if in.cfg.Names != nil {
		if names := in.cfg.Names(other); len(names) > 0 {
			f.nameAll(names, FromDNS)
		}
	}
	if in.cfg.Owners == nil || f.Network == "ping" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, in.cfg.OwnerTime)
	defer cancel()
	local, remote := f.Source, f.Destination
	if f.Inward {
		local, remote = remote, local
	}
	o, err := in.cfg.Owners.Find(ctx, owner.Flow{Network: f.Network, Local: local, Remote: remote})
	if err != nil {
		in.log.Debug("flow: no owner", "flow", f, "err", err)
		return
	}
	f.Owner = o
}

// learn notes the name that a flow has said.
func (in *Interceptor) learn(f *Flow, name string, from NameSource) {
	f.Final = true
	if name == "" {
		return
	}
	in.stats.named.Add(1)
	known := slices.Clone(f.Others)
	if f.NameFrom == FromDNS {
		known = append(known, f.Name)
	}
	if !strings.Contains(name, ".") {
		// Programs say a short name as they were given it, where the resolver of the machine has asked for a longer one.
		longer := slices.DeleteFunc(slices.Clone(known), func(s string) bool { return !strings.HasPrefix(s, name+".") })
		if len(longer) > 0 {
			f.nameAll(append([]string{name}, longer...), from)
			return
		}
	}
	f.Name, f.NameFrom, f.Others = name, from, nil
	f.Confirmed = in.cfg.Confirm != nil && in.cfg.Confirm(name, f.Other().Addr())
	if from == FromHTTP && !f.Confirmed {
		// A server that is asked over TLS for a name that it does not have refuses mostly. One of HTTP answers as it would by the name that
		// DNS knows.
		f.Others = known
	}
}

// nameAll notes names that DNS has connected with the other end, the one to go by last.
func (f *Flow) nameAll(names []string, from NameSource) {
	last := len(names) - 1
	f.Name, f.NameFrom, f.Confirmed, f.Others = names[last], from, true, names[:last]
}

// decide asks the content filter. A filter that fails refuses.
func (in *Interceptor) decide(ctx context.Context, f *Flow) Verdict {
	v := in.ask(ctx, f)
	if f.Final {
		v.Provisional = false
	}
	if v.Provisional {
		return v
	}
	if v.Allow {
		in.stats.allowed.Add(1)
	} else {
		in.stats.refused.Add(1)
	}
	if v.Log && in.notes.allow(time.Now()) {
		if skipped := in.notes.skipped(); in.cfg.Noted != nil {
			in.cfg.Noted(Note{*f, v, skipped})
		} else {
			in.log.Info("flow", "flow", f, "allow", v.Allow, "way", v.Way.String(), "rule", v.Rule, "log_rule", v.LogRule, "not_logged", skipped)
		}
	}
	return v
}

func (in *Interceptor) ask(ctx context.Context, f *Flow) (v Verdict) {
	ctx, cancel := context.WithTimeout(ctx, in.cfg.DecideTime)
	defer cancel()
	defer in.deciding.begin()()
	defer in.caught(health.ContentFilter)
	decided, err := in.cfg.Decider.Decide(ctx, f)
	if err != nil {
		in.log.Debug("flow: no decision", "flow", f, "err", err)
		return Verdict{Rule: "no decision"}
	}
	return decided
}

// dialer returns the function for a way, nil if there is none.
func (in *Interceptor) dialer(w Way) DialFunc {
	switch w {
	case Tunnel:
		return in.cfg.Tunnel
	case Direct:
		return in.cfg.Direct
	}
	return nil
}

// dial connects to the destination of f on the way w.
func (in *Interceptor) dial(ctx context.Context, f *Flow, w Way) (net.Conn, error) {
	d := in.dialer(w)
	if d == nil {
		return nil, errNowhere
	}
	ctx, cancel := context.WithTimeout(ctx, in.cfg.DialTime)
	defer cancel()
	c, err := d(ctx, f.Network, netip.AddrPortFrom(f.Destination.Addr().Unmap(), f.Destination.Port()).String())
	if err != nil {
		in.stats.failed.Add(1)
		return nil, err
	}
	switch w {
	case Tunnel:
		in.stats.tunneled.Add(1)
	case Direct:
		in.stats.direct.Add(1)
	}
	return c, nil
}
