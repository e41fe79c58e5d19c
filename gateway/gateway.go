package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/stack"
	"culvert.example/vpn/transport/dtls"
)

// A Config says what a Server does. TLS, Auth and Pools are needed; the zero value of every other field is usable. It must
// not change after New.
type Config struct {
	// TLS holds the certificate. Set ClientCAs, and ClientAuth to tls.VerifyClientCertIfGiven or
	// tls.RequireAndVerifyClientCert, for clients with certificates. It is cloned; NextProtos is set to http/1.1.
	TLS *tls.Config

	// Auth says who may log in.
	Auth Authenticator

	// Groups are what a user may choose from, by the menu of the login form or by the path of the URL. If there are none,
	// no menu is shown. The first is the default.
	Groups []Group

	// Pools are the networks that clients get their addresses from: one of IPv4, one of IPv6, or one of each. Their first
	// host address is the gateway's own. At most the first 65,536 addresses of a pool are used.
	//
	// A Server remembers no leases. A user prefers in each pool the address that a hash of the name leads to, and gets the next one that is
	// free if another session has that. So users most likely have the same addresses again after a restart, and their connections through
	// the tunnel live on when clients log in anew by themselves. It is the likelier the larger the pool: among n users in a pool of m, about
	// n²/2m pairs prefer the same address, and who of a pair comes first has it. Several sessions of one user get their addresses in the
	// order in which they come. The address says nothing certain about the user.
	Pools []netip.Prefix

	// Network is what clients are told about the network behind the gateway, unless their Group says otherwise.
	Network Network

	// Name is what the gateway calls itself. Empty means culvert.
	Name string

	// UDPPort is the port that clients are told to send DTLS to, if it is not that of the socket, as behind a port forwarding.
	UDPPort int

	// MTU is the size in bytes of the largest packet that the path to the clients carries, with all headers. The MTU of
	// the tunnel follows from it. 0 means 1500.
	MTU int

	// Dial opens the flows of clients: network is tcp or udp, address a literal IP address with port. The context is
	// canceled when the session ends, and [SessionOf] tells whose flow it is. Nil means a net.Dialer. It may also answer
	// inside the process, such as with one end of a net.Pipe.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Device, if not nil, takes the place of the gateway's own TCP/IP stack: the packets of clients go there, and what comes from there
	// goes to the client whose inner address it is for. It is usually a TUN device of package stack/tun, with the host forwarding. The
	// gateway still holds clients to their source addresses, to the routes of their Network, to AllowSpecial and to
	// ClientToClient, and answers what is refused with an ICMP error; so it does packets from the device that are too large for the
	// client. All else is the host's business: the gateway's own inner addresses, which it should give to the device, answers to pings,
	// translation of addresses, and what it lets through to clients. Dial, NoPing and MaxFlows have no meaning then, and
	// Server.Listen, ListenPacket and DialContext fail with [ErrNoStack].
	//
	// A Server that New has returned owns the Device and closes it. If it fails, Serve returns an error.
	Device packet.Conn

	// NoPing keeps echo requests of clients from being forwarded. Forwarding needs no root where the system permits
	// unprivileged ICMP sockets; where it permits neither these nor raw ones, nothing is forwarded either way. The
	// gateway's own inner addresses always answer.
	NoPing bool

	// AllowSpecial are destinations that clients may reach although they are loopback, link-local, multicast or a cloud
	// provider's metadata service. They must lie in the routes as well.
	AllowSpecial []netip.Prefix

	// ClientToClient lets clients send packets to each other.
	ClientToClient bool

	// MaxSessions bounds the sessions, MaxSessionsPerUser those of one user. 0 means 1024 and 16.
	MaxSessions, MaxSessionsPerUser int

	// MaxFlows bounds the forwarded TCP, UDP and ping flows of one session. 0 means 1024.
	MaxFlows int

	// MaxConnectionsPerSource bounds the connections from one source that carry no tunnel: those in their handshake, and those of
	// logins. MaxLoginsPerSource bounds its logins in progress. A source is an IPv4 address, or the first 64 bits of an IPv6
	// address; an office behind one address may need more. 0 means 64 of each. At most 1024 connections and 4096 logins of
	// all sources are in progress at a time, whatever is set here: further connections are closed, and of further logins the
	// oldest is forgotten.
	MaxConnectionsPerSource, MaxLoginsPerSource int

	// MaxAttempts is how many wrong answers a login may give before its connection is closed. 0 means 3.
	MaxAttempts int

	// LoginTimeout is how long a login may take, 0 means 5 minutes. SessionTimeout ends a session however busy it is,
	// 0 means 24 hours. IdleTimeout ends a session whose client sends no packets, 0 means never. DisconnectedTimeout ends a
	// session that has no connection, 0 means 30 minutes, and less than 5 minutes is taken as 5 minutes.
	LoginTimeout, SessionTimeout, IdleTimeout, DisconnectedTimeout time.Duration

	// DPD is how long a channel may be silent before the client probes it, 0 means 30 s. Keepalive is how often clients
	// send at least, 0 means 20 s. Rekey is when clients connect anew, 0 means 24 hours and less than 0 never.
	// All are rounded to seconds.
	DPD, Keepalive, Rekey time.Duration

	// Compression lets clients ask for LZ4 and LZS. It makes the length of packets tell about their contents.
	Compression bool

	// Logger gets what happens to sessions; never secrets, never a line for a packet. Nil discards it.
	Logger *slog.Logger

	// Quirks imitates other gateways, to test clients with. It has no place in service.
	Quirks Quirks
}

