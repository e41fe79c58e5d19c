package vpn

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"culvert.example/vpn/transport"
)

// A State is what a tunnel is doing.
type State uint8

const (
	// Connected: packets flow.
	Connected State = iota
	// Reconnecting: no path to the gateway is open just now. Inner connections wait; they are not reset.
	Reconnecting
	// Closed: the tunnel has ended, for the reason that Status.Err gives.
	Closed
)

// String returns connected, reconnecting or closed.
func (s State) String() string {
	switch s {
	case Connected:
		return "connected"
	case Reconnecting:
		return "reconnecting"
	}
	return "closed"
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// A Status is a snapshot of a tunnel. It does not change once it is handed out.
type Status struct {
	State State `json:"state"`
	// Server is the gateway as the caller named it, less user, password and query, Gateway the address it was reached at.
	Server  string         `json:"server"`
	Gateway netip.AddrPort `json:"gateway"`
	// Path is the way that packets are sent now: dtls, tls, or empty while Reconnecting.
	Path  string       `json:"path,omitempty"`
	Paths []PathStatus `json:"paths,omitempty"`
	// Addresses are the inner addresses.
	Addresses []netip.Prefix `json:"addresses"`
	// DNS are the servers asked through the tunnel, for the suffixes of SplitDNS or for all names if there are none.
	DNS           []netip.Addr `json:"dns,omitempty"`
	SplitDNS      []string     `json:"split_dns,omitempty"`
	SearchDomains []string     `json:"search_domains,omitempty"`
	// Include and Exclude are the destinations that the gateway wants inside and outside the tunnel.
	Include []netip.Prefix `json:"include,omitempty"`
	Exclude []netip.Prefix `json:"exclude,omitempty"`
	// MTU is the size of the largest inner packet now, in bytes.
	MTU int `json:"mtu"`
	// Banner is the text that the gateway wants to be shown.
	Banner string `json:"banner,omitempty"`
	// DisableAlwaysOn says that the gateway exempts this user from a policy that demands a tunnel at all times
	// (X-CSTP-Disable-Always-On-VPN).
	DisableAlwaysOn bool `json:"disable_always_on,omitempty"`
	// Since is when State last changed, Started when the tunnel was first up, Expires when the gateway will end it at the
	// latest (zero: it did not say).
	Since   time.Time `json:"since"`
	Started time.Time `json:"started"`
	Expires time.Time `json:"expires,omitzero"`
	// Reconnects counts how often every path was lost and one came back.
	Reconnects int `json:"reconnects"`
	// Roams counts how often the tunnel has moved to another network, and RoamError says why it did not the last time.
	Roams     int    `json:"roams"`
	RoamError string `json:"roam_error,omitempty"`
	// Counters count the packets through the tunnel.
	Counters Counters `json:"counters"`
	// Err is why State is Closed.
	Err error `json:"-"`
}

// take takes in what the gateway has assigned.
func (s *Status) take(lease *transport.Lease) {
	s.Gateway, s.Addresses, s.Expires = lease.Gateway, lease.Addresses, lease.Expires
	s.DNS, s.SplitDNS, s.SearchDomains = lease.DNS, lease.SplitDNS, lease.SearchDomains
	s.Include, s.Exclude, s.DisableAlwaysOn = lease.Include, lease.Exclude, lease.DisableAlwaysOn
}

// A PathStatus describes one way to the gateway.
type PathStatus struct {
	Name   string `json:"name"`
	Open   bool   `json:"open"`
	Active bool   `json:"active"`
	// Since is when Open last changed.
	Since time.Time `json:"since,omitzero"`
	// Opens and Failures count connections that came about and attempts that failed.
	Opens    int `json:"opens"`
	Failures int `json:"failures"`
	// Detail describes the connection, such as its cipher suite. LastError is why the path last failed.
	Detail    string    `json:"detail,omitempty"`
	LastError string    `json:"last_error,omitempty"`
	NextTry   time.Time `json:"next_try,omitzero"`
}

// close notes the end of the tunnel.
func (p *PathStatus) close(now time.Time) {
	if p.Open {
		p.Since = now
	}
	p.Open, p.Active, p.Detail, p.NextTry = false, false, "", time.Time{}
}

// Counters count whole IP packets and their bytes.
type Counters struct {
	SentPackets     uint64 `json:"sent_packets"`
	SentBytes       uint64 `json:"sent_bytes"`
	ReceivedPackets uint64 `json:"received_packets"`
	ReceivedBytes   uint64 `json:"received_bytes"`
	// Dropped counts packets with addresses that are not of the lease.
	Dropped uint64 `json:"dropped"`
}

// LogValue implements slog.LogValuer.
func (s Status) LogValue() slog.Value {
	return slog.GroupValue(slog.String("state", s.State.String()), slog.String("path", s.Path), slog.Any("addresses", s.Addresses),
		slog.Int("mtu", s.MTU))
}

// watched is a value whose readers never miss the last change: each change closes the channel that announces it.
type watched[T any] struct {
	mu      sync.Mutex
	value   T
	changed chan struct{}
}

func (w *watched[T]) get() (T, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	return w.value, w.changed
}

// update lets f change the value, and tells the readers.
func (w *watched[T]) update(f func(*T)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.value)
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// Status returns a snapshot of the tunnel.
func (t *Tunnel) Status() Status {
	s, _ := t.snapshot()
	return s
}

// snapshot returns the status, which shares no memory with anything, and what is closed when it changes.
func (t *Tunnel) snapshot() (Status, <-chan struct{}) {
	s, changed := t.status.get()
	for _, list := range []*[]netip.Prefix{&s.Addresses, &s.Include, &s.Exclude} {
		*list = slices.Clone(*list)
	}
	for _, list := range []*[]string{&s.SplitDNS, &s.SearchDomains} {
		*list = slices.Clone(*list)
	}
	s.DNS, s.Paths = slices.Clone(s.DNS), slices.Clone(s.Paths)
	t.fillCounters(&s)
	return s, changed
}

// Watch calls fn with the present Status and then after each change of anything but the counters, one call at a time, until ctx
// or the tunnel ends. Changes that come faster than fn returns are merged, but the last one is never lost. It
// returns nil after the call with State Closed, else an [*OpError] with the error of ctx.
func (t *Tunnel) Watch(ctx context.Context, fn func(Status)) error {
	for {
		s, changed := t.snapshot()
		fn(s)
		if s.State == Closed {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return &OpError{Op: "watch", Server: t.server, Err: ctx.Err()}
		}
	}
}
