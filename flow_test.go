package vpn_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	vpn "culvert.example/vpn"
)

// A flow is a TCP connection to a server that echoes, on which a stream of random bytes goes out and must come back as it
// was. It remembers the longest time for which nothing came back.
type flow struct {
	conn net.Conn
	rate int // bytes a second

	mu    sync.Mutex
	bytes int
	last  time.Time
	stall time.Duration
	err   error

	stop chan struct{}
	done chan struct{}
}

// startFlow starts the stream. It must be finished.
func startFlow(tb testing.TB, conn net.Conn, rate int) *flow {
	tb.Helper()
	f := &flow{conn: conn, rate: rate, last: time.Now(), stop: make(chan struct{}), done: make(chan struct{})}
	tb.Cleanup(func() { conn.Close() })
	// Both sides make the same stream from the same seed.
	sent, expected := rand.NewChaCha8([32]byte{1}), rand.NewChaCha8([32]byte{1})
	go f.write(sent)
	go f.read(expected)
	return f
}

// write sends a chunk every 10 ms, or as fast as the connection takes it.
func (f *flow) write(random *rand.ChaCha8) {
	chunk := make([]byte, max(f.rate/100, 1))
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-f.stop:
			f.conn.(interface{ CloseWrite() error }).CloseWrite()
			return
		case <-tick.C:
			random.Read(chunk)
			if _, err := f.conn.Write(chunk); err != nil {
				f.fail(fmt.Errorf("writing: %w", err))
				return
			}
		}
	}
}

func (f *flow) read(random *rand.ChaCha8) {
	defer close(f.done)
	got, want := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := f.conn.Read(got)
		now := time.Now()
		f.mu.Lock()
		f.stall = max(f.stall, now.Sub(f.last))
		f.last = now
		f.bytes += n
		f.mu.Unlock()
		random.Read(want[:n])
		if !bytes.Equal(got[:n], want[:n]) {
			f.fail(errors.New("other bytes came back than were sent"))
			return
		}
		if err != nil {
			select {
			case <-f.stop:
			default:
				f.fail(fmt.Errorf("reading: %w", err))
			}
			return
		}
	}
}

func (f *flow) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

// stalled returns the longest silence so far, and begins to measure anew.
func (f *flow) stalled() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	longest := max(f.stall, time.Since(f.last))
	f.stall, f.last = 0, time.Now()
	return longest
}

// received returns how many bytes came back.
func (f *flow) received() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bytes
}

// over waits for the end of the stream, and reports whether it has come within the time.
func (f *flow) over(within time.Duration) bool {
	select {
	case <-f.done:
		return true
	case <-time.After(within):
		return false
	}
}

// finish ends the stream, waits for the rest of it, and fails the test if a byte was lost or changed.
func (f *flow) finish(tb testing.TB) {
	tb.Helper()
	close(f.stop)
	// A busy machine takes its time for what is left.
	for end, have := time.Now().Add(3*time.Minute), -1; !f.over(60 * time.Second); {
		had := have
		if have = f.received(); have == had || time.Now().After(end) {
			f.conn.Close()
			tb.Fatalf("the end of the stream does not come back, after %d bytes", have)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		tb.Fatal(f.err)
	}
	if f.bytes == 0 {
		tb.Fatal("nothing came back")
	}
}

// eventually waits until ok holds.
func eventually(tb testing.TB, within time.Duration, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", within, what)
		}
	}
}

func timeout(tb testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	tb.Cleanup(cancel)
	return ctx
}

// dial opens a tunnel that is closed with the test.
func dial(t *testing.T, server string, cfg *vpn.Config) *vpn.Tunnel {
	t.Helper()
	tun, err := vpn.Dial(timeout(t, 30*time.Second), server, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("status: %+v", tun.Status())
		}
		tun.Close()
	})
	return tun
}

// over waits until the tunnel sends on a path.
func over(t *testing.T, tun *vpn.Tunnel, path string, within time.Duration) {
	t.Helper()
	eventually(t, within, "packets go over "+path, func() bool { return tun.Status().Path == path })
}

// echo checks that the tunnel carries some data there and back.
func echo(t *testing.T, tun *vpn.Tunnel, to netip.AddrPort) {
	t.Helper()
	conn, err := tun.DialContext(timeout(t, 10*time.Second), "tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	f := startFlow(t, conn, 4<<20)
	time.Sleep(300 * time.Millisecond)
	f.finish(t)
}

func flowTo(t *testing.T, tun *vpn.Tunnel, to netip.AddrPort) *flow {
	t.Helper()
	conn, err := tun.DialContext(timeout(t, 10*time.Second), "tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	f := startFlow(t, conn, 2<<20)
	eventually(t, 30*time.Second, "the stream begins", func() bool { return f.received() > 1<<20 })
	f.stalled()
	return f
}

// progress fails unless more of the stream comes within the time.
func (f *flow) progress(t *testing.T, within time.Duration) {
	t.Helper()
	have := f.received()
	eventually(t, within, "the stream goes on", func() bool { return f.received() > have+64<<10 })
}
