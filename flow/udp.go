package flow

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/flow/hello"
	"culvert.example/vpn/stack"
)

// maxRefusals is how many errors in a row a UDP flow survives. Each is about one datagram.
const maxRefusals = 16

// acceptUDP carries a flow of datagrams. It returns when the flow is over.
func (in *Interceptor) acceptUDP(ctx context.Context, r *stack.UDPRequest) {
	defer in.caught(health.TransparentProxy)
	f := &Flow{Network: "udp", Source: r.Source, Destination: r.Destination}
	a, ctx, leave := in.begin(ctx, f, r)
	if a == nil {
		return
	}
	defer leave()
	if in.cfg.DNS != nil && r.Destination.Port() == portDNS {
		in.udpDNS(ctx, a, r, f)
		return
	}
	v := in.decide(ctx, f)
	a.show(f, v)
	if !v.Allow && !v.Provisional {
		r.Unreachable(stack.Prohibited)
		return
	}
	// Accepting tells the program nothing, and its datagrams are kept until somebody reads them.
	program, err := r.Accept()
	if err != nil {
		return
	}
	defer program.Close()
	if !a.own(program) {
		return
	}
	var held datagrams
	defer held.release()
	if v.Provisional {
		v = in.inspectUDP(ctx, f, program, &held)
		a.show(f, v)
		if !v.Allow {
			r.Unreachable(stack.Prohibited)
			return
		}
	}
	far, err := in.dial(ctx, f, v.Way)
	if err != nil {
		if fate := fateOf(err); !fate.silent {
			r.Unreachable(fate.why)
		}
		return
	}
	defer far.Close()
	if !a.own(far) {
		return
	}
	for _, d := range held.all() {
		if _, err := far.Write(d); err == nil {
			a.sent.Add(uint64(len(d)))
		}
	}
	held.release()
	in.relayUDP(program, far, r, a)
}

// maxHeld is how many datagrams are held back until the name is known. Those of the largest ClientHello are fewer.
const maxHeld = 16

// datagrams are some that are held back.
type datagrams struct {
	mem  *[largeBuffer]byte
	ends []int
}

// free returns the memory for the next one.
func (d *datagrams) free() []byte {
	if d.mem == nil {
		d.mem = largeBuffers.Get().(*[largeBuffer]byte)
	}
	return d.mem[d.used():]
}

func (d *datagrams) used() int {
	if len(d.ends) == 0 {
		return 0
	}
	return d.ends[len(d.ends)-1]
}

// add takes the n bytes that were written to free.
func (d *datagrams) add(n int) []byte {
	start := d.used()
	d.ends = append(d.ends, start+n)
	return d.mem[start : start+n]
}

func (d *datagrams) all() (out [][]byte) {
	start := 0
	for _, end := range d.ends {
		out = append(out, d.mem[start:end])
		start = end
	}
	return out
}

func (d *datagrams) release() {
	if d.mem != nil {
		largeBuffers.Put(d.mem)
	}
	d.mem, d.ends = nil, nil
}

// inspectUDP reads datagrams of the program until it is clear what name it says, or that it says none, and asks the filter again.
// They are held.
func (in *Interceptor) inspectUDP(ctx context.Context, f *Flow, program net.Conn, held *datagrams) Verdict {
	var q hello.QUIC
	name, state := "", hello.More
	program.SetReadDeadline(time.Now().Add(in.cfg.HelloTime))
	for state == hello.More && len(held.ends) < maxHeld {
		mem := held.free()
		if len(held.ends) > 0 && len(mem) < 2*packetSize {
			break
		}
		n, err := program.Read(mem)
		if err != nil {
			break // what is wrong will come again
		}
		name, state = q.Datagram(held.add(n))
	}
	program.SetReadDeadline(time.Time{})
	in.learn(f, name, FromQUIC)
	return in.decide(ctx, f)
}

// packetSize is more than a datagram of a ClientHello has.
const packetSize = 2048

// A waiter is a connection that can wait for a datagram without memory for it.
type waiter interface{ WaitRead() error }

// An unreachable can be told that datagrams do not arrive.
type unreachable interface{ Unreachable(stack.Reason) }

// carry copies datagrams until reading fails for good. What cannot be sent is lost, as datagrams are, and the program is told why
// where that is known.
func carry(dst, src net.Conn, r unreachable, count *atomic.Uint64) {
	var buf *[datagramBuffer]byte
	defer func() {
		if buf != nil {
			largeBuffers.Put(buf)
		}
	}()
	w, waits := src.(waiter)
	refusals := 0
	for {
		if waits {
			if buf != nil {
				largeBuffers.Put(buf)
				buf = nil
			}
			// What is wrong comes again with Read.
			_ = w.WaitRead()
		}
		if buf == nil {
			buf = largeBuffers.Get().(*[datagramBuffer]byte)
		}
		n, err := src.Read(buf[:])
		if err != nil {
			if refusals++; refusals > maxRefusals || !told(r, err) {
				return
			}
			continue
		}
		refusals = 0
		if _, err := dst.Write(buf[:n]); err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			told(r, err)
			continue
		}
		count.Add(uint64(n))
	}
}

// told tells the program of an error that is about one datagram. It reports false if it is about more.
func told(r unreachable, err error) bool {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES):
		r.Unreachable(fateOf(err).why)
		return true
	case errors.Is(err, syscall.EMSGSIZE), errors.Is(err, os.ErrDeadlineExceeded):
		return true
	}
	return false
}