// A Group is a choice of the user.
type Group struct {
	// Name is the value of the choice and the path of the group's URL, Label what the user is shown. Empty Label means
	// Name.
	Name, Label string
	// Network replaces that of the Config for this group. Nil means no change.
	Network *Network
}

func (g *Group) label() string {
	if g.Label == "" {
		return g.Name
	}
	return g.Label
}

// A Network is what clients are told about the network behind the gateway.
type Network struct {
	// Routes are the destinations that belong to the tunnel; a family without any belongs to it as a whole. NoRoutes
	// are destinations that do not. The longer prefix wins. Clients are held to both.
	Routes, NoRoutes []netip.Prefix
	// DNS are name servers, NBNS WINS servers.
	DNS, NBNS []netip.Addr
	// SearchDomains are the suffixes of short names, SplitDNS those of names that DNS answers (none means all).
	SearchDomains, SplitDNS []string
	// TunnelAllDNS tells clients to ask no other name server.
	TunnelAllDNS bool
	// ExcludeLocalLAN tells clients that their own network stays outside the tunnel.
	ExcludeLocalLAN bool
	// BypassProtocol tells clients that a family without an inner address does not belong to the tunnel.
	BypassProtocol bool
	// DynamicInclude and DynamicExclude are the domains that clients split by name.
	DynamicInclude, DynamicExclude []string
	// Banner is shown to the user when the tunnel is up.
	Banner string
}

// Quirks are habits of other gateways that clients have to live with.
type Quirks struct {
	// Server names whose habits to have:
	//
	//   - asa: forms without action, an opaque element that must come back unchanged, X-CSTP-Post-Auth-XML, no PSK
	//   - ocserv: user name and password on two pages with one id, the session only as a cookie, 401 and closing after a
	//     wrong password
	//   - anylink: forms without action, the session only in XML, ChunkedConnect, NoPSK, DeadDTLS and ShortDPD
	Server string
	// NoPSK refuses PSK-NEGOTIATE, so that DTLS resumes a session of the client's master secret.
	NoPSK bool
	// DeadDTLS announces DTLS at a port where nobody answers.
	DeadDTLS bool
	// ChunkedConnect puts the header Transfer-Encoding: chunked into the reply to CONNECT.
	ChunkedConnect bool
	// ShortDPD answers probes over TLS without their payload.
	ShortDPD bool
	// LoginDelay is how long every step of a login takes.
	LoginDelay time.Duration
}

// quirks of Quirks.Server.
const (
	likeASA     = "asa"
	likeOcserv  = "ocserv"
	likeAnyLink = "anylink"
)

// check reports an unknown Server.
func (q Quirks) check() error {
	switch q.Server {
	case "", likeASA, likeOcserv, likeAnyLink:
		return nil
	}
	return fmt.Errorf("gateway: nobody knows the quirks of %q", q.Server)
}

