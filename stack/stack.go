// Package stack is a TCP/IP host in user space: net.Conns on the inside, IP packets on the outside.
//
// A [Stack] has addresses and an MTU like an interface of the machine, but no privileges are needed and nothing of the
// machine changes. Programs use its inner face, which has the shapes of package net: [Stack.DialContext],
// [Stack.Listen], [Stack.ListenPacket], [Stack.Ping]. Packets enter and leave by its outer face, [Stack.Link], which is a
// packet.Conn and is usually joined to a tunnel by two packet.Copy pumps:
//
//	st, err := stack.New(stack.Config{Addresses: lease.Addresses, MTU: lease.MTU})
//	go packet.Copy(tunnel, st.Link(), packet.MaxSize, 128)
//	go packet.Copy(st.Link(), tunnel, packet.MaxSize, 128)
//	conn, err := st.DialContext(ctx, "tcp", "10.0.0.1:22")
//
// Names are not resolved here; every address is an IP literal.
//
// # Gateways
//
// With one of the Accept functions set, a Stack takes packets to every destination address and not only to its own, and
// hands each new flow to the embedder as a request: [TCPRequest], [UDPRequest], [PingRequest]. The embedder tries to reach the
// real destination first and then accepts or rejects, so that the peer learns the truth: a refused connection is a RST, an
// unreachable port an ICMP error. Such a Stack cannot connect to itself.
//
// # How a packet moves
//
// Outwards, TCP hands whole segments of up to 64 KiB to the link, where they wait in a bounded queue. ReadBatch cuts them
// to the size that the connection, the path and the tunnel allow while it copies them into the Bufs of its caller, so that the
// costs of the protocol are paid once for 64 KiB. Inwards, WriteBatch verifies and joins consecutive TCP segments of a flow
// within a batch before the stack sees them. A batch should therefore be large; 64 or more Bufs are a good size.
//
// The work of TCP/IP is done by the netstack of gVisor, which appears in no exported signature.
package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"culvert.example/vpn/packet"
)

// A Config says what a [Stack] is. The zero value of each field but Addresses is usable. It must not change after [New].
type Config struct {
	// Addresses are the addresses of the stack, with the length of their on-link prefix. The first of a family is the
	// source of connections that do not choose one. It may be empty if one of the Accept functions is set.
	Addresses []netip.Prefix

	// MTU is the size in bytes of the largest packet that leaves the stack, from packet.MinMTU4 (packet.MinMTU6 with an IPv6
	// address) to packet.MaxSize. Zero means 1280.
	MTU int

	// SendBuffer and ReceiveBuffer are the sizes in bytes that the buffers of one TCP connection may grow to as the
	// connection needs them. Zero means 8 MiB. At least 64 KiB.
	SendBuffer, ReceiveBuffer int

	// AcceptTCP, AcceptUDP and AcceptPing receive the flows to addresses on which nothing listens, the foreign ones among
	// them. Each call has its own goroutine, and the context ends when the stack closes. A request that is neither accepted
	// nor rejected when the function returns is rejected. The functions must not call Close, which waits for them. A flow of a
	// kind whose function is nil is rejected, save that the stack answers pings to its own addresses by itself.
	AcceptTCP  func(context.Context, *TCPRequest)
	AcceptUDP  func(context.Context, *UDPRequest)
	AcceptPing func(context.Context, *PingRequest)

	// MaxPending is how many requests of each kind may wait for a decision at a time; further ones are dropped, so that
	// the peer tries again. Zero means 1024.
	MaxPending int
	// MaxFlows is how many accepted flows, TCP and UDP together, may exist at a time; further ones are refused.
	// Zero means 16384.
	MaxFlows int
	// UDPIdle is how long an accepted UDP flow lives without a datagram in either direction. Zero means two minutes
	// (RFC 4787 section 4.3), and less than zero for ever.
	UDPIdle time.Duration

	// Logger receives what may interest an operator, never anything for each packet. Nil discards.
	Logger *slog.Logger
}

