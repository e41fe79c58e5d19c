package vpn

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"culvert.example/vpn/dns"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/policy"
	"culvert.example/vpn/split"
	"culvert.example/vpn/stack"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/anyconnect"
)

// batchSize is how many packets a pump carries at a time: a full-sized TCP segment of 64 KiB cut to the MTU is 46.
const batchSize = 64

// A Tunnel is a connection to a private network through a gateway. It is safe for concurrent use, and holds no state outside
// itself: many may exist in a process, also with overlapping networks.
//
// Its methods DialContext and Dial are those of net.Dialer, so that a Tunnel fits wherever programs let one choose
// how to connect: http.Transport, grpc.WithContextDialer, golang.org/x/net/proxy and so on.
type Tunnel struct {
	server  string
	cfg     *Config
	logger  *slog.Logger
	session transport.Session
	stack   *stack.Stack // nil if the configuration has a System or a Device
	device  packet.Conn  // the link of the stack, or the configuration's Device, or what its System gave
	system  SystemDevice // what the configuration's System gave, if it has one
	mtu     int          // what the Device was told last; guarded by status when the tunnel is live

	router   split.Router
	names    dns.Exchanger
	mux      *dns.Mux // names, unless the configuration has a Resolver
	resolver *dns.Resolver

	sent, received tap
	gates          [2]*policy.Gate
	capture        atomic.Pointer[capture]

	draining atomic.Bool // Shutdown has begun
	doors    doorkeeper

	status  watched[Status]
	live    atomic.Bool // from when everything above is set until the end begins
	closing sync.Once
	running sync.WaitGroup
	done    chan struct{}
	err     error // set before done is closed

	suspended bool // set by closing: the session was not ended
}

// Dial opens a tunnel through the gateway server, which is a URL such as https://vpn.example.com/group or a host with an optional
// port and group. It logs in as cfg says and returns when packets can flow. A nil cfg is the zero Config.
//
// The context bounds only the dialing: the tunnel lives until Close, or until it ends for good, which Done tells. Dial
// uses no globals, environment, signals or log output. The error is an [*OpError].
func Dial(ctx context.Context, server string, cfg *Config) (*Tunnel, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	t := &Tunnel{server: publicName(server), cfg: cfg, logger: cfg.logger(), done: make(chan struct{})}
	if err := t.dial(ctx, server); err != nil {
		return nil, &OpError{Op: "dial", Server: t.server, Err: err}
	}
	return t, nil
}

func (t *Tunnel) dial(ctx context.Context, server string) error {
	dialer := t.cfg.Transport
	if dialer == nil {
		client := t.cfg.client(server)
		client.OnChange = t.pathsChanged
		dialer = client
	}
	session, err := dialer.DialSession(ctx)
	if err != nil {
		return err
	}
	if err := t.start(ctx, session); err != nil {
		session.Close()
		return err
	}
	return nil
}

// start puts a stack or a device and its pumps on a session.
func (t *Tunnel) start(ctx context.Context, session transport.Session) error {
	t.session = session
	lease := session.Lease()
	var err error
	switch {
	case t.cfg.System != nil:
		err = t.openSystem(ctx, lease)
	case t.cfg.Device != nil:
		err = t.openDevice(lease)
	default:
		err = t.openStack(lease)
	}
	if err != nil {
		return err
	}
	if err := t.startResolver(lease); err != nil {
		t.closeDevice()
		return err
	}

	var inner []netip.Addr
	for _, p := range lease.Addresses {
		inner = append(inner, p.Addr())
	}
	t.gates = [2]*policy.Gate{policy.NewGate(policy.Source, inner...), policy.NewGate(policy.Destination, inner...)}
	t.sent.capture, t.received.capture = &t.capture, &t.capture
	t.sent.out = true

	now := time.Now()
	t.status.update(func(s *Status) {
		*s = Status{Server: t.server, Banner: lease.Banner, MTU: session.MTU(), Since: now, Started: now}
		s.take(lease)
	})
	t.live.Store(true)
	if s, ok := session.(*anyconnect.Session); ok {
		t.pathsChanged(s)
	}

	size := max(lease.MTU, session.MTU(), t.device.MTU())
	ended := make(chan error, 2)
	t.running.Go(func() { ended <- packet.Copy(session, t.device, size, batchSize, t.gates[0], &t.sent) })
	t.running.Go(func() { ended <- packet.Copy(t.device, session, size, batchSize, t.gates[1], &t.received) })
	go func() {
		var err error
		select {
		case err = <-ended:
		case <-session.Done():
		}
		// The session knows best why its pumps stopped.
		select {
		case <-session.Done():
			err = session.Err()
		default:
		}
		t.end(err, false)
	}()
	return nil
}

