package dtls

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"culvert.example/vpn/transport/liveness"
)

const (
	// Bounds on what anybody may cause who knows the identifier of a session, or none.
	sessionAttempts = 4               // handshakes of one session at a time
	totalAttempts   = 256             // of all sessions
	attemptPace     = 1 * time.Second // between handshakes of one session, after sessionAttempts of them
	forgetAfter     = 30 * time.Second

	trialPace  = 100 // datagrams from unknown addresses that are tried with keys, per second
	trialBurst = 200
	trialKeys  = 32   // keys that one of them is tried with
	trialScan  = 4096 // sessions that are looked at for that
	trialAhead = 1 << 20

	// movePace is the least time between two changes of the address of a session.
	movePace = time.Second

	serverHandshakeTimeout = 30 * time.Second
)

// A ServerSession is what a gateway knows about a session that may open a DTLS channel. Exactly one of PSK and Resume is set.
type ServerSession struct {
	// PSK is the key of the mode PSK-NEGOTIATE; its AppID is not looked at.
	PSK *PSK
	// Resume is the session to resume.
	Resume *Resume

	// MTU is the size of the largest inner packet in bytes, and BaseMTU the MTU of the outer path; one of them is needed.
	MTU, BaseMTU int
	// IPv6 says that the tunnel carries IPv6.
	IPv6 bool

	// Beat are the intervals of the channel, seen from the gateway.
	Beat liveness.Config

	// Accept takes a channel whose handshake is complete, in a goroutine of the Listener. It owns the Conn, must have it read
	// from then on, and must not block. A Conn that it took earlier ends with ErrReplaced by itself, and is still to be closed.
	Accept func(*Conn)
}

// A ListenerConfig says how to serve DTLS.
type ListenerConfig struct {
	// Lookup returns the session with the given X-DTLS-App-ID or X-DTLS-Session-ID, 1 to 32 bytes that it must not keep, or nil
	// if there is none or it may not use DTLS now. It is called for each ClientHello and must be quick.
	Lookup func(id []byte) *ServerSession

	// Burst is how many datagrams at most are handed to the network in one piece, 1 to 64. 0 means 8.
	Burst int

	// Batch lets small datagrams come together under load as large ones do. Where they are acknowledgements for the TCP of another
	// kernel, such as behind a device, that saves much of the work; a TCP inside the program is slowed by it.
	Batch bool

	// Logger takes what happens to the channels, never a line for each packet or for each stranger. nil discards it.
	Logger *slog.Logger
}

// A Listener serves the DTLS channels of many sessions over one UDP socket.
//
// One goroutine receives. It tells channels apart by the address of the peer, and puts what is for an
// established channel into a queue of that channel, still sealed. A ClientHello with the identifier of a session
// begins a handshake beside the channel that the session may have, and takes its place when it is
// complete. Data from an unknown address is tried with the keys of a few sessions, so that a peer may change its
// address: after the first record that is newer than all before, answers go there. All else is dropped without a word,
// and without a trace in memory.
type Listener struct {
	cfg    ListenerConfig
	sock   *udpSocket
	local  net.Addr
	log    *slog.Logger
	pool   *burstPool
	chunks chunks
	work   sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	flows    map[netip.AddrPort]flow
	byIP     map[netip.Addr]map[*port]struct{}
	ports    map[*port]struct{}
	clients  map[string]*client
	resting  *list.List // of *client, with neither a channel nor a handshake, those that rest for longest first
	attempts int

	// The rest belongs to the receiving goroutine.
	in       *intake
	touched  []*port
	scratch  []byte
	tokens   float64
	tokensAt time.Time
}

// A flow is what the datagrams from one address belong to: a channel, a handshake, or both.
type flow struct {
	port    *port
	attempt *attempt
}

// A client is what the Listener remembers about one session.
type client struct {
	id       string
	port     *port
	attempts []*attempt
	tokens   float64
	at       time.Time
	rest     *list.Element // in Listener.resting, or nil
	since    time.Time     // that it rests
}

// An attempt is a handshake under way.
type attempt struct {
	id     string
	from   netip.AddrPort
	random [32]byte
	gate   *gate
}

