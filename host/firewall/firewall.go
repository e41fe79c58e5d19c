// Package firewall is the kill switch of system mode: rules in the kernel that let nothing leave this machine but what a
// [Config] names, so that a tunnel that is down, being rebuilt or evaded does not turn into plain traffic.
//
// Routes alone cannot promise that. Another route may be more specific, and a stranger can put one there: a DHCP server
// with option 121 is enough, which is the attack called TunnelVision. Rules look at a packet after it was routed, at the
// interface it really leaves by, so such a route leads into a wall.
//
//	var fw firewall.Firewall
//	err := fw.Apply(ctx, firewall.Config{
//		Device:   "culvert0",
//		Gateways: []firewall.Endpoint{{Addr: netip.MustParseAddrPort("192.0.2.1:443")}},
//	}, journal.Append)
//
// What passes, in both directions: the loopback interface, the tunnel device, the gateways by address and port or by the mark
// of our own sockets, the resolvers that find them, DHCP and DHCPv6, the neighbour and router discovery of IPv6 without which
// there is no link, errors about our own packets on their way in, and whatever Hosts, LAN, Guests and Portal add. Everything
// else is dropped, whether this machine sends it, receives it or forwards it.
//
// # How it lasts
//
// The rules are a table of their own in nftables, inet culvert, that is replaced as a whole in one transaction: there is no
// moment between two Configs in which neither holds. They belong to the kernel, not to the process: one that crashes leaves
// them standing, and [Firewall.Undo] with the record that [Firewall.Apply] gave takes them away, in any process. A Lease
// turns that around, for those who would rather be online without protection: the kernel itself lets everything pass when
// it is not renewed. A portal window closes by the same means.
//
// # What it cannot see
//
// Programs with CAP_NET_RAW can send frames past these hooks (DHCP clients do), bridges forward frames between their ports
// without asking the IP layer, and a flow that another table offloads to a flowtable is no longer looked at. Who may do any
// of these may remove the table as well.
package firewall

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"
)

// TableName is the name of the table, of family inet.
const TableName = "culvert"

// The kinds of errors, for errors.Is. With each of them the machine is as it was.
var (
	// ErrUnsupported means that this kernel or system has no nf_tables.
	ErrUnsupported = errors.New("firewall: no nf_tables here")
	// ErrPermission means that the process lacks CAP_NET_ADMIN.
	ErrPermission = errors.New("firewall: CAP_NET_ADMIN is missing")
	// ErrInvalid means that a Config or an undo record cannot be used as it is. The error names the field.
	ErrInvalid = errors.New("firewall: invalid")
	// ErrForeign means that somebody else owns a table of our name: Apply does not touch it.
	ErrForeign = errors.New("firewall: the table inet " + TableName + " belongs to another program")
	// ErrChanged means that the table is another one than the undo record speaks of, so that Undo left it alone.
	ErrChanged = errors.New("firewall: the table was replaced since, and is left alone")
	// ErrIdle means that there is nothing to renew or to count because no Config is applied.
	ErrIdle = errors.New("firewall: not applied")
)

// A Firewall is the kill switch of one network namespace: that of the calling thread, unless NetNS says otherwise. The zero
// Firewall is ready to use. Its methods may be called from any goroutine; it must not be copied. It holds nothing open between
// calls, so there is nothing to close.
type Firewall struct {
	// NetNS is the network namespace, such as a file below /run/netns, or nil for that of the thread that calls a method. The
	// caller keeps it open and closes it.
	NetNS *os.File

	// Logger is told what is applied, undone and found changed. Nil discards it.
	Logger *slog.Logger

	mu       sync.Mutex
	id       string   // names this Firewall as the owner of its table
	recorded bool     // the undo record for id is written
	applied  *Config  // nil when nothing is
	print    [32]byte // of the table as Apply left it, if known
	known    bool
}

