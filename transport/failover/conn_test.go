package failover

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport"
)

// A link is a connection that a test can break.
type link struct {
	packet.Conn
	far packet.Conn

	mtu    atomic.Int64
	left   atomic.Int64 // packets that it still takes before it fails; negative: any number
	checks atomic.Int64
	mute   chan struct{} // closed by Close
	once   sync.Once
}

func (l *link) MTU() int { return int(l.mtu.Load()) }
func (l *link) Check()   { l.checks.Add(1) }

func (l *link) Close() error {
	l.once.Do(func() { close(l.mute) })
	return l.Conn.Close()
}

var errBroken = errors.New("link is broken")

func (l *link) WriteBatch(b packet.Batch) (int, error) {
	for i := range b {
		if b[i].Len() > l.MTU() {
			n, err := l.WriteBatch(b[:i])
			if err == nil {
				err = packet.ErrTooBig
			}
			return n, err
		}
	}
	if left := l.left.Load(); left >= 0 && left < int64(len(b)) {
		l.left.Store(0)
		n, _ := l.Conn.WriteBatch(b[:left])
		return n, errBroken
	} else if left > 0 {
		l.left.Add(-int64(len(b)))
	}
	return l.Conn.WriteBatch(b)
}

// A scripted is a path that a test controls, and its other end: what arrives there is noted.
type scripted struct {
	name  string
	log   *arrivals
	delay time.Duration
	mtu   int
	depth int

	mu    sync.Mutex
	err   error // what Open returns
	hang  bool  // Open waits for its context
	up    *link // the last link
	opens int
}

// arrivals is what has arrived at the other ends: path and number of each packet.
type arrivals struct {
	mu  sync.Mutex
	got []arrival
}

type arrival struct {
	path string
	n    uint32
}

func (a *arrivals) list() []arrival {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.got)
}

func (p *scripted) Name() string { return p.name }

func (p *scripted) Open(ctx context.Context) (packet.Conn, error) {
	p.mu.Lock()
	p.opens++
	hang := p.hang
	p.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	if p.delay > 0 {
		select {
		case <-time.After(p.delay):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	depth := p.depth
	if depth == 0 {
		depth = 256
	}
	near, far := packet.Pipe(1500, depth)
	l := &link{Conn: near, far: far, mute: make(chan struct{})}
	l.mtu.Store(1500)
	if p.mtu > 0 {
		l.mtu.Store(int64(p.mtu))
	}
	l.left.Store(-1)
	p.up = l
	if p.log != nil {
		go func() {
			b := packet.NewBatch(64, 1500)
			for {
				n, err := far.ReadBatch(b)
				if err != nil {
					return
				}
				p.log.mu.Lock()
				for i := range n {
					p.log.got = append(p.log.got, arrival{p.name, number(&b[i])})
				}
				p.log.mu.Unlock()
			}
		}()
	}
	return l, nil
}

// set changes what Open does.
func (p *scripted) set(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// link returns the last connection.
func (p *scripted) link() *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.up
}

// cut breaks the connection, and keeps the path from opening again if err is not nil.
func (p *scripted) cut(err error) {
	p.set(err)
	p.link().far.Close()
}

// numbered makes a packet with a number in it.
func numbered(b *packet.Buf, n uint32) {
	b.SetLen(60)
	p := b.Bytes()
	clear(p)
	p[0] = 0x45
	binary.BigEndian.PutUint32(p[20:], n)
}

func number(b *packet.Buf) uint32 {
	if b.Len() < 24 {
		return 0
	}
	return binary.BigEndian.Uint32(b.Bytes()[20:])
}

// pair returns the two paths of most tests.
func pair() (dtls, tls *scripted, log *arrivals) {
	log = new(arrivals)
	return &scripted{name: "dtls", log: log}, &scripted{name: "tls", log: log}, log
}

func mustReady(t *testing.T, c *Conn) {
	t.Helper()
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

// write writes packets with the numbers from begin to end.
func write(t *testing.T, c *Conn, begin, end uint32) {
	t.Helper()
	b := packet.NewBatch(int(end-begin), 1500)
	for i := range b {
		numbered(&b[i], begin+uint32(i))
	}
	if n, err := c.WriteBatch(b); n != len(b) || err != nil {
		t.Errorf("WriteBatch = %d, %v; want %d", n, err, len(b))
	}
}

// numbers returns the numbers that arrived over a path, in order.
func (a *arrivals) numbers(path string) (n []uint32) {
	for _, x := range a.list() {
		if x.path == path || path == "" {
			n = append(n, x.n)
		}
	}
	return n
}

func series(begin, end uint32) (n []uint32) {
	for i := begin; i < end; i++ {
		n = append(n, i)
	}
	return n
}

func TestPrefersTheFirstPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, log := pair()
		dtls.delay = 500 * time.Millisecond
		c := New(Config{Paths: []Path{dtls, tls}})
		defer c.Close()
		mustReady(t, c)
		write(t, c, 0, 10)
		time.Sleep(time.Second)
		write(t, c, 10, 20)
		synctest.Wait()
		if got := log.numbers("tls"); !slices.Equal(got, series(0, 10)) {
			t.Errorf("over tls: %v", got)
		}
		if got := log.numbers("dtls"); !slices.Equal(got, series(10, 20)) {
			t.Errorf("over dtls: %v", got)
		}
		s := c.State()
		if s.Active != "dtls" || !s.Paths[0].Active || !s.Paths[1].Open || s.Paths[1].Active || s.Switches != 2 || !s.Down.IsZero() {
			t.Errorf("State = %+v", s)
		}
	})
}

func TestRestOfBatchTakesTheNextPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, log := pair()
		c := New(Config{Paths: []Path{dtls, tls}})
		defer c.Close()
		mustReady(t, c)
		dtls.set(errBroken)
		dtls.link().left.Store(7)
		begin := time.Now()
		write(t, c, 0, 20)
		if d := time.Since(begin); d != 0 {
			t.Errorf("the batch stood still for %v", d)
		}
		synctest.Wait()
		if got := log.numbers("dtls"); !slices.Equal(got, series(0, 7)) {
			t.Errorf("over dtls: %v", got)
		}
		if got := log.numbers("tls"); !slices.Equal(got, series(7, 20)) {
			t.Errorf("over tls: %v", got)
		}
		s := c.State()
		if s.Active != "tls" || s.Paths[0].Failures == 0 || !errors.Is(s.Paths[0].LastError, errBroken) || s.Paths[0].NextTry.IsZero() {
			t.Errorf("State = %+v", s)
		}
	})
}

func TestBothCutForTwentySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, log := pair()
		c := New(Config{Paths: []Path{dtls, tls}})
		defer c.Close()
		mustReady(t, c)
		time.Sleep(time.Minute)
		write(t, c, 0, 5)
		synctest.Wait()
		dtls.cut(errBroken)
		tls.cut(errBroken)
		synctest.Wait()
		if s := c.State(); s.Active != "" || s.Down.IsZero() {
			t.Errorf("State = %+v", s)
		}
		begin := time.Now()
		time.AfterFunc(20*time.Second, func() { dtls.set(nil); tls.set(nil) })
		write(t, c, 5, 15) // waits
		if d := time.Since(begin); d < 20*time.Second || d > 28*time.Second {
			t.Errorf("writer waited for %v, want 20 s and a little", d)
		}
		time.Sleep(time.Minute)
		if got := log.numbers(""); !slices.Equal(got, series(0, 15)) {
			t.Errorf("arrived: %v", got)
		}
		if s := c.State(); s.Active != "dtls" || !s.Paths[1].Open {
			t.Errorf("State after a minute = %+v", s)
		}
	})
}

func TestComesBackWithinAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, _ := pair()
		dtls.delay = 5 * time.Second
		c := New(Config{Paths: []Path{dtls, tls}})
		defer c.Close()
		mustReady(t, c)
		time.Sleep(time.Minute)
		dtls.cut(errBroken)
		time.Sleep(20 * time.Minute)
		dtls.set(nil)
		time.Sleep(time.Minute)
		if s := c.State(); s.Active != "dtls" {
			t.Errorf("State a minute after UDP is back = %+v", s)
		}
	})
}

func TestFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, log := pair()
		c := New(Config{Paths: []Path{dtls, tls}})
		defer c.Close()
		mustReady(t, c)
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(1300 * time.Millisecond):
					dtls.link().far.Close()
				}
			}
		}()
		for i := range uint32(600) {
			write(t, c, i*10, i*10+10)
			time.Sleep(100 * time.Millisecond)
		}
		close(stop)
		// What a pipe holds when it breaks is lost, as in a network; but nothing comes twice, and each path keeps its order.
		for _, path := range []string{"dtls", "tls"} {
			if got := log.numbers(path); !slices.IsSorted(got) {
				t.Errorf("%s reorders", path)
			}
		}
		all := log.numbers("")
		slices.Sort(all)
		if n := len(slices.Compact(slices.Clone(all))); n != len(all) || n < 5900 {
			t.Errorf("%d packets arrived, %d different ones, of 6000", len(all), n)
		}
		if dtls.opens > 12 {
			t.Errorf("a flapping path was opened %d times in a minute", dtls.opens)
		}
	})
}

func TestTerminalError(t *testing.T) {
	expired := fmt.Errorf("%w: HTTP 401", transport.ErrExpired)
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, _ := pair()
		dtls.set(ErrNotReady)
		c := New(Config{Paths: []Path{dtls, tls}, Terminal: func(err error) bool { return errors.Is(err, transport.ErrExpired) }})
		mustReady(t, c)
		tls.cut(expired)
		b := packet.NewBatch(1, 1500)
		numbered(&b[0], 1)
		synctest.Wait()
		for _, err := range []error{c.Err(), readErr(c, b), writeErr(c, b)} {
			if !errors.Is(err, transport.ErrExpired) {
				t.Errorf("error %v, want ErrExpired", err)
			}
		}
		if err := readErr(c, b); !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadBatch: %v, want net.ErrClosed as well", err)
		}
		select {
		case <-c.Done():
		default:
			t.Error("not done")
		}
		if s := c.State(); !errors.Is(s.Err, transport.ErrExpired) || s.Active != "" || s.Paths[1].Open {
			t.Errorf("State = %+v", s)
		}
		c.Close()
	})
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, _ := pair()
		tls.set(expired)
		dtls.set(ErrNotReady)
		c := New(Config{Paths: []Path{dtls, tls}, Terminal: func(err error) bool { return errors.Is(err, transport.ErrExpired) }})
		defer c.Close()
		if err := c.WaitReady(t.Context()); !errors.Is(err, transport.ErrExpired) {
			t.Errorf("WaitReady = %v, want ErrExpired", err)
		}
	})
}

func readErr(c *Conn, b packet.Batch) error  { _, err := c.ReadBatch(b); return err }
func writeErr(c *Conn, b packet.Batch) error { _, err := c.WriteBatch(b); return err }

func TestUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, _ := pair()
		tls.set(errBroken)
		dtls.set(fmt.Errorf("no session: %w", ErrNotReady))
		begin := time.Now()
		c := New(Config{Paths: []Path{dtls, tls}})
		defer c.Close()
		err := c.WaitReady(t.Context())
		if !errors.Is(err, transport.ErrUnreachable) || !errors.Is(err, errBroken) {
			t.Errorf("WaitReady = %v, want ErrUnreachable and the last error", err)
		}
		if d := time.Since(begin); d != DefaultReconnectTimeout {
			t.Errorf("gave up after %v", d)
		}
		if dtls.opens != 1 {
			t.Errorf("a path that was not ready was opened %d times", dtls.opens)
		}
	})
}

func TestNotReadyIsNotTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, _ := pair()
		dtls.set(fmt.Errorf("%w: %w", ErrNotReady, transport.ErrUnsupported))
		c := New(Config{Paths: []Path{dtls, tls}, Terminal: func(err error) bool { return errors.Is(err, transport.ErrUnsupported) }})
		defer c.Close()
		mustReady(t, c)
		if s := c.State(); s.Active != "tls" || s.Err != nil {
			t.Errorf("State = %+v", s)
		}
	})
}

func TestWaitReadyContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, tls, _ := pair()
		tls.set(errBroken)
		c := New(Config{Paths: []Path{tls}})
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.WaitReady(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("WaitReady = %v", err)
		}
	})
}

func TestNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, _ := pair()
		dtls.set(ErrNotReady)
		tls.delay = time.Second
		c := New(Config{Paths: []Path{dtls, tls}})
		defer c.Close()
		time.AfterFunc(500*time.Millisecond, func() { dtls.set(nil) })
		mustReady(t, c)
		if s := c.State(); s.Active != "dtls" || s.Paths[0].Failures != 0 {
			t.Errorf("State = %+v", s)
		}
		// The session goes away with TLS, and comes back with it.
		time.Sleep(time.Minute)
		dtls.set(ErrNotReady)
		tls.link().far.Close()
		dtls.link().far.Close()
		time.Sleep(500 * time.Millisecond)
		dtls.set(nil)
		time.Sleep(time.Second)
		if s := c.State(); s.Active != "dtls" || !s.Paths[1].Open {
			t.Errorf("State = %+v", s)
		}
	})
}

func TestCloseUnblocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, _ := pair()
		dtls.hang = true
		tls.depth, tls.log = 1, nil // a path that takes nothing more
		c := New(Config{Paths: []Path{dtls, tls}, Announce: []byte{0x45}})
		mustReady(t, c)
		errs := make(chan error, 3)
		for range 2 {
			go func() {
				b := packet.NewBatch(8, 1500)
				for i := range b {
					numbered(&b[i], 1)
				}
				errs <- writeErr(c, b)
			}()
		}
		go func() { errs <- readErr(c, packet.NewBatch(8, 1500)) }()
		synctest.Wait()
		c.Close()
		for range 3 {
			if err := <-errs; !errors.Is(err, net.ErrClosed) {
				t.Errorf("error %v, want net.ErrClosed", err)
			}
		}
		if err := c.Err(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Err = %v", err)
		}
		<-tls.link().mute // the path was closed
		c.Close()
	})
}

func TestCloseWhileNothingIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, tls, _ := pair()
		tls.hang = true
		c := New(Config{Paths: []Path{tls}, ReconnectTimeout: -1})
		errs := make(chan error, 1)
		go func() {
			b := packet.NewBatch(1, 1500)
			numbered(&b[0], 1)
			errs <- writeErr(c, b)
		}()
		synctest.Wait()
		c.Close()
		if err := <-errs; !errors.Is(err, net.ErrClosed) {
			t.Errorf("WriteBatch = %v", err)
		}
	})
}

func TestReadsFromAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, _ := pair()
		dtls.log, tls.log = nil, nil
		c := New(Config{Paths: []Path{dtls, tls}})
		defer c.Close()
		mustReady(t, c)
		const count = 2000
		for i, p := range []*scripted{dtls, tls} {
			go func() {
				b := packet.NewBatch(50, 1500)
				for n := uint32(0); n < count; n += 50 {
					for j := range b {
						numbered(&b[j], uint32(i)*1_000_000+n+uint32(j))
					}
					if _, err := p.link().far.WriteBatch(b); err != nil {
						t.Error(err)
						return
					}
				}
			}()
		}
		next := []uint32{0, 1_000_000}
		// Batches of odd sizes, so that some of a reader's batch stays behind, and Bufs of several sizes.
		sizes := []int{1500, 1500, 1400, 1600, 60}
		for total, turn := 0, 0; total < 2*count; turn++ {
			b := packet.NewBatch(1+turn%77, sizes[turn%len(sizes)])
			n, err := c.ReadBatch(b)
			if err != nil || n == 0 {
				t.Fatalf("ReadBatch = %d, %v", n, err)
			}
			for i := range n {
				got := number(&b[i])
				path := got / 1_000_000
				if got != next[path] {
					t.Fatalf("path %d: packet %d, want %d", path, got, next[path])
				}
				if b[i].Size() < sizes[turn%len(sizes)] {
					t.Fatalf("got a Buf of %d for one of %d", b[i].Size(), sizes[turn%len(sizes)])
				}
				next[path]++
			}
			total += n
		}
	})
}

