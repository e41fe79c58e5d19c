package cstp

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport/heartbeat"
	"culvert.example/vpn/transport/liveness"
	"culvert.example/vpn/transport/wire"
)

var _ packet.Waiter = (*Conn)(nil)

// direct returns the two ends of a tunnel over TLS and sockets of the system.
func direct(t testing.TB) (client, server *Conn) {
	t.Helper()
	a, b := loopback(t)
	scfg, ccfg := configs()
	cl, sl := Client(a, ccfg), Server(b, scfg)
	done := make(chan error, 1)
	go func() { done <- sl.Handshake() }()
	if err := cl.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	client, server = NewConn(cl, nil, quiet), NewConn(sl, nil, quiet)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// TestWait has packets come through Wait and ReadBatch in order, with frames between them that Wait deals with alone.
func TestWait(t *testing.T) {
	client, server := direct(t)
	waited := make(chan error)
	in := packet.NewBatch(8, 1400)
	probed := client.Stats().Probed
	for _, size := range []int{1, 40, 1400} {
		go func() { waited <- client.Wait() }()
		for range 3 {
			if err := server.Probe(); err != nil {
				t.Fatal(err)
			}
		}
		for end := time.Now().Add(5 * time.Second); client.Stats().Probed == probed; {
			select {
			case err := <-waited:
				t.Fatalf("Wait returned %v though there was no packet", err)
			case <-time.After(10 * time.Millisecond):
			}
			if time.Now().After(end) {
				t.Fatal("Wait deals with no probe")
			}
		}
		probed = client.Stats().Probed
		b := batch(size, 20, 1400, size)
		if _, err := server.WriteBatch(b); err != nil {
			t.Fatal(err)
		}
		if err := <-waited; err != nil {
			t.Fatal(err)
		}
		if err := client.Wait(); err != nil { // once more, before anything is read
			t.Fatal(err)
		}
		for got := 0; got < len(b); {
			n, err := client.ReadBatch(in)
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				if string(in[i].Bytes()) != string(b[got].Bytes()) {
					t.Errorf("packet %d has changed", got)
				}
				got++
			}
		}
	}
	go func() { waited <- client.Wait() }()
	time.Sleep(10 * time.Millisecond)
	client.Close()
	if err := <-waited; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Wait after Close = %v, want net.ErrClosed", err)
	}
}

// TestWaitEnds has Wait fail as ReadBatch does.
func TestWaitEnds(t *testing.T) {
	client, server := direct(t)
	if err := server.Disconnect(wire.ReasonUser, "bye"); err != nil {
		t.Fatal(err)
	}
	var bye *DisconnectError
	if err := client.Wait(); !errors.As(err, &bye) || bye.Text != "bye" {
		t.Errorf("Wait = %v, want the goodbye of the peer", err)
	}
	if err := client.Wait(); !errors.As(err, &bye) {
		t.Errorf("the second Wait = %v, want the same", err)
	}

	client, server = direct(t)
	server.sock.Conn.Close()
	if err := client.Wait(); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Wait = %v, want the end of the stream", err)
	}
}

// TestIdleMemory has a Conn hold no memory for receiving while nothing comes, whether the last was a packet or a part of one.
func TestIdleMemory(t *testing.T) {
	client, server := direct(t)
	if !client.sock.puller.pools() {
		return // package net alone reads on this system, into memory that is held
	}
	whole := batch(1400)
	cut := append([]byte(nil), server.frame(&whole[0])...)
	if _, err := server.WriteBatch(batch(1400, 1400)); err != nil {
		t.Fatal(err)
	}
	// One frame in two records, which needs memory of its own.
	for _, part := range [][]byte{cut[:5], cut[5:]} {
		if _, err := server.w.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	in := packet.NewBatch(8, 1400)
	for got := 0; got < 3; {
		n, err := client.ReadBatch(in)
		if err != nil {
			t.Fatal(err)
		}
		got += n
	}
	client.sock.Conn.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	if _, err := client.in.peek(client.r, client.sock); err == nil {
		t.Fatal("there is another frame")
	}
	if client.sock.buf != nil || client.in.mem != nil {
		t.Error("a channel on which nothing comes has memory for receiving")
	}
}

// TestSocketAllocs counts the allocations for packets over TLS, those of crypto/tls among them: it makes one each time it asks for
// more, which is for every few packets.
func TestSocketAllocs(t *testing.T) {
	client, server := direct(t)
	out, in := batch(1400, 1400, 1400, 1400, 1400, 1400, 1400, 1400), packet.NewBatch(64, 1400)
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
	if n > float64(len(out)) && !raceDetector {
		t.Errorf("%v allocations for %d packets", n, len(out))
	}
}

// TestControlEnds has frames without data posted while the Conn ends: no goroutine may begin afterwards.
func TestControlEnds(t *testing.T) {
	for range 20 {
		cfg := quiet
		cfg.Beat = liveness.Config{DPD: time.Millisecond, Keepalive: time.Millisecond}
		c := bare(new(endless), cfg)
		stop := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
					_ = c.Probe()
				}
			}
		}()
		time.Sleep(time.Millisecond)
		c.Close()
		c.out.mu.Lock()
		if c.out.sending {
			t.Error("a goroutine is left")
		}
		c.out.mu.Unlock()
		close(stop)
		<-done
		if err := c.Err(); !errors.Is(err, net.ErrClosed) && !errors.Is(err, heartbeat.ErrDead) {
			t.Error(err)
		}
	}
}

// An endless connection takes what is written, and has nothing to read.
type endless struct{ canned }
