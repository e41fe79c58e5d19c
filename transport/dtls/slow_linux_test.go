//go:build !race

package dtls

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSlowPeer sends to a socket that is read one datagram at a time, as fast as the writer may. Without a credit much of it is lost there.
func TestSlowPeer(t *testing.T) {
	const packets = 20000
	lost := func(bound bool) (share float64) {
		g := newGateway(t, &ServerSession{PSK: testPSK()})
		r := newRelay(t, g.addr())
		var arrived atomic.Int64
		cfg := g.config()
		if bound {
			cfg.PeerBuffer = receiveBuffer(t, r.front)
		}
		client := mustDial(t, r.addr(), cfg)
		client.credit.near.Store(bound)
		pumpFrom(g.take(t).Conn)
		pumpFrom(client)
		r.set(func(d []byte) [][]byte {
			if len(d) > creditFloor {
				arrived.Add(1)
			}
			for start := time.Now(); time.Since(start) < 15*time.Microsecond; {
			}
			return pass(d)
		}, nil)
		batch := numbered(0, 64, testMTU)
		before := client.Stats()
		for range packets / len(batch) {
			if _, err := client.WriteBatch(batch); err != nil {
				t.Fatal(err)
			}
		}
		after := client.Stats()
		sent := int(after.PacketsSent - before.PacketsSent)
		if want := packets / len(batch) * len(batch); sent != want || int(after.BytesSent-before.BytesSent) != want*testMTU {
			t.Errorf("%d packets with %d bytes are counted, but %d were written", sent, after.BytesSent-before.BytesSent, want)
		}
		time.Sleep(50 * time.Millisecond)
		return 1 - float64(arrived.Load())/float64(sent)
	}
	if free := lost(false); free < 0.05 {
		t.Errorf("without a credit %.1f %% are lost, so that this test shows nothing", 100*free)
	}
	best := 1.0
	for range 3 { // a machine that is busy with something else may hold the reader for long
		if best = min(best, lost(true)); best < 0.02 {
			return
		}
	}
	t.Errorf("with a credit %.1f %% are lost", 100*best)
}

// receiveBuffer returns what the socket holds, as the kernel counts it.
func receiveBuffer(t *testing.T, conn *net.UDPConn) (n int) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return n
}
