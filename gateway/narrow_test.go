package gateway

import (
	"net/netip"
	"testing"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport/wire"
)

// TestNarrow has large packets go by TLS while only small ones are known to get through by DTLS, but no longer than until the channel has
// found out what size does.
func TestNarrow(t *testing.T) {
	l := newLab(t, nil)
	req := request(l.cookie("alice"))
	req.DTLSCipherSuites = []string{wire.PSKNegotiate}
	c, err := l.request(req)
	if err != nil {
		t.Fatal(err)
	}
	go drain(c.conn)
	conn := l.datagrams(c, [48]byte{})
	go drain(conn)
	s, _ := l.table.owner(c.lease.Addresses[0].Addr())
	eventually(t, "DTLS is up", func() bool { return s.paths.udp.Load() != nil && s.paths.udpActive.Load() })
	u := s.paths.udp.Load()
	send := func() {
		b := packet.NewBatch(1, 1500)
		b[0].Set(udpPacket(netip.MustParseAddr("10.20.0.1"), c.lease.Addresses[0].Addr(), 9, make([]byte, smallPacket)))
		s.send(b)
	}
	u.narrowMTU.Store(int64(u.conn.MTU()))
	u.narrowUntil.Store(time.Now().Add(time.Hour).UnixNano())
	byTLS, byUDP := c.conn.Stats().In, conn.Stats().PacketsReceived
	send()
	eventually(t, "a large packet comes by TLS", func() bool { return c.conn.Stats().In > byTLS })
	u.narrowMTU.Store(int64(u.conn.MTU()) + 100)
	send()
	eventually(t, "a large packet comes by DTLS", func() bool { return conn.Stats().PacketsReceived > byUDP })
}
