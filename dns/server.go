package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	wire "github.com/miekg/dns"
)

const (
	defaultQuestions = 1024
	defaultConns     = 256
	defaultTimeout   = 4 * time.Second // less than the 5 s after which the resolver of most systems asks again
	defaultStagger   = 200 * time.Millisecond
)

// A ServerConfig is how a [Server] works. The zero values of all fields but Rules are useful.
type ServerConfig struct {
	// Rules say where each name is asked for. The zero Rules know no names.
	Rules Rules

	// CacheBytes is how much memory the cache may use. Zero means 4 MiB; a negative value means that nothing is kept.
	CacheBytes int

	// MaxQuestions is how many questions may wait for an upstream at the same time, from all clients together. Further ones
	// get the answer that the server failed. Equal questions are asked once, but each counts. Zero means 1024.
	MaxQuestions int

	// MaxConns is how many TCP connections may be open at the same time. Further ones are closed. Zero means 256.
	MaxConns int

	// Timeout is how long a question may take, with all upstreams and all names of a chain. Zero means 4 seconds.
	Timeout time.Duration

	// Stagger is how long an upstream may be silent before the next one of its zone is asked too. Zero means 200
	// milliseconds.
	Stagger time.Duration

	// Stale is for how long after its time an answer may still be given where the upstreams fail (RFC 8767). Zero means that
	// an answer is not used after its time.
	Stale time.Duration

	// OnAnswer is told of addresses before they are given to whoever asked for them, once for each answer of an upstream and
	// not again while the answer is in the cache. It must return soon, may be called from several goroutines, and must not
	// keep or change the slices beyond what they are.
	OnAnswer func(Answer)

	// OnCached is told of addresses that are given from the cache, of each answer that OnAnswer was told of before, with the TTL that it
	// had then. It must not wait, and like OnAnswer must not keep or change the slices.
	OnCached func(Answer)

	// QueryLog gets a record of each question: name, type, code of the answer, and whether it was in the cache. Nil means
	// that no question is logged. It tells what somebody does all day.
	QueryLog *slog.Logger

	// Logger gets what concerns the operation of the Server; names that failed at the level debug. Nil discards it.
	Logger *slog.Logger
}

// A Server is a DNS proxy. It answers from its cache, and asks the upstreams of the [Zone] of a name for what is not there.
//
// Sockets are handed to [Server.ServePacket], [Server.Serve] and [Server.ServeConn], which may be called any number of times and at
// any time. A Server is also an [Exchanger].
type Server struct {
	cacheBytes   int
	maxQuestions int64
	maxConns     int64
	timeout      time.Duration
	stagger      time.Duration
	stale        time.Duration
	onAnswer     func(Answer)
	onCached     func(Answer)
	queryLog     *slog.Logger
	log          *slog.Logger
	epoch        time.Time

	ruling atomic.Pointer[ruling]
	count  counters

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup // everything that is served and asked
	closing atomic.Bool

	mu    sync.Mutex
	open  map[served]struct{}
	conns atomic.Int64 // TCP connections
	flows atomic.Int64 // UDP connections
}

// served is a socket that the Server was given: it can be made to stop waiting for more, and it can be closed.
type served interface {
	drain()
	Close() error
}

// NewServer returns a Server. It fails on rules that make no sense. The Server must be closed.
func NewServer(cfg ServerConfig) (*Server, error) {
	st, err := newRuling(cfg.Rules, cfg.CacheBytes)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cacheBytes:   cfg.CacheBytes,
		maxQuestions: int64(positive(cfg.MaxQuestions, defaultQuestions)),
		maxConns:     int64(positive(cfg.MaxConns, defaultConns)),
		timeout:      positive(cfg.Timeout, defaultTimeout),
		stagger:      positive(cfg.Stagger, defaultStagger),
		stale:        max(cfg.Stale, 0),
		onAnswer:     cfg.OnAnswer,
		onCached:     cfg.OnCached,
		queryLog:     cfg.QueryLog,
		log:          cfg.Logger,
		epoch:        time.Now(),
		open:         make(map[served]struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.ruling.Store(st)
	return s, nil
}

func positive[T int | time.Duration](v, standard T) T {
	if v > 0 {
		return v
	}
	return standard
}

// Configure replaces the rules, and forgets all answers. Questions that are being asked are answered under the old rules. It
// fails, and changes nothing, on rules that make no sense.
func (s *Server) Configure(r Rules) error {
	st, err := newRuling(r, s.cacheBytes)
	if err != nil {
		return err
	}
	s.ruling.Store(st)
	return nil
}

// Flush forgets all answers, and all failures of the upstreams. It belongs after a change of the network.
func (s *Server) Flush() { s.ruling.Store(s.ruling.Load().renewed(s.cacheBytes)) }

// Route returns the zone of a name, the way that the zone goes, and the suffix that gave it the name, which is "" if that is
// the zone of all names. Without a zone the way is Nowhere. It says nothing about hosts and special names.
func (s *Server) Route(name string) (zone string, way Way, suffix string) {
	z, suffix := s.ruling.Load().zone(canonical(name))
	if z == nil {
		return "", Nowhere, ""
	}
	return z.name, z.way, suffix
}

// Exchange implements [Exchanger]. The query is treated as one that came over TCP.
func (s *Server) Exchange(ctx context.Context, b []byte) ([]byte, error) {
	var q query
	answer, st := s.handle(&q, b, nil, maxMessage)
	if st == nil {
		if answer == nil {
			return nil, fmt.Errorf("%w: not a query", ErrMessage)
		}
		return answer, nil
	}
	if !s.begin() {
		return nil, errClosed()
	}
	defer s.running.Done()
	found := make(chan *entry, 1)
	if !s.join(st, &q, func(e *entry) { found <- e }) {
		return q.fail(nil, b), nil
	}
	select {
	case e := <-found:
		s.logQuery(&q, e, false)
		return e.appendTo(nil, b, &q, s.now(), maxMessage), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("dns: %w", context.Cause(ctx))
	}
}

// Shutdown stops taking questions, waits until those that were asked are answered, and closes all sockets. If ctx ends before,
// it does what Close does, and returns why ctx ended.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop(served.drain)
	done := make(chan struct{})
	go func() {
		s.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		s.cancel()
		return nil
	case <-ctx.Done():
	}
	s.cancel()
	s.stop(func(c served) { c.Close() })
	<-done
	return context.Cause(ctx)
}

