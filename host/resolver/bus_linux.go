package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

const (
	resolvedName    = "org.freedesktop.resolve1"
	resolvedPath    = "/org/freedesktop/resolve1"
	resolvedManager = "org.freedesktop.resolve1.Manager"
	resolvedLink    = "org.freedesktop.resolve1.Link"
	properties      = "org.freedesktop.DBus.Properties"
	// answerTime is how long a call may take.
	answerTime = 5 * time.Second
)

// A bus is a connection to D-Bus.
type bus struct {
	*dbus.Conn
	cancel context.CancelFunc
}

// connect connects to the bus at an address. The context bounds only the connecting.
func connect(ctx context.Context, address string) (*bus, error) {
	ctx, stop := context.WithTimeout(ctx, answerTime)
	defer stop()
	life, cancel := context.WithCancel(context.Background())
	abort := context.AfterFunc(ctx, cancel)
	conn, err := dbus.Connect(address, dbus.WithContext(life))
	if err != nil {
		cancel()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("%w: no system bus at %s: %w", ErrUnavailable, address, err)
	}
	b := &bus{conn, cancel}
	if !abort() {
		b.close()
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
	return b, nil
}

func (b *bus) close() {
	b.Conn.Close()
	b.cancel()
}

// resolvedRuns fails if systemd-resolved cannot be spoken to.
func resolvedRuns(ctx context.Context, address string) error {
	b, err := connect(ctx, address)
	if err != nil {
		return err
	}
	defer b.close()
	return b.runs(ctx)
}

// runs asks whether anybody has the name of systemd-resolved, without starting it.
func (b *bus) runs(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	var has bool
	if err := b.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, resolvedName).Store(&has); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if !has {
		return fmt.Errorf("%w: it does not run", ErrUnavailable)
	}
	return nil
}

// call calls a method of the manager and stores what it returns.
func (b *bus) call(ctx context.Context, results []any, method string, args ...any) error {
	return b.callAt(ctx, resolvedPath, results, resolvedManager+"."+method, args...)
}

