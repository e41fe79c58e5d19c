package vpn

import (
	"context"
	"errors"
	"net"
	"strings"

	"culvert.example/vpn/policy"
	"culvert.example/vpn/transport"
)

// The kinds of errors that keep a tunnel from starting or end it. Match them with errors.Is: every error of this package
// is an [*OpError] or comes from the standard library's net package.
var (
	// ErrLogin: the gateway did not accept the credentials.
	ErrLogin = transport.ErrLogin
	// ErrPrompt: the gateway asks for something that the configuration cannot answer.
	ErrPrompt = transport.ErrPrompt
	// ErrExpired: the gateway does not know the session any more.
	ErrExpired = transport.ErrExpired
	// ErrAddressChanged: after reconnecting the gateway gave another inner address, so inner connections cannot live on.
	ErrAddressChanged = transport.ErrAddressChanged
	// ErrUntrusted: the certificate of the gateway is not trusted.
	ErrUntrusted = transport.ErrUntrusted
	// ErrRefused: the gateway refuses a tunnel now.
	ErrRefused = transport.ErrRefused
	// ErrDisconnected: the gateway ended the session.
	ErrDisconnected = transport.ErrDisconnected
	// ErrProtocol: the peer does not speak the protocol.
	ErrProtocol = transport.ErrProtocol
	// ErrUnsupported: the gateway demands something that is not implemented.
	ErrUnsupported = transport.ErrUnsupported
	// ErrUnreachable: no connection came about in the time allowed for reconnecting.
	ErrUnreachable = transport.ErrUnreachable
	// ErrDenied: the policy denied a flow.
	ErrDenied = policy.ErrDenied
	// ErrNoRoute: the destination belongs to the tunnel, but the tunnel has no address of its family, or it can lie nowhere.
	ErrNoRoute = errors.New("no route through the tunnel")
	// ErrNoStack: the operation needs the network stack of the tunnel, which it does not have because of Config.System or
	// Config.Device.
	ErrNoStack = errors.New("the tunnel has a device instead of a network stack")
)

// An OpError is the error of an operation of this package.
type OpError struct {
	// Op is the operation: dial, authenticate, listen, ping, explain, capture, watch, roam, suspend or close, or tunnel where it is none of
	// them that failed but the tunnel.
	Op string
	// Server is the gateway, as the caller named it, without what may be secret in a URL: user, password and query.
	Server string
	// Path is what the operation was about where it was not the gateway, such as the address dialed.
	Path string
	// Err is the cause.
	Err error
}

// Error implements error.
func (e *OpError) Error() string {
	s := "vpn " + e.Op
	if e.Path != "" {
		s += " " + e.Path
	}
	if e.Server != "" {
		s += " through " + e.Server
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// Timeout reports whether the cause was a time-out, as net.Error has it.
func (e *OpError) Timeout() bool {
	var t interface{ Timeout() bool }
	// Of several causes errors.As takes the first, which need not be the one that ended the operation.
	return errors.Is(e.Err, context.DeadlineExceeded) || errors.As(e.Err, &t) && t.Timeout()
}

// Temporary is there because net.Error has it. It reports the same as Timeout.
func (e *OpError) Temporary() bool { return e.Timeout() }

var _ net.Error = (*OpError)(nil)

// publicName returns the name of a gateway without what may be secret in it: user and password, and the query, which is the key to
// gateways that hide.
func publicName(server string) string {
	server, _, _ = strings.Cut(server, "?")
	scheme, rest, ok := strings.Cut(server, "://")
	if !ok {
		scheme, rest = "", server
	}
	authority, path, slash := strings.Cut(rest, "/")
	authority = authority[strings.LastIndexByte(authority, '@')+1:]
	if slash {
		authority += "/" + path
	}
	if ok {
		return scheme + "://" + authority
	}
	return authority
}
