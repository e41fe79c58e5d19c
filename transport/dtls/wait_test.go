package dtls

import (
	"errors"
	"net"
	"testing"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport/liveness"
	"culvert.example/vpn/transport/wire"
)

var _ packet.Waiter = (*Conn)(nil)

// quietPair returns a channel whose ends probe nobody.
func quietPair(t *testing.T) (client, server *Conn) {
	t.Helper()
	accepted := make(chan *Conn, 1)
	g := newGateway(t, &ServerSession{PSK: testPSK(), Accept: func(c *Conn) { accepted <- c }, Beat: liveness.Config{Load: -1}})
	client = mustDialQuiet(t, g, accepted)
	server = <-accepted
	t.Cleanup(func() { server.Close() })
	return client, server
}

// TestWait has packets of all sizes come through Wait and ReadBatch in order, with frames between them that Wait deals with alone.
func TestWait(t *testing.T) {
	client, server := quietPair(t)
	for _, way := range []struct {
		name     string
		from, to *Conn
	}{{"up", client, server}, {"down", server, client}} {
		waited := make(chan error)
		in := packet.NewBatch(64, testMTU)
		for round, size := range []int{20, 64, 65, testMTU, 1} {
			go func() { waited <- way.to.Wait() }()
			if err := way.from.control(wire.Keepalive, nil); err != nil {
				t.Fatal(err)
			}
			if err := way.from.control(wire.DPDRequest, []byte("?")); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-waited:
				t.Fatalf("%s: Wait returned %v though there was no packet", way.name, err)
			case <-time.After(30 * time.Millisecond):
			}
			b := packet.NewBatch(3, testMTU)
			for i, n := range []int{size, 40, testMTU} {
				b[i].SetLen(n)
				for j := range b[i].Bytes() {
					b[i].Bytes()[j] = byte(round + i)
				}
			}
			send(t, way.from, b)
			if err := <-waited; err != nil {
				t.Fatal(err)
			}
			if err := way.to.Wait(); err != nil { // once more, before anything is read
				t.Fatal(err)
			}
			var got [][]byte
			for len(got) < len(b) {
				n, err := way.to.ReadBatch(in)
				if err != nil {
					t.Fatal(err)
				}
				for i := range n {
					got = append(got, append([]byte(nil), in[i].Bytes()...))
				}
			}
			sameBatch(t, got, b)
		}
		if n := way.to.Stats().PacketsReceived; n < 15 {
			t.Errorf("%s: %d packets were counted, want 15 at least", way.name, n)
		}
		go func() { waited <- way.to.Wait() }()
		time.Sleep(10 * time.Millisecond)
		if way.name == "down" {
			way.to.Close()
			if err := <-waited; !errors.Is(err, net.ErrClosed) {
				t.Errorf("Wait after Close = %v, want net.ErrClosed", err)
			}
			continue
		}
		send(t, way.from, numbered(0, 1, 30))
		if err := <-waited; err != nil {
			t.Error(err)
		}
	}
}

// TestWaitAllocs has no allocation where a batch is waited for.
func TestWaitAllocs(t *testing.T) {
	client, server := quietPair(t)
	out, in := numbered(0, 32, testMTU), packet.NewBatch(64, testMTU)
	n := testing.AllocsPerRun(50, func() {
		if _, err := server.WriteBatch(out); err != nil {
			t.Fatal(err)
		}
		for got := 0; got < len(out); {
			if err := client.Wait(); err != nil {
				t.Fatal(err)
			}
			n, err := client.ReadBatch(in)
			if err != nil {
				t.Fatal(err)
			}
			got += n
		}
	})
	if n > 0 && !raceDetector {
		t.Errorf("%v allocations for a batch", n)
	}
}
