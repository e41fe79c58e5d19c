package offload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"culvert.example/vpn/packet"
)

// A spec describes a packet to build.
type spec struct {
	v6, udp, fragmentable bool
	port                  byte
	id                    uint16
	seq                   uint32
	flags                 byte
	options               []byte
	payload               []byte
}

// build returns the packet with right checksums.
func (s spec) build() []byte {
	transport := make([]byte, 8)
	protocol := byte(protoUDP)
	if !s.udp {
		protocol = protoTCP
		transport = make([]byte, 20+len(s.options))
		binary.BigEndian.PutUint32(transport[4:], s.seq)
		transport[11] = 9
		transport[12] = byte(len(transport)/4) << 4
		transport[13] = s.flags
		transport[14] = 8
		copy(transport[20:], s.options)
	}
	transport[1], transport[3] = s.port, 80
	n := len(transport) + len(s.payload)
	var p []byte
	if s.v6 {
		p = append(make([]byte, headerLen6), transport...)
		p[0], p[6], p[7] = 0x60, protocol, 64
		binary.BigEndian.PutUint16(p[4:], uint16(n))
		p[8], p[23], p[24], p[39] = 0xfd, 1, 0xfd, 2
	} else {
		p = append(make([]byte, headerLen4), transport...)
		p[0], p[8], p[9] = 0x45, 64, protocol
		binary.BigEndian.PutUint16(p[2:], uint16(headerLen4+n))
		binary.BigEndian.PutUint16(p[4:], s.id)
		if !s.fragmentable {
			p[6] = 0x40
		}
		copy(p[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	}
	p = append(p, s.payload...)
	seal(p)
	return p
}

// other returns a packet of another protocol.
func (s spec) other(protocol byte) []byte {
	p := s.build()
	p[6] = protocol
	return p
}

// seal writes the checksums of p, slowly.
func seal(p []byte) {
	header, pair, protocol := headerLen6, p[8:min(40, len(p))], p[6]
	if p[0]>>4 == 4 {
		header, pair, protocol = int(p[0]&15)*4, p[12:20], p[9]
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], ^slowSum(p[:header], 0))
	}
	at := header + 16
	if protocol == protoUDP {
		at = header + 6
		binary.BigEndian.PutUint16(p[header+4:], uint16(len(p)-header))
	}
	p[at], p[at+1] = 0, 0
	sum := slowSum(pair, uint16(protocol))
	sum = Combine(sum, uint16(len(p)-header))
	sum = ^slowSum(p[header:], sum)
	if sum == 0 && protocol == protoUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(p[at:], sum)
}

func batchOf(packets ...[]byte) packet.Batch {
	size := 0
	for _, p := range packets {
		size = max(size, len(p))
	}
	b := packet.NewBatch(len(packets), size)
	for i, p := range packets {
		b[i].Set(p)
	}
	return b
}

// group runs packets through g.
func group(g *Grouper, b packet.Batch) []Group {
	g.Reset(len(b))
	for i := range b {
		if ip, ok := Parse(b[i].Bytes()); ok {
			g.Add(b, i, &ip)
		}
	}
	return g.Groups()
}

// members returns the indices of the packets of a group.
func members(g *Grouper, k *Group) (is []int) {
	for i := k.First; i >= 0; i = g.Next(i) {
		is = append(is, i)
	}
	return is
}

func fill(c byte, n int) []byte { return bytes.Repeat([]byte{c}, n) }