func TestReadsFromAPathThatIsNotActive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, _ := pair()
		c := New(Config{Paths: []Path{dtls, tls}})
		defer c.Close()
		mustReady(t, c)
		b := packet.NewBatch(4, 1500)
		numbered(&b[0], 42)
		if _, err := tls.link().far.WriteBatch(b[:1]); err != nil {
			t.Fatal(err)
		}
		if n, err := c.ReadBatch(b); n != 1 || err != nil || number(&b[0]) != 42 {
			t.Errorf("ReadBatch = %d, %v", n, err)
		}
		if n, err := c.ReadBatch(nil); n != 0 || err == nil {
			t.Errorf("ReadBatch(nil) = %d, %v", n, err)
		}
	})
}

func TestComesBackThoughNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, tls, log := pair()
		c := New(Config{Paths: []Path{tls}})
		defer c.Close()
		mustReady(t, c)
		b := packet.NewBatch(1, 1500)
		for i := range uint32(3) {
			numbered(&b[0], i)
			if _, err := tls.link().far.WriteBatch(b); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		tls.link().left.Store(0)
		write(t, c, 0, 1)
		synctest.Wait()
		if got := log.numbers("tls"); !slices.Equal(got, series(0, 1)) {
			t.Errorf("over tls: %v", got)
		}
		numbered(&b[0], 77)
		if _, err := tls.link().far.WriteBatch(b); err != nil {
			t.Fatal(err)
		}
		for _, want := range []uint32{0, 77} { // what the old connection had still in it is lost
			if n, err := c.ReadBatch(b); n != 1 || err != nil || number(&b[0]) != want {
				t.Errorf("ReadBatch = %d, %v, packet %d, want packet %d", n, err, number(&b[0]), want)
			}
		}
	})
}

func TestAnnounce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, log := pair()
		var hello packet.Buf = packet.NewBuf(60)
		numbered(&hello, 999)
		c := New(Config{Paths: []Path{dtls, tls}, Announce: hello.Bytes()})
		defer c.Close()
		mustReady(t, c)
		write(t, c, 0, 1)
		synctest.Wait()
		dtls.cut(errBroken) // nobody writes now
		synctest.Wait()
		if got := log.numbers("tls"); len(got) == 0 || got[len(got)-1] != 999 {
			t.Errorf("over tls: %v, want the announcement without data", got)
		}
		write(t, c, 1, 3)
		dtls.set(nil)
		time.Sleep(time.Minute)
		write(t, c, 3, 5)
		synctest.Wait()
		if got := log.numbers("dtls"); !slices.Equal(got[len(got)-3:], []uint32{999, 3, 4}) || len(got) != 5 {
			t.Errorf("over dtls: %v", got)
		}
		if got := log.numbers("tls"); !slices.Equal(got[len(got)-3:], []uint32{999, 1, 2}) {
			t.Errorf("over tls: %v", got)
		}
	})
}

func TestNetworkChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, _ := pair()
		dtls.set(errBroken)
		c := New(Config{Paths: []Path{dtls, tls}})
		defer c.Close()
		mustReady(t, c)
		time.Sleep(5 * time.Minute)
		dtls.set(nil)
		c.NetworkChanged()
		time.Sleep(tryGap) // the last try may just have begun
		synctest.Wait()
		if s := c.State(); s.Active != "dtls" {
			t.Errorf("State = %+v", s)
		}
		if n := tls.link().checks.Load(); n != 1 {
			t.Errorf("tls was checked %d times", n)
		}
		// A path that hangs on the network that is gone is tried anew.
		dtls.mu.Lock()
		dtls.hang = true
		dtls.mu.Unlock()
		dtls.cut(nil)
		time.Sleep(5 * time.Second)
		dtls.mu.Lock()
		dtls.hang = false
		dtls.mu.Unlock()
		c.NetworkChanged()
		synctest.Wait()
		if s := c.State(); s.Active != "dtls" {
			t.Errorf("State = %+v", s)
		}
	})
}

func TestOpenTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, tls, _ := pair()
		tls.hang = true
		c := New(Config{Paths: []Path{tls}})
		defer c.Close()
		time.Sleep(DefaultOpenTimeout)
		synctest.Wait()
		if s := c.State(); s.Paths[0].Failures != 1 {
			t.Errorf("State = %+v", s)
		}
	})
}

func TestOnChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, _ := pair()
		var c *Conn
		var mu sync.Mutex
		var seen []string
		var last State
		release := make(chan struct{})
		busy := atomic.Bool{}
		started := make(chan struct{})
		c = New(Config{Paths: []Path{dtls, tls}, OnChange: func(s State) {
			if busy.Swap(true) {
				t.Error("two calls at a time")
			}
			defer busy.Store(false)
			<-started
			c.State()
			c.MTU()
			c.NetworkChanged()
			mu.Lock()
			seen, last = append(seen, s.Active), s
			mu.Unlock()
			<-release // blocks for long
		}})
		close(started)
		mustReady(t, c)
		write(t, c, 0, 5) // goes on nevertheless
		close(release)
		time.Sleep(time.Second)
		dtls.cut(errBroken)
		time.Sleep(100 * time.Millisecond)
		write(t, c, 5, 10)
		mu.Lock()
		if last.Active != "tls" {
			t.Errorf("seen %q, last %+v", seen, last)
		}
		mu.Unlock()
		c.Close()
		synctest.Wait()
		if last.Err == nil || last.Active != "" {
			t.Errorf("the last state is %+v", last)
		}
	})
}

func TestOnChangeMayClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, tls, _ := pair()
		var c *Conn
		started := make(chan struct{})
		c = New(Config{Paths: []Path{tls}, OnChange: func(State) { <-started; c.Close() }})
		close(started)
		<-c.Done()
		c.Close()
	})
}

func TestTooBig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, log := pair()
		dtls.mtu = 1300
		changes := make(chan State, 100)
		c := New(Config{Paths: []Path{dtls, tls}, MTU: 1400, OnChange: func(s State) { changes <- s }})
		defer c.Close()
		mustReady(t, c)
		if c.MTU() != 1300 {
			t.Errorf("MTU = %d", c.MTU())
		}
		b := packet.NewBatch(3, 1500)
		numbered(&b[0], 1)
		big4(&b[1], 1400)
		numbered(&b[2], 2)
		dtls.link().mtu.Store(1280)
		if n, err := c.WriteBatch(b); n != 3 || err != nil {
			t.Errorf("WriteBatch = %d, %v", n, err)
		}
		got := packet.NewBatch(4, 1400)
		n, err := c.ReadBatch(got)
		if n != 1 || err != nil {
			t.Fatalf("ReadBatch = %d, %v", n, err)
		}
		if p := got[0].Bytes(); p[9] != 1 || p[20] != 3 || p[21] != 4 || binary.BigEndian.Uint16(p[26:]) != 1280 {
			t.Errorf("answer: % x", p[:28])
		}
		synctest.Wait()
		if got := log.numbers("dtls"); !slices.Equal(got, []uint32{1, 2}) {
			t.Errorf("over dtls: %v", got)
		}
		var s State
		for len(changes) > 0 {
			s = <-changes
		}
		if s.MTU != 1280 {
			t.Errorf("the last state told has MTU %d, want 1280", s.MTU)
		}
		if s := c.State(); s.TooBig != 1 || s.MTU != 1280 {
			t.Errorf("State = %+v", s)
		}
		// A flood of them is answered with a trickle.
		for range 1000 {
			if n, err := c.WriteBatch(b); n != 3 || err != nil {
				t.Errorf("WriteBatch = %d, %v", n, err)
			}
		}
		all := packet.NewBatch(100, 1400)
		if n, _ := c.ReadBatch(all); n != replyBurst-1 {
			t.Errorf("%d answers to a flood", n)
		}
	})
}

