package flow

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"time"

	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/stack"
)

const (
	// dnsIdle is how long a flow of questions over UDP lives after the last one. The next question makes a new one.
	dnsIdle = 2 * time.Second
	// dnsIdleTCP is the same over TCP (RFC 7766 section 6.2.3 wants some seconds).
	dnsIdleTCP = 15 * time.Second
	// maxPerFlow is how many questions of one flow may be in work at a time.
	maxPerFlow = 32

	dnsHeader  = 12
	maxMessage = 65535
)

// tcpDNS serves a connection to port 53.
func (in *Interceptor) tcpDNS(ctx context.Context, a *active, r *stack.TCPRequest, f *Flow) {
	f.Final = true // the names in questions are another matter
	v := in.decide(ctx, f)
	a.show(f, v)
	if !v.Allow {
		r.Reject()
		return
	}
	c, err := r.Accept(ctx)
	if err != nil {
		return
	}
	defer c.Close()
	if !a.own(c) {
		return
	}
	var header [2]byte
	in.serveDNS(ctx, a, f, func() ([]byte, error) {
		c.SetReadDeadline(time.Now().Add(dnsIdleTCP))
		if _, err := io.ReadFull(c, header[:]); err != nil {
			return nil, err
		}
		q := make([]byte, binary.BigEndian.Uint16(header[:]))
		_, err := io.ReadFull(c, q)
		return q, err
	}, func(answer []byte) error {
		c.SetWriteDeadline(time.Now().Add(dnsIdleTCP))
		_, err := c.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(answer)), uint16(len(answer))), answer...))
		return err
	})
}

// udpDNS serves a flow to port 53.
func (in *Interceptor) udpDNS(ctx context.Context, a *active, r *stack.UDPRequest, f *Flow) {
	f.Final = true
	v := in.decide(ctx, f)
	a.show(f, v)
	if !v.Allow {
		r.Unreachable(stack.Prohibited)
		return
	}
	c, err := r.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	if !a.own(c) {
		return
	}
	in.serveDNS(ctx, a, f, func() ([]byte, error) {
		c.SetReadDeadline(time.Now().Add(dnsIdle))
		buf := largeBuffers.Get().(*[largeBuffer]byte)
		defer largeBuffers.Put(buf)
		if w, ok := c.(waiter); ok {
			if err := w.WaitRead(); err != nil {
				return nil, err
			}
		}
		n, err := c.Read(buf[:])
		if err != nil {
			return nil, err
		}
		return append(make([]byte, 0, n), buf[:n]...), nil
	}, func(answer []byte) error {
		_, err := c.Write(answer)
		return err
	})
}

// serveDNS has the questions of a flow answered until there are no more. Answers may come in another order (RFC 7766 section 6.2.1.1).
func (in *Interceptor) serveDNS(ctx context.Context, a *active, f *Flow, read func() ([]byte, error), write func([]byte) error) {
	var wg sync.WaitGroup
	defer wg.Wait()
	var writing sync.Mutex
	places := make(chan struct{}, maxPerFlow)
	for {
		q, err := read()
		if err != nil {
			return
		}
		a.sent.Add(uint64(len(q)))
		if len(q) < dnsHeader || q[2]&0x80 != 0 {
			continue // not a question
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		wg.Go(func() {
			defer func() { <-places }()
			answer := in.answer(ctx, f, q)
			if len(answer) == 0 || len(answer) > maxMessage {
				return
			}
			writing.Lock()
			defer writing.Unlock()
			if write(answer) == nil {
				a.received.Add(uint64(len(answer)))
			}
		})
	}
}

// answer returns what the DNS proxy says to a question, nil for nothing.
func (in *Interceptor) answer(ctx context.Context, f *Flow, query []byte) []byte {
	end, ok := in.asking.beginBelow(in.cfg.MaxQueries)
	if !ok {
		in.load[health.DNSProxy].refused.Add(1)
		in.stats.queriesDropped.Add(1)
		return nil
	}
	defer end()
	in.stats.queries.Add(1)
	answer, err := in.resolve(ctx, f, query)
	if err != nil {
		in.stats.queriesFailed.Add(1)
		in.log.Debug("flow: a question of DNS was not answered", "flow", f, "err", err)
		return serverFailure(query)
	}
	return answer
}

// errPanicked reports a question at which the DNS proxy panicked.
var errPanicked = errors.New("flow: the DNS proxy panicked")

func (in *Interceptor) resolve(ctx context.Context, f *Flow, query []byte) (answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, in.cfg.QueryTime)
	defer cancel()
	err = errPanicked
	defer in.caught(health.DNSProxy)
	return in.cfg.DNS(ctx, f, query)
}

// serverFailure returns the answer to a question that nobody could answer: SERVFAIL, with the question in it (RFC 1035 section 4.1.1).
func serverFailure(query []byte) []byte {
	const response, recursionAvailable, servfail = 0x80, 0x80, 2
	end := question(query)
	b := append(make([]byte, 0, end), query[:end]...)
	b[2] |= response
	b[2] &^= 0x06 // neither authoritative nor truncated
	b[3] = recursionAvailable | servfail
	clear(b[4:dnsHeader])
	if end > dnsHeader {
		b[5] = 1
	}
	return b
}

// question returns where the first question of a message ends, or where the header does if there is none that can be read.
func question(m []byte) int {
	if binary.BigEndian.Uint16(m[4:]) == 0 {
		return dnsHeader
	}
	const maxLabel, maxName, typeAndClass = 63, 255, 4
	for at := dnsHeader; at < len(m) && at-dnsHeader < maxName; {
		n := int(m[at])
		switch {
		case n > maxLabel:
			return dnsHeader
		case n == 0:
			if end := at + 1 + typeAndClass; end <= len(m) {
				return end
			}
			return dnsHeader
		}
		at += 1 + n
	}
	return dnsHeader
}
