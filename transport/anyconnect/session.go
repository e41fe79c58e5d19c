package anyconnect

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/cstp"
	"culvert.example/vpn/transport/dtls"
	"culvert.example/vpn/transport/failover"
	"culvert.example/vpn/transport/heartbeat"
	"culvert.example/vpn/transport/liveness"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/trust"
	"culvert.example/vpn/transport/wire"
)

const (
	// connectTimeout bounds one attempt to open the TLS path: TCP, TLS and the request for the tunnel.
	connectTimeout = 20 * time.Second

	// closeTimeout bounds saying goodbye.
	closeTimeout = 2 * time.Second

	// dtlsGrace is how long DialSession waits for DTLS beyond TLS, so that a connection usually begins on the better path.
	dtlsGrace = 1500 * time.Millisecond

	// maxQuiet is the longest silence before an idle path counts as dead, whatever interval the gateway announces.
	maxQuiet = 30 * time.Second

	// loginPause is the least time between two logins that a session makes by itself, at first: it doubles with each, up to
	// maxLoginPause, since a gateway that forgets sessions at once must not become the target of logins.
	loginPause, maxLoginPause = 5 * time.Second, 10 * time.Minute

	// maxSockets is how many DTLS sockets a session remembers. Package dtls keeps retired ones open for a while, and a session
	// seldom retires more in that time.
	maxSockets = 8
)

var _ packet.Forwarder = (*Session)(nil)

// A Session is a transport.Session over TLS and DTLS.
type Session struct {
	dialer *Dialer
	server *url.URL
	conn   *failover.Conn

	// settled is closed by settle when the first attempt at DTLS is over.
	settled chan struct{}
	settle  func()
	started chan struct{} // closed when conn is there
	first   *cstp.Conn    // the connection that came before conn, until tlsPath has taken it

	mu        sync.Mutex
	closing   bool // Close was called, and no path is to be opened any more
	ticket    *login.Ticket
	kept      *cstp.Link // the connection of the login, until the tunnel is asked for
	lastLogin time.Time
	pause     time.Duration // until the next login at the earliest
	sockets   []net.Conn    // of DTLS, the retired ones too
	lease     *transport.Lease
	control   *cstp.Conn // the open TLS path
	suite     string     // of its TLS connection
	offer     *dtlsOffer // what it said about DTLS, nil if nothing
	data      *dtls.Conn // the open DTLS path
	abandon   func()     // gives up the present attempt to open DTLS
	via       *way       // what control was made over, and the paths are opened over

	asking  chan struct{} // has an element while the gateway is asked for a tunnel
	granted atomic.Uint64 // how often it has granted one; changes only while asking has an element

	life   context.Context // ends with Close
	die    context.CancelFunc
	roam   *roam          // the last one under way
	follow bool           // NetworkChanged has something under way
	again  bool           // and was called meanwhile
	roams  sync.WaitGroup // what Close waits for
}

// errOvertaken ends an attempt to connect during which another one has succeeded. To go on would take the session away from it.
var errOvertaken = errors.New("another connection has come about meanwhile")

// A dtlsOffer is what one CONNECT agreed on for DTLS. The next one makes it void.
type dtlsOffer struct {
	config dtls.Config
	remote netip.AddrPort
	via    *way
	err    error // why there is no DTLS, for this CONNECT
}

// open connects over TLS, and begins with DTLS.
func (s *Session) open(ctx context.Context) error {
	first, err := s.reconnect(ctx)
	if err != nil {
		return kind(err)
	}
	s.first = first
	paths := []failover.Path{&dtlsPath{s}, &tlsPath{s}}
	if s.dialer.NoDTLS {
		paths = paths[1:]
	}
	s.conn = failover.New(failover.Config{
		Paths:            paths,
		MTU:              s.lease.MTU,
		ReconnectTimeout: s.dialer.ReconnectTimeout,
		Terminal:         terminal,
		Announce:         announcement(s.lease),
		OnChange:         s.changed,
		Logger:           s.dialer.logger(),
	})
	close(s.started)
	s.roams.Go(func() {
		// Where the system does not tell, the channels notice by themselves.
		_ = heartbeat.WatchSleep(s.life, func(asleep time.Duration) {
			s.dialer.logger().Info("the host has slept", "for", asleep.Round(time.Millisecond))
			s.NetworkChanged()
		})
	})
	// The connection is there already, so this takes no time.
	if err := s.conn.WaitReady(ctx); err != nil {
		s.Close()
		return err
	}
	if s.offer == nil || s.offer.err != nil || s.dialer.NoDTLS {
		return nil
	}
	// A moment of patience lets most sessions begin on the better path.
	select {
	case <-s.settled:
	case <-time.After(dtlsGrace):
	case <-ctx.Done():
	}
	return nil
}

