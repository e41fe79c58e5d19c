package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"culvert.example/vpn/internal/netns"
)

// A contender is one of those that are compared.
type contender struct {
	name string
	at   *place
	// start starts the client and returns at once.
	start func() *visit
	// gatewayPIDs returns the processes of its gateway.
	gatewayPIDs func() ([]int, error)
}

// A visit is a client from its start to its end.
type visit struct {
	*contender
	client *process

	// target is where the host's programs reach iperf3 and HTTP: a local port that is forwarded, or the inside host itself.
	target     netip.Addr
	iperfPort  int
	hasForward bool
	// await waits until the first byte has come through the tunnel, if that is the client's own business.
	await func(ctx context.Context) error
	// settle waits until the tunnel is as it will stay, and describes it.
	settle func(ctx context.Context) (settled, error)
	// dns is a file of questions for dnsperf, if the client is a DNS server.
	dns string
	// server is the other end of the connections if both live inside processes: it counts what it gets.
	server *process

	clientIDs, gatewayIDs []int
}

// settled describes a tunnel.
type settled struct {
	detail string
	dialed time.Time // when the program called vpn.Dial; zero for other programs
}

// A result is what a load has given.
type result struct {
	bytes, rate float64 // rate in bit/s
	cost        cost
}

const (
	// restTime is how long a client may come to rest after its start, such as to probe the MTU.
	restTime = 500 * time.Millisecond
	// warmTime is how long a load runs before it is measured, if both ends live inside processes.
	warmTime = 300 * time.Millisecond
	// synTime is how long a connection attempt waits while the route may lead nowhere.
	synTime = 250 * time.Millisecond
)

// begin starts the client and returns how long it took until the first byte, and how the tunnel is carried.
func (c *contender) begin(ctx context.Context) (v *visit, took map[metric]float64, detail string, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	v = c.start()
	v.contender = c
	await := v.firstByte
	if v.await != nil {
		await = v.await
	}
	if err := await(ctx); err != nil {
		v.end()
		return nil, nil, "", fmt.Errorf("%s: no byte came through the tunnel: %w", c.name, err)
	}
	came := time.Now()
	s, err := v.settle(ctx)
	if err == nil {
		v.clientIDs, err = family(v.client.pid())
	}
	if err == nil {
		v.gatewayIDs, err = c.gatewayPIDs()
	}
	if err != nil {
		v.end()
		return nil, nil, "", fmt.Errorf("%s: %w", c.name, err)
	}
	if s.dialed.IsZero() {
		s.dialed = v.client.began
	}
	ms := func(since time.Time) float64 { return float64(came.Sub(since)) / float64(time.Millisecond) }
	return v, map[metric]float64{first: ms(v.client.began), dialed: ms(s.dialed)}, strings.TrimSpace(s.detail), nil
}

// end stops the client.
func (v *visit) end() { v.client.stop() }

// firstByte connects again and again until a byte comes.
func (v *visit) firstByte(ctx context.Context) error {
	addr := netip.AddrPortFrom(v.target, firstPort).String()
	for {
		attempt, cancel := context.WithCancel(ctx)
		if !v.hasForward {
			cancel()
			attempt, cancel = context.WithTimeout(ctx, synTime)
		}
		err := takeByte(attempt, v.at.host.DialContext, addr)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; it printed:\n%s", err, v.client.said())
		case <-v.client.done:
			return fmt.Errorf("it has ended; it printed:\n%s", v.client.said())
		case <-time.After(time.Millisecond):
		}
	}
}

func (v *visit) stopwatch() (*stopwatch, error) { return startStopwatch(v.clientIDs, v.gatewayIDs) }

// load measures the rate and its costs.
func (v *visit) load(ctx context.Context, direction string, streams int, d time.Duration) (result, error) {
	if v.server == nil {
		return v.iperf(ctx, direction, streams, d)
	}
	ctx, cancel := context.WithTimeout(ctx, d+startTime)
	defer cancel()
	r := request{Op: "load"}
	if direction != down {
		r.Up = streams
	}
	if direction != up {
		r.Down = streams
	}
	if err := v.client.call(ctx, r, nil); err != nil {
		return result{}, err
	}
	res, err := v.window(ctx, d)
	if e := v.client.call(ctx, request{Op: "unload"}, nil); err == nil {
		err = e
	}
	return res, err
}

// window measures what flows during a time.
func (v *visit) window(ctx context.Context, d time.Duration) (result, error) {
	ends := []*process{v.client, v.server}
	count := func() (t [2]tally, err error) {
		for i, p := range ends {
			if err := p.call(ctx, request{Op: "tally"}, &t[i]); err != nil {
				return t, err
			}
		}
		return t, nil
	}
	if err := pause(ctx, warmTime); err != nil {
		return result{}, err
	}
	w, err := v.stopwatch()
	if err != nil {
		return result{}, err
	}
	before, err := count()
	if err != nil {
		return result{}, err
	}
	if err := pause(ctx, d); err != nil {
		return result{}, err
	}
	after, err := count()
	if err != nil {
		return result{}, err
	}
	var r result
	if r.cost, err = w.stop(); err != nil {
		return r, err
	}
	for i := range ends {
		n := float64(after[i].Bytes - before[i].Bytes)
		r.bytes += n
		r.rate += n * 8 / (after[i].At - before[i].At).Seconds()
	}
	if r.bytes == 0 {
		return r, fmt.Errorf("%s: nothing was carried", v.name)
	}
	return r, nil
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// latency measures requests over HTTP.
func (v *visit) latency(ctx context.Context, d time.Duration) (l latencies, err error) {
	ctx, cancel := context.WithTimeout(ctx, d+startTime)
	defer cancel()
	asker, r := v.client, request{Op: "http", Time: d}
	if v.server == nil {
		asker, r.Target = v.at.visitor, netip.AddrPortFrom(v.target, httpPort).String()
	}
	err = asker.call(ctx, r, &l)
	return l, err
}

// impair makes the contender's cable bad.
func (v *visit) impair(i netns.Impairment) {
	if v.at.wire != nil {
		v.at.wire.Set(i)
	}
}

// settledRole is settle for the roles with a tunnel of ours.
func settledRole(p *process) func(context.Context) (settled, error) {
	return func(ctx context.Context) (settled, error) {
		var r pathReply
		if err := p.begun(ctx, nil); err != nil {
			return settled{}, err
		}
		if err := p.call(ctx, request{Op: "settled"}, &r); err != nil {
			return settled{}, err
		}
		return settled{detail: fmt.Sprintf("%s %s, MTU %d", r.Path, r.Cipher, r.MTU), dialed: r.Dialed}, nil
	}
}

// settledLine is settle for other programs: a line that they print.
func settledLine(p *process, parts ...string) func(context.Context) (settled, error) {
	return func(ctx context.Context) (settled, error) {
		line, err := p.await(ctx, 0, strings.Join(parts, " "), func(line string) bool {
			for _, s := range parts {
				if !strings.Contains(line, s) {
					return false
				}
			}
			return true
		})
		return settled{detail: line}, err
	}
}
