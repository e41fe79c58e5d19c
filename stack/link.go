package stack

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"culvert.example/vpn/packet"
)

// A link is the network interface of the stack. To the stack it is a link endpoint without a link layer; to the world
// it is a packet.Conn.
type link struct {
	s     *Stack
	mtu   atomic.Uint32
	queue *queue

	// attached is whether the stack takes packets. net4 and net6 are where they go: not to the dispatcher of the interface,
	// which forgets that the checksums of joined segments are verified.
	attached   atomic.Bool
	net4, net6 stack.NetworkEndpoint

	// readMu guards what a reader has taken from the queue and not delivered yet.
	readMu sync.Mutex
	taken  [64]*stack.PacketBuffer
	next   int
	count  int
	cut    cutter

	// writeMu guards the coalescer and the memory of acknowledgements.
	writeMu sync.Mutex
	merge   coalescer
	acks    acks
	batches uint64

	// govern is what TCP connections have in flight.
	govern governor

	// errors are ICMP errors on their way to the connections that they concern, see deliverErrors.
	errors     chan *stack.PacketBuffer
	delivering atomic.Bool // deliverErrors runs
	closed     atomic.Bool
}

// gsoMaxSize is the largest packet, in bytes, that TCP hands over: what fits the length field of IPv4.
const gsoMaxSize = packet.MaxSize

// pendingErrors is how many ICMP errors may wait to be processed.
const pendingErrors = 64

func newLink(s *Stack, mtu int) *link {
	l := &link{s: s, queue: newQueue(), errors: make(chan *stack.PacketBuffer, pendingErrors)}
	l.mtu.Store(uint32(mtu))
	l.acks.init()
	l.govern.init(l)
	return l
}

// ReadBatch implements packet.Reader.
func (l *link) ReadBatch(b packet.Batch) (n int, err error) {
	l.readMu.Lock()
	defer l.readMu.Unlock()
	for n < len(b) {
		if l.cut.active() {
			k, ok := l.cut.fill(b[n:])
			n += k
			if !ok {
				l.s.stats.outTooBig.Add(1)
			}
			continue
		}
		if l.next == l.count {
			l.next = 0
			l.count, err = l.queue.take(l.taken[:], (len(b)-n)*int(l.mtu.Load()), n == 0)
			if err != nil {
				if n > 0 {
					break
				}
				return 0, err
			}
			if l.count == 0 {
				break
			}
		}
		p := l.taken[l.next]
		l.taken[l.next] = nil
		l.next++
		mtu := int(l.mtu.Load()) // of now: it may have changed while this waited
		if needsCutting(p, mtu) {
			l.cut.start(p, mtu)
			lessWindow(l.cut.hdr[l.cut.ipLen:l.cut.hdrLen]) // the checksums come later
			continue
		}
		if p.Size() <= mtu && flatten(p, &b[n]) {
			modest(b[n].Bytes())
			n++
		} else {
			l.s.stats.outTooBig.Add(1)
		}
		p.DecRef()
	}
	var size int
	for i := range b[:n] {
		size += b[i].Len()
	}
	l.s.stats.outPackets.Add(uint64(n))
	l.s.stats.outBytes.Add(uint64(size))
	return n, nil
}

// Wait implements packet.Waiter.
func (l *link) Wait() error {
	l.readMu.Lock()
	defer l.readMu.Unlock()
	if l.cut.active() || l.next < l.count {
		return nil
	}
	return l.queue.wait()
}

// WriteBatch implements packet.Writer.
func (l *link) WriteBatch(b packet.Batch) (int, error) {
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	if l.closed.Load() {
		return 0, net.ErrClosed
	}
	l.merge.Reset(len(b))
	now := time.Now()
	l.batches++
	var size, thinned int
	for i := range b {
		p := b[i].Bytes()
		size += len(p)
		ip, ok := parseIP(p)
		if !ok || ip.martian(p) {
			l.s.stats.inMalformed.Add(1)
			continue
		}
		switch ip.protocol {
		case protoTCP:
			l.acks.correct(p, &ip, now)
			if earlier := l.govern.arrived(p, &ip, i, l.batches); earlier < 0 {
				l.merge.add(b, i, &ip)
			} else {
				copy(b[earlier].Bytes(), p[:ip.total])
				thinned++
			}
		case protoICMP4, protoICMP6:
			if !l.s.interceptICMP(p, &ip) {
				l.merge.add(b, i, &ip)
			}
		default:
			l.merge.add(b, i, &ip)
		}
	}
	l.s.stats.inPackets.Add(uint64(len(b)))
	l.s.stats.inBytes.Add(uint64(size))
	l.s.stats.inMerged.Add(uint64(l.merge.Joined() + thinned))
	groups := l.merge.Groups()
	for i := range groups {
		l.inject(l.merge.build(b, &groups[i]))
	}
	return len(b), nil
}