// changed takes note of the state of the paths.
func (s *Session) changed(state failover.State) {
	for _, p := range state.Paths {
		if p.Name == DTLS && (p.Active || p.Failures > 0) {
			s.settle()
		}
	}
	if s.dialer.OnChange != nil {
		<-s.started
		s.dialer.OnChange(s)
	}
}

// terminal reports whether trying again cannot help.
func terminal(err error) bool {
	// A gateway that says goodbye without a final reason may only be restarting, and takes the cookie again or refuses it.
	var goodbye *cstp.DisconnectError
	if errors.As(err, &goodbye) {
		return goodbye.Terminated || goodbye.Reason.Final()
	}
	return matches(err, transport.ErrLogin, transport.ErrPrompt, transport.ErrExpired, transport.ErrAddressChanged,
		transport.ErrUntrusted, transport.ErrUnsupported)
}

// kind makes an error of the network, which has no kind, one of package transport's.
func kind(err error) error {
	if terminal(err) || matches(err, transport.ErrRefused, transport.ErrDisconnected, transport.ErrProtocol, transport.ErrUnreachable) {
		return err
	}
	return fmt.Errorf("%w: %w", transport.ErrUnreachable, err)
}

// matches reports whether err matches one of the kinds.
func matches(err error, kinds ...error) bool {
	return slices.ContainsFunc(kinds, func(kind error) bool { return errors.Is(err, kind) })
}

// State returns what the paths are doing.
func (s *Session) State() failover.State { return s.conn.State() }

// Ticket returns the ticket in use.
func (s *Session) Ticket() *login.Ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ticket
}

// Cipher returns the cipher suite of a path, or "" while it is closed.
func (s *Session) Cipher(path string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case path == TLS && s.control != nil && s.control.Err() == nil:
		return s.suite
	case path == DTLS && s.data != nil && s.data.Err() == nil:
		return s.data.CipherSuite()
	}
	return ""
}

// Lease returns what the gateway assigned last.
func (s *Session) Lease() *transport.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lease
}

// ReadBatch implements packet.Reader.
func (s *Session) ReadBatch(b packet.Batch) (int, error) { return s.conn.ReadBatch(b) }

// Forward implements packet.Forwarder. Close does not wait for dst, but for all else.
func (s *Session) Forward(dst packet.Writer, filters ...packet.Filter) error {
	return s.conn.Forward(dst, filters...)
}

// WriteBatch implements packet.Writer. It waits while no path is open.
func (s *Session) WriteBatch(b packet.Batch) (int, error) { return s.conn.WriteBatch(b) }

// MTU implements packet.Conn.
func (s *Session) MTU() int { return s.conn.MTU() }

// Done implements transport.Session.
func (s *Session) Done() <-chan struct{} { return s.conn.Done() }

// Err implements transport.Session.
func (s *Session) Err() error { return s.conn.Err() }

// Close ends the session: it tells the gateway, which then forgets the cookie, and closes the paths. It waits for all that.
func (s *Session) Close() error { return s.shut(true) }

// Suspend closes the paths as Close does, without a word to the gateway. For as long as that keeps a session that has no
// connection, the Ticket takes it up again, as that of a Dialer.
func (s *Session) Suspend() error { return s.shut(false) }

