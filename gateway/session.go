package gateway

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"culvert.example/vpn/policy"
	"culvert.example/vpn/transport"
)

const (
	// cookieSize is the size of a session cookie in bytes, before it is written in hex.
	cookieSize = 32
	// goodbyeGrace is how long a cookie lives on after the client has said goodbye: some clients say it too early.
	goodbyeGrace = 15 * time.Second
)

// A session is what a login leads to: a user, addresses, and a cookie that tunnels are opened with. It lives through any
// number of tunnels, and through the times without one.
type session struct {
	srv      *Server
	id       string
	key      [sha256.Size]byte // the hash of the cookie
	user     string
	group    string
	network  *Network
	loggedIn time.Time
	expires  time.Time

	// source drops what the client sends from other addresses than its own.
	source atomic.Pointer[policy.Gate]

	lastPacket          atomic.Int64 // when the client last sent a packet, in Unix nanoseconds
	rxPackets, rxBytes  atomic.Uint64
	txPackets, txBytes  atomic.Uint64
	dropped, oldSpoofed atomic.Uint64
	complaints          limiter // of ICMP errors to the client, or about what is for it
	flows               flowSet
	paths               paths

	// connecting is held while a CONNECT is answered, and while the session is ended; it comes before all other locks. It
	// guards offer, the identifier of the DTLS channel that may be opened.
	connecting sync.Mutex
	offer      [32]byte

	mu       sync.Mutex
	agent    clientAgent
	addrs    []netip.Addr // leased, IPv4 before IPv6
	renumber bool         // lease others at the next CONNECT
	tunnel   *tunnel      // nil without a connection
	connects int
	// gone is when the last tunnel ended, or the login if there was none, and goodbye that the client meant it.
	gone    time.Time
	goodbye bool
	expired bool // the cookie is not accepted any more
	ended   bool
	timer   *time.Timer
}

// A clientAgent is what a client says about itself.
type clientAgent struct{ userAgent, platform, hostname string }

// A table holds the sessions of a Server, and the addresses that they lease.
type table struct {
	srv *Server

	mu     sync.Mutex
	byKey  map[[sha256.Size]byte]*session
	byID   map[string]*session
	pools  []*pool // IPv4 before IPv6
	closed bool
}

// Errors of logging in and connecting.
var (
	errFull      = &Refusal{"The gateway has no room for another session. Please try again later."}
	errUserFull  = &Refusal{"You have too many sessions already."}
	errNoSession = errors.New("gateway: no such session")
	errNoAddress = errors.New("no address available")
)

func newTable(srv *Server, prefixes []netip.Prefix) *table {
	t := &table{srv: srv, byKey: map[[sha256.Size]byte]*session{}, byID: map[string]*session{}}
	for _, p := range prefixes {
		t.pools = append(t.pools, newPool(p))
	}
	slices.SortFunc(t.pools, func(a, b *pool) int { return a.prefix.Addr().Compare(b.prefix.Addr()) })
	return t
}

// add makes a session for a user who has logged in, and returns it with its cookie.
func (t *table) add(user, group string, network *Network, agent clientAgent, now time.Time) (*session, transport.Secret, error) {
	var random [cookieSize + 8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, "", fmt.Errorf("gateway: %w", err)
	}
	cookie := strings.ToUpper(hex.EncodeToString(random[:cookieSize]))
	s := &session{
		srv:      t.srv,
		id:       hex.EncodeToString(random[cookieSize:]),
		key:      sha256.Sum256([]byte(cookie)),
		user:     user,
		group:    group,
		network:  network,
		agent:    agent,
		loggedIn: now,
		expires:  now.Add(t.srv.cfg.SessionTimeout),
		gone:     now,
	}
	s.source.Store(policy.NewGate(policy.Source))
	s.flows.init()

	for {
		t.mu.Lock()
		n, oldest := t.of(user)
		if n < t.srv.cfg.MaxSessionsPerUser {
			break
		}
		t.mu.Unlock()
		if oldest == nil {
			return nil, "", errUserFull
		}
		oldest.end("replaced by a newer session")
	}
	defer t.mu.Unlock()
	if t.closed || len(t.byID) >= t.srv.cfg.MaxSessions {
		return nil, "", errFull
	}
	t.byKey[s.key], t.byID[s.id] = s, s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = time.AfterFunc(time.Until(s.deadline()), s.review)
	return s, transport.Secret(cookie), nil
}

