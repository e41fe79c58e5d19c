package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
)

// dialTime bounds the opening of one tunnel, and of its DTLS channel.
const dialTime = time.Minute

// A fleet is all tunnels, and the connections through them.
type fleet struct {
	hello   hello
	set     settings
	tunnels []*vpn.Tunnel
	conns   []net.Conn
}

// dialFleet opens the tunnels. The caller closes the fleet, also one that came with an error.
func dialFleet(ctx context.Context, h hello, s settings) (*fleet, error) {
	f := &fleet{hello: h, set: s, tunnels: make([]*vpn.Tunnel, s.tunnels), conns: make([]net.Conn, s.tunnels)}
	cfg := &vpn.Config{
		Login:  login.Fixed{Username: h.User, Password: transport.Secret(h.Password)},
		Pins:   []string{h.Pin},
		NoDTLS: s.noDTLS,
	}
	return f, f.each(ctx, func(ctx context.Context, i int) (err error) {
		f.tunnels[i], err = vpn.Dial(ctx, h.URL, cfg)
		return err
	})
}

// each calls do for every tunnel, so many at a time as the settings say, until one fails.
func (f *fleet) each(ctx context.Context, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var next atomic.Int64
	for range f.set.concurrent {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(f.tunnels) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				one, cancelOne := context.WithTimeout(ctx, dialTime)
				if err := do(one, i); err != nil {
					cancel(fmt.Errorf("tunnel %d: %w", i, err))
				}
				cancelOne()
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// ready waits until packets go by DTLS in all tunnels, unless there is none.
func (f *fleet) ready(ctx context.Context) error {
	if f.set.noDTLS {
		return nil
	}
	return f.each(ctx, func(ctx context.Context, i int) error {
		ctx, done := context.WithCancel(ctx)
		defer done()
		up := false
		var last vpn.Status
		err := f.tunnels[i].Watch(ctx, func(s vpn.Status) {
			if last = s; s.Path == "dtls" {
				up = true
				done()
			}
		})
		if up {
			return nil
		}
		return fmt.Errorf("no DTLS: %v: %w", last.Paths, err)
	})
}

// connect opens a connection through each tunnel, and uses it once.
func (f *fleet) connect(ctx context.Context) error {
	return f.each(ctx, func(ctx context.Context, i int) (err error) {
		if f.conns[i], err = f.tunnels[i].DialContext(ctx, "tcp", f.hello.Echo.String()); err != nil {
			return err
		}
		return exchange(f.conns[i], make([]byte, answerSize))
	})
}

// exchange sends a request and reads the answer.
func exchange(c net.Conn, buf []byte) error {
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(buf[:requestSize]); err != nil {
		return err
	}
	_, err := io.ReadFull(c, buf)
	return err
}

// An echo is how the requests went.
type echo struct {
	Requests int           `json:"requests"`
	Errors   int           `json:"errors"`
	P50      time.Duration `json:"p50"`
	P99      time.Duration `json:"p99"`
	Max      time.Duration `json:"max"`
}

// echo sends a request through each tunnel every second. They are spread evenly over the second.
func (f *fleet) echo(ctx context.Context, duration time.Duration) echo {
	end := time.Now().Add(duration)
	var e echo
	times := newHistogram()
	var failed atomic.Int64
	var wg sync.WaitGroup
	for i, c := range f.conns {
		wg.Go(func() {
			buf := make([]byte, answerSize)
			at := time.Now().Add(time.Second * time.Duration(i) / time.Duration(len(f.conns)))
			for ; at.Before(end); at = at.Add(time.Second) {
				if pause(ctx, time.Until(at)) != nil {
					return
				}
				begin := time.Now()
				if exchange(c, buf) != nil {
					failed.Add(1)
					return // the connection is out of step
				}
				times.add(time.Since(begin))
			}
		})
	}
	wg.Wait()
	e.Requests, e.Errors = times.count(), int(failed.Load())
	e.P50, e.P99, e.Max = times.at(0.5), times.at(0.99), times.at(1)
	return e
}

// close closes all connections and tunnels.
func (f *fleet) close() {
	var wg sync.WaitGroup
	slots := make(chan struct{}, f.set.concurrent)
	for i, t := range f.tunnels {
		if t == nil {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if f.conns[i] != nil {
				f.conns[i].Close()
			}
			t.Close()
		})
	}
	wg.Wait()
}