// shut closes the paths, and says goodbye before if that is wanted.
func (s *Session) shut(goodbye bool) error {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.die()
	s.roams.Wait()
	s.mu.Lock()
	control := s.control
	s.mu.Unlock()
	if control != nil && goodbye {
		told := make(chan struct{})
		go func() {
			defer close(told)
			control.Disconnect(wire.ReasonUser, "User disconnect")
		}()
		select {
		case <-told:
		case <-time.After(closeTimeout):
		}
	}
	err := s.conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.sockets {
		c.Close()
	}
	return err
}

// remember keeps a socket so that Close leaves none open: dtls.Conn.Close does not close it at once.
func (s *Session) remember(socket net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sockets) == maxSockets {
		s.sockets = slices.Delete(s.sockets, 0, 1)
	}
	s.sockets = append(s.sockets, socket)
}

// announcement returns a packet that the gateway takes for data and that has no effect: gateways send on the path that data
// last came by. It is IPv4 or IPv6 without payload, for one hop only, to an address that no router forwards (the IPv4 dummy
// address of RFC 7600, the IPv6 discard prefix of RFC 6666).
func announcement(lease *transport.Lease) []byte {
	const noNextHeader = 59
	a := lease.Addresses[0].Addr()
	if a.Is6() {
		p := make([]byte, 40)
		p[0], p[6], p[7] = 0x60, noNextHeader, 1
		copy(p[8:], a.AsSlice())
		copy(p[24:], netip.MustParseAddr("100::1").AsSlice())
		return p
	}
	p := make([]byte, 20)
	p[0], p[3], p[8], p[9] = 0x45, 20, 1, noNextHeader
	copy(p[12:], a.AsSlice())
	copy(p[16:], netip.MustParseAddr("192.0.0.8").AsSlice())
	var sum uint32
	for i := 0; i < len(p); i += 2 {
		sum += uint32(p[i])<<8 | uint32(p[i+1])
	}
	sum = sum&0xffff + sum>>16
	sum = ^(sum&0xffff + sum>>16)
	p[10], p[11] = byte(sum>>8), byte(sum)
	return p
}

// A tlsPath opens the TLS path of a Session.
type tlsPath struct{ s *Session }

func (p *tlsPath) Name() string { return TLS }

