package gateway

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport/cstp"
	"culvert.example/vpn/transport/dtls"
	"culvert.example/vpn/transport/wire"
)

const (
	// batchSize is how many packets travel together.
	batchSize = 64

	// udpMargin is how much later than the last packet over DTLS one over TLS must come to say that the client has left
	// DTLS: packets that were under way on both overtake each other.
	udpMargin = time.Second

	// The path of the datagrams may break without a word. TCP data that is not answered by anything for narrowAfter makes the
	// gateway send large packets by TLS for narrowFor, in case only those are lost, and for deadAfter all of them, until the
	// client is heard by DTLS again. Once the channel has found out what size gets through, that decides.
	narrowAfter = time.Second
	narrowFor   = 30 * time.Second
	deadAfter   = 3 * time.Second
	// smallPacket is the size in bytes of a packet that gets through wherever IPv6 does, with room for the headers of DTLS.
	smallPacket = 1280 - 40 - 8 - tunnelOverhead
)

// A tunnel is the TLS connection of a session: what one CONNECT leads to.
type tunnel struct {
	s      *session
	conn   *cstp.Conn
	remote netip.AddrPort
	mtu    int // of inner packets
	began  time.Time
	// q holds what the connection does not take at once, so that one that is stalled holds up nothing else.
	q  *queue
	wg sync.WaitGroup
}

// paths are the ways to the client of a session.
type paths struct {
	tls atomic.Pointer[tunnel]
	udp atomic.Pointer[datagrams]

	// udpActive says that packets go to the client by DTLS.
	udpActive atomic.Bool
	lastUDP   atomic.Int64 // when the last packet came by DTLS, in Unix nanoseconds
	unheard   atomic.Int64 // since when TCP data is not answered, in Unix nanoseconds; 0 if it is
}

// datagrams are the DTLS channel of a session. Whoever has packets for the client sends them by himself: a datagram waits for nobody but
// the socket, which all clients share.
type datagrams struct {
	s           *session
	conn        *dtls.Conn
	narrowUntil atomic.Int64 // how long large packets go by TLS, in Unix nanoseconds,
	narrowMTU   atomic.Int64 // unless the channel has another MTU than this by now
	wg          sync.WaitGroup
}

// describe returns how packets go to the client. Without the TLS connection that DTLS hangs on, the client is not connected.
func (p *paths) describe() (path string, remote netip.AddrPort, cipher string) {
	u := p.udp.Load()
	if u != nil {
		remote, cipher = peerOf(u.conn), u.conn.CipherSuite()
	}
	switch {
	case p.tls.Load() == nil:
	case u != nil && p.udpActive.Load():
		path = "dtls"
	default:
		path = "tls"
	}
	return path, remote, cipher
}

// close ends the ways to the client and waits for them.
func (p *paths) close() {
	p.udpActive.Store(false)
	if t := p.tls.Swap(nil); t != nil {
		t.close()
	}
	if u := p.udp.Swap(nil); u != nil {
		u.close()
	}
}

// send sends packets to the client, by DTLS at once or by TLS as soon as the connection takes them. It does not wait for the
// client. It leaves other Bufs in b.
func (s *session) send(b packet.Batch) {
	if u := s.paths.udp.Load(); u != nil && s.paths.udpActive.Load() {
		u.transmit(b, time.Now())
		return
	}
	s.sendTLS(b)
}

// sendTLS queues packets for the TLS connection.
func (s *session) sendTLS(b packet.Batch) {
	dropped := len(b)
	size := sizeOf(b)
	if t := s.paths.tls.Load(); t != nil {
		dropped = t.q.put(b)
	}
	s.countSent(len(b)-dropped, size-sizeOf(b[len(b)-dropped:]))
	if dropped > 0 {
		s.dropped.Add(uint64(dropped))
	}
}

func (s *session) countSent(packets int, bytes uint64) {
	s.txPackets.Add(uint64(packets))
	s.txBytes.Add(bytes)
}

func sizeOf(b packet.Batch) (n uint64) {
	for i := range b {
		n += uint64(b[i].Len())
	}
	return n
}

