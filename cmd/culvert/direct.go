package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"culvert.example/vpn"
)

// errNoDirect is why the user wants a destination not to be reached.
var errNoDirect = errors.New("not without the tunnel")

// direct returns what reaches the destinations that the gateway leaves outside of the tunnel. It tells once that there are any; with
// refuse it reaches none.
func direct(r *reporter, refuse bool) vpn.DialFunc {
	if refuse {
		return func(_ context.Context, _, address string) (net.Conn, error) {
			return nil, fmt.Errorf("%w, %w: %s lies outside the tunnel, and --no-direct has nothing go there", vpn.ErrNoRoute, errNoDirect, address)
		}
	}
	tell := sync.OnceFunc(func() {
		const text = "destinations that the gateway leaves outside the tunnel are reached directly from this machine; --no-direct refuses them"
		r.say(event{Event: "message", Message: text}, text)
	})
	var d net.Dialer
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		tell()
		return d.DialContext(ctx, network, address)
	}
}
