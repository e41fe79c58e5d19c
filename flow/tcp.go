package flow

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/flow/hello"
	"culvert.example/vpn/stack"
)

// acceptTCP carries a connection that a program wants to open. It returns when the connection is over.
func (in *Interceptor) acceptTCP(ctx context.Context, r *stack.TCPRequest) {
	defer in.caught(health.TransparentProxy)
	f := &Flow{Network: "tcp", Source: r.Source, Destination: r.Destination}
	a, ctx, leave := in.begin(ctx, f, r)
	if a == nil {
		return
	}
	defer leave()
	if in.cfg.DNS != nil && r.Destination.Port() == portDNS {
		in.tcpDNS(ctx, a, r, f)
		return
	}
	v := in.decide(ctx, f)
	a.show(f, v)
	t := tcpFlow{in: in, a: a, f: f, v: v}
	defer t.close()
	switch {
	case v.Provisional && (!v.Allow || v.Way == Nowhere):
		t.listenFirst(ctx, r)
	case v.Allow:
		t.connectFirst(ctx, r)
	default:
		r.Reject()
	}
}

// A tcpFlow is a connection of a program.
type tcpFlow struct {
	in *Interceptor
	a  *active
	f  *Flow
	v  Verdict

	program, far net.Conn // nil until they are there
}

func (t *tcpFlow) close() {
	if t.program != nil {
		t.program.Close()
	}
	if t.far != nil {
		t.far.Close()
	}
}

// caught is deferred in the goroutines of a flow. It ends the flow if one panics, so that the others do not wait for it.
func (t *tcpFlow) caught() {
	if v := recover(); v != nil {
		t.a.abort()
		t.in.panicked(health.TransparentProxy, v)
	}
}

// connect opens the way to the destination.
func (t *tcpFlow) connect(ctx context.Context) error {
	far, err := t.in.dial(ctx, t.f, t.v.Way)
	if err != nil {
		return err
	}
	t.far = far
	if !t.a.own(far) {
		return net.ErrClosed
	}
	return nil
}

// accept takes the connection of the program.
func (t *tcpFlow) accept(ctx context.Context, r *stack.TCPRequest) error {
	program, err := r.Accept(ctx)
	if err != nil {
		return err
	}
	t.program = program
	if k, ok := program.(interface {
		SetKeepAlivePeriod(time.Duration) error
	}); ok {
		k.SetKeepAlivePeriod(keepalive)
	}
	if !t.a.own(program) {
		return net.ErrClosed
	}
	return nil
}

// connectFirst tells the program what the destination says, before it accepts.
func (t *tcpFlow) connectFirst(ctx context.Context, r *stack.TCPRequest) {
	if err := t.connect(ctx); err != nil {
		refuse(r, err)
		return
	}
	if err := t.accept(ctx, r); err != nil {
		return // the program has gone
	}
	if !t.v.Provisional {
		t.copy(nil)
		return
	}
	t.copyAndInspect(ctx)
}

// listenFirst accepts before anything is connected to, because the flow may be allowed if the program says the right name.
func (t *tcpFlow) listenFirst(ctx context.Context, r *stack.TCPRequest) {
	if err := t.accept(ctx, r); err != nil {
		return
	}
	buf := largeBuffers.Get().(*[largeBuffer]byte)
	defer largeBuffers.Put(buf)
	t.program.SetReadDeadline(time.Now().Add(t.in.cfg.HelloTime))
	n, err := t.inspect(buf[:hello.MaxSize], true)
	if err != nil {
		reset(t.program)
		return
	}
	if t.reconsider(ctx); !t.v.Allow {
		reset(t.program)
		return
	}
	if err := t.connect(ctx); err != nil {
		reset(t.program)
		return
	}
	t.copy(buf[:n])
}

// reconsider asks the filter again, now that all is known that ever will be.
func (t *tcpFlow) reconsider(ctx context.Context) {
	t.f.Final = true
	t.v = t.in.decide(ctx, t.f)
	t.a.show(t.f, t.v)
}

// copy carries what both sides say, after held, which the program has said already, until both have finished.
func (t *tcpFlow) copy(held []byte) {
	var wg sync.WaitGroup
	wg.Go(func() {
		defer t.caught()
		half(t.program, t.far, &t.a.received)
	})
	t.up(held)
	wg.Wait()
}

// up carries what the program says, after held.
func (t *tcpFlow) up(held []byte) {
	if len(held) > 0 {
		if _, err := t.far.Write(held); err != nil {
			passOn(t.far, t.program, err)
			return
		}
		t.a.sent.Add(uint64(len(held)))
	}
	half(t.far, t.program, &t.a.sent)
}

// copyAndInspect is copy for a connection of which the filter wants to know the name. The destination may speak at once, but what the
// program says is held back until it is clear whether it says a name, and which.
func (t *tcpFlow) copyAndInspect(ctx context.Context) {
	buf := largeBuffers.Get().(*[largeBuffer]byte)
	defer largeBuffers.Put(buf)
	down := t.startDown()
	n, err := t.inspect(buf[:hello.MaxSize], false)
	if err != nil {
		reset(t.program)
		reset(t.far)
		<-down
		return
	}
	way := t.v.Way
	t.reconsider(ctx)
	if t.v.Allow && t.v.Way != way {
		down = t.change(ctx, down)
	}
	if !t.v.Allow || down == nil {
		reset(t.program)
		reset(t.far)
		if down != nil {
			<-down
		}
		return
	}
	t.up(buf[:n])
	<-down
}

// startDown starts to carry what the destination says.
func (t *tcpFlow) startDown() (down chan error) {
	down = make(chan error, 1)
	far := t.far
	go func() {
		var err error
		defer func() { down <- err }()
		defer t.caught()
		err = net.ErrClosed // if it panics
		err = copyStream(t.program, far, &t.a.received)
		// A deadline is set only to end this, and says nothing to anybody.
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			passOn(t.program, far, err)
		}
	}()
	return down
}

// change connects on another way, in place of the connection from which down comes. It returns what comes from the new one, or nil if
// that cannot be, because the destination has spoken on the old way already, or cannot be reached on the new one.
func (t *tcpFlow) change(ctx context.Context, down <-chan error) chan error {
	t.far.SetReadDeadline(time.Unix(1, 0))
	if err := <-down; !errors.Is(err, os.ErrDeadlineExceeded) || t.a.received.Load() > 0 {
		return nil
	}
	t.a.disown(t.far)
	t.far.Close()
	if err := t.connect(ctx); err != nil {
		return nil
	}
	return t.startDown()
}

// inspect reads what the program says into buf until it is clear what name it says, or that it says none, and learns it. It returns how
// much it has read. The time for a ClientHello counts from its first byte, unless it does already. The end of what the program
// says is no error, and comes again with the next read.
func (t *tcpFlow) inspect(buf []byte, counting bool) (n int, err error) {
	name, state, from := "", hello.More, FromTLS
	for state == hello.More && n < len(buf) {
		k, err := t.program.Read(buf[n:])
		n += k
		if k > 0 {
			if name, state = hello.TLS(buf[:n]); state == hello.Other {
				name, state = hello.HTTP(buf[:n])
				from = FromHTTP
			}
			if !counting {
				counting = true
				t.program.SetReadDeadline(time.Now().Add(t.in.cfg.HelloTime))
			}
		}
		if err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return n, err
		}
	}
	t.program.SetReadDeadline(time.Time{})
	t.in.learn(t.f, name, from)
	return n, nil
}