// of returns how many sessions the user has, and which of those without a connection has been so for the longest time. The
// lock is held.
func (t *table) of(user string) (n int, oldest *session) {
	var since time.Time
	for _, s := range t.byID {
		if s.user != user {
			continue
		}
		n++
		s.mu.Lock()
		if s.tunnel == nil && (oldest == nil || s.gone.Before(since)) {
			oldest, since = s, s.gone
		}
		s.mu.Unlock()
	}
	return n, oldest
}

// find returns the session of a cookie, or nil.
func (t *table) find(cookie string) *session {
	key := sha256.Sum256([]byte(cookie))
	t.mu.Lock()
	s := t.byKey[key]
	t.mu.Unlock()
	// The map compares hashes of secrets, which tells a guesser nothing; comparing once more in constant time costs nothing.
	if s == nil || subtle.ConstantTimeCompare(key[:], s.key[:]) != 1 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expired || s.ended || !time.Now().Before(s.deadline()) {
		return nil
	}
	return s
}

// get returns the session with the given id.
func (t *table) get(id string) (*session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.byID[id]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("%w: %q", errNoSession, id)
}

// all returns the sessions, oldest first.
func (t *table) all() []*session {
	t.mu.Lock()
	list := make([]*session, 0, len(t.byID))
	for _, s := range t.byID {
		list = append(list, s)
	}
	t.mu.Unlock()
	slices.SortFunc(list, func(a, b *session) int {
		if c := a.loggedIn.Compare(b.loggedIn); c != 0 {
			return c
		}
		return strings.Compare(a.id, b.id)
	})
	return list
}

// close refuses further sessions and ends those there are.
func (t *table) close(reason string) {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	// Telling a client may take a second.
	var wg sync.WaitGroup
	for _, s := range t.all() {
		wg.Go(func() { s.end(reason) })
	}
	wg.Wait()
}

// lease gives the session its addresses, of the families wanted, where it has none yet. It returns those wanted.
func (t *table) lease(s *session, v4, v6 bool) ([]netip.Addr, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil, errNoSession
	}
	var avoid []netip.Addr
	if s.renumber {
		avoid, s.addrs = s.addrs, nil
		t.disown(avoid)
		t.release(avoid)
		s.renumber = false
	}
	var wanted []netip.Addr
	for _, p := range t.pools {
		is4 := p.prefix.Addr().Is4()
		if is4 && !v4 || !is4 && !v6 {
			continue
		}
		have := slices.IndexFunc(s.addrs, p.prefix.Contains)
		if have >= 0 {
			wanted = append(wanted, s.addrs[have])
			continue
		}
		var not netip.Addr
		if i := slices.IndexFunc(avoid, p.prefix.Contains); i >= 0 {
			not = avoid[i]
		}
		a, ok := p.lease(s.user, not)
		if !ok {
			continue
		}
		p.owner(a).Store(s)
		s.addrs = append(s.addrs, a)
		wanted = append(wanted, a)
	}
	if len(wanted) == 0 {
		return nil, errNoAddress
	}
	slices.SortFunc(s.addrs, netip.Addr.Compare)
	s.oldSpoofed.Add(s.source.Load().Dropped())
	s.source.Store(policy.NewGate(policy.Source, wanted...))
	return wanted, nil
}

// disown has packets to the addrs go to nobody. Nobody gets these addresses before release.
func (t *table) disown(addrs []netip.Addr) {
	for _, a := range addrs {
		for _, p := range t.pools {
			if p.prefix.Contains(a) {
				p.owner(a).Store(nil)
			}
		}
	}
}

// release takes back addrs that are disowned. The stack forgets them first: whoever gets one must not get what was
// for its last owner. The lock of the table is held.
func (t *table) release(addrs []netip.Addr) {
	for _, a := range addrs {
		if t.srv.stack != nil {
			t.srv.stack.Forget(a)
		}
		for _, p := range t.pools {
			if p.prefix.Contains(a) {
				p.release(a)
			}
		}
	}
}

