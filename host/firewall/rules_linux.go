package firewall

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"go4.org/netipx"
	"golang.org/x/sys/unix"
)

// The registers that a concatenated key is put together in: the first has room for an address of either family, and word(n) is
// the n-th of four bytes.
const register = 1

func word(n uint32) uint32 { return unix.NFT_REG32_00 + n }

// ICMPv6 types of RFC 4443, RFC 2710, RFC 3810 and RFC 4861.
const (
	unreachable, packetTooBig, timeExceeded, parameterProblem = 1, 2, 3, 4
	listenerQuery, listenerReport, listenerDone, listenerV2   = 130, 131, 132, 143
	routerSolicit, routerAdvert, neighborSolicit, neighborAdv = 133, 134, 135, 136
)

// chunk is how many elements go into one message, which cannot be longer than 64 KiB.
const chunk = 256

// rules collects a table and sends it in one batch.
type rules struct {
	conn  *nftables.Conn
	table *nftables.Table
	chain *nftables.Chain
	err   error
}

// side is what differs between packets that leave and packets that arrive: which end of them is the other machine.
type side struct {
	name     expr.MetaKey // the interface
	addr4    uint32       // offset of the other's address
	addr6    uint32
	port     uint32 // offset of the other's port
	ownPort  uint32
	outgoing bool
}

var (
	outward = side{name: expr.MetaKeyOIFNAME, addr4: 16, addr6: 24, port: 2, ownPort: 0, outgoing: true}
	inward  = side{name: expr.MetaKeyIIFNAME, addr4: 12, addr6: 8, port: 0, ownPort: 2}
)

// build puts the table for cfg into the batch, in place of the one that is there. The counters begin with counts.
func (r *rules) build(cfg *Config, owner string, counts map[string]Count, now time.Time) error {
	r.table = &nftables.Table{Family: nftables.TableFamilyINet, Name: TableName}
	// To delete what may not be there, one makes sure that it is.
	r.conn.AddTable(r.table)
	r.conn.DelTable(r.table)
	r.conn.AddTable(r.table)
	r.conn.AddChain(&nftables.Chain{Name: ownerPrefix + owner, Table: r.table})
	for _, name := range counterNames() {
		c := counts[name]
		r.conn.AddObj(&nftables.CounterObj{Table: r.table, Name: name, Packets: c.Packets, Bytes: c.Bytes})
	}
	sets := r.sets(cfg, now)

	guests := &nftables.Chain{Name: "guests", Table: r.table}
	if len(cfg.Guests) > 0 {
		r.chain = r.conn.AddChain(guests)
		r.device(cfg, outward, "guests", cfg.Device)
		r.guests(cfg, outward)
	}

	r.base("output", nftables.ChainHookOutput)
	r.expired(cfg, sets)
	r.add("", accept(), ifname(outward.name, "lo"))
	r.device(cfg, outward, "tunnel", cfg.Device)
	r.guests(cfg, outward)
	if cfg.Mark != 0 {
		r.add("marked", accept(), marked(cfg.Mark, cfg.Mask))
	}
	r.peers(sets, outward)
	r.dhcp(outward)
	r.discovery(outward)
	r.networks(sets, "hosts", outward)
	r.networks(sets, "lan", outward)
	r.portal(sets, outward)
	r.last("dropped-out", cfg.Reject)

	r.base("input", nftables.ChainHookInput)
	r.expired(cfg, sets)
	r.add("", accept(), ifname(inward.name, "lo"))
	r.device(cfg, inward, "tunnel", cfg.Device)
	r.guests(cfg, inward)
	r.dhcp(inward)
	r.discovery(inward)
	r.networks(sets, "lan", inward)
	// What follows are answers, and no connection begins with one.
	r.add("dropped-in", drop(), proto(unix.IPPROTO_TCP), onlySYN())
	r.peers(sets, inward)
	r.networks(sets, "hosts", inward)
	if cfg.Mark != 0 {
		r.add("marked", accept(), established())
	}
	r.portal(sets, inward)
	r.last("dropped-in", false)

	r.base("forward", nftables.ChainHookForward)
	r.expired(cfg, sets)
	for _, g := range cfg.Guests {
		r.add("", jump(guests.Name), ifname(inward.name, g))
	}
	if cfg.Device != "" && len(cfg.Guests) > 0 {
		for _, g := range cfg.Guests {
			r.add("guests", accept(), ifname(inward.name, cfg.Device), ifname(outward.name, g))
		}
	}
	r.last("dropped-forward", cfg.Reject)
	return r.err
}

