package failover

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"culvert.example/vpn/packet"
)

// A catcher is a dst that notes the numbers of packets, and that a test can hold up.
type catcher struct {
	t    *testing.T
	busy atomic.Bool
	gate chan struct{} // dst blocks until it is closed; nil: it does not

	mu  sync.Mutex
	got []uint32
	err error
}

func (k *catcher) WriteBatch(b packet.Batch) (int, error) {
	if !k.busy.CompareAndSwap(false, true) {
		k.t.Error("two batches at a time")
	}
	defer k.busy.Store(false)
	if k.gate != nil {
		<-k.gate
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return 0, k.err
	}
	for i := range b {
		if b[i].Len() > 1500 {
			return i, packet.ErrTooBig
		}
		k.got = append(k.got, number(&b[i]))
	}
	return len(b), nil
}

func (k *catcher) numbers() []uint32 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.got)
}

func (k *catcher) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

// A sieve is a filter that lets only packets with even numbers through.
type sieve struct{}

func (sieve) Filter(b packet.Batch) packet.Batch {
	n := 0
	for i := range b {
		if number(&b[i])%2 == 0 {
			b[n], b[i] = b[i], b[n]
			n++
		}
	}
	return b[:n]
}

// forward runs Forward, and returns where its error comes.
func forward(c *Conn, dst packet.Writer, filters ...packet.Filter) chan error {
	errs := make(chan error, 1)
	go func() { errs <- c.Forward(dst, filters...) }()
	synctest.Wait()
	return errs
}

// send has packets with the numbers from begin to end arrive on a path.
func send(t *testing.T, p *scripted, begin, end uint32) {
	t.Helper()
	b := packet.NewBatch(int(end-begin), 1500)
	for i := range b {
		numbered(&b[i], begin+uint32(i))
	}
	if _, err := p.link().far.WriteBatch(b); err != nil {
		t.Error(err)
	}
}

func TestForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, _ := pair()
		dtls.log, tls.log = nil, nil
		c := New(Config{Paths: []Path{dtls, tls}})
		defer c.Close()
		mustReady(t, c)

		// Some of it has been read by ReadBatch when Forward begins, and some waits for ReadBatch.
		send(t, dtls, 0, 20)
		send(t, tls, 1_000_000, 1_000_010)
		b := packet.NewBatch(3, 1500)
		if n, err := c.ReadBatch(b); n != 3 || err != nil {
			t.Fatalf("ReadBatch = %d, %v", n, err)
		}
		first := number(&b[0]) / 1_000_000
		k := &catcher{t: t}
		ended := forward(c, k, sieve{})
		var senders sync.WaitGroup
		senders.Go(func() {
			for n := uint32(20); n < 2000; n += 20 {
				send(t, dtls, n, n+20)
			}
		})
		senders.Go(func() {
			for n := uint32(1_000_010); n < 1_002_000; n += 10 {
				send(t, tls, n, n+10)
			}
		})
		senders.Wait()
		synctest.Wait()
		next := []uint32{0, 1_000_000}
		next[first] += 4 // three were read, and the sieve drops the odd one
		for _, n := range k.numbers() {
			path := n / 1_000_000
			if n != next[path] {
				t.Fatalf("path %d: packet %d, want %d", path, n, next[path])
			}
			next[path] += 2
		}
		if next[0] != 2000 || next[1] != 1_002_000 {
			t.Errorf("the last packets were %d and %d", next[0]-2, next[1]-2)
		}

		// A path that has come back delivers as well.
		tls.cut(nil)
		time.Sleep(time.Minute)
		send(t, tls, 4_000_000, 4_000_001)
		synctest.Wait()
		if got := k.numbers(); got[len(got)-1] != 4_000_000 {
			t.Errorf("the last packet was %d", got[len(got)-1])
		}
		c.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Forward = %v", err)
		}
		if err := c.Forward(k); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Forward after Close = %v", err)
		}
	})
}