// owner returns the session that has the inner address, and whether it lies in a pool at all. It does not lock or allocate.
func (t *table) owner(a netip.Addr) (s *session, pooled bool) {
	for _, p := range t.pools {
		if p.prefix.Contains(a) {
			if o := p.owner(a); o != nil {
				return o.Load(), true
			}
			return nil, true
		}
	}
	return nil, false
}

// prefixOf returns the prefix of the pool that a comes from.
func (t *table) prefixOf(a netip.Addr) netip.Prefix {
	for _, p := range t.pools {
		if p.prefix.Contains(a) {
			return p.prefix
		}
	}
	return netip.Prefix{}
}

// deadline returns when the session ends if nothing happens. The lock is held.
func (s *session) deadline() time.Time {
	at := s.expires
	sooner := func(t time.Time) {
		if t.Before(at) {
			at = t
		}
	}
	if s.tunnel == nil {
		if s.goodbye {
			sooner(s.gone.Add(goodbyeGrace))
		}
		sooner(s.gone.Add(s.srv.cfg.DisconnectedTimeout))
		if s.expired {
			sooner(s.gone)
		}
	} else if idle := s.srv.cfg.IdleTimeout; idle > 0 {
		last := s.tunnel.began
		if p := time.Unix(0, s.lastPacket.Load()); p.After(last) {
			last = p
		}
		sooner(last.Add(idle))
	}
	return at
}

// review ends the session if its time has come, and else looks again when that may be.
func (s *session) review() {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	if wait := time.Until(s.deadline()); wait > 0 {
		s.timer.Reset(wait)
		s.mu.Unlock()
		return
	}
	reason := "session expired"
	if s.tunnel != nil && time.Now().Before(s.expires) {
		reason = "idle timeout"
	}
	s.mu.Unlock()
	s.end(reason)
}

// reviewSoon makes the timer notice that the deadline may have moved closer.
func (s *session) reviewSoon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.timer.Reset(max(0, time.Until(s.deadline())))
	}
}

// end ends the session for good: it tells the client why, if there is one, and waits until nothing of the session runs.
func (s *session) end(reason string) {
	s.connecting.Lock()
	defer s.connecting.Unlock()
	t := s.srv.table
	t.mu.Lock()
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		t.mu.Unlock()
		return
	}
	s.ended = true
	s.timer.Stop()
	addrs := s.addrs
	s.addrs = nil
	t.disown(addrs)
	delete(t.byKey, s.key)
	delete(t.byID, s.id)
	tun := s.tunnel
	s.tunnel = nil
	s.mu.Unlock()
	t.mu.Unlock()

	s.srv.log.Info("session ends", "session", s.id, "user", s.user, "reason", reason)
	if tun != nil {
		tun.disconnect(reason)
		tun.close()
	}
	s.srv.forgetDTLS(s)
	s.paths.close()
	s.flows.close()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed { // else the stack is about to forget everything
		t.release(addrs)
	}
}

// info returns what there is to know about the session now.
func (s *session) info() SessionInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := SessionInfo{
		ID: s.id, User: s.user, Group: s.group,
		UserAgent: s.agent.userAgent, Platform: s.agent.platform, Hostname: s.agent.hostname,
		Addresses: slices.Clone(s.addrs),
		LoggedIn:  s.loggedIn,
		Expires:   s.expires,
		Received:  Traffic{s.rxPackets.Load(), s.rxBytes.Load()},
		Sent:      Traffic{s.txPackets.Load(), s.txBytes.Load()},
		Dropped:   s.dropped.Load(),
		Spoofed:   s.oldSpoofed.Load() + s.source.Load().Dropped(),
		Connects:  s.connects,
	}
	if n := s.lastPacket.Load(); n != 0 {
		i.LastPacket = time.Unix(0, n)
	}
	if s.tunnel != nil {
		i.Remote, i.MTU, i.Connected = s.tunnel.remote, s.tunnel.mtu, s.tunnel.began
	}
	i.Path, i.RemoteUDP, i.DTLSCipher = s.paths.describe()
	return i
}
