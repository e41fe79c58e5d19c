package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport"
)

// second returns a path by the same name as p over another network, which Replace opens.
func second(p *scripted, network string) *scripted {
	return &scripted{name: p.name + network, log: p.log}
}

// replace has the Conn replace a path over another network.
func replace(t *testing.T, c *Conn, path string, with *scripted) error {
	t.Helper()
	return c.Replace(t.Context(), path, func(ctx context.Context, hold func()) (packet.Conn, error) {
		hold()
		return with.Open(ctx)
	})
}

// far sends a packet with a number from the other end of a link.
func (l *link) send(n uint32) error {
	b := packet.NewBatch(1, 1500)
	numbered(&b[0], n)
	_, err := l.far.WriteBatch(b)
	return err
}

// A collector reads from a Conn until its end.
type collector struct {
	mu  sync.Mutex
	got []uint32
}

func collect(c *Conn) *collector {
	r := new(collector)
	go func() {
		for b := packet.NewBatch(8, 1500); ; {
			n, err := c.ReadBatch(b)
			if err != nil {
				return
			}
			r.mu.Lock()
			for i := range n {
				r.got = append(r.got, number(&b[i]))
			}
			r.mu.Unlock()
		}
	}()
	return r
}

func (r *collector) list() []uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func TestReplace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, log := pair()
		c := New(Config{Paths: []Path{dtls, tls}})
		defer c.Close()
		mustReady(t, c)
		r := collect(c)
		write(t, c, 0, 10)
		dtls.delay = 100 * time.Millisecond // from now on it takes its time
		other := second(tls, "2")
		other.delay = 50 * time.Millisecond
		oldTLS, oldDTLS := tls.link(), dtls.link()
		write := func(begin, end uint32) { t.Helper(); write(t, c, begin, end) }

		wrote := make(chan time.Duration)
		go func() {
			time.Sleep(10 * time.Millisecond)
			begin := time.Now()
			write(10, 20) // the gateway is being asked, so this waits
			wrote <- time.Since(begin)
		}()
		begin := time.Now()
		if err := replace(t, c, "tls", other); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d != 50*time.Millisecond {
			t.Errorf("it took %v", d)
		}
		if d := <-wrote; d != 40*time.Millisecond {
			t.Errorf("a writer waited for %v", d)
		}
		if s := c.State(); s.Active != "tls" || s.Paths[0].Open || s.Replaced != 1 || s.Kept != nil || s.Paths[1].Opens != 2 || s.Paths[1].Failures != 0 {
			t.Errorf("State = %+v", s)
		}
		// What is under way by the old network still arrives.
		if err := errors.Join(oldTLS.send(1), oldDTLS.send(2), other.link().send(3)); err != nil {
			t.Error(err)
		}
		time.Sleep(200 * time.Millisecond)
		write(20, 30)
		if err := oldDTLS.send(4); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got := r.list(); len(got) != 4 {
			t.Errorf("received %v", got)
		}
		if s := c.State(); s.Active != "dtls" || dtls.link() == oldDTLS {
			t.Errorf("State = %+v", s)
		}
		// The old ones end, which is no failure.
		time.Sleep(linger)
		for _, l := range []*link{oldTLS, oldDTLS} {
			select {
			case <-l.mute:
			default:
				t.Error("an old connection is left open")
			}
		}
		for path, want := range map[string][]uint32{"dtls": slices.Concat(series(0, 10), series(20, 30)), "tls": nil, "tls2": series(10, 20)} {
			if got := log.numbers(path); !slices.Equal(got, want) {
				t.Errorf("over %s: %v, want %v", path, got, want)
			}
		}
		if s := c.State(); s.Paths[0].Failures+s.Paths[1].Failures != 0 {
			t.Errorf("State = %+v", s)
		}
		// It comes back like any other.
		other.link().far.Close()
		synctest.Wait()
		if s := c.State(); !s.Paths[1].Open || s.Paths[1].Opens != 3 {
			t.Errorf("after it has failed: State = %+v", s)
		}
	})
}

func TestReplaceFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, log := pair()
		dtls.set(ErrNotReady)
		c := New(Config{Paths: []Path{dtls, tls}, Terminal: func(error) bool { return true }})
		defer c.Close()
		mustReady(t, c)
		captive := second(tls, "2")
		captive.set(fmt.Errorf("captive: %w", transport.ErrUntrusted))
		captive.delay = time.Minute
		begin := time.Now()
		done := make(chan error, 1)
		go func() { done <- replace(t, c, "tls", captive) }()
		time.Sleep(time.Millisecond)
		write(t, c, 0, 10)
		if d := time.Since(begin); d > holdTime {
			t.Errorf("a writer waited for %v", d)
		}
		begin = time.Now()
		write(t, c, 10, 20)
		if d := time.Since(begin); d != 0 {
			t.Errorf("another writer waited for %v", d)
		}
		if err := <-done; !errors.Is(err, transport.ErrUntrusted) {
			t.Errorf("Replace: %v", err)
		}
		synctest.Wait()
		if n := tls.link().checks.Load(); n != 1 {
			t.Errorf("the old connection was checked %d times", n)
		}
		if got := log.numbers("tls"); !slices.Equal(got, series(0, 20)) {
			t.Errorf("arrived: %v", got)
		}
		if s := c.State(); s.Active != "tls" || !errors.Is(s.Kept, transport.ErrUntrusted) || s.Replaced != 0 {
			t.Errorf("State = %+v", s)
		}
		// One that works makes up for it.
		if err := replace(t, c, "tls", second(tls, "3")); err != nil {
			t.Error(err)
		}
		if s := c.State(); s.Kept != nil || s.Replaced != 1 {
			t.Errorf("State = %+v", s)
		}
		if err := c.Replace(t.Context(), "quic", nil); err == nil {
			t.Error("a path that does not exist is replaced")
		}
	})
}

// A manyErrors is an error that cannot be compared, as those of callers may be.
type manyErrors []error

func (e manyErrors) Error() string   { return errors.Join(e...).Error() }
func (e manyErrors) Unwrap() []error { return e }

// TestReplaceFailsUncomparably fails with errors that cannot be compared, once and again. Each failure is told.
func TestReplaceFailsUncomparably(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, tls, _ := pair()
		var told []string
		c := New(Config{Paths: []Path{tls}, OnChange: func(s State) {
			if s.Kept != nil {
				told = append(told, s.Kept.Error())
			}
		}})
		defer c.Close()
		mustReady(t, c)
		for i := range 2 {
			want := manyErrors{transport.ErrUntrusted, fmt.Errorf("portal %d", i)}
			other := second(tls, "2")
			other.set(want)
			var got manyErrors
			if err := replace(t, c, "tls", other); !errors.As(err, &got) {
				t.Errorf("Replace: %v", err)
			}
			synctest.Wait()
			if s := c.State(); !errors.Is(s.Kept, transport.ErrUntrusted) || !errors.As(s.Kept, &got) || s.Kept.Error() != want.Error() {
				t.Errorf("State = %+v", s)
			}
			if len(told) != i+1 || told[i] != want.Error() {
				t.Errorf("told: %q", told)
			}
		}
		c.NetworkChanged() // any event compares the state with the one before
		synctest.Wait()
		if len(told) != 2 {
			t.Errorf("told: %q", told)
		}
	})
}

// TestReplaceStuckWriter replaces a connection that takes no more packets while one is being written.
func TestReplaceStuckWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, _ := packet.Pipe(1500, 1) // nobody reads
		stuck := &fixed{name: "tls", conn: near}
		c := New(Config{Paths: []Path{stuck}})
		defer c.Close()
		mustReady(t, c)
		wrote := make(chan struct{})
		go func() {
			write(t, c, 0, 20)
			close(wrote)
		}()
		synctest.Wait()
		log := new(arrivals)
		begin := time.Now()
		if err := replace(t, c, "tls", &scripted{name: "tls2", log: log}); err != nil {
			t.Fatal(err)
		}
		<-wrote
		if d := time.Since(begin); d > 3*turnTime {
			t.Errorf("the writer came back after %v", d)
		}
		synctest.Wait()
		if got := log.numbers(""); len(got) == 0 || got[len(got)-1] != 19 {
			t.Errorf("arrived: %v", got)
		}
	})
}

// A fixed path opens one connection, once.
type fixed struct {
	name string
	conn packet.Conn
}

func (p *fixed) Name() string { return p.name }

func (p *fixed) Open(context.Context) (packet.Conn, error) {
	conn := p.conn
	if p.conn = nil; conn == nil {
		return nil, errBroken
	}
	return conn, nil
}

