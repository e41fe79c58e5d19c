package gateway

import (
	"sync"

	"culvert.example/vpn/transport/dtls"
)

// offers are the DTLS channels that clients may open, by the identifier that their ClientHello must bear.
type offers struct {
	mu   sync.RWMutex
	byID map[[32]byte]*dtls.ServerSession
}

// lookup returns the offer with the identifier, or nil.
func (o *offers) lookup(id []byte) *dtls.ServerSession {
	if len(id) != 32 {
		return nil
	}
	return o.get([32]byte(id))
}

func (o *offers) get(id [32]byte) *dtls.ServerSession {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.byID[id]
}

func (o *offers) put(id [32]byte, s *dtls.ServerSession) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byID == nil {
		o.byID = map[[32]byte]*dtls.ServerSession{}
	}
	o.byID[id] = s
}

func (o *offers) remove(id [32]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.byID, id)
}