func (p *tlsPath) Open(ctx context.Context) (packet.Conn, error) {
	if conn := p.s.first; conn != nil {
		p.s.first = nil
		return conn, nil
	}
	p.s.mu.Lock()
	closing := p.s.closing
	p.s.mu.Unlock()
	if closing {
		// Saying goodbye ends the path, which is no reason to come back, or even to log in.
		return nil, net.ErrClosed
	}
	conn, err := p.s.reconnect(ctx)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// reconnect opens the TLS path with the ticket, and if the gateway no longer takes that, with a new one.
func (s *Session) reconnect(ctx context.Context) (*cstp.Conn, error) {
	conn, err := s.connect(ctx)
	if errors.Is(err, transport.ErrExpired) {
		if err = s.relogin(ctx, err); err == nil {
			conn, err = s.connect(ctx)
		}
	}
	return conn, err
}

// relogin replaces a ticket that the gateway no longer takes, if that needs no person.
func (s *Session) relogin(ctx context.Context, cause error) error {
	if !login.Unattended(s.dialer.Prompter) {
		return cause
	}
	s.mu.Lock()
	if time.Since(s.lastLogin) > maxLoginPause {
		s.pause = loginPause
	}
	wait := s.pause - time.Since(s.lastLogin)
	worked := s.lease != nil
	s.mu.Unlock()
	switch {
	case wait > 0 && !worked:
		return fmt.Errorf("%w, right after the login", cause)
	case wait > 0:
		// Not ErrExpired, which would end the session: it is tried again.
		return fmt.Errorf("the session expired soon after the last login; the next is made in %v", wait.Round(time.Second))
	}
	s.dialer.logger().Info("the session expired, logging in again", "server", s.server.Host)
	ticket, err := s.dialer.login(ctx, s.server)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastLogin, s.pause = time.Now(), min(2*s.pause, maxLoginPause)
	if err != nil {
		return err
	}
	s.ticket = ticket
	return nil
}

// connect opens a TLS connection and asks for the tunnel in it.
func (s *Session) connect(ctx context.Context) (*cstp.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	before := s.granted.Load()
	s.mu.Lock()
	kept := s.kept
	s.kept = nil
	s.mu.Unlock()
	if kept != nil {
		conn, err := s.grant(ctx, kept, s.own(), before)
		if err == nil {
			return conn, nil
		}
		kept.Close()
		var status *cstp.StatusError
		if errors.As(err, &status) || ctx.Err() != nil {
			return nil, err
		}
		s.dialer.logger().Debug("the gateway takes no tunnel on the connection of the login", "err", err)
	}

	nc, via, err := s.reach(ctx)
	if err != nil {
		return nil, err
	}
	link, err := s.secure(ctx, nc, s.Ticket().Host)
	if err != nil {
		nc.Close()
		return nil, err
	}
	conn, err := s.grant(ctx, link, via, before)
	if err != nil {
		link.Close()
		return nil, err
	}
	return conn, nil
}

// ask waits until nobody else asks the gateway for a tunnel, since each that it grants takes the session away from the one
// before. If there is no error answered must be called.
func (s *Session) ask(ctx context.Context) error {
	select {
	case s.asking <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if ctx.Err() != nil {
		s.answered()
		return context.Cause(ctx)
	}
	return nil
}

func (s *Session) answered() { <-s.asking }

// grant asks for the tunnel, unless the gateway has granted one since it had granted as many as before says.
func (s *Session) grant(ctx context.Context, link *cstp.Link, via *way, before uint64) (*cstp.Conn, error) {
	if err := s.ask(ctx); err != nil {
		return nil, err
	}
	defer s.answered()
	if s.granted.Load() != before {
		return nil, errOvertaken
	}
	return s.request(ctx, link, via, false)
}

// secure makes the TLS handshake.
func (s *Session) secure(ctx context.Context, nc net.Conn, host string) (*cstp.Link, error) {
	config, err := s.dialer.tlsConfig()
	if err != nil {
		return nil, err
	}
	// A name that the caller gave is that of the host that the caller gave, and not of one that the login was redirected to.
	if config.ServerName == "" || !strings.EqualFold(host, hostPort(s.server)) {
		config.ServerName, _, _ = net.SplitHostPort(host)
	}
	// Renegotiation would keep the key for DTLS from being exported.
	config.Renegotiation = tls.RenegotiateNever
	link := cstp.Client(nc, config)
	if err := cstp.Handshake(ctx, link); err != nil {
		return nil, trust.Explain(fmt.Errorf("%s: %w", host, err), host)
	}
	return link, nil
}

// request asks for the tunnel. If beside is true, DTLS as it is is left to whoever calls.
func (s *Session) request(ctx context.Context, link *cstp.Link, via *way, beside bool) (*cstp.Conn, error) {
	d := s.dialer
	s.mu.Lock()
	ticket, old := s.ticket, s.lease
	s.mu.Unlock()
	remote, local := addrPort(link.RemoteAddr()), addrPort(link.LocalAddr())
	req := &wire.ConnectRequest{
		Host: strings.TrimSuffix(ticket.Host, ":443"), UserAgent: ticket.UserAgent, Cookie: ticket.Cookie.Reveal(),
		Hostname: d.Hostname, Platform: d.platform(), IPv4: true, IPv6: true, FullIPv6: true,
		BaseMTU: baseMTU(local.Addr()), MTU: d.MTU,
	}
	if old != nil {
		for _, p := range old.Addresses {
			req.Addresses = append(req.Addresses, p.Addr())
		}
	}
	if d.Compress {
		req.AcceptEncoding = []string{wire.LZ4, wire.LZS}
	}
	var psk []byte
	if s.datagrams(via) {
		// A new secret for each request, which the gateway takes for keys of DTLS if it does not negotiate them.
		req.MasterSecret = make([]byte, 48)
		rand.Read(req.MasterSecret)
		req.DTLSCipherSuites = strings.Split(dtls.OfferCipherSuites, ":")
		req.DTLS12CipherSuites = strings.Split(dtls.OfferCipherSuites12, ":")
		var err error
		if psk, err = link.ExportKey(wire.PSKLabel, wire.PSKLen); err == nil {
			req.DTLSCipherSuites = append([]string{wire.PSKNegotiate}, req.DTLSCipherSuites...)
		} else {
			d.logger().Info("no key for DTLS from this TLS connection", "reason", err)
		}
	}
	reply, br, err := cstp.Connect(ctx, link, req)
	if err != nil {
		return nil, err
	}
	if d.MTU > 0 {
		// The lease leaves IPv6 out where the MTU is too small for it, so it has to know.
		reply.MTU, reply.DTLSMTU = min(reply.MTU, d.MTU), min(reply.DTLSMTU, d.MTU)
	}
	lease, err := cstp.LeaseOf(reply, remote, time.Now())
	if err != nil {
		return nil, err
	}
	lease.DynamicInclude = append(lease.DynamicInclude, ticket.DynamicInclude...)
	lease.DynamicExclude = append(lease.DynamicExclude, ticket.DynamicExclude...)
	if old != nil && !slices.Equal(old.Addresses, lease.Addresses) {
		return nil, fmt.Errorf("%w from %v to %v: connections through the tunnel cannot live on; open it anew",
			transport.ErrAddressChanged, old.Addresses, lease.Addresses)
	}
	conn := cstp.NewConn(link, br, cstp.Config{
		MTU: lease.MTU, Compression: reply.ContentEncoding,
		Beat:   s.beat(lease.DPD, lease.Keepalive, lease.Rekey),
		Logger: d.logger(),
	})
	s.granted.Add(1)
	s.adopt(conn, tls.CipherSuiteName(link.ConnectionState().CipherSuite), lease, s.offerOf(reply, req, lease, psk, remote, via), via, beside)
	return conn, nil
}

// datagrams reports whether DTLS is possible at all: through a dialer of the caller's, UDP would take another way.
func (s *Session) datagrams(via *way) bool {
	return !s.dialer.NoDTLS && (via.dial == nil || via.dialUDP != nil)
}

// adopt makes conn the TLS path in use. The DTLS channel that hangs on the one before goes with it, unless it is left to the
// caller, or the attempt to open it.
func (s *Session) adopt(conn *cstp.Conn, suite string, lease *transport.Lease, offer *dtlsOffer, via *way, beside bool) {
	s.mu.Lock()
	s.control, s.suite, s.lease, s.offer, s.via = conn, suite, lease, offer, via
	data, abandon := s.data, s.abandon
	s.data, s.abandon = nil, nil
	s.mu.Unlock()
	if abandon != nil {
		abandon()
	}
	if data != nil && !beside {
		data.Close()
	}
}

// beat returns when to probe a path: often enough that its death is noticed within the interval that the gateway announces
// or maxQuiet, whichever is less. A path is dead after twice the interval.
func (s *Session) beat(dpd, keepalive, rekey time.Duration) liveness.Config {
	if s.dialer.DPD > 0 {
		dpd = s.dialer.DPD
	}
	if dpd <= 0 || dpd > maxQuiet {
		dpd = maxQuiet
	}
	return liveness.Config{DPD: dpd / 2, Keepalive: keepalive, Rekey: rekey}
}

// ocservBuffer is what the socket of ocserv for a session holds, in bytes: net.core.rmem_default of Linux, which it leaves as it is.
// Behind a device uploads were faster by a fifth with this bound, on a near path. A netstack in the program, which is slower than a
// kernel, hardly ever overruns the gateway.
const ocservBuffer = 212992

// offerOf returns what the reply says about DTLS.
func (s *Session) offerOf(reply *wire.ConnectReply, req *wire.ConnectRequest, lease *transport.Lease, psk []byte, remote netip.AddrPort, via *way) *dtlsOffer {
	if !s.datagrams(via) || reply.DTLSPort == 0 || reply.DTLSCipherSuite == "" && reply.DTLS12CipherSuite == "" {
		return nil
	}
	offer := &dtlsOffer{
		remote: netip.AddrPortFrom(remote.Addr(), uint16(reply.DTLSPort)),
		via:    via,
		config: dtls.Config{
			MTU: lease.MTU, BaseMTU: lease.BaseMTU,
			IPv6:   slices.ContainsFunc(lease.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }),
			Beat:   s.beat(cmp.Or(lease.DTLSDPD, lease.DPD), lease.DTLSKeepalive, lease.DTLSRekey),
			Batch:  s.dialer.Batch,
			Logger: s.dialer.logger(),
		},
	}
	if s.dialer.Batch && strings.HasPrefix(reply.ServerName, "ocserv ") {
		offer.config.PeerBuffer = ocservBuffer
	}
	switch {
	case reply.DTLSCipherSuite == wire.PSKNegotiate && reply.DTLS12CipherSuite == "":
		if psk == nil {
			offer.err = fmt.Errorf("%w: the gateway chose %s, which was not offered", transport.ErrProtocol, wire.PSKNegotiate)
		}
		offer.config.PSK = &dtls.PSK{Key: psk, AppID: reply.DTLSAppID}
	default:
		name, dtls12 := reply.DTLS12CipherSuite, true
		if name == "" {
			name, dtls12 = reply.DTLSCipherSuite, false
		}
		offer.config.Resume = &dtls.Resume{
			MasterSecret: [48]byte(req.MasterSecret), SessionID: reply.DTLSSessionID, CipherSuite: name, DTLS12: dtls12,
		}
	}
	return offer
}

// A dtlsPath opens the DTLS path of a Session, once TLS has said how.
type dtlsPath struct{ s *Session }

func (p *dtlsPath) Name() string { return DTLS }

func (p *dtlsPath) Open(ctx context.Context) (packet.Conn, error) {
	s := p.s
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	offer := s.offer
	s.abandon = cancel
	s.mu.Unlock()
	if offer == nil {
		return nil, failover.ErrNotReady
	}
	if offer.err != nil {
		return nil, fmt.Errorf("%w: %w", failover.ErrNotReady, offer.err)
	}
	conn, err := s.openDTLS(ctx, offer)
	s.mu.Lock()
	current := s.offer == offer
	if current && err == nil {
		s.data = conn
	}
	s.mu.Unlock()
	switch {
	case !current:
		// There is another offer, or will be as soon as TLS is back.
		if err == nil {
			conn.Close()
		}
		return nil, failover.ErrNotReady
	case errors.Is(err, transport.ErrUnsupported), errors.Is(err, dtls.ErrPathTooNarrow):
		// These stay as they are for as long as the TLS connection does, which carries on without DTLS.
		return nil, fmt.Errorf("%w: %w", failover.ErrNotReady, err)
	case err != nil:
		return nil, fmt.Errorf("DTLS to %s: %w", offer.remote, err)
	}
	return conn, nil
}

// openDTLS opens the channel of an offer.
func (s *Session) openDTLS(ctx context.Context, offer *dtlsOffer) (*dtls.Conn, error) {
	socket, err := dtls.OpenSocket(ctx, offer.via.dialUDP, offer.remote)
	if err != nil {
		return nil, err
	}
	s.remember(socket)
	return dtls.Dial(ctx, socket, offer.config)
}

// addrPort returns the IP address and port of a, or the zero value if it has none.
func addrPort(a net.Addr) netip.AddrPort {
	if a == nil {
		return netip.AddrPort{}
	}
	ap, _ := netip.ParseAddrPort(a.String())
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// baseMTU returns the MTU to assume for the path of a connection from local: that of the interface that has this address, or the
// usual one.
func baseMTU(local netip.Addr) int {
	const usual = 1500
	if !local.IsValid() {
		return usual
	}
	local = local.Unmap().WithZone("")
	ifaces, err := net.Interfaces()
	if err != nil {
		return usual
	}
	for _, i := range ifaces {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == local {
				// A loopback interface has an MTU that no other path has.
				return min(i.MTU, usual)
			}
		}
	}
	return usual
}
