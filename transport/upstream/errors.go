package upstream

import (
	"errors"
	"fmt"
	"net/http"
)

// The kinds of errors, for errors.Is.
var (
	// ErrAddress: the address of a proxy is none.
	ErrAddress = errors.New("bad address of a proxy")

	// ErrCredentials: the proxy wants a user and password, or others than these.
	ErrCredentials = errors.New("the proxy does not accept the user and password")

	// ErrForbidden: the proxy does not allow the connection.
	ErrForbidden = errors.New("the proxy forbids the connection")

	// ErrUnreachable: the proxy cannot reach the gateway.
	ErrUnreachable = errors.New("the proxy cannot reach the gateway")

	// ErrProtocol: what answers is no proxy of that kind.
	ErrProtocol = errors.New("what answers is no such proxy")

	// ErrUnsupported: the proxy demands something that is not implemented here, or the caller does.
	ErrUnsupported = errors.New("not supported")

	// ErrLocal: the proxy runs on this machine, which the profile does not allow.
	ErrLocal = errors.New("the proxy runs on this machine, and AllowLocalProxyConnections of the profile is false")

	// ErrLocked: the profile does not let the user choose.
	ErrLocked = errors.New("not for the user to choose")

	// ErrPAC: the machine says which proxy to use by a PAC file, which is a program.
	ErrPAC = errors.New("PAC files are programs, which are not run here; name the proxy itself, or none")
)

// An Error says which proxy has failed. It never holds a password.
type Error struct {
	// Proxy is scheme://host:port.
	Proxy string
	Err   error
}

// Error implements error.
func (e *Error) Error() string { return "proxy " + e.Proxy + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Timeout reports whether the cause was a time-out, as net.Error has it.
func (e *Error) Timeout() bool {
	var t interface{ Timeout() bool }
	return errors.As(e.Err, &t) && t.Timeout()
}

// A StatusError is what an HTTP proxy answered to CONNECT. It matches [ErrForbidden], [ErrUnreachable], [ErrCredentials] or
// [ErrProtocol].
type StatusError struct {
	// Code is the status, and Text what the proxy wrote beside it, made printable.
	Code int
	Text string
}

// Error implements error.
func (e *StatusError) Error() string {
	s := fmt.Sprintf("%v: %d", e.Unwrap(), e.Code)
	if e.Text == "" {
		e.Text = http.StatusText(e.Code)
	}
	if e.Text != "" {
		s += " " + e.Text
	}
	return s
}

// Unwrap returns the kind.
func (e *StatusError) Unwrap() error {
	switch e.Code {
	case http.StatusProxyAuthRequired, http.StatusUnauthorized:
		// The second is what tinyproxy says to a wrong password.
		return ErrCredentials
	case http.StatusForbidden, http.StatusUnavailableForLegalReasons, http.StatusTooManyRequests:
		return ErrForbidden
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return ErrUnreachable
	}
	// Such as 400, 404, 405 or 501 of a web server that is no proxy, or a redirection.
	return ErrProtocol
}

// A ReplyError is what a SOCKS5 proxy answered to the request (RFC 1928, section 6). It matches [ErrForbidden], [ErrUnreachable] or
// [ErrUnsupported].
type ReplyError byte

// Error implements error.
func (e ReplyError) Error() string {
	texts := [...]string{1: "general failure", 2: "not allowed by its rules", 3: "network unreachable", 4: "host unreachable",
		5: "connection refused", 6: "time to live expired", 7: "command not supported", 8: "address type not supported"}
	text := "unknown reply"
	if e > 0 && int(e) < len(texts) {
		text = texts[e]
	}
	return fmt.Sprintf("%v: %s (SOCKS reply %d)", e.Unwrap(), text, byte(e))
}

// Unwrap returns the kind.
func (e ReplyError) Unwrap() error {
	switch e {
	case 2:
		return ErrForbidden
	case 7, 8:
		return ErrUnsupported
	}
	return ErrUnreachable
}