// A Stack is a TCP/IP host in user space. Its methods may be called from several goroutines.
type Stack struct {
	cfg  Config
	log  *slog.Logger
	gs   *stack.Stack
	link *link

	addrs atomic.Pointer[[]netip.Prefix]

	// done is closed when Close begins; cancel ends the context of the callbacks.
	done    chan struct{}
	cancel  context.CancelFunc
	closing sync.Once
	closed  chan struct{}

	// calls are the callbacks of the embedder and our own goroutines. callsMu orders their start before the end.
	callsMu sync.Mutex
	ended   bool
	calls   sync.WaitGroup

	pings pinger
	syns  syns
	stats counters
	flows atomic.Int64
	// warned is whether the log says that a limit was reached. It says so once, since whoever reaches it may be hostile.
	warned atomic.Bool

	pendingUDP, pendingPing atomic.Int64
	acceptPing              func(*PingRequest) // nil if pings to foreign addresses are rejected
	forwarding              bool
}

const (
	nicID = 1

	defaultMTU           = packet.MinMTU6
	defaultSendBuffer    = 8 << 20
	defaultReceiveBuffer = 8 << 20
	minBuffer            = 64 << 10
	initialBuffer        = 1 << 20
	datagramBuffer       = 256 << 10
	flowDatagramBuffer   = 64 << 10

	defaultMaxPending = 1024
	defaultMaxFlows   = 16384
	defaultUDPIdle    = 2 * time.Minute
)

// New returns a running Stack. Its owner closes it.
func New(cfg Config) (*Stack, error) {
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	if cfg.SendBuffer == 0 {
		cfg.SendBuffer = defaultSendBuffer
	}
	if cfg.ReceiveBuffer == 0 {
		cfg.ReceiveBuffer = defaultReceiveBuffer
	}
	if cfg.SendBuffer < minBuffer || cfg.ReceiveBuffer < minBuffer {
		return nil, fmt.Errorf("stack: buffers of %d and %d bytes are less than %d", cfg.SendBuffer, cfg.ReceiveBuffer, minBuffer)
	}
	if cfg.MaxPending <= 0 {
		cfg.MaxPending = defaultMaxPending
	}
	if cfg.MaxFlows <= 0 {
		cfg.MaxFlows = defaultMaxFlows
	}
	if cfg.UDPIdle == 0 {
		cfg.UDPIdle = defaultUDPIdle
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	forwarding := cfg.AcceptTCP != nil || cfg.AcceptUDP != nil || cfg.AcceptPing != nil
	if len(cfg.Addresses) == 0 && !forwarding {
		return nil, errors.New("stack: no address")
	}
	if err := checkMTU(cfg.MTU, cfg.Addresses); err != nil {
		return nil, err
	}

	s := &Stack{
		cfg:    cfg,
		log:    cfg.Logger,
		done:   make(chan struct{}),
		closed: make(chan struct{}),

		forwarding: forwarding,
	}
	s.addrs.Store(new([]netip.Prefix))
	s.pings.init()
	s.link = newLink(s, cfg.MTU)
	s.gs = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocol,
			// The far end of a tunnel is one host, which has assigned the addresses: nothing has to be discovered,
			// announced or checked for duplicates, and nothing leaves the stack that nobody asked for.
			ipv6.NewProtocolWithOptions(ipv6.Options{
				NDPConfigs: ipv6.NDPConfigurations{HandleRAs: ipv6.HandlingRAsDisabled},
				DADConfigs: stack.DADConfigurations{DupAddrDetectTransmits: 0},
			}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{
			newTCP, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
		// A forwarding stack sees addresses as its own for as long as somebody connects to them, and must not take packets
		// from there for forgeries of its own.
		HandleLocal: !forwarding,
	})
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	err := s.configure(ctx)
	if err == nil {
		err = s.SetAddresses(cfg.Addresses)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Stack) configure(ctx context.Context) error {
	if err := s.gs.CreateNICWithOptions(nicID, endpoint{s.link}, stack.NICOptions{QDisc: endpoint{s.link}}); err != nil {
		return fmt.Errorf("stack: making the interface: %s", err)
	}
	for protocol, ep := range map[tcpip.NetworkProtocolNumber]*stack.NetworkEndpoint{
		header.IPv4ProtocolNumber: &s.link.net4, header.IPv6ProtocolNumber: &s.link.net6,
	} {
		var err tcpip.Error
		if *ep, err = s.gs.GetNetworkEndpoint(nicID, protocol); err != nil {
			return fmt.Errorf("stack: making the interface: %s", err)
		}
	}
	s.link.attached.Store(true)
	s.gs.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	if err := s.tuneTCP(); err != nil {
		return err
	}
	for _, opt := range []any{
		tcpip.SendBufferSizeOption{Min: 4 << 10, Default: datagramBuffer, Max: 4 << 20},
		tcpip.ReceiveBufferSizeOption{Min: 4 << 10, Default: datagramBuffer, Max: 4 << 20},
	} {
		if err := s.gs.SetOption(opt); err != nil {
			return fmt.Errorf("stack: setting buffer sizes: %s", err)
		}
	}
	if !s.forwarding {
		return nil
	}
	// Promiscuous takes packets to any address in, spoofing lets answers leave from any address.
	if err := s.gs.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("stack: forwarding: %s", err)
	}
	if err := s.gs.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("stack: forwarding: %s", err)
	}
	s.forward(ctx)
	return nil
}