// end closes everything, once, because of err. With suspend the gateway is not told, if the session can do that.
func (t *Tunnel) end(err error, suspend bool) {
	t.closing.Do(func() {
		t.live.Store(false)
		if s, ok := t.session.(suspender); ok && suspend {
			s.Suspend()
			t.suspended = true
		} else {
			t.session.Close()
		}
		t.closeDevice()
		t.running.Wait()
		if stop := t.capture.Load(); stop != nil {
			stop.close()
		}
		t.err = err
		t.status.update(func(s *Status) {
			now := time.Now()
			s.State, s.Path, s.Since, s.Err = Closed, "", now, err
			s.Paths = slices.Clone(s.Paths) // readers may be copying it
			for i := range s.Paths {
				s.Paths[i].close(now)
			}
			close(t.done) // in here, so that nobody sees the one without the other
		})
		t.logger.Info("tunnel ended", "server", t.server, "reason", err)
	})
}

// pathsChanged takes the state of the session into the status. What happens before the tunnel is up, start takes in. That paths
// are closed at the end is no news.
func (t *Tunnel) pathsChanged(session *anyconnect.Session) {
	if !t.live.Load() {
		return
	}
	t.status.update(func(s *Status) {
		state := session.State() // in here, so that a newer state is not overwritten by an older one
		if !t.live.Load() || state.Err != nil {
			return
		}
		s.Path = ""
		s.Paths = s.Paths[:0:0]
		for _, p := range state.Paths {
			if p.Active {
				s.Path = p.Name
			}
			status := PathStatus{Name: p.Name, Open: p.Open, Active: p.Active, Since: p.Since, Opens: int(p.Opens), Failures: int(p.Failures),
				Detail: session.Cipher(p.Name), NextTry: p.NextTry}
			if p.LastError != nil {
				status.LastError = p.LastError.Error()
			}
			s.Paths = append(s.Paths, status)
		}
		was := s.State
		if s.State = Connected; s.Path == "" {
			s.State = Reconnecting
		}
		if s.State != was {
			s.Since = time.Now()
			if s.State == Connected {
				s.Reconnects++
			}
		}
		s.Roams, s.RoamError = int(state.Replaced), ""
		if state.Kept != nil {
			s.RoamError = state.Kept.Error()
		}
		s.MTU = state.MTU
		t.setMTU(state.MTU)
		if lease := session.Lease(); t.system != nil {
			t.system.Changed(s.State, lease)
			s.take(lease)
		}
	})
}

// splitConfig returns the split rules of a lease.
func splitConfig(lease *transport.Lease) split.Config {
	cfg := split.Config{
		Addresses: lease.Addresses, Include: lease.Include, Exclude: lease.Exclude, DNS: lease.DNS,
		DynamicInclude: lease.DynamicInclude, DynamicExclude: lease.DynamicExclude, Bypass: lease.BypassProtocol,
	}
	if lease.Gateway.IsValid() {
		cfg.Gateway = []netip.Addr{lease.Gateway.Addr()}
	}
	if lease.ExcludeLocalLAN {
		cfg.LocalLAN = localNetworks()
	}
	return cfg
}

// localNetworks returns the networks that the machine is directly connected to.
func localNetworks() []netip.Prefix {
	var local []netip.Prefix
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() && !p.IsSingleIP() {
			local = append(local, p.Masked())
		}
	}
	return local
}

// Done is closed when the tunnel has ended, by Close or for good by itself.
func (t *Tunnel) Done() <-chan struct{} { return t.done }

// Err returns why the tunnel has ended, and nil while it has not. After Close it matches net.ErrClosed.
func (t *Tunnel) Err() error {
	select {
	case <-t.done:
		return &OpError{Op: "tunnel", Server: t.server, Err: t.err}
	default:
		return nil
	}
}

// Close logs out, ends the tunnel and every connection in it, and waits until nothing of it is left. It may be called
// several times. It returns nil.
func (t *Tunnel) Close() error {
	t.end(net.ErrClosed, false)
	return nil
}

