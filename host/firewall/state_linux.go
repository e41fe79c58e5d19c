package firewall

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// patience bounds the talk with the kernel in one call.
	patience = 10 * time.Second
	// socketBuffer is what a socket may hold. The kernel answers a batch with a message for each of its parts, all at once, and
	// accounts for each as for a page or two.
	socketBuffer = 8 << 20
	// ownerPrefix begins the name of the empty chain that says whose table it is: the id of the Firewall and the number of the
	// Apply follow.
	ownerPrefix = "owner-"
	// dumpInterrupted is NLM_F_DUMP_INTR: the rules changed while they were listed.
	dumpInterrupted = 0x10
	// tableHandle is NFTA_TABLE_HANDLE, and keyEnd NFTA_SET_ELEM_KEY_END.
	tableHandle, keyEnd = 4, 10
)

// A state is what the kernel says about the table of our name.
type state struct {
	exists bool
	// owner is the id of the Firewall that made it, "" if none did; serial is the number of its Apply.
	owner, serial string
	// print changes with each change of the rules that matters. It tells a table that was made anew from the one before,
	// since handles are never given twice in the life of a table.
	print [32]byte
}

// dial opens a socket to nf_tables that lives no longer than ctx and patience.
func (f *Firewall) dial(ctx context.Context) (*netlink.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: f.netns()})
	if err != nil {
		return nil, kind(err)
	}
	if err := prepare(ctx, conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func prepare(ctx context.Context, conn *netlink.Conn) error {
	deadline := time.Now().Add(patience)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	// More than the machine allows needs CAP_NET_ADMIN in the first user namespace. Without it a small batch still fits.
	conn.SetReadBuffer(socketBuffer)
	conn.SetWriteBuffer(socketBuffer)
	return conn.SetDeadline(deadline)
}

func (f *Firewall) netns() int {
	if f.NetNS == nil {
		return 0
	}
	return int(f.NetNS.Fd())
}

// kind makes an error of the kernel match one of ours.
func kind(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: %w", ErrPermission, err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP),
		errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return fmt.Errorf("firewall: %w", err)
}

// dump lists objects of family inet.
func dump(conn *netlink.Conn, what uint16, attrs ...netlink.Attribute) ([]netlink.Message, error) {
	b, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	for range 8 {
		var msgs []netlink.Message
		msgs, err = conn.Execute(netlink.Message{
			Header: netlink.Header{
				Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | what),
				Flags: netlink.Request | netlink.Dump,
			},
			Data: append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, b...),
		})
		if errors.Is(err, unix.EINTR) || err == nil && slices.ContainsFunc(msgs, func(m netlink.Message) bool {
			return m.Header.Flags&dumpInterrupted != 0
		}) {
			err = unix.EINTR
			continue
		}
		return msgs, err
	}
	return nil, err
}

// attributes are those of one message or of one nested attribute, by type.
type attributes map[uint16][]byte

// parse splits attributes. Of a type that comes twice, the last one counts.
func parse(b []byte) (attributes, error) {
	list, err := netlink.UnmarshalAttributes(b)
	if err != nil {
		return nil, err
	}
	a := make(attributes, len(list))
	for _, at := range list {
		a[at.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)] = at.Data
	}
	return a, nil
}

// text is an attribute that is a string.
func (a attributes) text(typ uint16) string {
	s, _, _ := bytes.Cut(a[typ], []byte{0})
	return string(s)
}

func (a attributes) number(typ uint16) uint64 {
	switch b := a[typ]; len(b) {
	case 4:
		return uint64(binary.BigEndian.Uint32(b))
	case 8:
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// list returns those objects of a kind whose attribute typ is our table.
func list(conn *netlink.Conn, what, typ uint16) ([]attributes, error) {
	filter := []netlink.Attribute{{Type: typ, Data: append([]byte(TableName), 0)}}
	if what == unix.NFT_MSG_GETTABLE || what == unix.NFT_MSG_GETCHAIN {
		filter = nil // the kernel knows no filter for these
	}
	msgs, err := dump(conn, what, filter...)
	if err != nil {
		return nil, err
	}
	var out []attributes
	for _, m := range msgs {
		if len(m.Data) < 4 || m.Data[0] != unix.NFPROTO_INET {
			continue
		}
		a, err := parse(m.Data[4:])
		if err != nil {
			return nil, err
		}
		if a.text(typ) == TableName {
			out = append(out, a)
		}
	}
	return out, nil
}

// mix adds attributes of an object to a hash, so that no two objects look alike.
func mix(h hash.Hash, tag string, a attributes, types ...uint16) {
	h.Write([]byte(tag))
	for _, t := range types {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(a[t]))))
		h.Write(a[t])
	}
}