// Count is what a rule has seen.
type Count struct {
	// Packets and Bytes are totals since the first Apply; later ones carry them on.
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Stats counts what was let through and what was not, by the reason. Packets on the loopback interface are not counted.
type Stats struct {
	// Tunnel is what went through the tunnel device, Gateway to and from the gateways, Marked what our own sockets sent and
	// their answers, Resolver, Hosts, LAN, Guests and Portal what those fields of the Config allow, DHCP both versions of
	// it, and Neighbour the discovery of IPv6 with the errors of ICMP.
	Tunnel    Count `json:"tunnel"`
	Gateway   Count `json:"gateway"`
	Marked    Count `json:"marked"`
	Resolver  Count `json:"resolver"`
	Hosts     Count `json:"hosts"`
	LAN       Count `json:"lan"`
	Guests    Count `json:"guests"`
	Portal    Count `json:"portal"`
	DHCP      Count `json:"dhcp"`
	Neighbour Count `json:"neighbour"`
	// Expired passed because the Lease had run out.
	Expired Count `json:"expired"`
	// DroppedOut was sent by this machine, DroppedIn was sent to it, DroppedForward came from somebody else for somebody
	// else. None of it passed.
	DroppedOut     Count `json:"dropped_out"`
	DroppedIn      Count `json:"dropped_in"`
	DroppedForward Count `json:"dropped_forward"`
}

// A Policy says what Watch does about a change that somebody else made.
type Policy int

const (
	// Report leaves the change and only tells.
	Report Policy = iota
	// Repair puts the rules back, and tells.
	Repair
)

// An Event says that somebody else has changed or removed the rules.
type Event struct {
	// Time is when it was noticed.
	Time time.Time
	// Removed says that the table was gone, rather than changed.
	Removed bool
	// By names who did it as the kernel knows it, such as "\"nft\" (process 4711)", or is "".
	By string
	// Repaired says that the rules are back.
	Repaired bool
	// Err is why they are not, if Repair was asked for. It matches ErrForeign if another instance has taken the table.
	Err error
}

// discard is the Logger of those who gave none.
func (f *Firewall) logger() *slog.Logger {
	if f.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return f.Logger
}

// identify gives f its name, once.
func (f *Firewall) identify() {
	if f.id != "" {
		return
	}
	var b [8]byte
	rand.Read(b[:])
	f.id = hex.EncodeToString(b[:])
}

// Apply puts the rules of cfg in force, in place of those of an earlier Apply or of a process that is no more. It returns when
// the kernel enforces them; with an error, everything is as it was before.
//
// Before the first change it calls record with what [Firewall.Undo] needs, and changes nothing if that fails. Later calls need
// no further record, so record is not called again: the first one undoes them all.
//
// The device need not exist yet. A cfg with a Lease must be kept alive with [Firewall.Renew].
func (f *Firewall) Apply(ctx context.Context, cfg Config, record func(undo []byte) error) error {
	cfg, err := cfg.normal(time.Now())
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.identify()
	return f.apply(ctx, cfg, func() error {
		if f.recorded {
			return nil
		}
		b, err := encode(undoRecord{Version: recordVersion, Table: TableName, Owner: f.id})
		if err != nil {
			return err
		}
		if err := record(b); err != nil {
			return err
		}
		f.recorded = true
		return nil
	})
}

// Undo removes the table that an undo record of Apply speaks of, whichever process applied it. It does nothing if there is no
// such table any more. If the table of our name is another one by now, it is left alone and the error matches ErrChanged. An
// undo record that cannot be read gives an error that matches ErrInvalid.
//
// A table that an Apply adopted from a process that was killed belongs to the new record: undoing the old one first would open
// what is to stay closed, and so does nothing but return ErrChanged.
func (f *Firewall) Undo(ctx context.Context, undo []byte) error {
	rec, err := decode(undo)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	err = f.remove(ctx, rec.Owner)
	if (err == nil || errors.Is(err, ErrChanged)) && rec.Owner == f.id {
		// What somebody else has put there is no longer looked after.
		f.applied, f.recorded = nil, false
	}
	return err
}

// Renew extends the Lease of the Config in force to its full length from now. Call it at a third of that length or so. It does
// nothing for a Config without Lease, and returns ErrIdle where none is applied. If it fails because the table is gone, the
// error matches ErrChanged.
func (f *Firewall) Renew(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.applied == nil:
		return ErrIdle
	case f.applied.Lease == 0:
		return nil
	}
	return f.renew(ctx, f.applied.Lease)
}

// Stats returns what the rules have counted, or ErrIdle where there are none of ours.
func (f *Firewall) Stats(ctx context.Context) (Stats, error) {
	counts, err := f.counts(ctx)
	if err != nil {
		return Stats{}, err
	}
	var s Stats
	for name, to := range s.fields() {
		*to = counts[name]
	}
	return s, nil
}

// Watch tells report when somebody else has changed or removed the rules in force, and puts them back if the policy is Repair.
// It looks once at the beginning, and then when the kernel says that any rule of the namespace was changed. Report is called
// from this goroutine. Watch returns when ctx is done, with nil, or when it cannot listen to the kernel.
//
// Between a change and its repair lie a few milliseconds in which the change holds.
func (f *Firewall) Watch(ctx context.Context, policy Policy, report func(Event)) error {
	return f.watch(ctx, policy, report)
}

// fields names the counters in the kernel.
func (s *Stats) fields() map[string]*Count {
	return map[string]*Count{
		"tunnel": &s.Tunnel, "gateway": &s.Gateway, "marked": &s.Marked, "resolver": &s.Resolver, "hosts": &s.Hosts, "lan": &s.LAN,
		"guests": &s.Guests, "portal": &s.Portal, "dhcp": &s.DHCP, "neighbour": &s.Neighbour, "expired": &s.Expired,
		"dropped-out": &s.DroppedOut, "dropped-in": &s.DroppedIn, "dropped-forward": &s.DroppedForward,
	}
}
