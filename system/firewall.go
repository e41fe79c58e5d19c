package system

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"culvert.example/vpn/host"
	"culvert.example/vpn/host/firewall"
	"culvert.example/vpn/split"
)

// maxEndpoints is how many addresses that sockets of the tunnel have connected to are remembered, the latest ones.
const maxEndpoints = 64

// maxHosts is how many prefixes may pass the kill switch besides the tunnel, and maxAllowedHosts how many of them are configured. The
// firewall has room for 1024, of which those that were asked for or come from the last tunnel take the rest.
const (
	maxHosts        = 900
	maxAllowedHosts = 500
)

// multicasts are the addresses by which machines of a local network find each other.
var multicasts = [...]netip.Prefix{
	netip.PrefixFrom(netip.AddrFrom4([4]byte{224, 0, 0, 0}), 24), netip.PrefixFrom(netip.AddrFrom4([4]byte{239}), 8),
	netip.PrefixFrom(netip.AddrFrom16([16]byte{0xff, 0x02}), 16),
}

// narrow reports whether a prefix may pass the kill switch as a whole.
func narrow(p netip.Prefix) bool {
	if p.Addr().Unmap().Is4() {
		return p.Bits() >= 8
	}
	return p.Bits() >= 16
}

// private reports whether everybody may use the addresses of p at home (RFC 1918, RFC 3927, RFC 4193, RFC 4291 section 2.5.6).
func private(p netip.Prefix) bool {
	a := p.Addr()
	switch {
	case a.IsPrivate():
		if a.Is6() {
			return p.Bits() >= 7
		}
		return p.Bits() >= 8 && (a.As4()[0] == 10 || p.Bits() >= 12)
	case a.IsLinkLocalUnicast():
		return p.Bits() >= 10
	}
	return false
}

// wall returns what passes the kill switch now, nil if there is none in force. The lock of the System is held.
func (s *System) wall(networks []netip.Prefix) *firewall.Config {
	k := s.cfg.KillSwitch
	t := s.tunnel
	if k == nil || s.lifted {
		return nil
	}
	shut := !k.Open || s.policy == Shut
	if !shut && t == nil {
		return nil
	}
	w := &firewall.Config{Guests: k.Guests, Hosts: slices.Concat(k.AllowedHosts, s.allowed.hosts), Reject: k.Reject, PublicLAN: s.cfg.PublicLAN}
	if !shut {
		w.Lease = k.Lease
	}
	lan := k.LocalLAN || k.SessionLAN && t != nil && t.lan
	if t == nil && k.LastRules {
		w.Hosts = append(w.Hosts, s.last.Hosts...)
		lan = lan || k.SessionLAN && s.last.LAN
	}
	if lan {
		for _, p := range networks {
			if len(w.Hosts)+len(w.LAN) >= maxHosts {
				s.log.Warn("the kill switch has no room for all networks that the machine is connected to", "most", maxHosts)
				break
			}
			if private(p) || s.cfg.PublicLAN && narrow(p) {
				w.LAN = append(w.LAN, p)
			}
		}
		w.LAN = append(w.LAN, multicasts[:]...)
	}
	if s.portal.After(time.Now()) {
		w.Portal = firewall.Portal{Until: s.portal, Resolvers: s.portalServers}
	}
	// Our own sockets may go anywhere while there is no tunnel, or none that works, to find the gateway and log in; and on behalf
	// of others where the tunnel has destinations outside.
	w.Mark = host.DefaultMark
	if t == nil {
		if len(k.AllowedNames) > 0 {
			// A program that cannot ask for an allowed host does not get there.
			w.Resolvers = s.allowed.servers
		}
		return w
	}
	w.Device = t.device
	if s.shared && !s.searching && !t.outside() {
		w.Mark = 0
	}
	gateway := t.lease.Gateway.Addr().Unmap()
	for _, e := range s.endpoints {
		if e.Addr.Addr() == gateway {
			w.Gateways = append(w.Gateways, e)
		}
	}
	// In an order of their own, so that a connection to the same address again changes nothing.
	slices.SortFunc(w.Gateways, func(a, b firewall.Endpoint) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Network, b.Network))
	})
	t.holes(w)
	return w
}

// outside reports whether sockets of ours have to reach destinations outside of the tunnel.
func (t *tunnel) outside() bool { return t.intercepts || t.names != nil && t.names.asksOutside() }

// holes lets through what is excluded from the tunnel by prefixes, or was learned to be by name.
func (t *tunnel) holes(w *firewall.Config) {
	if t.intercepts {
		return // the marked sockets of the flow path carry it
	}
	_, learned := t.router.Prefixes()
	for _, p := range t.direct(slices.Concat(t.lease.Exclude, t.s.cfg.User.Exclude, learned)) {
		if len(w.Hosts)+len(w.LAN) >= maxHosts {
			t.s.log.Warn("the kill switch has no room for all that is excluded from the tunnel", "most", maxHosts)
			return
		}
		w.Hosts = append(w.Hosts, p)
	}
}

