package vpn

import (
	"fmt"
	"net"
	"sync"
)

// A doorkeeper knows the listeners of a tunnel, so that Shutdown can close them.
type doorkeeper struct {
	mu     sync.Mutex
	shut   bool
	inside map[*listener]struct{}
}

// A listener is one of Tunnel.Listen.
type listener struct {
	net.Listener
	keeper *doorkeeper
}

// keep has l closed by shutAll, or closes it if that has been called already.
func (k *doorkeeper) keep(l net.Listener) (net.Listener, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.shut {
		l.Close()
		return nil, fmt.Errorf("the tunnel is shutting down: %w", net.ErrClosed)
	}
	if k.inside == nil {
		k.inside = make(map[*listener]struct{})
	}
	kept := &listener{l, k}
	k.inside[kept] = struct{}{}
	return kept, nil
}

// shutAll closes all listeners. No more can be kept from now on.
func (k *doorkeeper) shutAll() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.shut = true
	for l := range k.inside {
		l.Listener.Close()
	}
	clear(k.inside)
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.keeper.mu.Lock()
	delete(l.keeper.inside, l)
	l.keeper.mu.Unlock()
	return l.Listener.Close()
}
