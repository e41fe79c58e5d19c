//go:build !race

package dtls

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/packet"
)

// TestSlowPeer sends to a socket that is read one datagram at a time, as fast as the writer may. Without a credit much of it is lost there.
func TestSlowPeer(t *testing.T) {
	const packets = 12800
	lost := func(pause time.Duration, bound bool) (share float64) {
		g := newGateway(t, &ServerSession{PSK: testPSK()})
		r := newRelay(t, g.addr())
		var arrived atomic.Int64
		cfg := g.config()
		if bound {
			cfg.PeerBuffer = receiveBuffer(t, r.front)
		}
		client := mustDial(t, r.addr(), cfg)
		g.take(t)
		go drain(client)
		r.set(func(d []byte) [][]byte {
			if len(d) < creditFloor {
				return pass(d)
			}
			arrived.Add(1)
			for start := time.Now(); time.Since(start) < pause; {
			}
			return nil
		}, nil)
		client.credit.near.Store(bound)
		batch := numbered(0, 64, testMTU)
		before := client.Stats()
		for range packets / len(batch) {
			if _, err := client.WriteBatch(batch); err != nil {
				t.Fatal(err)
			}
		}
		after := client.Stats()
		if sent, bytes := after.PacketsSent-before.PacketsSent, after.BytesSent-before.BytesSent; sent != packets || bytes != packets*testMTU {
			t.Errorf("%d packets with %d bytes are counted, but %d were written", sent, bytes, packets)
		}
		for was := int64(-1); was != arrived.Load(); time.Sleep(20 * time.Millisecond) {
			was = arrived.Load()
		}
		return 1 - float64(arrived.Load())/packets
	}
	pause := 10 * time.Microsecond
	for lost(pause, false) < 0.1 {
		if pause *= 2; pause > time.Millisecond {
			t.Fatal("nothing is lost without a credit, so that this test shows nothing")
		}
	}
	best := 1.0
	for range 5 { // a machine that is busy with something else may hold the reader for long
		if best = min(best, lost(pause, true)); best < 0.06 {
			return
		}
	}
	t.Errorf("with a credit %.1f %% are lost", 100*best)
}

// drain reads from the Conn and keeps nothing.
func drain(c *Conn) {
	for b := packet.NewBatch(32, 2000); ; {
		if _, err := c.ReadBatch(b); err != nil {
			return
		}
	}
}

// TestFaultBehindRequests has the system refuse a packet that is behind others and the requests between them: WriteBatch says which it is.
func TestFaultBehindRequests(t *testing.T) {
	const small, large = 600, 1300
	for before := range 60 {
		client, _ := quietPair(t)
		client.credit.init(212992, 1)
		client.credit.near.Store(true)
		client.echoes.Store(true)
		sock := client.out.(connectedUDP).sock
		taken := 0
		client.writeMu.Lock()
		client.controlMu.Lock()
		sock.gso.Store(false)
		sock.call = func(_ uintptr, msgs []mmsghdr) (int, syscall.Errno) {
			for i := range msgs {
				if msgs[i].hdr.Iov.Len > large {
					if i == 0 {
						return 0, unix.EMSGSIZE
					}
					return i, 0
				}
				taken++
			}
			return len(msgs), 0
		}
		client.controlMu.Unlock()
		client.writeMu.Unlock()
		batch := numbered(0, before+3, small)
		batch[before] = packet.NewBuf(large)
		batch[before].SetLen(large)
		was := client.Stats()
		n, err := client.WriteBatch(batch)
		if n != before || !errors.Is(err, packet.ErrTooBig) {
			t.Fatalf("WriteBatch = %d, %v, want %d and ErrTooBig", n, err, before)
		}
		is := client.Stats()
		if sent, bytes := is.PacketsSent-was.PacketsSent, is.BytesSent-was.BytesSent; int(sent) != before || int(bytes) != before*small {
			t.Fatalf("%d packets with %d bytes are counted, but %d left", sent, bytes, before)
		}
		if requests := taken - before; before > 30 && requests == 0 {
			t.Fatal("there were no requests, so that this test shows nothing")
		}
		client.Close()
	}
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