// TestForwardToDstThatBlocks has a dst that takes nothing until the test lets it: the path comes back, data goes out, and Close returns.
func TestForwardToDstThatBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, log := pair()
		c := New(Config{Paths: []Path{dtls, tls}})
		defer c.Close()
		mustReady(t, c)
		k := &catcher{t: t, gate: make(chan struct{})}
		ended := forward(c, k)
		send(t, dtls, 1, 4)
		synctest.Wait()
		send(t, tls, 10, 13) // waits for its turn
		synctest.Wait()

		dtls.set(errBroken)
		dtls.link().left.Store(0)
		tls.link().left.Store(0)
		write(t, c, 0, 5) // dtls fails, tls fails, and comes back and takes it
		dtls.set(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := c.State(); !s.Paths[0].Open || !s.Paths[1].Open || s.Paths[0].Opens != 2 || s.Paths[1].Opens != 2 {
			t.Errorf("state %+v", s)
		}
		if got := len(log.numbers("dtls")) + len(log.numbers("tls")); got != 5 {
			t.Errorf("%d packets went out, want 5", got)
		}
		send(t, dtls, 4, 6)
		synctest.Wait()
		c.Close()
		select {
		case err := <-ended:
			t.Errorf("Forward returned while dst was busy: %v", err)
		default:
		}
		close(k.gate)
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Forward = %v", err)
		}
		before := k.numbers()
		if len(before) < 3 || !slices.Equal(before[:3], series(1, 4)) {
			t.Errorf("got %v", before)
		}
		synctest.Wait()
		if after := k.numbers(); len(after) != len(before) {
			t.Errorf("dst was called after Forward had returned: %v, then %v", before, after)
		}
	})
}

// TestForwardAfterDstBlocked looks at what paths deliver that were closed while dst was busy, if the Conn lives on.
func TestForwardAfterDstBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, _ := pair()
		c := New(Config{Paths: []Path{dtls, tls}})
		defer c.Close()
		mustReady(t, c)
		k := &catcher{t: t, gate: make(chan struct{})}
		ended := forward(c, k)
		var want []uint32
		for i := range uint32(5) {
			send(t, dtls, 10*i, 10*i+3)
			want = append(want, series(10*i, 10*i+3)...)
			synctest.Wait()
			dtls.link().left.Store(0)
			write(t, c, i, i+1)
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		close(k.gate)
		synctest.Wait()
		got := k.numbers()
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		send(t, dtls, 100, 101)
		synctest.Wait()
		if got := k.numbers(); got[len(got)-1] != 100 {
			t.Errorf("got %v in the end", got)
		}
		c.Close()
		<-ended
	})
}

func TestForwardToDstThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, _ := pair()
		c := New(Config{Paths: []Path{dtls, tls}})
		defer c.Close()
		mustReady(t, c)
		k := &catcher{t: t}
		ended := forward(c, k)
		k.fail(errBroken)
		send(t, dtls, 1, 2)
		if err := <-ended; err != errBroken {
			t.Errorf("Forward = %v", err)
		}
		send(t, dtls, 2, 4)
		b := packet.NewBatch(4, 1500)
		if n, err := c.ReadBatch(b); n != 2 || err != nil || number(&b[0]) != 2 {
			t.Errorf("ReadBatch after Forward = %d, %v", n, err)
		}
		k.fail(nil)
		ended = forward(c, k)
		send(t, tls, 5, 7)
		synctest.Wait()
		if got := k.numbers(); !slices.Equal(got, series(5, 7)) {
			t.Errorf("got %v", got)
		}
		c.Close()
		<-ended
	})
}

func TestForwardTooBig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, _ := pair()
		c := New(Config{Paths: []Path{dtls, tls}, MTU: 1400})
		defer c.Close()
		mustReady(t, c)
		a, z := packet.Pipe(1500, 64)
		ended := forward(c, a)
		b := packet.NewBatch(1, 1500)
		big4(&b[0], 1400)
		dtls.link().mtu.Store(1280)
		if n, err := c.WriteBatch(b); n != 1 || err != nil {
			t.Fatalf("WriteBatch = %d, %v", n, err)
		}
		n, err := z.ReadBatch(b)
		if n != 1 || err != nil {
			t.Fatalf("ReadBatch = %d, %v", n, err)
		}
		if p := b[0].Bytes(); p[9] != 1 || p[20] != 3 || p[21] != 4 || binary.BigEndian.Uint16(p[26:]) != 1280 {
			t.Errorf("answer: % x", p[:28])
		}
		a.Close()
		send(t, dtls, 1, 2)
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Forward = %v", err)
		}
	})
}