// open makes conn the connection of the session, which has none and is not over. The lock connecting is held, so that it stays so until
// start. Packets wait until then, as the client takes nothing before the reply to its CONNECT.
func (s *session) open(conn *cstp.Conn, remote netip.AddrPort, mtu int) *tunnel {
	t := &tunnel{s: s, conn: conn, remote: remote, mtu: mtu, began: time.Now()}
	t.q = newQueue(s.srv.spare, t.write)
	t.q.hold()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tunnel = t
	s.connects++
	s.goodbye = false
	s.paths.udpActive.Store(false)
	s.paths.tls.Store(t)
	s.timer.Reset(max(0, time.Until(s.deadline())))
	return t
}

// start lets packets flow.
func (t *tunnel) start() {
	t.q.release()
	t.wg.Go(t.read)
}

// isOver reports whether the session has ended.
func (s *session) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// steal closes the connection that the session has, without a word: the client has another one, or will have. The lock
// connecting is held.
func (s *session) steal() {
	s.mu.Lock()
	t := s.tunnel
	s.mu.Unlock()
	if t != nil {
		t.close()
	}
}

// disconnect tells the client that the session is over.
func (t *tunnel) disconnect(reason string) {
	t.conn.Disconnect(wire.ReasonError, reason)
}

// close ends the tunnel and waits for its goroutines.
func (t *tunnel) close() {
	t.conn.Close()
	t.q.close()
	t.wg.Wait()
}

func (t *tunnel) read() {
	err := packet.Copy(inlet{t.s, nil}, t.conn, t.s.srv.size, batchSize)
	t.conn.Close()
	t.q.close()
	t.s.lost(t, err)
}

// write sends what was queued.
func (t *tunnel) write(b packet.Batch) {
	for len(b) > 0 {
		sent, err := t.conn.WriteBatch(b)
		if err == nil {
			return
		}
		if !errors.Is(err, packet.ErrTooBig) {
			// The reader sees why, and ends the tunnel. Whoever closes that waits for this goroutine, so it does not.
			t.s.dropped.Add(uint64(len(b)))
			return
		}
		t.s.dropped.Add(1)
		b = b[sent+1:]
	}
}

// lost notes that a tunnel has ended.
func (s *session) lost(t *tunnel, err error) {
	bye, _ := errors.AsType[*cstp.DisconnectError](err)
	s.mu.Lock()
	current := s.tunnel == t
	if current && !s.ended {
		s.tunnel = nil
		s.gone = time.Now()
		s.goodbye = bye != nil && (bye.Reason == wire.ReasonUser || bye.Reason == wire.ReasonError)
		s.paths.tls.CompareAndSwap(t, nil)
		s.timer.Reset(max(0, time.Until(s.deadline())))
	}
	goodbye := s.goodbye
	s.mu.Unlock()
	if !current {
		return
	}
	s.srv.log.Info("tunnel closed", "session", s.id, "user", s.user, "reason", err)
	if goodbye {
		if u := s.paths.udp.Swap(nil); u != nil {
			s.paths.udpActive.Store(false)
			u.close()
		}
	}
}

// attach makes conn the DTLS channel of the session, in place of the one before.
func (s *session) attach(conn *dtls.Conn) {
	u := &datagrams{s: s, conn: conn}
	s.mu.Lock()
	if s.ended || s.tunnel == nil {
		s.mu.Unlock()
		conn.Close()
		return
	}
	old := s.paths.udp.Swap(u)
	// The client begins with a record that shows that its handshake is complete, so it hears us.
	s.paths.lastUDP.Store(time.Now().UnixNano())
	s.paths.unheard.Store(0)
	s.paths.udpActive.Store(true)
	u.wg.Go(u.read)
	s.mu.Unlock()
	s.srv.log.Info("DTLS is up", "session", s.id, "user", s.user, "cipher", conn.CipherSuite(), "remote", peerOf(conn), "mtu", conn.MTU())
	if old != nil {
		old.close()
	}
}

// close ends the channel and waits for its goroutines.
func (u *datagrams) close() {
	u.conn.Close()
	u.wg.Wait()
}

func (u *datagrams) read() {
	// It ends with an error of the channel, which the client has to replace.
	_ = packet.Copy(inlet{u.s, u}, u.conn, u.s.srv.size, batchSize)
	if u.s.paths.udp.CompareAndSwap(u, nil) {
		u.s.paths.udpActive.Store(false)
	}
	// The Conn is closed by whoever waits for this goroutine, or here, so that its socket is free in either case.
	u.conn.Close()
}

// An inlet takes what a client sends.
type inlet struct {
	s *session
	u *datagrams // nil: by TLS
}