func TestGroups(t *testing.T) {
	tcp := func(port byte, seq uint32, n int) spec {
		return spec{port: port, seq: seq, flags: flagAck, payload: fill(byte(seq), n)}
	}
	udp := func(port byte, n int) spec { return spec{udp: true, port: port, payload: fill(port, n)} }
	with := func(s spec, change func(*spec)) spec { change(&s); return s }
	spoil := func(p []byte) []byte { p[len(p)-1] ^= 1; return p }
	fragment := udp(1, 100).build()
	fragment[7] = 5
	seal(fragment)
	six := func(port byte) []byte { return with(udp(port, 100), func(s *spec) { s.v6 = true }).build() }
	extended := func(next byte) []byte {
		p := six(1)
		p = slices.Concat(p[:40], []byte{protoUDP, 0, 0, 1, 0, 0, 0, 0}, p[40:])
		p[6] = next
		binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
		return p
	}
	noSum := udp(1, 100).build()
	noSum[26], noSum[27] = 0, 0

	for _, tt := range []struct {
		name string
		in   [][]byte
		want [][]int
	}{
		{"TCP of one size", [][]byte{tcp(1, 0, 100).build(), tcp(1, 100, 100).build(), tcp(1, 200, 100).build()}, [][]int{{0, 1, 2}}},
		{"a short one ends the group", [][]byte{tcp(1, 0, 100).build(), tcp(1, 100, 50).build(), tcp(1, 150, 50).build(), tcp(1, 200, 50).build()}, [][]int{{0, 1}, {2, 3}}},
		{"a longer one does not fit", [][]byte{tcp(1, 0, 100).build(), tcp(1, 100, 101).build()}, [][]int{{0}, {1}}},
		{"UDP of one size", [][]byte{udp(1, 100).build(), udp(1, 100).build(), udp(1, 7).build(), udp(1, 7).build()}, [][]int{{0, 1, 2}, {3}}},
		{"two flows", [][]byte{udp(1, 100).build(), udp(2, 100).build(), udp(1, 100).build(), tcp(1, 0, 100).build(), udp(2, 100).build()}, [][]int{{0, 2}, {1, 4}, {3}}},
		{"empty datagrams", [][]byte{udp(1, 0).build(), udp(1, 0).build()}, [][]int{{0}, {1}}},
		{"without a checksum", [][]byte{noSum, noSum}, [][]int{{0}, {1}}},
		{"wrong checksum", [][]byte{udp(1, 100).build(), spoil(udp(1, 100).build()), udp(1, 100).build(), udp(1, 100).build()}, [][]int{{0}, {1}, {2, 3}}},
		{"a fragment lets nothing pass", [][]byte{udp(1, 100).build(), fragment, udp(1, 100).build()}, [][]int{{0}, {1}, {2}}},
		{"nor one of IPv6", [][]byte{six(1), extended(44), six(1)}, [][]int{{0}, {1}, {2}}},
		{"nor what has other extensions", [][]byte{six(1), extended(60), six(1)}, [][]int{{0}, {1}, {2}}},
		{"another protocol does", [][]byte{six(1), with(udp(1, 100), func(s *spec) { s.v6 = true }).other(47), six(1)}, [][]int{{0, 2}, {1}}},
		{"identifications matter", [][]byte{
			with(udp(1, 9), func(s *spec) { s.fragmentable, s.id = true, 65535 }).build(),
			with(udp(1, 9), func(s *spec) { s.fragmentable, s.id = true, 0 }).build(),
			with(udp(1, 9), func(s *spec) { s.fragmentable, s.id = true, 0 }).build(),
		}, [][]int{{0, 1}, {2}}},
		{"FIN", [][]byte{tcp(1, 0, 9).build(), with(tcp(1, 9, 9), func(s *spec) { s.flags |= flagFin }).build()}, [][]int{{0}, {1}}},
		{"IPv6", [][]byte{
			with(udp(1, 9), func(s *spec) { s.v6 = true }).build(), with(udp(1, 9), func(s *spec) { s.v6 = true }).build(),
			with(tcp(1, 0, 9), func(s *spec) { s.v6 = true }).build(), with(tcp(1, 9, 9), func(s *spec) { s.v6 = true }).build(),
		}, [][]int{{0, 1}, {2, 3}}},
		{"too large together", [][]byte{udp(1, 40000).build(), udp(1, 40000).build()}, [][]int{{0}, {1}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := Grouper{Cuttable: true, UDP: true}
			var got [][]int
			groups := group(&g, batchOf(tt.in...))
			for i := range groups {
				got = append(got, members(&g, &groups[i]))
			}
			if !slices.EqualFunc(got, tt.want, slices.Equal) {
				t.Errorf("groups are %v, want %v", got, tt.want)
			}
		})
	}
	t.Run("datagrams have a limit", func(t *testing.T) {
		var in [][]byte
		for range 100 {
			in = append(in, udp(1, 10).build())
		}
		g := Grouper{Cuttable: true, UDP: true}
		if groups := group(&g, batchOf(in...)); len(groups) != 2 || groups[0].Count != 64 || g.Joined() != 98 {
			t.Errorf("%d groups, the first of %d, %d joined", len(groups), groups[0].Count, g.Joined())
		}
	})
	t.Run("UDP is left alone unless asked for", func(t *testing.T) {
		g := Grouper{Cuttable: true}
		if groups := group(&g, batchOf(udp(1, 10).build(), udp(1, 10).build())); len(groups) != 2 {
			t.Errorf("%d groups", len(groups))
		}
	})
}