// A waitingLink is a link that can wait without memory.
type waitingLink struct {
	packet.Conn
	mu       sync.Mutex
	arrived  sync.Cond
	pending  packet.Batch
	closed   bool
	reading  atomic.Int64 // ReadBatch is being called
	unwanted atomic.Int64 // ReadBatch had to wait
}

func (l *waitingLink) Wait() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.pending) == 0 && !l.closed {
		l.arrived.Wait()
	}
	if l.closed {
		return net.ErrClosed
	}
	return nil
}

func (l *waitingLink) ReadBatch(b packet.Batch) (int, error) {
	l.reading.Add(1)
	defer l.reading.Add(-1)
	l.mu.Lock()
	if len(l.pending) == 0 && !l.closed {
		l.unwanted.Add(1)
	}
	l.mu.Unlock()
	if err := l.Wait(); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for n < len(b) && n < len(l.pending) && b[n].Set(l.pending[n].Bytes()) {
		n++
	}
	l.pending = l.pending[n:]
	return n, nil
}

func (l *waitingLink) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.arrived.Broadcast()
	return nil
}

func (l *waitingLink) arrive(begin, end uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := begin; n < end; n++ {
		b := packet.NewBuf(1500)
		numbered(&b, n)
		l.pending = append(l.pending, b)
	}
	l.arrived.Broadcast()
}

// TestIdlePathsOwnNothing looks at where the goroutine of a path waits.
func TestIdlePathsOwnNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &waitingLink{Conn: &link{}}
		l.Conn.(*link).mtu.Store(1500)
		l.arrived.L = &l.mu
		c := New(Config{Paths: []Path{opener{l}}})
		defer c.Close()
		mustReady(t, c)
		if l.reading.Load() != 0 {
			t.Error("the path owns a batch before anything has come")
		}
		k := &catcher{t: t}
		ended := forward(c, k)
		for i := range uint32(3) {
			l.arrive(1000*i, 1000*i+260)
			synctest.Wait()
			if l.reading.Load() != 0 {
				t.Error("the path owns a batch though nothing comes any more")
			}
		}
		if n := len(k.numbers()); n != 780 {
			t.Errorf("%d packets, want 780", n)
		}
		if n := l.unwanted.Load(); n != 0 {
			t.Errorf("a batch waited for packets %d times", n)
		}
		c.Close()
		<-ended
	})
}

// A tokenLink is a Conn whose Wait returns once for each token.
type tokenLink struct {
	packet.Conn
	tokens chan struct{}
}

func (l *tokenLink) Wait() error {
	if _, ok := <-l.tokens; !ok {
		return net.ErrClosed
	}
	return nil
}

func TestForwardNoAllocation(t *testing.T) {
	for _, waiting := range []bool{false, true} {
		path, far := packet.Pipe(1500, 256)
		tokens := make(chan struct{}, 1)
		conn := path
		if waiting {
			conn = &tokenLink{path, tokens}
		}
		c := New(Config{Paths: []Path{opener{conn}}})
		if err := c.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		near, in := packet.Pipe(1500, 256)
		ended := make(chan error, 1)
		go func() { ended <- c.Forward(near, sieve{}) }()
		out, got := packet.NewBatch(packet.Brisk-1, 1500), packet.NewBatch(64, 1500)
		for i := range out {
			numbered(&out[i], 2)
		}
		move := func() {
			if _, err := far.WriteBatch(out); err != nil {
				t.Fatal(err)
			}
			if waiting {
				tokens <- struct{}{}
			}
			for n := 0; n < len(out); {
				m, err := in.ReadBatch(got)
				if err != nil {
					t.Fatal(err)
				}
				n += m
			}
		}
		move()
		if n := testing.AllocsPerRun(200, move); n != 0 {
			t.Errorf("waiting=%v: %v allocations for each batch forwarded", waiting, n)
		}
		close(tokens)
		c.Close()
		<-ended
	}
}

// An opener is a path that opens one connection.
type opener struct{ conn packet.Conn }

func (opener) Name() string                                    { return "only" }
func (o opener) Open(ctx context.Context) (packet.Conn, error) { return o.conn, nil }
