// Package flow is the flow path of a tunnel: it ends the flows of all programs of the machine and carries each one on by itself, so
// that decisions are made about flows, with their program, user and destination, and not about packets.
//
// An [Interceptor] reads the packets of a TUN device. A TCP/IP stack in it answers every TCP connection, every exchange of UDP
// datagrams and every ping, to whatever address. For each such flow it finds out what can be known, asks a [Decider] what is to become
// of it, connects to the real destination, through the tunnel or past it, and copies. Programs notice nothing: a connection is
// accepted when the destination has accepted it, and refused as the destination refuses it.
//
//	judge := flow.NewJudge(rules, route)
//	in, err := flow.New(flow.Config{Device: side, Decider: judge, Tunnel: tunnel.DialContext, Direct: direct.DialContext, DNS: proxy.Answer})
//
// # Parts
//
// Three parts do the work, and are reported on one by one (see package health). The DNS proxy is Config.DNS: what programs send to port
// 53 of any address goes there. The transparent proxy is the stack and the copying. The content filter is Config.Decider. A part that
// panics, hangs or cannot keep up is said to have failed, by [Config.Failed]. A [Supervisor] then changes to another data path, by a
// [Switch], which lets two data paths take turns with one device.
//
// # Names
//
// What the destination is called is known from the DNS proxy, or from what the program says first: the server name in a TLS or QUIC
// ClientHello or the Host field of an HTTP/1 request (see package flow/hello). An address that DNS has given several names goes by all of
// them until the program says which it means; a Host that DNS has not connected with the address is only one more. A flow is looked into only if a name could change the verdict, and without delay: the
// destination is connected to at once and may speak first; only what the program says is held back until its first message is complete,
// and not at all if it does not look like one.
//
// The names are claims of programs. [Flow.Confirmed] tells those that DNS has connected with the address. With Encrypted ClientHello the
// name is that of the provider in front of the destination.
//
// # Truth
//
// An unreachable host, a refused port and a prohibition are told to programs as a router would tell them, by ICMP or a RST. Pings are
// answered if the destination has answered. What programs learn from the way of a packet, such as the hops to the destination, ends at
// this machine.
package flow

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"culvert.example/vpn/flow/owner"
)

// A Way is how a flow reaches its destination. The zero Way is Nowhere, so that a decision that was forgotten lets nothing out.
type Way uint8

const (
	// Nowhere: the destination is not to be reached.
	Nowhere Way = iota
	// Direct: past the tunnel.
	Direct
	// Tunnel: through the tunnel.
	Tunnel
)

// String returns nowhere, direct or tunnel.
func (w Way) String() string {
	switch w {
	case Direct:
		return "direct"
	case Tunnel:
		return "tunnel"
	}
	return "nowhere"
}

// MarshalText implements encoding.TextMarshaler.
func (w Way) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// A NameSource is who has told the name of a destination.
type NameSource uint8

const (
	// NoName: nobody has.
	NoName NameSource = iota
	// FromDNS: an answer of DNS had the address in it.
	FromDNS
	// FromTLS: the program says so, in its ClientHello.
	FromTLS
	// FromQUIC is FromTLS, over QUIC.
	FromQUIC
	// FromHTTP: the program says so, in the Host field of its first HTTP/1 request.
	FromHTTP
)

// String returns dns, tls, quic, http, or nothing.
func (s NameSource) String() string {
	switch s {
	case FromDNS:
		return "dns"
	case FromTLS:
		return "tls"
	case FromQUIC:
		return "quic"
	case FromHTTP:
		return "http"
	}
	return ""
}