// Close closes all sockets and waits for everything that was started. Questions that are being asked fail.
func (s *Server) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Shutdown(ctx)
	return nil
}

// stop lets nothing more begin, and calls how for all sockets.
func (s *Server) stop(how func(served)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing.Store(true)
	for c := range s.open {
		how(c)
	}
}

func errClosed() error { return fmt.Errorf("dns: the server is closed: %w", net.ErrClosed) }

// begin counts something in s.running, unless the Server is closed.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.running.Add(1)
	return true
}

// keep is begin for a socket. After the Server was closed it closes the socket.
func (s *Server) keep(c served) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		c.Close()
		return false
	}
	s.open[c] = struct{}{}
	s.running.Add(1)
	return true
}

// leave is the end of what keep began.
func (s *Server) leave(c served) {
	c.Close()
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	s.running.Done()
}

func (s *Server) now() stamp { return stampOf(time.Now(), s.epoch) }

// handle answers the query b into out, which is empty, if that needs nobody else. Otherwise it returns the rules under which q,
// which it parsed from b, is to be asked. A query that deserves no answer gets neither.
func (s *Server) handle(q *query, b, out []byte, limit int) (answer []byte, st *ruling) {
	v := q.parse(b)
	switch v {
	case accepted:
	case ignored:
		s.count.malformed.Add(1)
		return nil, nil
	case formatErr:
		s.count.malformed.Add(1)
		return q.appendVerdict(out, b, v), nil
	default:
		s.count.refused.Add(1)
		return q.appendVerdict(out, b, v), nil
	}
	s.count.queries.Add(1)
	st = s.ruling.Load()
	now := s.now()
	e := st.cache.get(q.key())
	if e == nil || !e.fresh(now) {
		return nil, st
	}
	s.count.hits.Add(1)
	s.tellAgain(e)
	if s.queryLog != nil {
		s.logQuery(q, e, true)
	}
	return s.render(e, out, b, q, now, limit), nil
}

// render is appendTo, and counts the answers that are cut.
func (s *Server) render(e *entry, out, b []byte, q *query, now stamp, limit int) []byte {
	out = e.appendTo(out, b, q, now, limit)
	if truncated(out) {
		s.count.truncated.Add(1)
	}
	return out
}

// A flight is a question that is being asked, and all who wait for its answer.
type flight struct{ waiting []func(*entry) }

// join asks q under the rules st, unless it is being asked already, and calls deliver with the answer, perhaps before it
// returns. Deliver must not wait for anything. Join reports false, and does not call deliver, if too many questions are waiting.
// The caller is counted in s.running.
func (s *Server) join(st *ruling, q *query, deliver func(*entry)) bool {
	if s.count.active.Add(1) > s.maxQuestions {
		s.count.active.Add(-1)
		s.count.overload.Add(1)
		return false
	}
	st.mu.Lock()
	if f := st.flights[string(q.key())]; f != nil {
		f.waiting = append(f.waiting, deliver)
		st.mu.Unlock()
		s.count.coalesced.Add(1)
		return true
	}
	// The answer may have come in since the cache was asked.
	if e := st.cache.get(q.key()); e != nil && e.fresh(s.now()) {
		st.mu.Unlock()
		s.count.active.Add(-1)
		s.tellAgain(e)
		deliver(e)
		return true
	}
	f := &flight{waiting: []func(*entry){deliver}}
	own := *q
	st.flights[string(own.key())] = f
	st.mu.Unlock()
	s.count.misses.Add(1)
	s.running.Go(func() { s.fly(st, &own, f) })
	return true
}

func (s *Server) fly(st *ruling, q *query, f *flight) {
	e := s.answer(st, q)
	st.mu.Lock()
	delete(st.flights, string(q.key()))
	waiting := f.waiting
	st.mu.Unlock()
	s.count.active.Add(-int64(len(waiting)))
	for _, deliver := range waiting {
		deliver(e)
	}
}

// fail appends to dst, which is empty, the answer to b that the server failed.
func (q *query) fail(dst, b []byte) []byte {
	dst = q.appendHeader(dst, b, wire.RcodeServerFailure)
	if q.edns {
		dst = q.appendEDNS(dst, 0)
	}
	return dst
}

func (s *Server) logQuery(q *query, e *entry, cached bool) {
	if s.queryLog == nil {
		return
	}
	name, _, _ := wire.UnpackDomainName(q.key(), 0)
	s.queryLog.Info("question", "name", name, "type", typeText(q.qtype), "code", rcodeText(int(e.rcode)), "cached", cached)
}

// panicked counts what should not happen. The question that it happened to fails; the others go on.
func (s *Server) panicked(v any) {
	s.count.panics.Add(1)
	s.log.Error("panic while answering a question", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
}

func panicked(v any) error { return fmt.Errorf("dns: panic: %v", v) }

// gone reports whether err says that a socket was closed or told to stop.
func gone(err error) bool {
	return errors.Is(err, net.ErrClosed) || isTimeout(err)
}
