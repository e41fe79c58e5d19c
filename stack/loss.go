package stack

import "time"

// A reason is what the timer of a flow waits for.
type reason byte

const (
	dueReorder reason = iota // something is lost unless it arrives
	dueProbe                 // acknowledgements have ceased to come
	dueTimeout               // the probe was in vain
)

const (
	minTimeout     = 200 * time.Millisecond
	maxTimeout     = 30 * time.Second
	initialTimeout = time.Second
	// delayedAck is how long peers may wait before they acknowledge a single segment.
	delayedAck = 60 * time.Millisecond
	// clockMargin is how long a busy machine may take to run a goroutine.
	clockMargin  = 10 * time.Millisecond
	dupThreshold = 3
	maxPatience  = 16
)

// adapt changes how late a segment may be.
func (f *flow) adapt(dsack bool) {
	if dsack && !before(f.una, f.patienceUntil) {
		f.patience = min(f.patience+1, maxPatience)
		f.patienceUntil = f.nxt
	}
}

// window returns how late a segment may be before it is lost.
func (f *flow) window() time.Duration {
	if !f.reordered && (f.recovering || f.sacked >= dupThreshold*f.mss) {
		return 0
	}
	return min(f.minRTT/4*time.Duration(f.patience), f.srtt)
}

// detect finds what is lost: what was sent before something that has arrived, and longer ago than that took.
func (f *flow) detect(now time.Duration) {
	if f.rackSent == 0 {
		return
	}
	wait := f.window()
	var later time.Duration
	any := false
	for i := f.head; i < len(f.pieces); i++ {
		c := &f.pieces[i]
		if c.sacked || c.lost {
			continue
		}
		if c.sent > f.rackSent || c.sent == f.rackSent && !before(c.end, f.rackEnd) {
			if c.tries == 1 {
				break // all behind it were sent later
			}
			continue
		}
		if rest := c.sent + f.rackRTT + wait - now; rest > 0 {
			if later == 0 || rest < later {
				later = rest
			}
			continue
		}
		f.lose(c)
		any = true
	}
	f.due = 0
	if later > 0 {
		f.due, f.dueIs = now+later, dueReorder
	}
	if any && !f.recovering {
		f.recover()
	}
}

func (f *flow) recover() {
	f.recovering, f.recoverTo, f.probing = true, f.nxt, false
	f.needed = 0
	f.g.l.s.stats.recoveries.Add(1)
	f.cc.lost()
}

// recovered ends the recovery.
func (f *flow) recovered() {
	f.recovering = false
	switch {
	case f.collapsed:
		f.cc.restored()
	case f.needed <= 0:
		f.cc.undo()
	}
	f.collapsed = false
}

// timeout returns when a connection without acknowledgements has lost all.
func (f *flow) timeout() time.Duration {
	d := initialTimeout
	if f.srtt > 0 {
		d = max(f.srtt+4*f.rttvar, minTimeout)
	}
	return min(d<<f.backoff, maxTimeout)
}

// schedule sees to it that the timer looks after f in time.
func (f *flow) schedule(now time.Duration) {
	switch {
	case f.una == f.nxt:
		f.due = 0
	case f.due > now && f.dueIs == dueReorder:
	case !f.probing && !f.recovering && f.sacked == 0 && f.srtt > 0 && f.backoff == 0:
		d := 2*f.srtt + clockMargin
		if int(f.nxt-f.una) <= f.mss {
			d += delayedAck
		}
		f.due, f.dueIs = now+min(d, f.timeout()), dueProbe
	default:
		f.due, f.dueIs = now+f.timeout(), dueTimeout
	}
	if f.due > 0 && (f.armed == 0 || f.due < f.armed) {
		f.arm(now)
	}
}

func (f *flow) arm(now time.Duration) {
	f.armed = f.due
	d := max(f.due-now, 0)
	if f.timer == nil {
		f.timer = time.AfterFunc(d, f.look)
	} else {
		f.timer.Reset(d)
	}
}

// look is what the timer calls.
func (f *flow) look() {
	f.g.mu.Lock()
	defer f.g.mu.Unlock()
	f.armed = 0
	now := f.g.now()
	switch {
	case f.due == 0 || !f.agreed || f.head == len(f.pieces):
		return
	case f.due > now:
		f.arm(now)
		return
	}
	if f.g.l.queue.waiting() {
		// What is missed may not have left yet.
		f.due = now + max(f.srtt, clockMargin)
		f.arm(now)
		return
	}
	switch f.dueIs {
	case dueReorder:
		f.due = 0
		f.detect(now)
		f.transmit(now)
	case dueProbe:
		f.probing, f.probeEnd, f.probeSent = true, f.nxt, now
		last := len(f.pieces) - 1
		if c := &f.pieces[last]; c.size() > f.mss {
			f.split(c.end - uint32(f.mss))
			last++
		}
		f.due = 0
		f.resend(last, now)
	case dueTimeout:
		if f.pieces[f.head].sacked {
			// The peer has thrown away what it had (RFC 2018 section 8).
			f.g.forget(f)
			return
		}
		if f.backoff > 0 {
			f.g.doubt(f) // the netstack gives up at some time (RFC 9293 section 3.8.3), and so shall this
		}
		f.due = 0
		f.backoff = min(f.backoff+1, 8)
		f.probing = false
		for i := f.head; i < len(f.pieces); i++ {
			if c := &f.pieces[i]; !c.sacked {
				f.lose(c)
			}
		}
		f.cc.collapsed()
		f.recovering, f.collapsed, f.recoverTo = true, true, f.nxt
		f.g.l.s.stats.timeouts.Add(1)
		f.transmit(now)
	}
	f.schedule(now)
}