func (b *bus) callAt(ctx context.Context, path dbus.ObjectPath, results []any, method string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	err := b.Object(resolvedName, path).CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...).Store(results...)
	if err == nil {
		return nil
	}
	name := method[strings.LastIndexByte(method, '.')+1:]
	var e dbus.Error
	if errors.As(err, &e) {
		switch e.Name {
		case "org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired":
			return fmt.Errorf("%w: %s of systemd-resolved: %w", ErrPermission, name, err)
		case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner":
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	return fmt.Errorf("resolver: %s of systemd-resolved: %w", name, err)
}

// isError reports whether err is an error of D-Bus with a name.
func isError(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}

func noSuchLink(err error) bool { return isError(err, resolvedName+".NoSuchLink") }

func unknownMethod(err error) bool { return isError(err, "org.freedesktop.DBus.Error.UnknownMethod") }

// The types of systemd-resolved on the bus: org.freedesktop.resolve1(5).
type (
	serverMessage struct {
		Family  int32
		Address []byte
	}
	serverExMessage struct {
		Family  int32
		Address []byte
		Port    uint16
		Name    string
	}
	domainMessage struct {
		Name    string
		Routing bool
	}
	globalServerMessage struct {
		Index   int32
		Family  int32
		Address []byte
		Port    uint16
		Name    string
	}
	globalDomainMessage struct {
		Index   int32
		Name    string
		Routing bool
	}
)

func addrPort(address []byte, port uint16) (netip.AddrPort, bool) {
	a, ok := netip.AddrFromSlice(address)
	if port == 0 {
		port = 53
	}
	return netip.AddrPortFrom(a, port), ok
}

// settings returns what a link has.
func (b *bus) settings(ctx context.Context, index int) (linkSettings, error) {
	var s linkSettings
	var path dbus.ObjectPath
	if err := b.call(ctx, []any{&path}, "GetLink", int32(index)); err != nil {
		return s, err
	}
	var all map[string]dbus.Variant
	if err := b.callAt(ctx, path, []any{&all}, properties+".GetAll", resolvedLink); err != nil {
		return s, err
	}
	get := func(name string, to any) error {
		v, ok := all[name]
		if !ok {
			return nil // a version that does not know it
		}
		if err := v.Store(to); err != nil {
			return fmt.Errorf("resolver: property %s of systemd-resolved: %w", name, err)
		}
		return nil
	}
	var servers []serverMessage
	var serversEx []serverExMessage
	var domains []domainMessage
	for name, to := range map[string]any{"DNS": &servers, "DNSEx": &serversEx, "Domains": &domains, "DefaultRoute": &s.Default,
		"LLMNR": &s.LLMNR, "MulticastDNS": &s.MulticastDNS, "DNSOverTLS": &s.DNSOverTLS, "DNSSEC": &s.DNSSEC} {
		if err := get(name, to); err != nil {
			return s, err
		}
	}
	if _, ok := all["DNSEx"]; !ok {
		for _, m := range servers {
			serversEx = append(serversEx, serverExMessage{Family: m.Family, Address: m.Address})
		}
	}
	for _, m := range serversEx {
		if a, ok := addrPort(m.Address, m.Port); ok {
			word := a.String()
			if m.Name != "" {
				word += "#" + m.Name
			}
			s.Servers = append(s.Servers, word)
		}
	}
	for _, m := range domains {
		if m.Routing {
			m.Name = "~" + m.Name
		}
		s.Domains = append(s.Domains, m.Name)
	}
	return s, nil
}

// set gives a link all of s. Servers come last, since without them nothing else has an effect.
func (b *bus) set(ctx context.Context, index int, s linkSettings) error {
	i := int32(index)
	domains := make([]domainMessage, 0, len(s.Domains))
	for _, d := range s.Domains {
		name, routing := strings.CutPrefix(d, "~")
		domains = append(domains, domainMessage{name, routing})
	}
	if err := b.call(ctx, nil, "SetLinkDomains", i, domains); err != nil {
		return err
	}
	for _, p := range []struct {
		method string
		value  any
	}{
		{"SetLinkDefaultRoute", s.Default}, {"SetLinkLLMNR", s.LLMNR}, {"SetLinkMulticastDNS", s.MulticastDNS},
		{"SetLinkDNSOverTLS", s.DNSOverTLS}, {"SetLinkDNSSEC", s.DNSSEC},
	} {
		if p.value == "" {
			continue
		}
		// Old versions lack some of these, and some builds cannot do all of them.
		err := b.call(ctx, nil, p.method, i, p.value)
		if err != nil && !unknownMethod(err) && !isError(err, "org.freedesktop.DBus.Error.NotSupported") {
			return err
		}
	}
	if err := b.setServers(ctx, i, s.Servers); err != nil {
		return err
	}
	// What was answered by others before must not be answered from memory.
	if err := b.call(ctx, nil, "FlushCaches"); err != nil && !unknownMethod(err) {
		return err
	}
	return nil
}

func (b *bus) setServers(ctx context.Context, index int32, words []string) error {
	plain := true
	servers, serversEx := make([]serverMessage, 0, len(words)), make([]serverExMessage, 0, len(words))
	for _, w := range words {
		addr, name, _ := strings.Cut(w, "#")
		a, err := netip.ParseAddrPort(addr)
		if err != nil {
			return invalid("server %.60q", w)
		}
		family := int32(unix.AF_INET)
		if a.Addr().Is6() {
			family = unix.AF_INET6
		}
		m := serverExMessage{family, a.Addr().AsSlice(), a.Port(), name}
		if m.Port == 53 {
			m.Port = 0
		}
		plain = plain && m.Port == 0 && name == ""
		serversEx = append(serversEx, m)
		servers = append(servers, serverMessage{m.Family, m.Address})
	}
	if plain {
		return b.call(ctx, nil, "SetLinkDNS", index, servers)
	}
	return b.call(ctx, nil, "SetLinkDNSEx", index, serversEx)
}

// restore gives a link what it had before us.
func (b *bus) restore(ctx context.Context, index int, before linkSettings) error {
	if !before.untouched() {
		return b.set(ctx, index, before)
	}
	if err := b.call(ctx, nil, "RevertLink", int32(index)); err != nil {
		return err
	}
	if err := b.call(ctx, nil, "FlushCaches"); err != nil && !unknownMethod(err) {
		return err
	}
	return nil
}

// property stores a property of the manager.
func (b *bus) property(ctx context.Context, name string, to any) error {
	var v dbus.Variant
	if err := b.callAt(ctx, resolvedPath, []any{&v}, properties+".Get", resolvedManager, name); err != nil {
		return err
	}
	if err := v.Store(to); err != nil {
		return fmt.Errorf("resolver: property %s of systemd-resolved: %w", name, err)
	}
	return nil
}

// upstreamLinks returns the servers and search domains of all links but ours, and the global ones. It is called with r.mu held.
func (r *Resolver) upstreamLinks(ctx context.Context) (Upstream, error) {
	b, err := connect(ctx, r.opts.Bus)
	if err != nil {
		return Upstream{}, err
	}
	defer b.close()
	skip := 0
	if r.link != nil {
		skip = r.link.Index
		r.lookAtOthers(ctx, b)
	}
	var u Upstream
	servers, err := b.otherServers(ctx, skip)
	if err != nil {
		return u, err
	}
	for _, m := range servers {
		a, ok := addrPort(m.Address, m.Port)
		if !ok {
			continue
		}
		if a.Addr().IsLinkLocalUnicast() && a.Addr().Is6() && m.Index > 0 {
			a = netip.AddrPortFrom(a.Addr().WithZone(zone(int(m.Index))), a.Port())
		}
		u.Servers = append(u.Servers, a)
	}
	domains, err := b.otherDomains(ctx, skip)
	var search []string
	for _, m := range domains {
		if !m.Routing {
			search = append(search, m.Name)
		}
	}
	u.Search = searchable(search)
	return u, err
}

// zone is the name of an interface, or its number where that is not known.
func zone(index int) string {
	if ifi, err := net.InterfaceByIndex(index); err == nil {
		return ifi.Name
	}
	return strconv.Itoa(index)
}

// otherServers returns the servers that other links than one have, or the machine as a whole.
func (b *bus) otherServers(ctx context.Context, index int) ([]globalServerMessage, error) {
	var all []globalServerMessage
	if err := b.property(ctx, "DNSEx", &all); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(m globalServerMessage) bool { return index != 0 && m.Index == int32(index) }), nil
}