// Listen serves DTLS on pc until Close. It owns pc.
func Listen(pc *net.UDPConn, cfg ListenerConfig) (*Listener, error) {
	if cfg.Lookup == nil {
		pc.Close()
		return nil, errors.New("dtls: ListenerConfig has no Lookup")
	}
	if cfg.Burst <= 0 {
		cfg.Burst = defaultBurst
	}
	cfg.Burst = min(cfg.Burst, burstRecords)
	if err := tune(pc); err != nil {
		pc.Close()
		return nil, fmt.Errorf("UDP socket %s: no fragments: %w", pc.LocalAddr(), err)
	}
	sock, err := newUDPSocket(pc, cfg.Burst)
	if err != nil {
		pc.Close()
		return nil, fmt.Errorf("UDP socket %s: %w", pc.LocalAddr(), err)
	}
	l := &Listener{
		cfg: cfg, sock: sock, local: pc.LocalAddr(), log: cfg.Logger, pool: newBurstPool(),
		flows: map[netip.AddrPort]flow{}, byIP: map[netip.Addr]map[*port]struct{}{}, ports: map[*port]struct{}{},
		clients: map[string]*client{}, resting: list.New(), in: newIntake(sock, maxPlain, true, cfg.Batch), scratch: make([]byte, 0, maxDatagram),
		tokens: trialBurst, tokensAt: time.Now(),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if a, ok := pc.LocalAddr().(*net.UDPAddr); ok && a.IP.IsUnspecified() {
		sock.wantLocal()
	}
	l.work.Go(l.receive)
	return l, nil
}

// Addr returns the address that the Listener serves.
func (l *Listener) Addr() net.Addr { return l.local }

// Close closes the socket, ends all channels and handshakes, and waits for its goroutines. The Conns are still to be closed
// by those who own them.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	var conns []*Conn
	for p := range l.ports {
		conns = append(conns, p.conn)
	}
	var gates []*gate
	for _, c := range l.clients {
		for _, a := range c.attempts {
			gates = append(gates, a.gate)
		}
	}
	l.mu.Unlock()
	for _, c := range conns {
		c.alert(alertWarning, alertCloseNotify)
		c.fail(net.ErrClosed)
	}
	for _, g := range gates {
		g.fail(net.ErrClosed)
	}
	err := l.sock.conn.Close()
	l.work.Wait()
	return err
}

func (l *Listener) receive() {
	for {
		err := l.in.wait()
		if err == errRefused || err != nil && isTransient(err) {
			continue // about a peer that is gone
		}
		if err != nil {
			l.mu.Lock()
			closed := l.closed
			l.mu.Unlock()
			if !closed {
				l.log.Error("DTLS socket failed", "address", l.local, "error", err)
			}
			return
		}
		for d := l.in.next(); d != nil; d = l.in.next() {
			l.datagram(d, l.in.from, l.in.local)
		}
		// Woken only now, a reader finds all that came at once.
		for i, p := range l.touched {
			p.touched = false
			p.wake()
			l.touched[i] = nil
		}
		l.touched = l.touched[:0]
	}
}

// datagram passes a datagram on to where it belongs.
func (l *Listener) datagram(d []byte, from netip.AddrPort, local netip.Addr) {
	if h, ok := parseHello(d); ok {
		l.hello(h, d, from, local)
		return
	}
	l.mu.Lock()
	f := l.flows[from]
	l.mu.Unlock()
	if f.attempt != nil {
		f.attempt.gate.deliver(d)
	}
	if f.port != nil {
		l.give(f.port, d)
	}
	if f.port == nil && f.attempt == nil {
		l.stray(d, from, local)
	}
}

func (l *Listener) give(p *port, d []byte) {
	p.push(d)
	if !p.touched {
		p.touched = true
		l.touched = append(l.touched, p)
	}
}

// hello begins a handshake, or passes a ClientHello on to the one that it belongs to.
func (l *Listener) hello(h hello, d []byte, from netip.AddrPort, local netip.Addr) {
	l.mu.Lock()
	f := l.flows[from]
	l.mu.Unlock()
	if a := f.attempt; a != nil && a.id == string(h.id) && bytes.Equal(a.random[:], h.random) {
		a.gate.deliver(d)
		return
	}
	if p := f.port; p != nil && p.id == string(h.id) && bytes.Equal(p.random[:], h.random) {
		return // a late copy
	}
	s := l.cfg.Lookup(h.id)
	if s == nil || s.Accept == nil || (s.PSK == nil) == (s.Resume == nil) {
		return
	}
	a := &attempt{id: string(h.id), from: from, random: [32]byte(h.random)}
	to := l.sock.newRoute(from, local)
	a.gate = newGate(l.local, net.UDPAddrFromAddrPort(from), func(b []byte) error { return l.sendOne(b, to) })
	if !l.admit(a) {
		return
	}
	a.gate.deliver(d)
	l.work.Go(func() { l.handshake(a, s, to) })
}