const (
	defaultLinkMTU             = 1500
	defaultSessions            = 1024
	defaultSessionsPerUser     = 16
	defaultFlows               = 1024
	defaultAttempts            = 3
	defaultPerSource           = 64
	defaultLoginTimeout        = 5 * time.Minute
	defaultSessionTimeout      = 24 * time.Hour
	defaultDisconnectedTimeout = 30 * time.Minute
	minDisconnectedTimeout     = 5 * time.Minute
	defaultDPD                 = 30 * time.Second
	defaultKeepalive           = 20 * time.Second
	defaultRekey               = 24 * time.Hour
)

// ErrServerClosed is what Serve returns after Shutdown or Close.
var ErrServerClosed = errors.New("gateway: server closed")

// withDefaults returns a checked copy of c in which no zero stands for anything else.
func (c Config) withDefaults() (Config, error) {
	if c.TLS == nil || len(c.TLS.Certificates) == 0 && c.TLS.GetCertificate == nil && c.TLS.GetConfigForClient == nil {
		return c, errors.New("gateway: Config.TLS has no certificate; SelfSigned makes one")
	}
	if c.Auth == nil {
		return c, errors.New("gateway: Config.Auth is missing, so nobody could log in")
	}
	if err := c.Quirks.check(); err != nil {
		return c, err
	}
	var n4, n6 int
	for _, p := range c.Pools {
		if !p.IsValid() || p.Addr().Is4In6() {
			return c, fmt.Errorf("gateway: pool %v is not a prefix", p)
		}
		if p.Addr().Is4() {
			n4++
		} else {
			n6++
		}
		if p.Addr().BitLen()-p.Bits() < 2 {
			return c, fmt.Errorf("gateway: pool %v has no room for the gateway and a client", p)
		}
	}
	if n4+n6 == 0 || n4 > 1 || n6 > 1 {
		return c, fmt.Errorf("gateway: %d IPv4 and %d IPv6 pools; want one of either or both", n4, n6)
	}
	set(&c.Name, "culvert")
	set(&c.MTU, defaultLinkMTU)
	if c.MTU < 1280 || c.MTU > packet.MaxSize {
		return c, fmt.Errorf("gateway: MTU %d is out of range 1280 to %d", c.MTU, packet.MaxSize)
	}
	set(&c.MaxSessions, defaultSessions)
	set(&c.MaxSessionsPerUser, defaultSessionsPerUser)
	set(&c.MaxFlows, defaultFlows)
	set(&c.MaxConnectionsPerSource, defaultPerSource)
	set(&c.MaxLoginsPerSource, defaultPerSource)
	set(&c.MaxAttempts, defaultAttempts)
	set(&c.LoginTimeout, defaultLoginTimeout)
	set(&c.SessionTimeout, defaultSessionTimeout)
	set(&c.DisconnectedTimeout, defaultDisconnectedTimeout)
	c.DisconnectedTimeout = max(c.DisconnectedTimeout, minDisconnectedTimeout)
	set(&c.DPD, defaultDPD)
	set(&c.Keepalive, defaultKeepalive)
	set(&c.Rekey, defaultRekey)
	if c.Dial == nil {
		c.Dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Quirks.Server == likeASA || c.Quirks.Server == likeAnyLink {
		c.Quirks.NoPSK = true
	}
	if c.Quirks.Server == likeAnyLink {
		c.Quirks.ChunkedConnect, c.Quirks.DeadDTLS, c.Quirks.ShortDPD = true, true, true
	}
	return c, nil
}

func set[T comparable](v *T, fallback T) {
	var zero T
	if *v == zero {
		*v = fallback
	}
}

// A Server is a gateway. Make one with New; its owner ends it with Shutdown or Close.
type Server struct {
	cfg    Config
	log    *slog.Logger
	auth   Authenticator
	table  *table
	portal *portal
	stack  *stack.Stack // nil if there is a device
	link   packet.Conn  // the outer face of the stack
	device *device      // in place of the stack, else nil
	size   int          // of Bufs, in bytes
	spare  *spare
	pings  *pinger // nil if nothing is forwarded
	offers offers
	udp    *dtls.Listener // nil without DTLS; set before the first connection
	pump   sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	failed   error // why the Server cannot go on
	serving  bool
	web      *http.Server
	cancel   context.CancelFunc // ends the requests in progress
	entrance *entrance
}

// New returns a Server that does nothing yet: Serve lets clients in, and Listen may be called before that.
func New(c Config) (*Server, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: c, log: c.Logger, auth: c.Auth}
	if c.Quirks.Server == likeOcserv {
		s.auth = onePageEach{c.Auth}
	}
	size := c.MTU
	if c.Device != nil {
		// What is too large for a client is to be seen, so that it can be answered.
		size = min(max(size, c.Device.MTU()), packet.MaxSize)
	}
	s.size = roomy(size)
	s.spare = newSpare(s.size)
	s.table = newTable(s, c.Pools)
	s.portal = &portal{srv: s, throttle: newThrottle(), logins: newDialogues(c.LoginTimeout, c.MaxLoginsPerSource)}
	if c.Device != nil {
		s.device = newDevice(s, c.Device)
		s.device.start()
		return s, nil
	}
	sc := stack.Config{
		MTU:        innerMTU(c.MTU, netip.IPv4Unspecified()),
		AcceptTCP:  s.acceptTCP,
		AcceptUDP:  s.acceptUDP,
		SendBuffer: flowBuffer, ReceiveBuffer: flowBuffer,
		// Each session has bounds of its own, so that nobody uses up those of all.
		MaxPending: maxPending, MaxFlows: c.MaxSessions * c.MaxFlows,
		Logger: c.Logger,
	}
	if !c.NoPing {
		s.pings = &pinger{}
		sc.AcceptPing = s.acceptPing
	}
	for _, p := range s.table.pools {
		sc.Addresses = append(sc.Addresses, netip.PrefixFrom(p.own, p.prefix.Bits()))
	}
	if s.stack, err = stack.New(sc); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	s.link = s.stack.Link()
	s.pump.Go(s.toClients)
	return s, nil
}

