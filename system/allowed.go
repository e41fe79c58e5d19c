package system

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// allowedEvery is how often the addresses of AllowedNames are asked for while there is no tunnel, and allowedPatience how long
	// that may take.
	allowedEvery    = 30 * time.Second
	allowedPatience = 5 * time.Second

	// maxAddresses is how many addresses of each name pass.
	maxAddresses = 4
)

// MaxAllowedNames is how many names a [KillSwitch] may allow.
const MaxAllowedNames = 64

// allowed is what is known of the names that a kill switch allows.
type allowed struct {
	byName  map[string][]netip.Prefix // the last addresses that were found
	hosts   []netip.Prefix            // all of them, in order
	servers []netip.AddrPort          // who tells them
	wake    chan struct{}             // has something when they are to be asked for now
	abandon func()                    // ends the asking under way
}

// resolveAllowed keeps the addresses of AllowedNames known until ctx ends. While there is a tunnel, or the switch is not in force,
// nobody is asked.
func (s *System) resolveAllowed(ctx context.Context) {
	tick := time.NewTicker(allowedEvery)
	defer tick.Stop()
	for {
		s.askAllowed(ctx)
		select {
		case <-tick.C:
		case <-s.allowed.wake:
		case <-ctx.Done():
			return
		}
	}
}

// wakeAllowed has the names be asked for now, such as because the network is another one.
func (s *System) wakeAllowed() {
	select {
	case s.allowed.wake <- struct{}{}:
	default:
	}
}

// askAllowed asks for all names, unless there is a tunnel or the switch is not in force. One that is not answered keeps the addresses
// that it had.
func (s *System) askAllowed(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, allowedPatience)
	defer cancel()
	s.mu.Lock()
	if s.tunnel != nil || s.inForce == nil {
		s.mu.Unlock()
		return
	}
	s.allowed.abandon = cancel
	s.mu.Unlock()
	names := s.cfg.KillSwitch.AllowedNames
	found := make([][]netip.Prefix, len(names))
	var wait sync.WaitGroup
	for i, name := range names {
		wait.Go(func() {
			addrs, err := s.lookup(asking, "ip", name)
			if err != nil {
				s.log.Debug("an allowed host has no address", "err", err)
			}
			for _, a := range addrs {
				if a = a.Unmap().WithZone(""); a.IsGlobalUnicast() && len(found[i]) < maxAddresses {
					found[i] = append(found[i], netip.PrefixFrom(a, a.BitLen()))
				}
			}
		})
	}
	servers, _ := s.outsideServers(asking)
	servers = askable(servers)
	wait.Wait()
	s.mu.Lock()
	for i, name := range names {
		if len(found[i]) > 0 {
			s.allowed.byName[name] = found[i]
		}
	}
	var hosts []netip.Prefix
	for _, list := range s.allowed.byName {
		hosts = append(hosts, list...)
	}
	slices.SortFunc(hosts, netip.Prefix.Compare)
	hosts = slices.Compact(hosts)
	same := slices.Equal(hosts, s.allowed.hosts) && slices.Equal(servers, s.allowed.servers)
	s.allowed.hosts, s.allowed.servers, s.allowed.abandon = hosts, servers, nil
	s.mu.Unlock()
	if same {
		return
	}
	ctx, cancel = context.WithTimeout(ctx, s.applyTime)
	defer cancel()
	if err := s.apply(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("the addresses of allowed hosts do not pass the kill switch", "err", err)
	}
}