// inject hands p to the stack and releases it.
func (l *link) inject(p *stack.PacketBuffer) {
	if l.attached.Load() {
		p.NICID = nicID
		if p.NetworkProtocolNumber == header.IPv6ProtocolNumber {
			l.net6.HandlePacket(p)
		} else {
			l.net4.HandlePacket(p)
		}
	}
	p.DecRef()
}

// deliverErrors hands ICMP errors to the stack until there is none. It runs in a goroutine of its own because the
// connection that an error concerns is locked while it is told, and may send at once: a goroutine that injects packets must never
// have to wait for the one that reads them.
func (l *link) deliverErrors() {
	for {
		select {
		case p := <-l.errors:
			switch {
			case l.closed.Load():
				p.DecRef()
			case l.s.tellUnreachable(p):
				p.DecRef()
			default:
				l.inject(p)
			}
			continue
		default:
		}
		l.delivering.Store(false)
		// One that came just now has found this goroutine still running.
		if len(l.errors) == 0 || l.delivering.Swap(true) {
			return
		}
	}
}

// deferError queues the ICMP error p for deliverErrors.
func (l *link) deferError(p []byte, ip *ipInfo) {
	pkt := newInbound(p, ip)
	select {
	case l.errors <- pkt:
	default:
		l.s.stats.icmpDropped.Add(1)
		pkt.DecRef()
		return
	}
	if !l.delivering.Swap(true) && !l.s.start(l.deliverErrors) {
		l.dropErrors()
	}
}

// dropErrors drops the ICMP errors that nobody will deliver.
func (l *link) dropErrors() {
	for {
		select {
		case p := <-l.errors:
			p.DecRef()
		default:
			return
		}
	}
}

// newInbound returns a copy of p as a packet that has arrived.
func newInbound(p []byte, ip *ipInfo) *stack.PacketBuffer {
	hdr := ip.header
	switch ip.protocol {
	case protoTCP:
		if hdr+header.TCPMinimumSize <= len(p) {
			hdr += int(p[hdr+12]>>4) * 4
		}
	case protoUDP:
		hdr += header.UDPMinimumSize
	}
	hdr = min(hdr, len(p))
	var payload *buffer.View
	if hdr < len(p) {
		payload = buffer.NewView(len(p) - hdr)
		payload.Write(p[hdr:])
	}
	return newPacket(p[:hdr], payload, ip)
}

// newPacket returns a packet that has arrived. Its headers have memory of their own, because the stack copies the whole piece
// that they lie in.
func newPacket(hdr []byte, payload *buffer.View, ip *ipInfo) *stack.PacketBuffer {
	v := buffer.NewView(len(hdr))
	v.Write(hdr)
	b := buffer.MakeWithView(v)
	if payload != nil {
		b.Append(payload)
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: b})
	pkt.NetworkProtocolNumber = ip.network()
	return pkt
}

// send queues a packet that was built here and not by the stack.
func (l *link) send(p []byte, wait bool) bool {
	v := buffer.NewView(len(p))
	v.Write(p)
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
	defer pkt.DecRef()
	if !l.queue.put(pkt, wait) {
		l.s.stats.outDropped.Add(1)
		return false
	}
	return true
}

// Close implements packet.Conn. When it returns, no packet is being injected any more, nor will be.
func (l *link) Close() error {
	l.closed.Store(true)
	l.queue.close()
	l.govern.close()
	l.writeMu.Lock()
	l.merge = coalescer{} // the lock has waited for the WriteBatch that went on
	l.writeMu.Unlock()
	l.dropErrors()
	l.readMu.Lock()
	defer l.readMu.Unlock()
	l.cut.stop()
	for ; l.next < l.count; l.next++ {
		l.taken[l.next].DecRef()
		l.taken[l.next] = nil
	}
	return nil
}