// WriteBatch implements packet.Writer. It may drop packets, and does not fail.
func (in inlet) WriteBatch(b packet.Batch) (int, error) {
	if u := in.u; u != nil {
		p := &in.s.paths
		p.lastUDP.Store(time.Now().UnixNano())
		p.unheard.Store(0)
		if !p.udpActive.Load() && p.udp.Load() == u {
			p.udpActive.Store(true)
		}
	}
	in.s.receive(b, in.u != nil)
	return len(b), nil
}

// transmit sends packets by DTLS, and those that must not or cannot go that way by TLS.
func (u *datagrams) transmit(b packet.Batch, now time.Time) {
	u.doubt(b, now)
	for len(b) > 0 {
		if !u.s.paths.udpActive.Load() {
			u.s.sendTLS(b)
			return
		}
		part := b
		if now.UnixNano() < u.narrowUntil.Load() && int64(u.conn.MTU()) == u.narrowMTU.Load() {
			if n := run(b, true); n > 0 {
				u.s.sendTLS(b[:n])
				b = b[n:]
				continue
			}
			part = b[:run(b, false)]
		}
		sent, err := u.conn.WriteBatch(part)
		u.s.countSent(sent, sizeOf(part[:sent]))
		switch {
		case err == nil:
			b = b[len(part):]
		case errors.Is(err, packet.ErrTooBig):
			u.tooBig(b[sent].Bytes())
			u.s.sendTLS(b[sent : sent+1])
			b = b[sent+1:]
		default:
			u.s.paths.udpActive.Store(false)
			b = b[sent:]
		}
	}
}

// tooBig deals with a packet that is too large for the channel and goes by TLS. If its sender went on with such packets, they would
// all go another way than its small ones: the one way is slower than the other, and TCP takes what was overtaken for lost, and the time
// that small packets need for that of all.
func (u *datagrams) tooBig(p []byte) {
	if h, ok := parseHeader(p); ok && h.whole {
		u.s.srv.tooBig(u.s, p, u.conn.MTU())
	}
}

// run returns how many packets at the front of b are large, or are not.
func run(b packet.Batch, large bool) int {
	for i := range b {
		if (b[i].Len() > smallPacket) != large {
			return i
		}
	}
	return len(b)
}

// doubt notes what ought to be answered, and draws conclusions if nothing was for too long.
func (u *datagrams) doubt(b packet.Batch, now time.Time) {
	p := &u.s.paths
	since := p.unheard.Load()
	if since == 0 {
		if wantsAnswer(b) {
			p.unheard.CompareAndSwap(0, now.UnixNano())
		}
		return
	}
	switch silent := now.Sub(time.Unix(0, since)); {
	case silent > deadAfter:
		p.unheard.Store(0)
		p.udpActive.Store(false)
		u.s.srv.log.Info("nothing is heard by DTLS, packets go by TLS", "session", u.s.id, "user", u.s.user)
	case silent > narrowAfter && now.UnixNano() >= u.narrowUntil.Load():
		u.narrowMTU.Store(int64(u.conn.MTU()))
		u.narrowUntil.Store(now.Add(narrowFor).UnixNano())
		u.s.srv.log.Debug("large packets go by TLS for a while", "session", u.s.id, "user", u.s.user)
	}
}

// wantsAnswer reports whether there is TCP data in b. What other protocols send may well be answered by nothing.
func wantsAnswer(b packet.Batch) bool {
	const tcp, bare = 6, 100
	for i := range b {
		p := b[i].Bytes()
		if len(p) > bare && (p[0]>>4 == 4 && p[9] == tcp || p[0]>>4 == 6 && p[6] == tcp) {
			return true
		}
	}
	return false
}

// receive takes packets from the client: it drops those that are not from its addresses, and passes on the others.
func (s *session) receive(b packet.Batch, udp bool) {
	now := time.Now().UnixNano()
	s.lastPacket.Store(now)
	if !udp && s.paths.udpActive.Load() && now-s.paths.lastUDP.Load() > int64(udpMargin) {
		// The client sends by TLS although it has DTLS, so it does not trust that any more.
		s.paths.udpActive.Store(false)
	}
	b = s.source.Load().Filter(b)
	if len(b) == 0 {
		return
	}
	s.rxPackets.Add(uint64(len(b)))
	s.rxBytes.Add(sizeOf(b))
	s.srv.fromClient(s, b)
}