// MarshalText implements encoding.TextMarshaler.
func (s NameSource) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// A Flow is what is known of a flow.
type Flow struct {
	// Network is tcp, udp or ping. A ping has no ports.
	Network string `json:"network"`
	// Inward says that the flow comes in through the tunnel, to a program of this machine.
	Inward bool `json:"inward,omitempty"`
	// Source is where the flow begins and Destination where it goes to.
	Source      netip.AddrPort `json:"source"`
	Destination netip.AddrPort `json:"destination"`
	// Name is that of the other end, in lower case without a final dot, NameFrom who told it. Confirmed says that an answer of DNS
	// has connected it with the address.
	Name      string     `json:"name,omitempty"`
	NameFrom  NameSource `json:"name_from,omitempty"`
	Confirmed bool       `json:"confirmed,omitempty"`
	// Others are further names that DNS has given the address, while nothing says which one the program means.
	Others []string `json:"also_named,omitempty"`
	// Owner is the program and the user of this machine that the flow belongs to.
	Owner owner.Owner `json:"owner"`
	// Final says that nothing more will be known. A Decider that is asked twice is asked the second time with Final.
	Final bool `json:"-"`
}

// Other returns the address and port of the end that is not on this machine.
func (f *Flow) Other() netip.AddrPort {
	if f.Inward {
		return f.Source
	}
	return f.Destination
}

// LogValue implements slog.LogValuer.
func (f *Flow) LogValue() slog.Value {
	attrs := []slog.Attr{
		slog.String("network", f.Network), slog.String("source", f.Source.String()), slog.String("destination", f.Destination.String()),
	}
	if f.Inward {
		attrs = append(attrs, slog.Bool("inward", true))
	}
	if f.Name != "" {
		attrs = append(attrs, slog.String("name", f.Name), slog.String("name_from", f.NameFrom.String()))
	}
	if f.Owner.UID >= 0 {
		attrs = append(attrs, slog.Int("uid", f.Owner.UID))
	}
	if f.Owner.User != "" {
		attrs = append(attrs, slog.String("user", f.Owner.User))
	}
	if f.Owner.Program != "" {
		attrs = append(attrs, slog.String("program", f.Owner.Program))
	}
	return slog.GroupValue(attrs...)
}

// A Verdict is what is to become of a flow. The zero Verdict refuses it.
type Verdict struct {
	// Allow lets the flow be, on its Way.
	Allow bool `json:"allow"`
	Way   Way  `json:"way"`
	// Rule names what decided, for logs and lists.
	Rule string `json:"rule,omitempty"`
	// Log has the flow be noted, and LogRule is the name of the rule that wants it so.
	Log     bool   `json:"-"`
	LogRule string `json:"-"`
	// Provisional says that the name of the other end could change this. If it becomes known, or if it is clear that it never will, the
	// Decider is asked once more, before anything that the program says goes out.
	//
	// A flow that is allowed provisionally is connected to its destination meanwhile. One that is not has to be accepted without
	// that, so that the program speaks at all: if it is refused after all, the program sees it reset.
	Provisional bool `json:"-"`
}

// A Decider is the content filter: it decides what is to become of flows. It is asked once about each, or twice if it answers with
// a provisional verdict, by several goroutines at once. It must return when ctx is done. An error refuses the flow.
type Decider interface {
	Decide(ctx context.Context, f *Flow) (Verdict, error)
}

// A DeciderFunc is a function that serves as a Decider.
type DeciderFunc func(ctx context.Context, f *Flow) (Verdict, error)

// Decide calls d.
func (d DeciderFunc) Decide(ctx context.Context, f *Flow) (Verdict, error) { return d(ctx, f) }

// A DialFunc connects, as net.Dialer.DialContext does, on the networks tcp and udp. The address is that of an IP address and a
// port. Connections that have the method CloseWrite are closed halfway where programs do that.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Owners find the program and user that a flow belongs to. An *owner.Finder is one.
type Owners interface {
	Find(ctx context.Context, f owner.Flow) (owner.Owner, error)
}

// A Note is a flow that is to be noted, with its final verdict.
type Note struct {
	Flow    Flow
	Verdict Verdict
	// Skipped is how many there were since the last Note that were not noted, because there were too many.
	Skipped uint64
}

// An Info is a flow that goes on.
type Info struct {
	Flow    Flow      `json:"flow"`
	Verdict Verdict   `json:"verdict"`
	Since   time.Time `json:"since"`
	// Sent and Received are the bytes that the program of this machine has sent and received.
	Sent     uint64 `json:"sent"`
	Received uint64 `json:"received"`
}
