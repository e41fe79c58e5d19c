package flow

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"time"

	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/stack"
)

// pingTime is how long the answer to an echo request may take. Nobody waits longer for one.
const pingTime = 10 * time.Second

// acceptPing answers an echo request as its destination does.
func (in *Interceptor) acceptPing(ctx context.Context, r *stack.PingRequest) {
	defer in.caught(health.TransparentProxy)
	in.stats.pings.Add(1)
	f := &Flow{Network: "ping", Source: netip.AddrPortFrom(r.Source, 0), Destination: netip.AddrPortFrom(r.Destination, 0), Final: true}
	in.identify(ctx, f)
	a, ctx, leave := in.enter(ctx, f)
	if a == nil {
		r.Ignore()
		return
	}
	defer leave()
	v := in.decide(ctx, f)
	a.show(f, v)
	switch {
	case !v.Allow:
		r.Refuse(stack.Prohibited)
		return
	case v.Way == Nowhere:
		r.Refuse(stack.NetUnreachable)
		return
	case in.cfg.Ping == nil:
		return // which says that the host is unreachable
	}
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	switch err := in.cfg.Ping(ctx, v.Way, r.Destination, r.Payload); {
	case err == nil:
		a.sent.Add(uint64(len(r.Payload)))
		a.received.Add(uint64(len(r.Payload)))
		r.Reply()
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES):
		in.stats.failed.Add(1)
		r.Refuse(fateOf(err).why)
	default:
		in.stats.failed.Add(1)
		r.Ignore()
	}
}