const (
	// dialTimeout bounds how long opening a flow may take.
	dialTimeout = 10 * time.Second
	// flowBuffer is how far the buffers of a forwarded TCP connection may grow, in bytes: enough for 300 Mbit/s at 100 ms.
	flowBuffer = 4 << 20
	// requestTimeout bounds the reading of a request, and the writing of a reply with all that leads to it.
	requestTimeout = 2 * time.Minute
)

// roomy returns the size in bytes of Bufs for packets of that size. It is the size that package packet lends, so that Bufs may be exchanged.
func roomy(size int) int {
	loan := packet.Borrow(1, size)
	defer loan.Return()
	return loan.Batch[0].Size()
}

// group returns the group with the name or label, nil if there is none.
func (s *Server) group(name string) *Group {
	if name == "" {
		return nil
	}
	for i := range s.cfg.Groups {
		if g := &s.cfg.Groups[i]; strings.EqualFold(g.Name, name) || strings.EqualFold(g.label(), name) {
			return g
		}
	}
	return nil
}

// udpPort returns the port that clients are told, and 0 if there is no DTLS.
func (s *Server) udpPort() int {
	if s.udp == nil {
		return 0
	}
	if s.cfg.UDPPort != 0 {
		return s.cfg.UDPPort
	}
	if a, ok := s.udp.Addr().(*net.UDPAddr); ok {
		return a.Port
	}
	return 0
}

// Serve lets clients in over the listener, which carries TLS, and the UDP socket, which carries DTLS; with a nil udp
// clients are told that there is no DTLS. It owns and closes both. It returns ErrServerClosed after Shutdown or Close, and
// an error of the listener otherwise. It may be called once.
func (s *Server) Serve(ln net.Listener, udp *net.UDPConn) error {
	s.mu.Lock()
	if s.closed || s.serving || s.failed != nil {
		again, failed := s.serving, s.failed
		s.mu.Unlock()
		ln.Close()
		if udp != nil {
			udp.Close()
		}
		if again {
			return errors.New("gateway: Serve was called before")
		}
		if failed != nil {
			return failed
		}
		return ErrServerClosed
	}
	s.serving = true
	if udp != nil {
		l, err := dtls.Listen(udp, dtls.ListenerConfig{Lookup: s.offers.lookup, Batch: s.cfg.Device != nil, Logger: s.log})
		if err != nil {
			s.mu.Unlock()
			ln.Close()
			return fmt.Errorf("gateway: %w", err)
		}
		s.udp = l
	}
	s.entrance = newEntrance(s, ln)
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.web = &http.Server{
		Handler:           s.portal,
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout + s.cfg.Quirks.LoginDelay,
		IdleTimeout:       s.cfg.LoginTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	s.mu.Unlock()
	err := s.web.Serve(s.entrance)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.failed != nil:
		return s.failed
	case s.closed:
		return ErrServerClosed
	}
	return fmt.Errorf("gateway: %w", err)
}