// joined returns the packet of a group as a device would get it.
func joined(tb testing.TB, g *Grouper, k *Group, b packet.Batch) []byte {
	tb.Helper()
	if k.Count == 1 {
		return b[k.First].Bytes()[:k.IP.Total]
	}
	out := make([]byte, k.Header, k.Size)
	if n := k.PutHeader(out, b); n != k.Header {
		tb.Fatalf("PutHeader = %d, want %d", n, k.Header)
	}
	for _, i := range members(g, k) {
		p := b[i].Bytes()
		out = append(out, p[k.Header:Total(p)]...)
	}
	if len(out) != k.Size {
		tb.Fatalf("the packets of the group have %d bytes together, want %d", len(out), k.Size)
	}
	return out
}

// cut cuts p completely, into batches of a size.
func cut(c *Cutter, p []byte, transport, segment, batch int) (out [][]byte, err error) {
	if err := c.Start(p, transport, segment); err != nil {
		return nil, err
	}
	b := packet.NewBatch(batch, packet.MaxSize)
	for c.Active() {
		n, ok := c.Fill(b)
		if !ok || n == 0 {
			return nil, errors.New("cutting stopped")
		}
		for i := range b[:n] {
			out = append(out, bytes.Clone(b[i].Bytes()))
		}
	}
	return out, nil
}

// slowCut is what cutting should do.
func slowCut(p []byte, transport, segment int) (out [][]byte) {
	header := transport + 8
	tcp := p[9] == protoTCP
	if p[0]>>4 == 6 {
		tcp = p[6] == protoTCP
	}
	if tcp {
		header = transport + int(p[transport+12]>>4)*4
	}
	payload := p[header:]
	for at := 0; at == 0 || at < len(payload); at += segment {
		end := min(at+segment, len(payload))
		q := append(bytes.Clone(p[:header]), payload[at:end]...)
		if p[0]>>4 == 4 {
			binary.BigEndian.PutUint16(q[2:], uint16(len(q)))
			binary.BigEndian.PutUint16(q[4:], binary.BigEndian.Uint16(p[4:])+uint16(len(out)))
		} else {
			binary.BigEndian.PutUint16(q[4:], uint16(len(q)-headerLen6))
		}
		if tcp {
			binary.BigEndian.PutUint32(q[transport+4:], binary.BigEndian.Uint32(p[transport+4:])+uint32(at))
			if end < len(payload) {
				q[transport+13] &^= flagFin | flagPsh
			}
			if at > 0 {
				q[transport+13] &^= flagCwr
			}
		}
		seal(q)
		out = append(out, q)
	}
	return out
}

func TestCut(t *testing.T) {
	for _, s := range []spec{
		{seq: 0xfffffff0, flags: flagAck | flagPsh | flagFin | flagCwr, payload: fill(7, 4001), id: 0xfffe},
		{v6: true, flags: flagAck | flagPsh, options: []byte{1, 1, 1, 0}, payload: fill(8, 4000)},
		{udp: true, payload: fill(9, 4000), id: 3},
		{udp: true, v6: true, payload: fill(1, 3001)},
		{payload: nil, flags: flagAck},
	} {
		p := s.build()
		transport := headerLen4
		if s.v6 {
			transport = headerLen6
		}
		want := slowCut(p, transport, 1000)
		for batch := 1; batch <= 5; batch++ {
			var c Cutter
			got, err := cut(&c, p, transport, 1000, batch)
			if err != nil || !slices.EqualFunc(got, want, bytes.Equal) {
				t.Fatalf("%+v in batches of %d: %v, %d packets, want %d", s, batch, err, len(got), len(want))
			}
		}
		for i, q := range want {
			if ip, ok := Parse(q); !ok || ip.Total != len(q) || !ip.HeaderSumValid(q) || !ip.TransportSumValid(q) {
				t.Errorf("packet %d is broken", i)
			}
		}
	}
}

// A datagram whose checksum comes out as zero must say so with all ones, since zero says that there is none.
func TestCutZeroSum(t *testing.T) {
	p := spec{udp: true, payload: make([]byte, 4)}.build()
	sum := binary.BigEndian.Uint16(p[26:])
	copy(p[28:], []byte{byte(sum >> 8), byte(sum)})
	var c Cutter
	got, err := cut(&c, p, headerLen4, 4, 1)
	if err != nil || len(got) != 1 || got[0][26] != 0xff || got[0][27] != 0xff {
		t.Errorf("the checksum is % x, %v", got[0][26:28], err)
	}
}

