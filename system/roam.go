package system

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"culvert.example/vpn/host"
)

// roamTime bounds a move to another network.
const roamTime = 30 * time.Second

// gateway returns the address of the gateway.
func (t *tunnel) gateway() netip.Addr {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	return t.lease.Gateway.Addr().Unmap()
}

// outs returns the ways out on which the gateway may be found, the best first: those to its address, or where there are none, as on a
// network of the other family alone, those of that family, of which its name may have an address too.
func (t *tunnel) outs() []host.Exit {
	gateway := t.gateway()
	if exits := t.s.exits(gateway); len(exits) > 0 {
		return exits
	}
	if gateway.Is4() {
		return t.s.exits(anywhere[1])
	}
	return t.s.exits(anywhere[0])
}

// carried takes in by which exit a connection of the tunnel was made.
func (s *System) carried(c net.Conn, exit host.Exit) {
	from, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return
	}
	to, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return
	}
	exit.Source = from.Addr().Unmap().WithZone("")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tunnel == nil || to.Addr().Unmap() == s.tunnel.lease.Gateway.Addr().Unmap() {
		s.carrier = exit
	}
}

// reconsider has the tunnel look soon whether there is a better way out. Elsewhere says that the machine may have been carried
// to another place.
func (t *tunnel) reconsider(elsewhere bool) {
	if elsewhere {
		t.elsewhere.Store(true)
	}
	select {
	case t.changes <- struct{}{}:
	default:
	}
}

// roam keeps the tunnel on the best way out until it ends.
func (t *tunnel) roam() {
	s := t.s
	var c chooser
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-t.changes:
		case <-timer.C:
		case <-t.ctx.Done():
			return
		}
		if t.elsewhere.Swap(false) {
			c.forget()
		}
		for t.ctx.Err() == nil {
			s.mu.Lock()
			current := s.carrier
			s.mu.Unlock()
			if current.Index == 0 || current.Kind == host.Loopback {
				break // it is not known what would be better
			}
			to, move, again := c.choose(time.Now(), t.outs(), current)
			if !move {
				timer.Stop()
				if again > 0 {
					timer.Reset(again)
				}
				break
			}
			c.tried(time.Now(), to, t.moveTo(current, to))
		}
	}
}

// moveTo moves the tunnel to another way out.
func (t *tunnel) moveTo(from, to host.Exit) error {
	s := t.s
	ctx, cancel := context.WithTimeout(t.ctx, roamTime)
	defer cancel()
	ways := func(_ string, addr netip.Addr) ([]host.Exit, bool) {
		// Bound to a network without a way to the address, the kernel would look for it on the link, for seconds.
		return slices.DeleteFunc(s.exits(addr), func(e host.Exit) bool { return e.Index != to.Index }), true
	}
	var arrived atomic.Bool
	var made atomic.Pointer[host.Exit]
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		return s.dialBy(ctx, network, address, ways, func(c net.Conn, e host.Exit) {
			// Before, it may be somebody else who answers there.
			if arrived.Load() {
				s.carried(c, e)
			} else if from, err := netip.ParseAddrPort(c.LocalAddr().String()); err == nil {
				e.Source = from.Addr().Unmap().WithZone("")
				made.Store(&e)
			}
		})
	}
	err := t.link.Roam(ctx, dial, dial)
	if t.ctx.Err() != nil {
		return err
	}
	name := func(e host.Exit) string { return fmt.Sprintf("%s (%v)", e.Interface, e.Kind) }
	s.mu.Lock()
	if err == nil {
		arrived.Store(true)
		s.carrier, s.stayed = to, ""
		if e := made.Load(); e != nil {
			s.carrier = *e
		}
		s.roams++
	} else {
		s.stayed = err.Error()
	}
	s.mu.Unlock()
	e := Event{Kind: EventRoam, What: "the tunnel moved from " + name(from) + " to " + name(to)}
	if err != nil {
		e.What, e.Err = "the tunnel did not move from "+name(from)+" to "+name(to), err.Error()
	}
	s.note(e)
	return err
}
