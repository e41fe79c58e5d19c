package gateway

import (
	"context"
	"crypto/x509"
	"net/netip"
)

// An Authenticator decides who may log in. It may be called by several goroutines at once, and may take its time.
type Authenticator interface {
	// Authenticate judges the forms answered so far, and returns the next form to ask or the user who has logged in.
	// It is called with no forms to begin with. An error that matches [transport.ErrLogin] says that the answers are
	// wrong, and its text is shown to the user; any other error is the gateway's own trouble, and is only logged.
	// PeerOf(ctx) tells who is asking.
	Authenticate(ctx context.Context, answered []Form) (next *Form, user string, err error)
}

// A Peer is what is known about a client that is logging in.
type Peer struct {
	// Addr is where the connection comes from.
	Addr netip.AddrPort
	// Certificates is the verified chain of the client's certificate, leaf first; nil if there is none.
	Certificates []*x509.Certificate
	// Group is the chosen group, empty if there are no groups.
	Group string
	// UserAgent is the name of the client program.
	UserAgent string
}

type peerKey struct{}

// PeerOf returns the client on whose behalf an [Authenticator] is called.
func PeerOf(ctx context.Context) Peer {
	p, _ := ctx.Value(peerKey{}).(Peer)
	return p
}