// A suspender is a session that can be left without ending it.
type suspender interface {
	Suspend() error
	Ticket() *Ticket
}

// Suspend ends the tunnel as Close does, but does not log out: the gateway keeps the session for as long as it lets one be without a
// connection, and the ticket takes it up again as [Config.Ticket], without a login. It may be called several times. The error, an
// [*OpError], is why the tunnel had ended before, or matches errors.ErrUnsupported if its Config.Transport has no such sessions;
// nothing is done then.
func (t *Tunnel) Suspend() (*Ticket, error) {
	s, ok := t.session.(suspender)
	if !ok {
		return nil, &OpError{Op: "suspend", Server: t.server, Err: errors.ErrUnsupported}
	}
	t.end(net.ErrClosed, true)
	if !t.suspended {
		return nil, &OpError{Op: "suspend", Server: t.server, Err: t.err}
	}
	return s.Ticket(), nil
}

// drainInterval is how often Shutdown looks whether connections are left.
const drainInterval = 20 * time.Millisecond

// Shutdown waits until no TCP connection through the tunnel is open any more, or ctx ends, and then closes the tunnel. New
// connections are refused meanwhile, those from inside too: it begins with closing the listeners of [Tunnel.Listen], which resets what
// waits for their Accept. It returns the error of ctx if connections were cut. With a Config.Device it is Close, since the connections are
// those of others.
func (t *Tunnel) Shutdown(ctx context.Context) error {
	t.draining.Store(true)
	defer t.Close()
	t.doors.shutAll()
	if t.stack == nil {
		return nil
	}
	tick := time.NewTicker(drainInterval)
	defer tick.Stop()
	for t.stack.Stats().TCPOpen > 0 {
		select {
		case <-tick.C:
		case <-t.done:
			return nil
		case <-ctx.Done():
			return &OpError{Op: "close", Server: t.server, Err: ctx.Err()}
		}
	}
	return nil
}

// NetworkChanged tells the tunnel that the machine's network may have changed: another interface, another address, back from
// sleep. It checks its paths at once and replaces those that are dead, without waiting for a time-out. If the machine would
// now reach the gateway from another address, and there is no Config.Dial, the tunnel moves there in the background as by
// Roam. Inner connections live on. It does not block.
func (t *Tunnel) NetworkChanged() {
	if s, ok := t.session.(interface{ NetworkChanged() }); ok {
		s.NetworkChanged()
	}
}

// A roamer is a session that can move.
type roamer interface {
	Roam(ctx context.Context, dial, dialUDP anyconnect.DialFunc) error
}

// Roam moves the tunnel to another network, make before break: while packets go on by the old one, it connects to the gateway with
// dial, then has the session and its packets move to the new connection, and gives up the old ones last. DTLS follows with dialUDP.
// Both are bound to that network, such as by its interface or source address. As in a [Config], without dialUDP a dial means that there
// is no DTLS, and nil for both means what the Config has: that is for when the routes of the machine lead elsewhere now.
//
// Roam returns when the packets take the new connection. The end of ctx ends it before, as does a later call of Roam, whose
// network it then is. If Roam fails, such as for want of a way to the gateway, or because something else answers for it, the tunnel
// stays where it is, Status.RoamError says why, and nothing else has changed. The error is an [*OpError]. It may be called at
// any time, also while the tunnel reconnects, which it may bring to an end.
func (t *Tunnel) Roam(ctx context.Context, dial, dialUDP DialFunc) error {
	s, ok := t.session.(roamer)
	err := errors.ErrUnsupported
	if ok {
		err = s.Roam(ctx, inOrder(t.cfg.IPProtocols, dial), inOrder(t.cfg.IPProtocols, dialUDP))
	}
	if s, ok := t.session.(*anyconnect.Session); ok {
		t.pathsChanged(s) // so that the caller finds in the status what has happened
	}
	if err != nil {
		return &OpError{Op: "roam", Server: t.server, Err: err}
	}
	return nil
}

func (t *Tunnel) fillCounters(s *Status) {
	s.Counters = Counters{
		SentPackets: t.sent.packets.Load(), SentBytes: t.sent.bytes.Load(),
		ReceivedPackets: t.received.packets.Load(), ReceivedBytes: t.received.bytes.Load(),
	}
	if t.gates[0] != nil {
		s.Counters.Dropped = t.gates[0].Dropped() + t.gates[1].Dropped()
	}
}