// sendOne sends a datagram of a handshake.
func (l *Listener) sendOne(d []byte, to *route) error {
	b := l.pool.one(len(d))
	defer l.pool.put(b)
	b.added(copy(b.mem, d))
	_, err := l.sock.send(b, to, false)
	return err
}

// admit notes that the handshake begins, if it may.
func (l *Listener) admit(a *attempt) bool {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.attempts >= totalAttempts {
		return false
	}
	l.forgetResting(now)
	c := l.clients[a.id]
	if c == nil {
		c = &client{id: a.id, tokens: sessionAttempts, at: now}
		l.clients[a.id] = c
	}
	c.tokens = min(sessionAttempts, c.tokens+now.Sub(c.at).Seconds()/attemptPace.Seconds())
	c.at = now
	if c.tokens < 1 {
		return false
	}
	c.tokens--
	// Somebody who begins anew has given up what he began before. The oldest makes room.
	if len(c.attempts) == sessionAttempts {
		c.attempts[0].gate.fail(ErrReplaced)
	}
	f := l.flows[a.from]
	if f.attempt != nil {
		f.attempt.gate.fail(ErrReplaced)
	}
	f.attempt = a
	l.flows[a.from] = f
	c.attempts = append(c.attempts, a)
	l.attempts++
	if c.rest != nil {
		l.resting.Remove(c.rest)
		c.rest = nil
	}
	return true
}

// settle notes that the session may have neither a channel nor a handshake any more. It needs mu.
func (l *Listener) settle(c *client) {
	if c.port == nil && len(c.attempts) == 0 && c.rest == nil {
		c.since = time.Now()
		c.rest = l.resting.PushBack(c)
	}
}

// forgetResting forgets the sessions that have had neither a channel nor a handshake for long. It needs mu.
func (l *Listener) forgetResting(now time.Time) {
	for e := l.resting.Front(); e != nil; e = l.resting.Front() {
		c := e.Value.(*client)
		if now.Sub(c.since) <= forgetAfter {
			return
		}
		l.resting.Remove(e)
		delete(l.clients, c.id)
	}
}

// leave notes that the handshake is over. It needs mu.
func (l *Listener) leave(a *attempt) {
	l.attempts--
	c := l.clients[a.id]
	for i, other := range c.attempts {
		if other == a {
			c.attempts = append(c.attempts[:i], c.attempts[i+1:]...)
			break
		}
	}
	l.settle(c)
	if f := l.flows[a.from]; f.attempt == a {
		f.attempt = nil
		l.setFlow(a.from, f)
	}
}

// setFlow needs mu.
func (l *Listener) setFlow(from netip.AddrPort, f flow) {
	if f == (flow{}) {
		delete(l.flows, from)
		return
	}
	l.flows[from] = f
}

// handshake carries a handshake through and opens the channel.
func (l *Listener) handshake(a *attempt, s *ServerSession, to *route) {
	ctx, cancel := context.WithTimeout(context.Background(), serverHandshakeTimeout)
	defer cancel()
	log := l.log.With("peer", a.from)
	out, err := serverHandshake(ctx, a.gate, s.PSK, s.Resume)
	var p *port
	if err == nil {
		p, err = l.newPort(a, s, to, out, log)
	}
	if err != nil {
		l.mu.Lock()
		l.leave(a)
		l.mu.Unlock()
		log.Debug("DTLS handshake failed", "error", err)
		return
	}
	l.mu.Lock()
	if l.closed {
		l.leave(a)
		l.mu.Unlock()
		p.conn.Close()
		return
	}
	c := l.clients[a.id]
	old := c.port
	if old != nil {
		l.drop(old)
	}
	c.port = p
	l.leave(a)
	l.add(p)
	l.mu.Unlock()
	if old != nil {
		old.conn.fail(ErrReplaced)
	}
	// What came between the end of the handshake and now has gone to the gate.
	_, _, early := a.gate.shut()
	for _, d := range early {
		p.push(d)
	}
	p.wake()
	p.conn.measure()
	p.conn.beat.Start()
	log.Debug("DTLS channel is up", "cipher", out.keys.suite.name, "mtu", p.conn.MTU())
	s.Accept(p.conn)
}