// fail ends Serve with err. The owner of the Server closes it.
func (s *Server) fail(err error) {
	s.log.Error("the gateway cannot go on", "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
	if s.entrance != nil {
		s.entrance.Close()
	}
}

// Sessions returns the sessions as they are now, oldest first.
func (s *Server) Sessions() []SessionInfo {
	var list []SessionInfo
	for _, sess := range s.table.all() {
		list = append(list, sess.info())
	}
	return list
}

// Disconnect ends the session for good and tells the client why.
func (s *Server) Disconnect(id, reason string) error {
	sess, err := s.table.get(id)
	if err != nil {
		return err
	}
	sess.end(reason)
	return nil
}

// Drop closes the connections of the session as if the network had failed. The client may come back with its cookie.
func (s *Server) Drop(id string) error {
	sess, err := s.table.get(id)
	if err != nil {
		return err
	}
	sess.connecting.Lock()
	defer sess.connecting.Unlock()
	sess.steal()
	sess.paths.close()
	return nil
}

// Expire forgets the cookie of the session. Its tunnel goes on while its connection lasts; a reconnect is refused.
func (s *Server) Expire(id string) error {
	sess, err := s.table.get(id)
	if err != nil {
		return err
	}
	sess.mu.Lock()
	sess.expired = true
	sess.mu.Unlock()
	sess.reviewSoon()
	return nil
}

// Renumber gives the session other addresses when it connects next.
func (s *Server) Renumber(id string) error {
	sess, err := s.table.get(id)
	if err != nil {
		return err
	}
	sess.mu.Lock()
	defer sess.mu.Unlock()
	sess.renumber = true
	return nil
}

// DialContext connects from the gateway's inner address to a client, or to what the program itself serves inside the
// tunnel. The network is tcp, udp or ping, each also with 4 or 6 behind it, and the host an IP literal. With a Config.Device
// the error matches [ErrNoStack].
func (s *Server) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if s.stack == nil {
		return nil, noStack("dial", network)
	}
	return s.stack.DialContext(ctx, network, address)
}

// Addresses returns the gateway's own inner addresses, IPv4 before IPv6.
func (s *Server) Addresses() []netip.Addr {
	var list []netip.Addr
	for _, p := range s.table.pools {
		list = append(list, p.own)
	}
	return list
}

// Shutdown stops letting clients in, gives the requests in progress until the end of the context to finish, and closes the
// tunnels in a way that makes clients connect anew, which finds the next gateway at this address if there is one: as its
// sessions are others, they have to log in there. Then it does what Close does.
func (s *Server) Shutdown(ctx context.Context) error {
	var err error
	if web := s.stopServing(); web != nil {
		if err = web.Shutdown(ctx); errors.Is(err, net.ErrClosed) {
			err = nil // its listener is closed already
		}
	}
	for _, sess := range s.table.all() {
		sess.connecting.Lock()
		sess.steal()
		sess.connecting.Unlock()
	}
	return errors.Join(err, s.Close())
}

// Close tells all clients that their session is over, ends everything at once and waits for it.
func (s *Server) Close() error {
	var errs []error
	if web := s.stopServing(); web != nil {
		errs = append(errs, web.Close())
		s.cancel() // not all of them notice that their connection is closed
	}
	s.table.close("the gateway shuts down")
	if s.udp != nil {
		errs = append(errs, s.udp.Close())
	}
	if s.device != nil {
		errs = append(errs, s.device.close())
	} else {
		errs = append(errs, s.stack.Close())
	}
	s.pump.Wait()
	if s.pings != nil {
		s.pings.close()
	}
	if s.entrance != nil {
		s.entrance.wait()
	}
	for i, err := range errs {
		if errors.Is(err, net.ErrClosed) {
			errs[i] = nil
		}
	}
	return errors.Join(errs...)
}

// stopServing closes the listener and returns what served it, nil if nothing did.
func (s *Server) stopServing() *http.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.entrance != nil {
		s.entrance.Close()
	}
	return s.web
}
