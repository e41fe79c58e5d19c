package gateway

import (
	"container/list"
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"sync"
	"time"

	"culvert.example/vpn/transport/login"
)

// maxDialogues bounds the logins in progress.
const maxDialogues = 4096

// A dialogue is a login in progress.
type dialogue struct {
	id     string
	legacy bool   // the documents have the root auth
	handle string // what the opaque element must bring back; empty if there is none
	fixed  bool   // the group came with the URL
	source netip.Addr
	began  time.Time

	mu                 sync.Mutex // held while answers are judged
	group              *Group
	opaqueGroup        string
	platform, hostname string
	answered           []login.Form
	asked              *login.Form
	attempts           int
}

// dialogues are the logins in progress, found by the cookie webvpncontext. The client may come with a new connection, or from
// another address, for each step.
type dialogues struct {
	timeout time.Duration
	maxFrom int // of one source

	mu     sync.Mutex
	byID   map[string]*list.Element // of *dialogue
	order  *list.List               // oldest first
	counts map[netip.Prefix]int
}

func newDialogues(timeout time.Duration, maxFrom int) *dialogues {
	return &dialogues{
		timeout: timeout, maxFrom: maxFrom, byID: map[string]*list.Element{}, order: list.New(), counts: map[netip.Prefix]int{},
	}
}

// add takes in a login and returns its id. It reports false if its source has too many; if there are too many in all, the oldest
// makes room.
func (l *dialogues) add(d *dialogue) (id string, ok bool) {
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", false
	}
	id = hex.EncodeToString(random[:])
	source := sourceOf(d.source)
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := l.order.Front(); e != nil; e = l.order.Front() {
		if old := e.Value.(*dialogue); l.order.Len() < maxDialogues && d.began.Sub(old.began) < l.timeout {
			break
		}
		l.drop(e)
	}
	if l.counts[source] >= l.maxFrom {
		return "", false
	}
	d.id = id
	l.counts[source]++
	l.byID[id] = l.order.PushBack(d)
	return id, true
}

// get returns the login with the id, or nil.
func (l *dialogues) get(id string) *dialogue {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.byID[id]
	if e == nil {
		return nil
	}
	d := e.Value.(*dialogue)
	if time.Since(d.began) > l.timeout {
		l.drop(e)
		return nil
	}
	return d
}

func (l *dialogues) remove(d *dialogue) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.byID[d.id]; e != nil {
		l.drop(e)
	}
}

func (l *dialogues) drop(e *list.Element) {
	d := l.order.Remove(e).(*dialogue)
	delete(l.byID, d.id)
	source := sourceOf(d.source)
	if l.counts[source]--; l.counts[source] <= 0 {
		delete(l.counts, source)
	}
}
