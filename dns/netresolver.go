package dns

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"

	wire "github.com/miekg/dns"
)

// NetResolver returns a [net.Resolver] whose questions go to the Exchanger of r, for programs that want one of that
// type. Nothing leaves the process for it: package net believes that it talks to the servers of the machine, and is
// answered here.
//
// Package net still reads the machine's hosts file and applies the machine's search domains. Those of r are applied to
// short names that it then asks for as they are; the answer calls the full name an alias of the short one.
//
// The text of a [net.DNSError] says why the Exchanger had no answer. Of the kinds of errors package net lets only those of contexts
// through to errors.Is, while those of [Resolver.LookupNetIP] match all that the Exchanger's do.
func (r *Resolver) NetResolver() *net.Resolver {
	return &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return r.dial(ctx), nil
		},
	}
}

// A localConn is the connection that package net believes to lead to a server. It frames messages as TCP does, whatever
// network was asked for, which package net accepts of any connection that is no net.PacketConn, and which spares it
// truncated answers.
type localConn struct {
	net.Conn
	cancel context.CancelFunc
	done   chan struct{}
	failed error // why there is no answer; set before the other end is closed
}

// Read implements net.Conn. At the end of the answers it returns why there is none.
func (c *localConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == io.EOF && c.failed != nil {
		err = &unanswered{c.failed}
	}
	return n, err
}

// An unanswered is the error of an Exchanger as package net understands it: as one that may pass.
type unanswered struct{ error }

func (e *unanswered) Timeout() bool { return isTimeout(e.error) }

func (e *unanswered) Temporary() bool { return true }

func (e *unanswered) Unwrap() error { return e.error }

func (r *Resolver) dial(ctx context.Context) net.Conn {
	near, far := net.Pipe()
	ctx, cancel := context.WithCancel(ctx)
	c := &localConn{Conn: near, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer far.Close()
		c.failed = r.serve(ctx, far)
	}()
	return c
}

// Close waits until no question of this connection is being asked any more.
func (c *localConn) Close() error {
	c.cancel()
	err := c.Conn.Close()
	<-c.done
	return err
}

// serve answers questions until the other end is closed, or until one has no answer: it returns why. The connection ends then, since
// package net would make of an answer that the server failed that it misbehaves, without a reason; and it need not wait for its own time
// to run out.
func (r *Resolver) serve(ctx context.Context, conn net.Conn) error {
	for {
		query, err := readFramed(conn)
		if err != nil {
			return nil
		}
		answer, err := r.exchange(ctx, query)
		if err != nil {
			return err
		}
		if writeFramed(conn, answer) != nil {
			return nil
		}
	}
}

// exchange answers a query, with the search domains of r applied to short names.
func (r *Resolver) exchange(ctx context.Context, query []byte) ([]byte, error) {
	q, err := parseQuery(query)
	if err != nil {
		return nil, err
	}
	if r.Exchanger == nil {
		return nil, ErrNoServer
	}
	host := strings.TrimSuffix(q.name, ".")
	if (q.qtype == wire.TypeA || q.qtype == wire.TypeAAAA) && q.class == wire.ClassINET && validName(host) && r.short(host) {
		for _, name := range r.candidates(host) {
			if len(name) == len(q.name) {
				continue // the name itself
			}
			// Both families are asked for, so that they come from the same name.
			addrs, err := r.lookup(ctx, name, wire.TypeA, wire.TypeAAAA)
			if len(addrs) > 0 {
				return aliasAnswer(binary.BigEndian.Uint16(query), q, name, only(addrs, q.qtype))
			}
			if err != nil {
				return nil, err // as in LookupNetIP
			}
		}
	}
	return r.Exchanger.Exchange(ctx, query)
}
