package dns

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	wire "github.com/miekg/dns"
)

const (
	// An upstream that failed this often without an answer in between is asked last for a while.
	patience = 2

	minRest = time.Second // how long the first time, twice as long each further time
	maxRest = 30 * time.Second
)

// errLied reports an answer that is not to be used.
var errLied = errors.New("the answer contradicts itself")

// A group is the upstreams of a zone.
type group struct {
	zone string
	way  Way
	ups  []*upstream
}

// An upstream is an Exchanger and what is known of its health.
type upstream struct {
	x    Exchanger
	name string

	asked, failed, lost atomic.Uint64

	mu     sync.Mutex
	streak int // failures since the last answer
	rest   time.Duration
	until  time.Time // when it is asked in its turn again
	rtt    time.Duration
}

func newGroup(zone string, way Way, list []Exchanger) *group {
	g := &group{zone: zone, way: way}
	for i, x := range list {
		if x == nil {
			continue
		}
		u := &upstream{x: x, name: fmt.Sprintf("%d", i+1)}
		if s, ok := x.(fmt.Stringer); ok {
			u.name = s.String()
		}
		g.ups = append(g.ups, u)
	}
	return g
}

// forgive forgets what speaks against the upstreams.
func (g *group) forgive() {
	for _, u := range g.ups {
		u.mu.Lock()
		u.streak, u.rest, u.until = 0, 0, time.Time{}
		u.mu.Unlock()
	}
}

// answered, missed and resting keep the health of u.
func (u *upstream) answered(took time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.streak, u.rest, u.until = 0, 0, time.Time{}
	if u.rtt == 0 {
		u.rtt = took
	} else {
		u.rtt += (took - u.rtt) / 8
	}
}

func (u *upstream) missed(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.streak++; u.streak < patience || now.Before(u.until) {
		return
	}
	u.rest = min(max(2*u.rest, minRest), maxRest)
	u.until = now.Add(u.rest)
}

func (u *upstream) resting(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return now.Before(u.until)
}

// order returns the upstreams in the order in which they are asked: those in good health first.
func (g *group) order(now time.Time) []*upstream {
	var order, tired []*upstream
	for _, u := range g.ups {
		if u.resting(now) {
			tired = append(tired, u)
		} else {
			order = append(order, u)
		}
	}
	return append(order, tired...)
}

// A try is what came of asking one upstream.
type try struct {
	i    int // in the order
	part *part
	err  error
}

// ask asks the upstreams until one gives an answer that sift accepts: the next one when the one before failed, or after stagger.
// An answer that says no more than that the server failed is used only if none is better. All goroutines that are started
// are in wg, and end soon after ask returns.
func (g *group) ask(ctx context.Context, wg *sync.WaitGroup, stagger time.Duration, query []byte, sift func([]byte) (*part, error)) (*part, error) {
	order := g.order(time.Now())
	if len(order) == 0 {
		return nil, fmt.Errorf("%w: zone %s has no upstreams", ErrNoServer, g.zone)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tries := make(chan try, len(order))
	asking := make([]bool, len(order))
	next, running := 0, 0
	start := func() {
		i, u := next, order[next]
		asking[i] = true
		next++
		running++
		wg.Go(func() {
			p, err := u.try(ctx, query, sift)
			tries <- try{i, p, err}
		})
	}
	start()
	timer := time.NewTimer(stagger)
	defer timer.Stop()
	var poor *part
	var errs []error
	for running > 0 {
		var turn <-chan time.Time
		if next < len(order) {
			turn = timer.C
		}
		select {
		case <-ctx.Done():
			errs = append(errs, context.Cause(ctx))
			running = 0 // they end by themselves
		case <-turn:
		case t := <-tries:
			running--
			asking[t.i] = false
			switch {
			case t.err != nil:
				errs = append(errs, fmt.Errorf("upstream %s: %w", order[t.i].name, t.err))
			case t.part.rcode != wire.RcodeSuccess && t.part.rcode != wire.RcodeNameError:
				poor = t.part
			default:
				// Those who were asked before and are still silent have lost, which they do not know themselves.
				for i, u := range order[:t.i] {
					if asking[i] {
						u.lost.Add(1)
						u.missed(time.Now())
					}
				}
				return t.part, nil
			}
		}
		if next < len(order) && ctx.Err() == nil {
			start()
			timer.Reset(stagger)
		}
	}
	if poor != nil {
		return poor, nil
	}
	return nil, errors.Join(errs...)
}

// try asks u.
func (u *upstream) try(ctx context.Context, query []byte, sift func([]byte) (*part, error)) (p *part, err error) {
	u.asked.Add(1)
	start := time.Now()
	defer func() {
		if v := recover(); v != nil {
			p, err = nil, panicked(v)
		}
		switch {
		case err == nil:
			u.answered(time.Since(start))
		case context.Cause(ctx) != context.Canceled:
			// Whoever was told to stop has done nothing wrong.
			u.failed.Add(1)
			u.missed(time.Now())
		}
	}()
	answer, err := u.x.Exchange(ctx, query)
	if err != nil {
		return nil, err
	}
	return sift(answer)
}
