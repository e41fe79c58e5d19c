package cstp

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/wire"
)

// A StatusError is a reply to CONNECT other than success. It matches [transport.ErrExpired] where a new login may help,
// [transport.ErrRefused] where the gateway has no tunnel for this session now, and [transport.ErrProtocol] where the peer
// seems to be no gateway.
type StatusError struct {
	// Code and Status are those of the reply.
	Code   int
	Status string
	// Reason is what the gateway says to people, often nothing.
	Reason string
}

// Error implements error.
func (e *StatusError) Error() string {
	what := ""
	if e.Reason != "" {
		what = fmt.Sprintf(" (the gateway says: %s)", e.Reason)
	}
	advice := ""
	switch {
	case e.Code == http.StatusServiceUnavailable && e.Reason == "":
		advice = "; some gateways say so for want of a session cookie"
	case e.Is(transport.ErrExpired):
		advice = "; log in again"
	case e.Temporary():
		advice = "; try again later"
	}
	return fmt.Sprintf("the gateway answers CONNECT with %d %s%s%s", e.Code, e.Status, what, advice)
}

// Is reports whether target is the kind of e.
func (e *StatusError) Is(target error) bool {
	switch e.Code {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusMethodNotAllowed:
		return target == transport.ErrExpired
	case http.StatusNotFound:
		// Where a session worked before it is gone. Otherwise this may be no gateway at all.
		return target == transport.ErrExpired || target == transport.ErrProtocol
	}
	if e.Code >= 400 {
		return target == transport.ErrRefused
	}
	return target == transport.ErrProtocol
}

// Temporary reports whether the same request may well succeed some time later.
func (e *StatusError) Temporary() bool {
	switch e.Code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return e.Code >= 500
}

// Connect asks the gateway at the other end of l for a tunnel. It completes the handshake of l before, if that is not done.
// The reader that it returns belongs to l, and may hold the first frame already: hand it to [NewConn]. The context bounds
// the whole. After an error l is of no use any more, and the caller closes it.
//
// An error matches [transport.ErrUntrusted], [transport.ErrProtocol], or is a [*StatusError], then together with the reply.
// Other errors are those of the network.
func Connect(ctx context.Context, l *Link, req *wire.ConnectRequest) (*wire.ConnectReply, *bufio.Reader, error) {
	if err := Handshake(ctx, l); err != nil {
		return nil, nil, err
	}
	release := interruptible(ctx, l)
	reply, br, err := connect(l, req)
	if err := release(); err != nil {
		return nil, nil, fmt.Errorf("no answer to CONNECT: %w", err)
	}
	return reply, br, err
}

func connect(l *Link, req *wire.ConnectRequest) (*wire.ConnectReply, *bufio.Reader, error) {
	if _, err := l.Write(req.Append(nil)); err != nil {
		return nil, nil, fmt.Errorf("send CONNECT: %w", err)
	}
	br := bufio.NewReaderSize(l, 16<<10)
	reply, err := wire.ReadConnectReply(br)
	switch {
	case errors.Is(err, wire.ErrReply):
		return nil, nil, fmt.Errorf("%w: %w", err, transport.ErrProtocol)
	case err != nil:
		return nil, nil, fmt.Errorf("read the answer to CONNECT: %w", err)
	case reply.StatusCode != http.StatusOK:
		return reply, nil, &StatusError{reply.StatusCode, reply.Status, reply.Reason}
	}
	if c := reply.ContentEncoding; c != "" && c != "identity" && !slices.Contains(req.AcceptEncoding, c) {
		return reply, nil, fmt.Errorf("the gateway compresses with %.20q, which it was not offered: %w", c, transport.ErrProtocol)
	}
	return reply, br, nil
}

// interruptible makes reads and writes of l fail when ctx is done. The function that it returns ends that, and returns the
// error of ctx if it came to it.
func interruptible(ctx context.Context, l *Link) func() error {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		// Below TLS, where no lock is in the way.
		_ = l.sock.Conn.SetDeadline(time.Unix(1, 0))
	})
	return func() error {
		if stop() {
			return nil
		}
		<-interrupted
		return context.Cause(ctx)
	}
}

// Handshake completes the TLS handshake of l, which Connect does too: before it there is no key to export. An error matches
// [transport.ErrUntrusted] or [transport.ErrProtocol], or is that of the network.
func Handshake(ctx context.Context, l *Link) error {
	err := l.HandshakeContext(ctx)
	if err == nil {
		return nil
	}
	var verify *tls.CertificateVerificationError
	var noTLS tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.As(err, &verify):
		return fmt.Errorf("the certificate of the gateway: %w: %w", err, transport.ErrUntrusted)
	case errors.As(err, &noTLS):
		return fmt.Errorf("the peer does not speak TLS: %w: %w", err, transport.ErrProtocol)
	case errors.As(err, &op) && op.Op == "remote error":
		// That is how package crypto/tls marks an alert.
		return fmt.Errorf("the gateway refuses the TLS handshake: %w: %w", err, transport.ErrProtocol)
	}
	return fmt.Errorf("TLS handshake: %w", err)
}