// packetConn is the face of a link that users see, without the methods that the stack needs.
type packetConn struct{ l *link }

func (c packetConn) ReadBatch(b packet.Batch) (int, error)  { return c.l.ReadBatch(b) }
func (c packetConn) WriteBatch(b packet.Batch) (int, error) { return c.l.WriteBatch(b) }
func (c packetConn) Wait() error                            { return c.l.Wait() }
func (c packetConn) MTU() int                               { return int(c.l.mtu.Load()) }
func (c packetConn) Close() error                           { return c.l.Close() }

// endpoint is the face of a link that the stack sees.
type endpoint struct{ *link }

var (
	_ stack.LinkEndpoint       = endpoint{}
	_ stack.GSOEndpoint        = endpoint{}
	_ stack.QueueingDiscipline = endpoint{}
)

// WritePacket implements stack.QueueingDiscipline, which saves the list that WritePackets needs.
func (e endpoint) WritePacket(p *stack.PacketBuffer) tcpip.Error {
	if p.TransportProtocolNumber == header.TCPProtocolNumber && !e.govern.sending(p) {
		return nil
	}
	if !e.queue.put(p, mayWait(p)) {
		e.s.stats.outDropped.Add(1)
		return &tcpip.ErrNoBufferSpace{}
	}
	return nil
}

// WritePackets implements stack.LinkWriter.
func (e endpoint) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for i, p := range list.AsSlice() {
		if err := e.WritePacket(p); err != nil {
			return i, err
		}
	}
	return list.Len(), nil
}

// mayWait reports whether p is worth waiting for when the queue is full. What the stack may send while a packet is
// injected, which is answers to hostile or stray packets, is not: the goroutine that injects must go on.
func mayWait(p *stack.PacketBuffer) bool {
	h := p.TransportHeader().Slice()
	switch p.TransportProtocolNumber {
	case header.TCPProtocolNumber:
		return len(h) >= header.TCPMinimumSize && header.TCP(h).Flags()&header.TCPFlagRst == 0
	case header.UDPProtocolNumber:
		return true
	case header.ICMPv4ProtocolNumber:
		return len(h) > 0 && header.ICMPv4Type(h[0]) == header.ICMPv4Echo
	case header.ICMPv6ProtocolNumber:
		return len(h) > 0 && header.ICMPv6Type(h[0]) == header.ICMPv6EchoRequest
	}
	return false
}

// Attach implements stack.NetworkLinkEndpoint.
func (e endpoint) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		e.attached.Store(false)
	}
}

// IsAttached implements stack.NetworkLinkEndpoint.
func (e endpoint) IsAttached() bool { return e.attached.Load() }

// MTU implements stack.NetworkLinkEndpoint.
func (e endpoint) MTU() uint32 { return e.mtu.Load() }

// SetMTU implements stack.NetworkLinkEndpoint.
func (e endpoint) SetMTU(mtu uint32) { e.mtu.Store(mtu) }

// SupportedGSO implements stack.GSOEndpoint: TCP hands over large segments, and leaves their checksums to us.
func (endpoint) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// GSOMaxSize implements stack.GSOEndpoint.
func (endpoint) GSOMaxSize() uint32 { return gsoMaxSize }

// Capabilities implements stack.NetworkLinkEndpoint. Checksums of what arrives are verified, either where segments
// are joined or by the stack.
func (endpoint) Capabilities() stack.LinkEndpointCapabilities { return stack.CapabilityNone }

func (endpoint) MaxHeaderLength() uint16                 { return 0 }
func (endpoint) LinkAddress() tcpip.LinkAddress          { return "" }
func (endpoint) SetLinkAddress(tcpip.LinkAddress)        {}
func (endpoint) Wait()                                   {}
func (endpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (endpoint) AddHeader(*stack.PacketBuffer)           {}
func (endpoint) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (endpoint) Close()                                  {}
func (endpoint) SetOnCloseAction(func())                 {}