// otherDomains returns the domains that other links than one claim, or the machine as a whole.
func (b *bus) otherDomains(ctx context.Context, index int) ([]globalDomainMessage, error) {
	var all []globalDomainMessage
	if err := b.property(ctx, "Domains", &all); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(m globalDomainMessage) bool { return index != 0 && m.Index == int32(index) }), nil
}

// asks reports whether questions go to the servers of a link, as they do while it has some and is up. Where that is not known they may.
func (b *bus) asks(ctx context.Context, index int32) bool {
	var path dbus.ObjectPath
	if err := b.call(ctx, []any{&path}, "GetLink", index); err != nil {
		return !noSuchLink(err)
	}
	var v dbus.Variant
	if err := b.callAt(ctx, path, []any{&v}, properties+".Get", resolvedLink, "ScopesMask"); err != nil {
		return true
	}
	const unicast = 1 // org.freedesktop.resolve1(5)
	mask, ok := v.Value().(uint64)
	return !ok || mask&unicast != 0
}

// lookAtOthers takes in what other links claim of the one in force. It is called with r.mu held.
func (r *Resolver) lookAtOthers(ctx context.Context, b *bus) {
	servers, err := b.otherServers(ctx, r.link.Index)
	if err != nil {
		r.log.Debug("cannot tell which servers other links have", "err", err)
		return
	}
	domains, err := b.otherDomains(ctx, r.link.Index)
	if err != nil {
		r.log.Debug("cannot tell which domains other links claim", "err", err)
		return
	}
	var theirs []Claim
	asks := make(map[int32]bool)
	for _, m := range servers {
		if _, known := asks[m.Index]; !known {
			asks[m.Index] = m.Index == 0 || b.asks(ctx, m.Index)
		}
	}
	for _, m := range domains {
		if !asks[m.Index] {
			continue // nobody is asked for these names
		}
		c := Claim{Domain: m.Name}
		if m.Index > 0 {
			c.Link = zone(int(m.Index))
		}
		theirs = append(theirs, c)
	}
	r.claimedBy(r.link.want.claimed(theirs))
}
