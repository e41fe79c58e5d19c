package dtls

import (
	"errors"
	"time"

	"culvert.example/vpn/transport/wire"
)

// localLimit is how large a packet may be for the system to send it, in bytes, or 0 if that is unknown.
func (c *Conn) localLimit() int {
	if path := c.out.pathMTU(); path > 0 {
		return max(path-c.outer-c.suite.overhead()-1, 1)
	}
	return 0
}

func (c *Conn) lower(mtu int) {
	for {
		old := c.mtu.Load()
		if old <= int64(mtu) {
			return
		}
		if c.mtu.CompareAndSwap(old, int64(mtu)) {
			c.falls(int(old))
			return
		}
	}
}

// falls notes that the MTU, which was old, may be less from now on. The time until it is looked for a larger one runs from the first fall,
// since loss may bring about others all the time.
func (c *Conn) falls(old int) {
	if old >= c.ceiling {
		c.looked.Store(time.Now().UnixNano())
	}
}

// probe sends a request that is padded to the MTU, so that the answer shows that packets of that size still arrive. From the
// second one without an echo on, a small one goes with it: if that is answered, the path lives and has become narrower.
func (c *Conn) probe() error {
	if c.searching.Load() {
		// The search sends probes enough, and an answer to another one could mislead it.
		if c.echoes.Load() {
			return c.sendProbe(smallProbe)
		}
		return nil
	}
	c.controlMu.Lock()
	c.sinceEcho++
	since := c.sinceEcho
	size := c.MTU()
	c.probed = size
	c.controlMu.Unlock()
	err := c.sendProbe(size)
	if errors.Is(err, errTooBig) {
		c.measure()
	}
	if since > 1 || err != nil {
		return c.sendProbe(smallProbe)
	}
	return nil
}

func (c *Conn) sendProbe(size int) error {
	c.controlMu.Lock()
	defer c.controlMu.Unlock()
	u := c.pool.one(2 * c.ctl.size(size+1))
	defer c.pool.put(u)
	plain := u.mem[c.ctl.size(size+1):][:size+1]
	plain[0] = byte(wire.DPDRequest)
	putProbe(plain[1:], c.mark)
	return c.sealed(u, typeData, plain)
}

// answered takes note of the payload of an answer.
func (c *Conn) answered(payload []byte) {
	a := answer{size: len(payload), echo: isEcho(payload, c.mark)}
	if a.echo {
		c.echoes.Store(true)
	}
	if c.searching.Load() {
		select {
		case c.answers <- a:
		default:
		}
		return
	}
	c.controlMu.Lock()
	narrow := false
	switch {
	case a.echo && a.size >= c.probed, !a.echo && !c.echoes.Load() && c.sinceEcho < 2:
		c.sinceEcho = 0
	case c.sinceEcho > 1:
		narrow = true
		c.sinceEcho = 0
	}
	c.controlMu.Unlock()
	if narrow {
		c.measure()
	}
}

const (
	// confirmPace is how often it is looked at least whether large packets arrive, while any are sent.
	confirmPace = time.Second
	// confirmTries is how many probes in succession stay without an echo before it is left to the Beat to find out whether
	// anything arrives at all.
	confirmTries = 4
	// raisePace is how often it is looked for a larger MTU, while large packets are sent (PMTU_RAISE_TIMER of RFC 8899 section 5.1.1).
	raisePace = 10 * time.Minute
)

// confirm has probes show that large packets arrive, unless that was done a moment ago. The Beat probes only who is silent, and a
// path that has become narrower keeps nobody silent: small packets go on in both directions, and the large ones are lost for ever.
func (c *Conn) confirm() {
	now, last := time.Now().UnixNano(), c.confirmed.Load()
	if now-last < int64(confirmPace) || c.searching.Load() || !c.confirmed.CompareAndSwap(last, now) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.work.Go(func() {
		if c.raise() {
			return
		}
		for range confirmTries {
			c.probe()
			select {
			case <-time.After(max(firstWait, 2*c.beat.RTT())):
			case <-c.ended:
				return
			}
			c.controlMu.Lock()
			missing := c.sinceEcho
			c.controlMu.Unlock()
			if missing == 0 || c.searching.Load() {
				return
			}
		}
	})
}

// measure searches for the MTU in the background, unless that is going on.
func (c *Conn) measure() {
	if !c.searching.CompareAndSwap(false, true) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		c.searching.Store(false)
		return
	}
	c.work.Go(func() { c.searchAndAgain(func() {}) })
}

// searchAgain is when the search is repeated that nobody answered, and how often.
const (
	searchAgain  = 3 * time.Second
	searchRounds = 3
)

// searchAndAgain finds the MTU, and calls first when that is done for the first time. A peer may be deaf at first: openconnect
// answers nobody before it has set up its interface.
func (c *Conn) searchAndAgain(first func()) {
	for i := range searchRounds {
		answered := c.search()
		c.searching.Store(false)
		if i == 0 {
			first()
		}
		if answered {
			return
		}
		select {
		case <-time.After(searchAgain << i):
		case <-c.ended:
			return
		}
		if !c.searching.CompareAndSwap(false, true) {
			return
		}
	}
	c.searching.Store(false)
}

// search finds the MTU, which is not larger than it was, and reports whether the peer answered. Somebody must be reading meanwhile.
func (c *Conn) search() bool {
	s := c.find(c.MTU())
	if s == nil {
		return true
	}
	mtu, err := s.result()
	if err != nil {
		c.fail(err)
		return true
	}
	old := c.MTU()
	if mtu != old {
		c.log.Info("DTLS channel: MTU found", "mtu", mtu, "before", old)
	}
	c.falls(old)
	c.mtu.Store(int64(mtu))
	return s.answered
}

// raise searches for a larger MTU if it is time for that, and reports whether it did. To a search that falls into a time of loss a path
// looks narrower than it is, and paths become wider too. Such a search only raises the MTU, to a size that has arrived: whether
// the present one does is not its matter.
func (c *Conn) raise() bool {
	old := c.mtu.Load()
	if old >= int64(c.ceiling) || time.Now().UnixNano()-c.looked.Load() < int64(raisePace) || !c.searching.CompareAndSwap(false, true) {
		return false
	}
	defer c.searching.Store(false)
	defer func() { c.looked.Store(time.Now().UnixNano()) }()
	// If the system has refused a packet meanwhile, the MTU is not what it was.
	if s := c.find(c.ceiling); s != nil && int64(s.lo) > old && c.mtu.CompareAndSwap(old, int64(s.lo)) {
		c.log.Info("DTLS channel: larger MTU found", "mtu", s.lo, "before", old)
	}
	return true
}

// find carries out a search for sizes up to ceiling. It returns nil if the Conn ended first.
func (c *Conn) find(ceiling int) *search {
	for len(c.answers) > 0 {
		<-c.answers
	}
	start := time.Now()
	now := func() time.Duration { return time.Since(start) + 1 }
	s := newSearch(c.floor, ceiling, c.beat.RTT(), now())
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		send, next, done := s.step(now())
		if done {
			return s
		}
		for _, size := range send {
			if errors.Is(c.sendProbe(size), errTooBig) {
				s.tooBig(size)
				if l := c.localLimit(); l > 0 && l < size {
					s.limit(l)
					next = now()
					break
				}
			}
		}
		timer.Reset(next - now())
		select {
		case <-timer.C:
		case a := <-c.answers:
			s.answer(now(), a.size, a.echo)
		case <-c.ended:
			return nil
		}
	}
}
