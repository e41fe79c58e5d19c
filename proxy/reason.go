package proxy

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"syscall"
)

// A reason is why a destination was not reached, as far as the protocols can tell a client.
type reason int

const (
	failed reason = iota
	notAllowed
	netUnreachable
	hostUnreachable
	noSuchHost
	refused
	timedOut
)

// reasonOf finds the reason in an error of Dial.
func reasonOf(err error) reason {
	var dnsErr *net.DNSError
	var netErr net.Error
	switch {
	case errors.Is(err, ErrNotAllowed), errors.Is(err, fs.ErrPermission):
		return notAllowed
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.Is(err, syscall.ENETUNREACH):
		return netUnreachable
	case errors.Is(err, syscall.EHOSTUNREACH):
		return hostUnreachable
	case errors.As(err, &dnsErr) && dnsErr.IsNotFound:
		return noSuchHost
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &netErr) && netErr.Timeout():
		return timedOut
	}
	return failed
}

// socks5 returns the REP field for the reason (RFC 1928 section 6).
func (r reason) socks5() byte {
	switch r {
	case notAllowed:
		return repNotAllowed
	case netUnreachable:
		return repNetUnreachable
	case hostUnreachable, noSuchHost, timedOut:
		return repHostUnreachable
	case refused:
		return repRefused
	}
	return repFailed
}

// status returns the HTTP status for the reason.
func (r reason) status() int {
	switch r {
	case notAllowed:
		return http.StatusForbidden
	case timedOut:
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}

// String says the reason to a person.
func (r reason) String() string {
	switch r {
	case notAllowed:
		return "the destination is not allowed"
	case netUnreachable:
		return "the network of the destination is unreachable"
	case hostUnreachable:
		return "the destination is unreachable"
	case noSuchHost:
		return "no such host"
	case refused:
		return "the destination refused the connection"
	case timedOut:
		return "the destination did not answer in time"
	}
	return "the destination could not be reached"
}