// counterNames returns the names of all counters, sorted.
func counterNames() []string {
	var names []string
	for name := range new(Stats).fields() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// sets makes the sets that cfg needs, by name.
func (r *rules) sets(cfg *Config, now time.Time) map[string]*nftables.Set {
	sets := make(map[string]*nftables.Set)
	add := func(s *nftables.Set, elements []nftables.SetElement) {
		if len(elements) == 0 || r.err != nil {
			return
		}
		// The library would take a number from a global, without a lock. It only has to differ within the batch.
		s.Table, s.ID = r.table, uint32(len(sets)+1)
		r.err = r.conn.AddSet(s, nil)
		for c := range slices.Chunk(elements, chunk) {
			if r.err == nil {
				r.err = r.conn.SetAddElements(s, c)
			}
		}
		sets[s.Name] = s
	}
	// The window for a portal closes by the time-outs of what passes it.
	var portalPorts []nftables.SetElement
	var portalResolvers []netip.AddrPort
	left := max(cfg.Portal.Until.Sub(now), time.Millisecond)
	if cfg.Portal.Until.After(now) {
		portalResolvers = cfg.Portal.Resolvers
		for _, p := range cfg.Portal.Ports {
			portalPorts = append(portalPorts, nftables.SetElement{Key: binary.BigEndian.AppendUint16(nil, p), Timeout: left})
		}
	}
	add(&nftables.Set{Name: "portal", KeyType: nftables.TypeInetService, HasTimeout: true}, portalPorts)
	for _, family := range []struct {
		suffix string
		key    nftables.SetDatatype
		is     func(netip.Addr) bool
	}{
		{"4", nftables.TypeIPAddr, netip.Addr.Is4},
		{"6", nftables.TypeIP6Addr, netip.Addr.Is6},
	} {
		for name, of := range map[string]struct {
			endpoints []Endpoint
			lifetime  time.Duration
		}{
			"gateway": {cfg.Gateways, 0}, "resolver": {resolverEndpoints(cfg.Resolvers), 0}, "portal-resolver": {resolverEndpoints(portalResolvers), left},
		} {
			var keys []nftables.SetElement
			for _, e := range of.endpoints {
				if family.is(e.Addr.Addr()) {
					keys = append(keys, nftables.SetElement{Key: endpointKey(e), Timeout: of.lifetime})
				}
			}
			add(&nftables.Set{
				Name:          name + family.suffix,
				KeyType:       nftables.MustConcatSetType(family.key, nftables.TypeInetProto, nftables.TypeInetService),
				Concatenation: true,
				HasTimeout:    of.lifetime != 0,
			}, keys)
		}
		for name, prefixes := range map[string][]netip.Prefix{"hosts": cfg.Hosts, "lan": cfg.LAN} {
			var b netipx.IPSetBuilder
			for _, p := range prefixes {
				if family.is(p.Addr()) {
					b.AddPrefix(p)
				}
			}
			set, err := b.IPSet()
			if err != nil {
				r.err = err
				return sets
			}
			var keys []nftables.SetElement
			for _, rg := range set.Ranges() {
				keys = append(keys, nftables.SetElement{Key: rg.From().AsSlice()})
				// A range to the last address has no end.
				if end := rg.To().Next(); end.IsValid() {
					keys = append(keys, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
				}
			}
			add(&nftables.Set{Name: name + family.suffix, KeyType: family.key, Interval: true}, keys)
		}
	}
	if cfg.Lease > 0 {
		add(leaseSet(r.table), leaseElements(cfg.Lease))
	}
	return sets
}

// resolverEndpoints returns where DNS servers are asked.
func resolverEndpoints(servers []netip.AddrPort) []Endpoint {
	endpoints := make([]Endpoint, 0, 2*len(servers))
	for _, a := range servers {
		endpoints = append(endpoints, Endpoint{a, "tcp"}, Endpoint{a, "udp"})
	}
	return endpoints
}

// leaseSet holds the families that are still guarded.
func leaseSet(t *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: t, Name: "lease", KeyType: nftables.TypeNFProto, HasTimeout: true}
}

func leaseElements(lease time.Duration) []nftables.SetElement {
	return []nftables.SetElement{{Key: []byte{unix.NFPROTO_IPV4}, Timeout: lease}, {Key: []byte{unix.NFPROTO_IPV6}, Timeout: lease}}
}

// endpointKey is an address, a protocol and a port, each padded to four bytes.
func endpointKey(e Endpoint) []byte {
	p := byte(unix.IPPROTO_TCP)
	if e.Network == "udp" {
		p = unix.IPPROTO_UDP
	}
	key := append(e.Addr.Addr().AsSlice(), p, 0, 0, 0)
	return append(binary.BigEndian.AppendUint16(key, e.Addr.Port()), 0, 0)
}

// base begins one of the three chains that the kernel runs packets through. What no rule accepts is dropped, also while rules are
// missing.
func (r *rules) base(name string, hook *nftables.ChainHook) {
	policy := nftables.ChainPolicyDrop
	r.chain = r.conn.AddChain(&nftables.Chain{Name: name, Table: r.table, Type: nftables.ChainTypeFilter, Hooknum: hook,
		Priority: nftables.ChainPriorityFilter, Policy: &policy})
}

// add adds a rule to the current chain: if all parts match, it counts and gives the verdict.
func (r *rules) add(counter string, verdict expr.Any, parts ...[]expr.Any) {
	exprs := slices.Concat(parts...)
	if counter != "" {
		exprs = append(exprs, &expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counter})
	}
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: r.chain, Exprs: append(exprs, verdict)})
}