func TestCutExtensions(t *testing.T) {
	plain := spec{v6: true, udp: true, payload: fill(3, 30)}.build()
	p := slices.Concat(plain[:40], []byte{protoUDP, 0, 1, 4, 0, 0, 0, 0}, plain[40:])
	p[6] = 60 // destination options
	binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
	var c Cutter
	got, err := cut(&c, p, 48, 10, 8)
	if err != nil || len(got) != 3 {
		t.Fatalf("%d packets, %v", len(got), err)
	}
	for i, q := range got {
		sum := PseudoSum(q[8:40], protoUDP, len(q)-48)
		if Total(q) != len(q) || len(q) != 66 || slowSum(q[48:], sum) != 0xffff {
			t.Errorf("packet %d is broken: % x", i, q)
		}
	}
}

func TestCutRefuses(t *testing.T) {
	p := spec{flags: flagAck, payload: fill(1, 100)}.build()
	with := func(at int, c byte) []byte { q := bytes.Clone(p); q[at] = c; return q }
	for name, f := range map[string]func(c *Cutter) error{
		"nothing":          func(c *Cutter) error { return c.Start(nil, 0, 10) },
		"segment size 0":   func(c *Cutter) error { return c.Start(p, 20, 0) },
		"wrong transport":  func(c *Cutter) error { return c.Start(p, 24, 10) },
		"inside of IP":     func(c *Cutter) error { return c.Start(p, 0, 10) },
		"fragment":         func(c *Cutter) error { return c.Start(with(7, 1), 20, 10) },
		"other protocol":   func(c *Cutter) error { return c.Start(with(9, 1), 20, 10) },
		"short TCP header": func(c *Cutter) error { return c.Start(with(32, 0x40), 20, 10) },
		"long TCP header":  func(c *Cutter) error { return c.Start(spec{payload: nil}.build()[:39], 20, 10) },
		"cut off":          func(c *Cutter) error { return c.Start(p[:50], 20, 10) },
	} {
		var c Cutter
		if err := f(&c); !errors.Is(err, ErrMalformed) || c.Active() {
			t.Errorf("%s: %v", name, err)
		}
	}
	var c Cutter
	if err := c.Start(p, 20, 50); err != nil {
		t.Fatal(err)
	}
	if n, ok := c.Fill(packet.NewBatch(2, 80)); n != 0 || ok || c.Active() {
		t.Errorf("Fill without room = %d, %v", n, ok)
	}
}