// read returns the state of the table.
func read(conn *netlink.Conn) (state, error) {
	var s state
	tables, err := list(conn, unix.NFT_MSG_GETTABLE, unix.NFTA_TABLE_NAME)
	if err != nil || len(tables) == 0 {
		return s, kind(err)
	}
	s.exists = true
	h := sha256.New()
	mix(h, "table", tables[0], unix.NFTA_TABLE_FLAGS, tableHandle)

	chains, err := list(conn, unix.NFT_MSG_GETCHAIN, unix.NFTA_CHAIN_TABLE)
	if err != nil {
		return s, kind(err)
	}
	for _, c := range chains {
		mix(h, "chain", c, unix.NFTA_CHAIN_NAME, unix.NFTA_CHAIN_HANDLE, unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY,
			unix.NFTA_CHAIN_TYPE)
		if name, ok := strings.CutPrefix(c.text(unix.NFTA_CHAIN_NAME), ownerPrefix); ok {
			s.owner, s.serial, _ = strings.Cut(name, "-")
		}
	}
	rules, err := list(conn, unix.NFT_MSG_GETRULE, unix.NFTA_RULE_TABLE)
	if err != nil {
		return s, kind(err)
	}
	for _, r := range rules {
		mix(h, "rule", r, unix.NFTA_RULE_CHAIN, unix.NFTA_RULE_HANDLE, unix.NFTA_RULE_EXPRESSIONS)
	}
	sets, err := list(conn, unix.NFT_MSG_GETSET, unix.NFTA_SET_TABLE)
	if err != nil {
		return s, kind(err)
	}
	for _, set := range sets {
		mix(h, "set", set, unix.NFTA_SET_NAME, unix.NFTA_SET_FLAGS, unix.NFTA_SET_KEY_TYPE)
		// What a set with timeouts holds changes by itself.
		if set.number(unix.NFTA_SET_FLAGS)&unix.NFT_SET_TIMEOUT != 0 {
			continue
		}
		elements, err := elements(conn, set[unix.NFTA_SET_NAME])
		if err != nil {
			return s, kind(err)
		}
		for _, e := range elements {
			h.Write([]byte(e))
		}
	}
	h.Sum(s.print[:0])
	return s, nil
}

// elements returns the keys of a set, sorted, since a hash table may be listed in any order.
func elements(conn *netlink.Conn, name []byte) ([]string, error) {
	msgs, err := dump(conn, unix.NFT_MSG_GETSETELEM,
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: append([]byte(TableName), 0)},
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: name})
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, m := range msgs {
		if len(m.Data) < 4 {
			continue
		}
		a, err := parse(m.Data[4:])
		if err != nil {
			return nil, err
		}
		if a[unix.NFTA_SET_ELEM_LIST_ELEMENTS] == nil {
			continue
		}
		// The elements of a list all have the same type, so parse would keep one.
		list, err := netlink.UnmarshalAttributes(a[unix.NFTA_SET_ELEM_LIST_ELEMENTS])
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			el, err := parse(e.Data)
			if err != nil {
				return nil, err
			}
			keys = append(keys, fmt.Sprintf("%x %x %x;", el[unix.NFTA_SET_ELEM_KEY], el[keyEnd], el[unix.NFTA_SET_ELEM_FLAGS]))
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// counters returns what the counters of the table say, by name.
func counters(conn *netlink.Conn) (map[string]Count, error) {
	const name, data = 2, 4 // NFTA_OBJ_NAME, NFTA_OBJ_DATA
	objects, err := list(conn, unix.NFT_MSG_GETOBJ, 1)
	if err != nil {
		return nil, kind(err)
	}
	counts := make(map[string]Count, len(objects))
	for _, o := range objects {
		c, err := parse(o[data])
		if err != nil {
			return nil, kind(err)
		}
		counts[o.text(name)] = Count{Packets: c.number(unix.NFTA_COUNTER_PACKETS), Bytes: c.number(unix.NFTA_COUNTER_BYTES)}
	}
	return counts, nil
}

func (f *Firewall) counts(ctx context.Context) (map[string]Count, error) {
	conn, err := f.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	f.mu.Lock()
	id := f.id
	f.mu.Unlock()
	s, err := read(conn)
	if err != nil {
		return nil, err
	}
	if !s.exists || s.owner != id {
		return nil, ErrIdle
	}
	return counters(conn)
}