func checkMTU(mtu int, addrs []netip.Prefix) error {
	low := packet.MinMTU4
	for _, a := range addrs {
		if a.Addr().Unmap().Is6() {
			low = packet.MinMTU6
		}
	}
	if mtu < low || mtu > packet.MaxSize {
		return fmt.Errorf("stack: MTU %d is outside %d to %d", mtu, low, packet.MaxSize)
	}
	return nil
}

// start runs f in a goroutine that Close waits for. It reports false, and does nothing, when the stack is closing.
func (s *Stack) start(f func()) bool {
	s.callsMu.Lock()
	defer s.callsMu.Unlock()
	if s.ended {
		return false
	}
	s.calls.Go(f)
	return true
}

// Link returns the outer face of the stack: ReadBatch returns the packets that leave it, WriteBatch takes in those that
// are for it. WriteBatch never waits, and also takes packets that are larger than the MTU, since the other end may not
// know yet that it has changed. It changes windows and options of the packets that it takes, and may put a packet in the place of
// an earlier one. Closing the Link leaves the stack without a network; [Stack.Close] closes it too.
func (s *Stack) Link() packet.Conn { return packetConn{s.link} }

// MTU returns the size in bytes of the largest packet that leaves the stack now.
func (s *Stack) MTU() int { return int(s.link.mtu.Load()) }

// SetMTU changes the MTU. Established TCP connections send smaller segments at once when it falls. When it rises, only new
// connections use the room.
func (s *Stack) SetMTU(mtu int) error {
	if err := checkMTU(mtu, *s.addrs.Load()); err != nil {
		return err
	}
	if old := s.link.mtu.Swap(uint32(mtu)); int(old) != mtu {
		s.log.Debug("stack: MTU changed", "mtu", mtu, "before", old)
	}
	return nil
}

// Addresses returns the addresses of the stack.
func (s *Stack) Addresses() []netip.Prefix { return slices.Clone(*s.addrs.Load()) }

// SetAddresses replaces the addresses of the stack. Connections with an address that is gone are reset.
func (s *Stack) SetAddresses(addrs []netip.Prefix) error {
	if err := checkMTU(s.MTU(), addrs); err != nil {
		return err
	}
	next := make([]netip.Prefix, 0, len(addrs))
	for _, a := range addrs {
		if !a.IsValid() || a.Addr().Zone() != "" || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
			return fmt.Errorf("stack: %v cannot be an address of a host", a)
		}
		if a.Addr().Is4In6() {
			a = netip.PrefixFrom(a.Addr().Unmap(), max(a.Bits()-96, 0))
		}
		if slices.ContainsFunc(next, func(b netip.Prefix) bool { return a.Addr() == b.Addr() }) {
			continue
		}
		next = append(next, a)
	}

	s.callsMu.Lock()
	defer s.callsMu.Unlock()
	old := *s.addrs.Load()
	for _, a := range old {
		if !slices.Contains(next, a) {
			if err := s.gs.RemoveAddress(nicID, fromAddr(a.Addr())); err != nil {
				return fmt.Errorf("stack: removing %v: %s", a, err)
			}
		}
	}
	for _, a := range next {
		if slices.Contains(old, a) {
			continue
		}
		if err := s.gs.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
			Protocol:          protocolOf(a.Addr()),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: fromAddr(a.Addr()), PrefixLen: a.Bits()},
		}, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("stack: adding %v: %s", a, err)
		}
	}
	s.addrs.Store(&next)
	s.log.Debug("stack: addresses changed", "addresses", next)
	s.abortOrphans(old, next)
	return nil
}