func TestComplete(t *testing.T) {
	want := spec{flags: flagAck, payload: fill(1, 101)}.build()
	p := bytes.Clone(want)
	binary.BigEndian.PutUint16(p[36:], PseudoSum(p[12:20], protoTCP, len(p)-20))
	if !Complete(p, 20, 16) || !bytes.Equal(p, want) {
		t.Errorf("the checksum is % x, want % x", p[36:38], want[36:38])
	}
	for _, at := range [][2]int{{-1, 0}, {0, -1}, {len(p), 0}, {len(p) - 1, 0}, {20, len(p)}, {65535, 65535}} {
		if Complete(p, at[0], at[1]) {
			t.Errorf("Complete at %v", at)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	var in [][]byte
	for i := range 64 {
		in = append(in, spec{seq: uint32(i * 100), flags: flagAck, payload: fill(1, 100)}.build())
	}
	b := batchOf(in...)
	g := Grouper{Cuttable: true, UDP: true}
	large := joined(t, &g, &group(&g, b)[0], b)
	var c Cutter
	if n := testing.AllocsPerRun(100, func() {
		group(&g, b)
		if err := c.Start(large, headerLen4, 100); err != nil {
			t.Fatal(err)
		}
		for c.Active() {
			c.Fill(b)
		}
	}); n != 0 {
		t.Errorf("%v allocations for each batch", n)
	}
}

// FuzzCut cuts what comes, and compares with the slow way.
func FuzzCut(f *testing.F) {
	f.Add(spec{flags: flagAck | flagPsh, payload: fill(1, 300)}.build(), uint16(20), uint16(100))
	f.Add(spec{v6: true, udp: true, payload: fill(1, 300)}.build(), uint16(40), uint16(7))
	f.Add([]byte{0x60}, uint16(65535), uint16(65535))
	f.Fuzz(func(t *testing.T, p []byte, transport, segment uint16) {
		if len(p) > packet.MaxSize {
			return
		}
		before := bytes.Clone(p)
		var c Cutter
		got, err := cut(&c, p, int(transport), int(segment), 3)
		if !bytes.Equal(p, before) {
			t.Fatal("the packet has changed")
		}
		Complete(p, int(transport), int(segment))
		if err != nil {
			return
		}
		p = before
		if p[0]>>4 == 6 && transport != headerLen6 {
			return // the slow way knows no extension headers
		}
		want := slowCut(p[:Total(p)], int(transport), int(segment))
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Fatalf("cut into %d packets, want %d", len(got), len(want))
		}
	})
}

// FuzzGroup builds packets of a few flows from a script, groups them, cuts the groups again, and checks that each flow is
// what it was.
func FuzzGroup(f *testing.F) {
	f.Add([]byte{0, 10, 0, 10, 0, 10, 0, 5, 1, 9, 1, 9})
	f.Add([]byte{4, 20, 5, 20, 6, 20, 7, 20, 4, 20, 5, 20, 6, 19, 7, 19, 4, 20, 20, 20})
	f.Add([]byte{8, 20, 8, 20, 40, 20, 8, 20, 72, 20, 8, 20})
	f.Fuzz(func(t *testing.T, script []byte) {
		var seqs [8]uint32
		var in [][]byte
		for len(script) >= 2 && len(in) < 200 {
			op, n := script[0], int(script[1])
			script = script[2:]
			k := op & 7
			s := spec{v6: k&1 != 0, udp: k&2 != 0, port: k, seq: seqs[k], flags: flagAck, payload: fill(byte(len(in)), n), id: uint16(len(in))}
			seqs[k] += uint32(n)
			if op&8 != 0 {
				s.flags |= flagPsh
			}
			s.fragmentable = op&16 != 0
			p := s.build()
			if op&32 != 0 {
				p[len(p)-1] ^= 1 // a wrong checksum
			}
			if op&64 != 0 {
				p = append(p, 1, 2, 3) // padding
			}
			in = append(in, p)
		}
		if len(in) == 0 {
			return
		}
		b := batchOf(in...)
		g := Grouper{Cuttable: true, UDP: true}
		groups := group(&g, b)
		var want, got [8][][]byte
		for _, p := range in {
			k := port(p)
			want[k] = append(want[k], normal(p))
		}
		for i := range groups {
			k := &groups[i]
			p := joined(t, &g, k, b)
			if k.Count == 1 {
				got[port(p)] = append(got[port(p)], normal(p))
				continue
			}
			if ip, ok := Parse(p); !ok || ip.Total != len(p) || !ip.HeaderSumValid(p) {
				t.Fatalf("the joined packet is broken")
			}
			var c Cutter
			parts, err := cut(&c, p, k.IP.Header, k.Segment, 7)
			if err != nil || len(parts) != k.Count {
				t.Fatalf("a group of %d was cut into %d, %v", k.Count, len(parts), err)
			}
			for _, q := range parts {
				got[port(q)] = append(got[port(q)], normal(q))
			}
		}
		for k := range want {
			if !slices.EqualFunc(got[k], want[k], bytes.Equal) {
				t.Fatalf("flow %d has changed", k)
			}
		}
	})
}

func port(p []byte) byte {
	if p[0]>>4 == 6 {
		return p[41]
	}
	return p[21]
}

// normal returns p without what may change: padding, PSH, and for packets that must not be fragmented the identification,
// and with the checksums that it has then, if it had right ones.
func normal(p []byte) []byte {
	p = bytes.Clone(p[:Total(p)])
	ip, _ := Parse(p)
	valid := ip.TransportSumValid(p)
	if !ip.V6 && p[6]&0x40 != 0 {
		p[4], p[5] = 0, 0
	}
	if ip.Protocol == protoTCP {
		p[ip.Header+13] &^= flagPsh
	}
	if valid {
		seal(p)
	}
	return p
}

func BenchmarkSum(b *testing.B) {
	p := fill(0x57, 1400)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		Sum(p, 0)
	}
}

func BenchmarkGroup(b *testing.B) {
	var in [][]byte
	for i := range 44 {
		in = append(in, spec{seq: uint32(i * 1360), flags: flagAck, payload: fill(1, 1360)}.build())
	}
	batch := batchOf(in...)
	g := Grouper{Cuttable: true, UDP: true}
	b.SetBytes(44 * 1360)
	for b.Loop() {
		if len(group(&g, batch)) != 1 {
			b.Fatal("not one group")
		}
	}
}

func BenchmarkCut(b *testing.B) {
	p := spec{flags: flagAck, payload: fill(1, 44*1360)}.build()
	batch := packet.NewBatch(44, 1400)
	var c Cutter
	b.SetBytes(44 * 1360)
	for b.Loop() {
		if err := c.Start(p, headerLen4, 1360); err != nil {
			b.Fatal(err)
		}
		c.Fill(batch)
	}
}