func TestMTU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, tls, _ := pair()
		tls.delay = time.Second
		c := New(Config{Paths: []Path{tls}, MTU: 1400})
		if c.MTU() != 1400 {
			t.Errorf("MTU = %d while nothing is open", c.MTU())
		}
		mustReady(t, c)
		if c.MTU() != 1400 {
			t.Errorf("MTU = %d, want no more than Config.MTU", c.MTU())
		}
		c.Close()
	})
}

// twoPipes returns a Conn over one path and the other end of it, for measurements.
func twoPipes(tb testing.TB) (*Conn, packet.Conn) {
	p := &scripted{name: "pipe"}
	c := New(Config{Paths: []Path{p}, MTU: 1500})
	tb.Cleanup(func() { c.Close() })
	if err := c.WaitReady(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return c, p.link().far
}

func TestNoAllocation(t *testing.T) {
	c, far := twoPipes(t)
	out, in := packet.NewBatch(64, 1500), packet.NewBatch(64, 1500)
	for i := range out {
		numbered(&out[i], 1)
	}
	move := func(w packet.Writer, r packet.Reader) func() {
		return func() {
			if _, err := w.WriteBatch(out); err != nil {
				t.Fatal(err)
			}
			for n := 0; n < len(out); {
				m, err := r.ReadBatch(in)
				if err != nil {
					t.Fatal(err)
				}
				n += m
			}
		}
	}
	if n := testing.AllocsPerRun(200, move(c, far)); n != 0 {
		t.Errorf("%v allocations for each batch written", n)
	}
	if n := testing.AllocsPerRun(200, move(far, c)); n != 0 {
		t.Errorf("%v allocations for each batch read", n)
	}
}

func BenchmarkThrough(b *testing.B) {
	run := func(b *testing.B, w packet.Writer, r packet.Reader) {
		out, in := packet.NewBatch(64, 1500), packet.NewBatch(64, 1500)
		for i := range out {
			numbered(&out[i], 1)
		}
		b.ReportAllocs()
		b.SetBytes(int64(len(out) * 60))
		for b.Loop() {
			if _, err := w.WriteBatch(out); err != nil {
				b.Fatal(err)
			}
			for n := 0; n < len(out); {
				m, err := r.ReadBatch(in)
				if err != nil {
					b.Fatal(err)
				}
				n += m
			}
		}
	}
	b.Run("write", func(b *testing.B) { c, far := twoPipes(b); run(b, c, far) })
	b.Run("read", func(b *testing.B) { c, far := twoPipes(b); run(b, far, c) })
	// Both end in another pipe: once the goroutine of the path writes to it, once another one.
	pump := func(b *testing.B, reader func(*Conn) packet.Reader) {
		c, far := twoPipes(b)
		near, in := packet.Pipe(1500, 256)
		ended := make(chan error, 1)
		go func() { ended <- packet.Copy(near, reader(c), 1500, 64) }()
		run(b, far, in)
		c.Close()
		<-ended
	}
	b.Run("forward", func(b *testing.B) { pump(b, func(c *Conn) packet.Reader { return c }) })
	b.Run("pump", func(b *testing.B) { pump(b, func(c *Conn) packet.Reader { return struct{ packet.Reader }{c} }) })
	b.Run("bare", func(b *testing.B) { near, far := packet.Pipe(1500, 256); run(b, near, far) })
}