// abortOrphans resets the connections whose address is in old and not in next any more.
func (s *Stack) abortOrphans(old, next []netip.Prefix) {
	gone := func(a netip.Addr) bool {
		same := func(p netip.Prefix) bool { return p.Addr() == a }
		return slices.ContainsFunc(old, same) && !slices.ContainsFunc(next, same)
	}
	for _, e := range s.gs.RegisteredEndpoints() {
		ep, ok := e.(tcpip.Endpoint)
		if !ok {
			continue
		}
		if local, err := ep.GetLocalAddress(); err == nil && gone(toAddr(local.Addr)) {
			ep.Abort()
		}
	}
}

// owns reports whether a is an address of the stack.
func (s *Stack) owns(a netip.Addr) bool {
	for _, p := range *s.addrs.Load() {
		if p.Addr() == a {
			return true
		}
	}
	return false
}

// source returns the address that packets to a leave from.
func (s *Stack) source(a netip.Addr) (netip.Addr, bool) {
	for _, p := range *s.addrs.Load() {
		if p.Addr().Is4() == a.Is4() {
			return p.Addr(), true
		}
	}
	return netip.Addr{}, false
}

func (s *Stack) isClosed() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// abortInterval is how often Close looks for endpoints that came into being while it was closing the others.
const abortInterval = 20 * time.Millisecond

// Close ends all connections and listeners, whose methods then return errors that match net.ErrClosed, and the Link. It
// waits for the Accept functions that still run and for every goroutine of the stack.
func (s *Stack) Close() error {
	s.closing.Do(func() {
		defer close(s.closed)
		s.callsMu.Lock()
		s.ended = true
		close(s.done)
		s.callsMu.Unlock()
		s.cancel()
		s.link.Close()

		idle := make(chan struct{})
		go func() {
			s.calls.Wait()
			close(idle)
		}()
		for waiting := true; waiting; {
			s.gs.Close()
			select {
			case <-idle:
				waiting = false
			case <-time.After(abortInterval):
			}
		}
		s.gs.Destroy()
	})
	<-s.closed
	return nil
}

// Every connection of the stack goes through the same tunnel, so what TCP should be like is decided here and not by
// each program.
const (
	// congestionControl and netstackMinTimeout are those of the netstack, and matter little: the governor answers for windows and losses.
	// It hides losses from the netstack, whose window with Reno then grows until it is out of the way; its CUBIC forgets the
	// fractions that a window of a few segments grows by, and stays at two segments where every fiftieth is lost. Its
	// time-outs remain for connections that are not governed, and as what helps when nothing else does; they must not come
	// before those of the governor.
	congestionControl  = "reno"
	netstackMinTimeout = time.Second

	// recovery is without the RACK of the netstack, with which a sender that has lost everything for about a second is left with two
	// segments for each time-out from then on: 12 kbyte/s until the connection ends. TestOutage holds on to this.
	recovery = tcpip.TCPRecovery(0)
)

func newTCP(gs *stack.Stack) stack.TransportProtocol { return tcp.NewProtocol(gs) }

func (s *Stack) tuneTCP() error {
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	cc := tcpip.CongestionControlOption(congestionControl)
	rack := tcpip.TCPRecovery(recovery)
	minRTO := tcpip.TCPMinRTOOption(netstackMinTimeout)
	send := tcpip.TCPSendBufferSizeRangeOption{
		Min: tcp.MinBufferSize, Default: min(initialBuffer, s.cfg.SendBuffer), Max: s.cfg.SendBuffer,
	}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{
		Min: tcp.MinBufferSize, Default: min(initialBuffer, s.cfg.ReceiveBuffer), Max: s.cfg.ReceiveBuffer,
	}
	for _, opt := range []tcpip.SettableTransportProtocolOption{&minRTO, &sack, &moderate, &cc, &rack, &send, &receive} {
		if err := s.gs.SetTransportProtocolOption(tcp.ProtocolNumber, opt); err != nil {
			return fmt.Errorf("stack: setting %T: %s", opt, err)
		}
	}
	return nil
}

func fromAddr(a netip.Addr) tcpip.Address {
	if a = a.Unmap(); a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

func toAddr(a tcpip.Address) netip.Addr {
	switch a.Len() {
	case 4:
		return netip.AddrFrom4(a.As4())
	case 16:
		return netip.AddrFrom16(a.As16()).Unmap()
	}
	return netip.Addr{}
}

func toAddrPort(a tcpip.FullAddress) netip.AddrPort {
	return netip.AddrPortFrom(toAddr(a.Addr), a.Port)
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Unmap().Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

var errNotLiteral = errors.New("not an IP address literal")

// randomPort is where identifiers that should not be guessed start.
func randomPort() uint16 { return uint16(rand.Uint32()) }