func (l *Listener) newPort(a *attempt, s *ServerSession, to *route, out *outcome, log *slog.Logger) (*port, error) {
	p := &port{l: l, id: a.id, random: a.random, ready: make(chan struct{}, 1)}
	p.to.Store(to)
	outer := 48
	if a.from.Addr().Unmap().Is4() {
		outer = 28
	}
	conn, err := newConn(connParams{
		out: out, channel: p, pool: l.pool, log: log, beat: s.Beat,
		mtu: s.MTU, base: s.BaseMTU, outer: outer, ipv6: s.IPv6,
		remote: func() net.Addr { return net.UDPAddrFromAddrPort(p.peer()) },
	})
	if err != nil {
		return nil, err
	}
	p.conn = conn
	p.trial = conn.rx.clone()
	return p, nil
}

// add makes the port known. It needs mu.
func (l *Listener) add(p *port) {
	from := p.peer()
	// If there was another session's port, its peer has another address by now, or is gone.
	f := l.flows[from]
	f.port = p
	l.flows[from] = f
	l.ports[p] = struct{}{}
	if l.byIP[from.Addr()] == nil {
		l.byIP[from.Addr()] = map[*port]struct{}{}
	}
	l.byIP[from.Addr()][p] = struct{}{}
}

// drop takes the port out of the tables of addresses, so that it receives no more. It needs mu.
func (l *Listener) drop(p *port) {
	from := p.peer()
	if f := l.flows[from]; f.port == p {
		f.port = nil
		l.setFlow(from, f)
	}
	if same := l.byIP[from.Addr()]; same != nil {
		if delete(same, p); len(same) == 0 {
			delete(l.byIP, from.Addr())
		}
	}
	delete(l.ports, p)
}

// forget removes a port that is closed.
func (l *Listener) forget(p *port) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(p)
	if c := l.clients[p.id]; c != nil && c.port == p {
		c.port = nil
		l.settle(c)
	}
}

// stray looks for the session that a datagram from an unknown address belongs to.
func (l *Listener) stray(d []byte, from netip.AddrPort, local netip.Addr) {
	r, _, ok := parseRecord(d)
	if !ok || r.typ != typeData || r.epoch != epochData {
		return
	}
	now := time.Now()
	l.tokens = min(trialBurst, l.tokens+now.Sub(l.tokensAt).Seconds()*trialPace)
	l.tokensAt = now
	if l.tokens < 1 {
		return
	}
	l.tokens--
	l.mu.Lock()
	defer l.mu.Unlock()
	keys := trialKeys
	p := l.match(l.byIP[from.Addr()], r, &keys, trialScan)
	if p == nil {
		p = l.match(l.ports, r, &keys, trialScan)
	}
	if p == nil {
		return
	}
	// The record is genuine. Only one that is newer than all others shows where the peer is now: an old one may have been
	// held back, or copied.
	if r.sequence >= p.conn.win.top.Load() && now.Sub(p.moved) >= movePace {
		p.moved = now
		p.conn.log.Info("DTLS peer has moved", "to", from)
		l.drop(p)
		p.to.Store(l.sock.newRoute(from, local))
		l.add(p)
	}
	l.give(p, d)
}

// match returns the port among some whose keys open the record. It lowers keys by how many it has tried.
func (l *Listener) match(some map[*port]struct{}, r record, keys *int, scan int) *port {
	for p := range some {
		if scan--; scan < 0 || *keys == 0 {
			return nil
		}
		// The number is not secret, and rules out most.
		top := p.conn.win.top.Load()
		if r.sequence >= top+trialAhead || r.sequence+windowSize < top || p.trial.plainLen(r) < 1 {
			continue
		}
		*keys--
		if _, ok := p.trial.open(l.scratch[:0], r); ok {
			return p
		}
	}
	return nil
}
