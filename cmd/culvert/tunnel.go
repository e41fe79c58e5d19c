package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"culvert.example/vpn"
)

// lookInterval is how often the addresses of the machine are looked at for a change where the system does not tell of it.
const lookInterval = 2 * time.Second

// A teller reports the states of a tunnel as they change.
type teller struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// tell starts a teller, and returns when the present state is told.
func tell(r *reporter, t *vpn.Tunnel) *teller {
	ctx, cancel := context.WithCancel(context.Background())
	l := &teller{cancel, make(chan struct{})}
	first := make(chan struct{})
	go func() {
		defer close(l.done)
		tellStates(ctx, r, t, sync.OnceFunc(func() { close(first) }))
	}()
	<-first
	return l
}

// stop ends the teller. If the tunnel has ended by itself, that is told before.
func (l *teller) stop(t *vpn.Tunnel) {
	select {
	case <-t.Done():
	default:
		l.cancel()
	}
	<-l.done
	l.cancel()
}

func tellStates(ctx context.Context, r *reporter, t *vpn.Tunnel, told func()) {
	defer told()
	var last vpn.Status
	first := true
	t.Watch(ctx, func(s vpn.Status) {
		if !first && s.State == last.State && s.Path == last.Path && slices.Equal(s.Addresses, last.Addresses) {
			last = s
			return
		}
		e := tunnelEvent(s)
		switch {
		case s.State == vpn.Closed:
			// The command says why as it ends.
			r.say(e, "the tunnel has ended")
		case s.State == vpn.Reconnecting:
			r.say(e, "reconnecting: %s; connections through the tunnel wait", whyNot(s))
		case first:
			r.say(e, "connected %s", describe(s))
		case last.State == vpn.Reconnecting:
			r.say(e, "connected again, over %s, after %v", pathName(s.Path), time.Since(last.Since).Round(100*time.Millisecond))
		default:
			r.say(e, "connected over %s now%s", pathName(s.Path), because(s))
		}
		first, last = false, s
		told()
	})
}

func tunnelEvent(s vpn.Status) event {
	e := event{Event: "tunnel", State: s.State.String(), Path: s.Path, MTU: s.MTU}
	if s.Gateway.IsValid() {
		e.Gateway = s.Gateway.String()
	}
	for _, p := range s.Addresses {
		e.Addresses = append(e.Addresses, p.Addr())
	}
	if len(e.Addresses) > 0 {
		e.Address = e.Addresses[0].String()
	}
	// This very error is what Tunnel.Close leaves, and is nothing wrong. One that wraps it says what has failed.
	if s.Err != nil && s.Err != net.ErrClosed {
		e.Error = oneLine(s.Err.Error())
	}
	return e
}

// describe says what a new tunnel is like.
func describe(s vpn.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "to %s over %s; address %s, MTU %d", s.Gateway, pathName(s.Path), join(addrs(s.Addresses)), s.MTU)
	if len(s.DNS) > 0 {
		fmt.Fprintf(&b, "; names from %s", join(s.DNS))
		if len(s.SplitDNS) > 0 {
			fmt.Fprintf(&b, " for %s", oneLine(strings.Join(s.SplitDNS, ", ")))
		}
	}
	if len(s.Include) > 0 {
		fmt.Fprintf(&b, "; networks %s", shorten(networks(s)))
	}
	if !s.Expires.IsZero() {
		fmt.Fprintf(&b, "; until %s", s.Expires.Local().Format("Jan 2 15:04"))
	}
	return b.String()
}

// networks returns the networks that the gateway wants in the tunnel. A family that has an address and no networks is all in it, and
// goes first.
func networks(s vpn.Status) []netip.Prefix {
	all := slices.Clone(s.Include)
	for _, whole := range [...]netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
		among := func(ps []netip.Prefix) bool {
			return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Addr().Is4() == whole.Addr().Is4() })
		}
		if among(s.Addresses) && !among(s.Include) {
			all = slices.Insert(all, 0, whole)
		}
	}
	return all
}

// shorten lists the first few prefixes.
func shorten(ps []netip.Prefix) string {
	const most = 6
	if len(ps) <= most {
		return join(ps)
	}
	return fmt.Sprintf("%s and %d more", join(ps[:most]), len(ps)-most)
}

func addrs(ps []netip.Prefix) []netip.Addr {
	as := make([]netip.Addr, len(ps))
	for i, p := range ps {
		as[i] = p.Addr()
	}
	return as
}

func join[T fmt.Stringer](list []T) string {
	s := make([]string, len(list))
	for i, e := range list {
		s[i] = e.String()
	}
	return strings.Join(s, ", ")
}

func pathName(p string) string {
	switch p {
	case "dtls":
		return "DTLS"
	case "tls":
		return "TLS"
	case "":
		return "nothing yet"
	}
	return p
}

// because says why the tunnel is not on its best path.
func because(s vpn.Status) string {
	for _, p := range s.Paths {
		if p.Name == s.Path {
			break
		}
		if !p.Open && p.LastError != "" {
			return fmt.Sprintf(" (%s: %s)", pathName(p.Name), oneLine(p.LastError))
		}
	}
	return ""
}

// whyNot says why there is no path.
func whyNot(s vpn.Status) string {
	for _, p := range slices.Backward(s.Paths) {
		if p.LastError != "" {
			return oneLine(p.LastError)
		}
	}
	return "no path to the gateway"
}

// watchNetwork tells the tunnel when the machine's addresses change.
func watchNetwork(ctx context.Context, t *vpn.Tunnel) {
	watchAddresses(ctx, t.Done(), addressNews(ctx), t.NetworkChanged)
}

// watchAddresses calls changed when the machine's addresses change, until ctx or done ends. It looks at every news, or now
// and then if news is nil.
func watchAddresses(ctx context.Context, done, news <-chan struct{}, changed func()) {
	var look <-chan time.Time
	if news == nil {
		tick := time.NewTicker(lookInterval)
		defer tick.Stop()
		look = tick.C
	}
	last := machineAddresses()
	for {
		select {
		case <-news:
		case <-look:
		case <-done:
			return
		case <-ctx.Done():
			return
		}
		if now := machineAddresses(); now != last {
			last = now
			changed()
		}
	}
}

// machineAddresses returns the addresses of the machine in one string to compare.
func machineAddresses() string {
	as, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	s := make([]string, 0, len(as))
	for _, a := range as {
		s = append(s, a.String())
	}
	slices.Sort(s)
	return strings.Join(s, " ")
}
