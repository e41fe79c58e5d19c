package dns

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"culvert.example/vpn/internal/leak"
)

// TestBursts sends many queries before it reads an answer, of names in the cache and others, with packets between them that are none, to a
// socket of each family. Each answer comes to the question that it is for.
func TestBursts(t *testing.T) {
	for _, tt := range []struct{ network, listen, dial string }{
		{"udp4", "127.0.0.1:0", "127.0.0.1"}, {"udp6", "[::1]:0", "::1"}, {"udp", "[::]:0", "127.0.0.1"}, {"udp", "[::]:0", "::1"},
	} {
		t.Run(tt.listen+" "+tt.dial, func(t *testing.T) {
			leak.Check(t)
			var lines []string
			const names = 100
			for i := range names {
				lines = append(lines, fmt.Sprintf("h%d.example. 60 IN A 192.0.2.%d", i, i))
			}
			s := testServer(t, newAuthority(t, "example.", lines...), nil)
			pc, err := net.ListenPacket(tt.network, tt.listen)
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- s.ServePacket(pc) }()
			port := netip.MustParseAddrPort(pc.LocalAddr().String()).Port()
			c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(tt.dial), port)))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			buf := make([]byte, 4096)
			for round := range 2 { // the second from the cache
				for i := range names {
					m := new(wire.Msg).SetQuestion(fmt.Sprintf("h%d.example.", i), wire.TypeA)
					m.Id = uint16(1000*round + i)
					b, err := m.Pack()
					if err != nil {
						t.Fatal(err)
					}
					packets := [][]byte{b, nil, b[:5], make([]byte, maxQuery+100)}
					if i%20 != 1 {
						packets = packets[:1] // the socket holds so much and no more
					}
					for _, packet := range packets {
						if _, err := c.Write(packet); err != nil {
							t.Fatal(err)
						}
					}
				}
				for seen := map[uint16]bool{}; len(seen) < names; {
					n, err := c.Read(buf)
					if err != nil {
						t.Fatalf("%d answers: %v", len(seen), err)
					}
					m := new(wire.Msg)
					if err := m.Unpack(buf[:n]); err != nil {
						t.Fatal(err)
					}
					if m.Rcode == wire.RcodeFormatError {
						continue // to the large packet
					}
					i := int(m.Id) - 1000*round
					if len(m.Answer) != 1 || m.Answer[0].(*wire.A).A.String() != fmt.Sprintf("192.0.2.%d", i) || seen[m.Id] {
						t.Fatalf("question %d: %v", i, m)
					}
					seen[m.Id] = true
				}
			}
			if st := s.Stats(); st.Hits != names || st.Misses != names || st.Malformed == 0 {
				t.Errorf("%+v", st)
			}
			s.Close()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}