// TestReplaceForgives has the gateway end the old connection for good while the new one is made.
func TestReplaceForgives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tls, log := &scripted{name: "tls", log: new(arrivals)}, new(arrivals)
		c := New(Config{Paths: []Path{tls}, Terminal: func(error) bool { return true }})
		defer c.Close()
		mustReady(t, c)
		other := &scripted{name: "tls2", log: log, delay: 100 * time.Millisecond}
		tls.mu.Lock()
		tls.hang = true
		tls.mu.Unlock()
		time.AfterFunc(50*time.Millisecond, func() { tls.link().far.Close() })
		if err := replace(t, c, "tls", other); err != nil {
			t.Fatal(err)
		}
		write(t, c, 0, 5)
		time.Sleep(time.Minute)
		if got := log.numbers(""); !slices.Equal(got, series(0, 5)) || c.Err() != nil {
			t.Errorf("arrived: %v, error %v", got, c.Err())
		}
	})
}

// TestReplaceWhileDown has the new connection come when there is none, and while another one is being opened in vain.
func TestReplaceWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dtls, tls, log := pair()
		c := New(Config{Paths: []Path{dtls, tls}})
		defer c.Close()
		mustReady(t, c)
		for _, p := range []*scripted{dtls, tls} {
			p.mu.Lock()
			p.hang = true
			p.mu.Unlock()
			p.link().far.Close()
		}
		synctest.Wait()
		if s := c.State(); s.Active != "" {
			t.Fatalf("State = %+v", s)
		}
		time.AfterFunc(time.Second, func() {
			if err := replace(t, c, "tls", second(tls, "2")); err != nil {
				t.Error(err)
			}
		})
		begin := time.Now()
		write(t, c, 0, 5)
		if d := time.Since(begin); d != time.Second {
			t.Errorf("the writer waited for %v", d)
		}
		synctest.Wait()
		if got := log.numbers("tls2"); !slices.Equal(got, series(0, 5)) {
			t.Errorf("arrived: %v", got)
		}
	})
}

// TestReplaceMany replaces over and over, from several goroutines, with readers of both kinds and with nobody who reads.
func TestReplaceMany(t *testing.T) {
	for _, how := range []string{"read", "forward", "not read", "stuck"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dtls, tls, _ := pair()
				c := New(Config{Paths: []Path{dtls, tls}})
				mustReady(t, c)
				near, _ := packet.Pipe(1500, 1<<10)
				forwarded := make(chan struct{})
				switch how {
				case "read":
					collect(c)
					close(forwarded)
				case "forward", "stuck":
					depth := 1 << 12
					if how == "stuck" {
						depth = 1 // nobody takes anything from the pipe
					}
					near, _ = packet.Pipe(1500, depth)
					go func() {
						defer close(forwarded)
						_ = c.Forward(near)
					}()
				default:
					close(forwarded)
				}
				var wg sync.WaitGroup
				for i := range 4 {
					wg.Go(func() {
						for j := range 10 {
							other := second(tls, fmt.Sprint(i, j))
							other.delay = 10 * time.Millisecond
							if err := replace(t, c, "tls", other); err != nil {
								t.Error(err)
							}
							for k := range uint32(3) {
								_ = other.link().send(k)
								_ = dtls.link().send(k)
							}
							write(t, c, 0, 5)
							time.Sleep(time.Duration(i*50) * time.Millisecond)
						}
					})
				}
				wg.Wait()
				if s := c.State(); s.Replaced != 40 || s.Active == "" {
					t.Errorf("State = %+v", s)
				}
				c.Close()
				near.Close()
				<-forwarded
			})
		})
	}
}

// TestReplaceEnds ends the context, the Conn, and a call that waits for its turn.
func TestReplaceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, tls, _ := pair()
		c := New(Config{Paths: []Path{tls}})
		mustReady(t, c)
		hanging := second(tls, "2")
		hanging.hang = true
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		first := make(chan error, 1)
		go func() {
			first <- c.Replace(ctx, "tls", func(ctx context.Context, hold func()) (packet.Conn, error) { return hanging.Open(ctx) })
		}()
		synctest.Wait()
		short, done := context.WithTimeout(t.Context(), time.Second)
		defer done()
		if err := c.Replace(short, "tls", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the second call: %v", err)
		}
		cancel(cause)
		if err := <-first; !errors.Is(err, cause) {
			t.Errorf("the first call: %v", err)
		}
		if s := c.State(); s.Active != "tls" {
			t.Errorf("State = %+v", s)
		}
		go func() { first <- replace(t, c, "tls", hanging) }()
		synctest.Wait()
		c.Close()
		if err := <-first; err == nil {
			t.Error("no error after Close")
		}
		if err := replace(t, c, "tls", tls); err == nil {
			t.Error("no error long after Close")
		}
	})
}