// last ends a chain.
func (r *rules) last(counter string, reject bool) {
	if reject {
		// An ICMP error about a SYN comes while its socket is still busy sending, and is forgotten.
		r.add(counter, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST}, proto(unix.IPPROTO_TCP))
		r.add(counter, &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED})
		return
	}
	r.add(counter, drop())
}

// expired lets everything pass when the lease has run out.
func (r *rules) expired(cfg *Config, sets map[string]*nftables.Set) {
	if cfg.Lease == 0 || r.err != nil {
		return
	}
	s := sets["lease"]
	r.add("expired", accept(), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		&expr.Lookup{SourceRegister: register, SetName: s.Name, SetID: s.ID, Invert: true},
	})
}

func (r *rules) device(cfg *Config, s side, counter, name string) {
	if cfg.Device != "" {
		r.add(counter, accept(), ifname(s.name, name))
	}
}

func (r *rules) guests(cfg *Config, s side) {
	for _, g := range cfg.Guests {
		r.add("guests", accept(), ifname(s.name, g))
	}
}

// peers accepts what goes to or comes from gateways and resolvers.
func (r *rules) peers(sets map[string]*nftables.Set, s side) {
	for _, name := range []string{"gateway", "resolver"} {
		r.endpoints(sets, name, name, s)
	}
}