// direct returns those of the prefixes that leave past the tunnel, and are narrow enough to pass the kill switch.
func (t *tunnel) direct(prefixes []netip.Prefix) (direct []netip.Prefix) {
	for _, p := range prefixes {
		if p = p.Masked(); narrow(p) && !(p.Addr().Is6() && t.noIPv6) && t.router.Why("", p.Addr()).Way == split.Direct {
			direct = append(direct, p)
		}
	}
	return direct
}

// admit lets a socket of the tunnel through the kill switch, and remembers where it goes: it may be the gateway.
func (s *System) admit(network string, to netip.AddrPort) error {
	e := firewall.Endpoint{Addr: netip.AddrPortFrom(to.Addr().Unmap().WithZone(""), to.Port()), Network: strings.TrimRight(network, "46")}
	s.mu.Lock()
	s.endpoints = slices.DeleteFunc(s.endpoints, func(o firewall.Endpoint) bool { return o == e })
	if len(s.endpoints) == maxEndpoints {
		s.endpoints = slices.Delete(s.endpoints, 0, 1)
	}
	s.endpoints = append(s.endpoints, e)
	known := s.inForce != nil && slices.Contains(s.inForce.Gateways, e)
	gateway := s.tunnel != nil && e.Addr.Addr() == s.tunnel.lease.Gateway.Addr().Unmap()
	s.mu.Unlock()
	return s.pass(known, gateway)
}

// pass has the kill switch let sockets of the tunnel out. Known says that it does already, and gateway that it will if it is
// applied again.
func (s *System) pass(known, gateway bool) error {
	s.mu.Lock()
	passes := s.inForce == nil || !s.shared || s.inForce.Mark != 0 || known
	if !passes && !gateway {
		// Until the tunnel is up again it is not known which address is that of the gateway.
		s.searching = true
	}
	s.mu.Unlock()
	if passes {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.applyTime)
	defer cancel()
	if err := s.apply(ctx); err != nil {
		return fmt.Errorf("system: letting the tunnel through the kill switch: %w", err)
	}
	return nil
}

// renew keeps an open kill switch alive until ctx ends.
func (s *System) renew(ctx context.Context) {
	tick := time.NewTicker(s.cfg.KillSwitch.Lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		standing := s.inForce != nil
		s.mu.Unlock()
		if !standing {
			continue
		}
		if err := s.firewall.Renew(ctx); err != nil && ctx.Err() == nil {
			s.note(Event{Kind: EventFirewall, What: "the kill switch could not be renewed and will open", Err: err.Error()})
		}
	}
}

// Lift lifts the kill switch until the next tunnel. Errors match [ErrNoKillSwitch] or [ErrLocked].
func (s *System) Lift(ctx context.Context) error {
	switch k := s.cfg.KillSwitch; {
	case k == nil:
		return ErrNoKillSwitch
	case k.Locked:
		return ErrLocked
	}
	s.mu.Lock()
	was := s.lifted
	s.lifted = true
	s.mu.Unlock()
	if err := s.apply(ctx); err != nil {
		s.mu.Lock()
		s.lifted = was
		s.mu.Unlock()
		return err
	}
	s.note(Event{Kind: EventFirewall, What: "the kill switch was lifted by the user"})
	if err := s.tellNames(ctx); err != nil {
		return err
	}
	// The resolver of the machine may ask others than the proxy again.
	return s.apply(ctx)
}

// OpenPortalWindow lets connections to web servers, and questions to the machine's own DNS servers, through the kill switch
// for d, at most an hour, so that a person can log in at a captive portal. The kernel closes the window. A d of zero closes it
// now. The error matches [ErrNoKillSwitch] if there is none.
func (s *System) OpenPortalWindow(ctx context.Context, d time.Duration) error {
	switch {
	case s.cfg.KillSwitch == nil:
		return ErrNoKillSwitch
	case d < 0 || d > firewall.MaxPortal:
		return invalid("a window for a captive portal of %v: want at most %v", d, firewall.MaxPortal)
	}
	servers, _ := s.outsideServers(ctx)
	s.mu.Lock()
	was, before := s.portal, s.portalServers
	s.portal, s.portalServers = time.Time{}, askable(servers)
	if d > 0 {
		s.portal = time.Now().Add(d)
	}
	s.mu.Unlock()
	err := s.apply(ctx)
	if err != nil {
		// What comes next must not fail for the same reason.
		s.mu.Lock()
		s.portal, s.portalServers = was, before
		s.mu.Unlock()
	}
	return err
}

// maxAskable is how many DNS servers of the machine may pass the kill switch.
const maxAskable = 64

// askable returns those of the DNS servers of the machine that the kill switch can let pass. A resolv.conf may name what is no address of
// a server elsewhere, such as 0.0.0.0 for the machine itself, and the firewall refuses to be told of that.
func askable(servers []netip.AddrPort) (some []netip.AddrPort) {
	for _, a := range servers {
		if addr := a.Addr().Unmap(); (addr.IsGlobalUnicast() || addr.IsLinkLocalUnicast()) && len(some) < maxAskable {
			some = append(some, a)
		}
	}
	return some
}
