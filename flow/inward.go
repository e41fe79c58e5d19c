package flow

import (
	"context"
	"net"
	"sync"

	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/stack"
)

// InwardTCP carries a connection that has come through the tunnel to a program of this machine. It is made to be called by the AcceptTCP
// function of the stack at the end of the tunnel. The program sees the connection come from where it comes from, and its owner is
// whoever listens. It returns when the connection is over.
func (in *Interceptor) InwardTCP(ctx context.Context, r *stack.TCPRequest) {
	defer in.caught(health.TransparentProxy)
	f := &Flow{Network: "tcp", Inward: true, Source: r.Source, Destination: r.Destination, Final: true}
	a, ctx, leave := in.begin(ctx, f, r)
	if a == nil {
		return
	}
	defer leave()
	v := in.decide(ctx, f)
	a.show(f, v)
	if !v.Allow {
		r.Reject()
		return
	}
	t := tcpFlow{in: in, a: a, f: f, v: v}
	defer t.close()
	ctx, cancel := context.WithTimeout(ctx, in.cfg.DialTime)
	program, err := in.stack.DialTCP(ctx, r.Source, r.Destination)
	if err != nil {
		cancel()
		in.stats.failed.Add(1)
		refuse(r, err)
		return
	}
	t.program = program
	if !a.own(program) {
		cancel()
		return
	}
	far, err := r.Accept(ctx)
	cancel()
	if err != nil {
		return
	}
	t.far = far
	if a.own(far) {
		t.copy(nil)
	}
}

// InwardUDP is InwardTCP for datagrams and AcceptUDP.
func (in *Interceptor) InwardUDP(ctx context.Context, r *stack.UDPRequest) {
	defer in.caught(health.TransparentProxy)
	f := &Flow{Network: "udp", Inward: true, Source: r.Source, Destination: r.Destination, Final: true}
	a, ctx, leave := in.begin(ctx, f, r)
	if a == nil {
		return
	}
	defer leave()
	v := in.decide(ctx, f)
	a.show(f, v)
	if !v.Allow {
		r.Unreachable(stack.Prohibited)
		return
	}
	program, err := in.stack.DialUDP(ctx, r.Source, r.Destination)
	if err != nil {
		in.stats.failed.Add(1)
		refuse(r, err)
		return
	}
	defer program.Close()
	far, err := r.Accept()
	if err != nil {
		return
	}
	defer far.Close()
	if !a.own(program) || !a.own(far) {
		return
	}
	in.relayUDP(program, far, r, a)
}

// relayUDP carries datagrams between the two ends of a flow until it is over. The program's side, or the far one of a flow inward, knows
// when neither has said anything for long, and ends then.
func (in *Interceptor) relayUDP(program, far net.Conn, r unreachable, a *active) {
	var wg sync.WaitGroup
	wg.Go(func() {
		defer in.caught(health.TransparentProxy)
		defer far.Close()
		carry(far, program, r, &a.sent)
	})
	carry(program, far, r, &a.received)
	program.Close()
	wg.Wait()
}