// endpoints accepts what goes to or comes from the endpoints of a pair of sets, if more holds.
func (r *rules) endpoints(sets map[string]*nftables.Set, counter, name string, s side, more ...[]expr.Any) {
	if set := sets[name+"4"]; set != nil {
		r.add(counter, accept(), append([][]expr.Any{family(unix.NFPROTO_IPV4), endpoint(s.addr4, 4, s.port, set)}, more...)...)
	}
	if set := sets[name+"6"]; set != nil {
		r.add(counter, accept(), append([][]expr.Any{family(unix.NFPROTO_IPV6), endpoint(s.addr6, 16, s.port, set)}, more...)...)
	}
}

// networks accepts what goes to or comes from the prefixes of a pair of sets.
func (r *rules) networks(sets map[string]*nftables.Set, name string, s side) {
	if set := sets[name+"4"]; set != nil {
		r.add(name, accept(), family(unix.NFPROTO_IPV4), address(s.addr4, 4), lookup(set))
	}
	if set := sets[name+"6"]; set != nil {
		r.add(name, accept(), family(unix.NFPROTO_IPV6), address(s.addr6, 16), lookup(set))
	}
}

// portal accepts connections to the ports of the portal set, and questions to its resolvers, as long as they are in their sets. Of what
// comes from there only answers pass.
func (r *rules) portal(sets map[string]*nftables.Set, s side) {
	set := sets["portal"]
	if set == nil {
		return
	}
	var answers [][]expr.Any
	if !s.outgoing {
		answers = [][]expr.Any{established()}
	}
	r.add("portal", accept(), append([][]expr.Any{proto(unix.IPPROTO_TCP), port(s.port, register), lookup(set)}, answers...)...)
	r.endpoints(sets, "portal", "portal-resolver", s, answers...)
}

// dhcp accepts DHCP (RFC 2131 §4.1) and DHCPv6 (RFC 8415 §7) of this machine as a client.
func (r *rules) dhcp(s side) {
	const client4, server4, client6, server6 = 68, 67, 546, 547
	r.add("dhcp", accept(), family(unix.NFPROTO_IPV4), proto(unix.IPPROTO_UDP), portIs(s.ownPort, client4), portIs(s.port, server4))
	if !s.outgoing {
		r.add("dhcp", accept(), family(unix.NFPROTO_IPV6), within(outward.addr6, linkLocal()), proto(unix.IPPROTO_UDP),
			portIs(s.ownPort, client6), portIs(s.port, server6))
		return
	}
	for _, to := range []string{"ff02::1:2", "ff05::1:3"} {
		r.add("dhcp", accept(), family(unix.NFPROTO_IPV6), within(inward.addr6, linkLocal()),
			within(outward.addr6, netip.PrefixFrom(netip.MustParseAddr(to), 128)), proto(unix.IPPROTO_UDP),
			portIs(s.ownPort, client6), portIs(s.port, server6))
	}
}

// discovery accepts what IPv6 cannot do without on a link, with the hop limits that say that no router was between (RFC 4861
// §6.1 and §7.1, RFC 2710 §3), and errors on their way in. Redirects are not accepted.
func (r *rules) discovery(s side) {
	nd, mld := []byte{routerSolicit, neighborSolicit, neighborAdv}, []byte{listenerReport, listenerDone, listenerV2}
	if !s.outgoing {
		nd, mld = []byte{routerAdvert, neighborSolicit, neighborAdv}, []byte{listenerQuery}
		for _, typ := range []byte{3, 11, 12} { // RFC 792: destination unreachable, time exceeded, parameter problem
			r.add("neighbour", accept(), family(unix.NFPROTO_IPV4), proto(unix.IPPROTO_ICMP), transport(0, []byte{typ}))
		}
		r.icmp6(0, []byte{unreachable, packetTooBig, timeExceeded, parameterProblem})
	}
	r.icmp6(255, nd)
	r.icmp6(1, mld)
}

// icmp6 accepts types of ICMPv6 with a hop limit, or with any if it is 0.
func (r *rules) icmp6(hops byte, types []byte) {
	for _, typ := range types {
		parts := [][]expr.Any{family(unix.NFPROTO_IPV6), proto(unix.IPPROTO_ICMPV6), transport(0, []byte{typ})}
		if hops != 0 {
			parts = append(parts, header(7, []byte{hops}))
		}
		r.add("neighbour", accept(), parts...)
	}
}

func accept() expr.Any           { return &expr.Verdict{Kind: expr.VerdictAccept} }
func drop() expr.Any             { return &expr.Verdict{Kind: expr.VerdictDrop} }
func jump(chain string) expr.Any { return &expr.Verdict{Kind: expr.VerdictJump, Chain: chain} }

func linkLocal() netip.Prefix { return netip.MustParsePrefix("fe80::/10") }

func equal(b []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: b} }

// ifname matches the name of an interface, or what it begins with if a star stands at its end.
func ifname(key expr.MetaKey, name string) []expr.Any {
	var b []byte
	if stem, ok := strings.CutSuffix(name, "*"); ok {
		b = []byte(stem)
	} else {
		b = make([]byte, unix.IFNAMSIZ)
		copy(b, name)
	}
	return []expr.Any{&expr.Meta{Key: key, Register: register}, equal(b)}
}

func family(f byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register}, equal([]byte{f})}
}

// proto matches the protocol behind the extension headers.
func proto(p byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, equal([]byte{p})}
}

func marked(mark, mask uint32) []expr.Any {
	e := []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: register}}
	if mask != 1<<32-1 {
		e = append(e, &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, mask), Xor: make([]byte, 4)})
	}
	return append(e, equal(binary.NativeEndian.AppendUint32(nil, mark)))
}

func load(base expr.PayloadBase, offset, length, to uint32) expr.Any {
	return &expr.Payload{OperationType: expr.PayloadLoad, Base: base, Offset: offset, Len: length, DestRegister: to}
}

func address(offset, length uint32) []expr.Any {
	return []expr.Any{load(expr.PayloadBaseNetworkHeader, offset, length, register)}
}

func port(offset, to uint32) []expr.Any {
	return []expr.Any{load(expr.PayloadBaseTransportHeader, offset, 2, to)}
}

func portIs(offset uint32, p uint16) []expr.Any {
	return append(port(offset, register), equal(binary.BigEndian.AppendUint16(nil, p)))
}

func header(offset uint32, b []byte) []expr.Any {
	return []expr.Any{load(expr.PayloadBaseNetworkHeader, offset, uint32(len(b)), register), equal(b)}
}

func transport(offset uint32, b []byte) []expr.Any {
	return []expr.Any{load(expr.PayloadBaseTransportHeader, offset, uint32(len(b)), register), equal(b)}
}

// within matches an IPv6 address by prefix.
func within(offset uint32, p netip.Prefix) []expr.Any {
	e := address(offset, 16)
	if p.Bits() < 128 {
		mask := make([]byte, 16)
		for i := range p.Bits() {
			mask[i/8] |= 1 << (7 - i%8)
		}
		e = append(e, &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 16, Mask: mask, Xor: make([]byte, 16)})
	}
	return append(e, equal(p.Masked().Addr().AsSlice()))
}

func lookup(s *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: register, SetName: s.Name, SetID: s.ID}}
}

// endpoint puts the address, the protocol and the port of the other machine together and looks for them in a set.
func endpoint(offset, length, portOffset uint32, s *nftables.Set) []expr.Any {
	words := length / 4
	e := address(offset, length)
	e = append(e, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: word(words)})
	e = append(e, port(portOffset, word(words+1))...)
	return append(e, lookup(s)...)
}

// onlySYN matches a TCP segment that begins a connection.
func onlySYN() []expr.Any {
	const fin, syn, rst, ack = 1, 2, 4, 16
	return []expr.Any{
		load(expr.PayloadBaseTransportHeader, 13, 1, register),
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{fin | syn | rst | ack}, Xor: []byte{0}},
		equal([]byte{syn}),
	}
}

// established matches what belongs to a connection that this machine began.
func established() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}
}
