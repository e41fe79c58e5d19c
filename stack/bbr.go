package stack

import (
	"math"
	"time"
)

// bbr is a congestion control after draft-ietf-ccwg-bbr. It models the path by the most that it has delivered in a second and by the
// least time that a round trip has taken, sends at that rate, and keeps about their product in flight. A packet that is lost is
// no sign of a queue to it, so it fills paths that lose some at random, which CUBIC cannot. When a round trip loses more than maxLoss,
// what may be in flight gets a ceiling.
//
// All amounts are in bytes.
type bbr struct {
	mss   float64
	state bbrState
	cwnd  float64
	prior float64 // cwnd before everything was lost

	// A round ends when what was sent after its beginning arrives.
	roundEnd                int64
	rounds                  int
	roundDelivered, dropped int64 // what had arrived, and what was lost, at the beginning of the round

	rates [bandwidthRounds]float64 // the highest of each of the last rounds
	rate  float64                  // the highest of those

	minRTT   time.Duration
	minRTTAt time.Duration

	// The pipe is full when the rate has ceased to grow.
	full      float64
	fullCount int
	filled    bool

	phase   int // of the gain cycle
	phaseAt time.Duration
	probed  float64 // the rate when the cycle began

	probeEnd   time.Duration // of the time with little in flight, 0 until it is so little
	probeRound int

	// extra is by how much more than the rate tells has arrived at once: the peer or the network hold acknowledgements back.
	extra      [2]float64
	extraRound int
	epoch      time.Duration
	epochBytes float64

	// ceiling is how much may be in flight without too much being lost.
	ceiling float64
	// lossy is whether this round has lost too much already.
	lossy bool
}

type bbrState byte

const (
	bbrStartup bbrState = iota
	bbrDrain
	bbrProbe
	bbrProbeRTT
)

const (
	bandwidthRounds = 10
	extraRounds     = 5

	startupGain = 2.77
	drainGain   = 1 / startupGain
	windowGain  = 2
	// paceMargin keeps the rate a little below what was measured, so that queues do not stay.
	paceMargin = 0.99

	fullGrowth = 1.25
	fullRounds = 3
	// probeGrowth is by how much the rate grows at least when a path takes all of a probe.
	probeGrowth = 1.15

	minRTTAge      = 10 * time.Second
	probeRTTTime   = 200 * time.Millisecond
	probeRTTGain   = 0.5
	minBBRSegments = 4

	// maxLoss is the share of a round trip whose loss is still taken for chance, if it is minLossSegments or more.
	maxLoss         = 0.02
	minLossSegments = 8
	lossBeta        = 0.7

	// paceQuantum is about how often a flow that is paced may send.
	paceQuantum = time.Millisecond
	// minPacedRTT is the round-trip time below which acknowledgements come so often that they are all the pacing it needs.
	minPacedRTT = 2 * time.Millisecond
)

// gains are by how much more or less than the rate each phase sends. Each lasts about a round trip.
var gains = [8]float64{1.25, 0.75, 1, 1, 1, 1, 1, 1}

func (b *bbr) init(mss int) {
	*b = bbr{mss: float64(mss), cwnd: float64(initialSegments * mss), ceiling: math.Inf(1)}
}

// product returns what is in flight when the path is full and no queue stands.
func (b *bbr) product(gain float64) float64 {
	if b.minRTT == 0 || b.rate == 0 {
		return initialSegments * b.mss
	}
	return max(gain*b.rate*b.minRTT.Seconds(), minBBRSegments*b.mss)
}

func (b *bbr) gain() float64 {
	switch b.state {
	case bbrStartup:
		return startupGain
	case bbrDrain:
		return drainGain
	case bbrProbe:
		return gains[b.phase]
	}
	return 1
}

func (b *bbr) pace() float64 {
	if b.rate == 0 || b.minRTT < minPacedRTT {
		return 0
	}
	rate := b.rate
	if !b.filled {
		// What little a flow may have had to send so far must not hold it back.
		rate = max(rate, initialSegments*b.mss/b.minRTT.Seconds())
	}
	return b.gain() * rate * paceMargin
}

func (b *bbr) quantum() float64 {
	return min(max(b.rate*paceQuantum.Seconds(), 2*b.mss), gsoMaxSize)
}

func (b *bbr) window() float64 {
	w := b.cwnd
	switch b.state {
	case bbrDrain:
		w = min(w, b.product(1)+b.quantum())
	case bbrProbeRTT:
		w = min(w, b.product(probeRTTGain))
	}
	return max(min(w, b.ceiling), minBBRSegments*b.mss)
}

func (b *bbr) acked(n *news) {
	b.mss = float64(n.mss)
	begins := n.valid && n.prior >= b.roundEnd
	if begins {
		b.rounds++
		b.roundEnd = n.delivered
	}
	b.measure(n, begins)
	b.aggregate(n, begins)
	b.watchLoss(n, begins)
	b.watchGrowth(n, begins)
	b.cycle(n)
	b.probeRTT(n, begins)
	b.grow(n)
}

// measure takes in the rate of delivery and the round-trip time.
func (b *bbr) measure(n *news, begins bool) {
	if begins && !n.limited {
		b.rates[b.rounds%bandwidthRounds] = 0
		b.rate = 0
		for _, r := range b.rates {
			b.rate = max(b.rate, r)
		}
	}
	if n.reading.rate > 0 && (!n.limited || n.reading.rate > b.rate) {
		r := &b.rates[b.rounds%bandwidthRounds]
		*r = max(*r, n.reading.rate)
		b.rate = max(b.rate, *r)
	}
}

// aggregate measures how much more arrives at once than the rate tells.
func (b *bbr) aggregate(n *news, begins bool) {
	if begins && b.rounds >= b.extraRound {
		b.extraRound = b.rounds + extraRounds
		b.extra[0], b.extra[1] = 0, b.extra[0]
	}
	expected := b.rate * (n.now - b.epoch).Seconds()
	if b.epochBytes <= expected {
		b.epoch, b.epochBytes, expected = n.now, 0, 0
	}
	b.epochBytes += float64(n.bytes)
	b.extra[0] = max(b.extra[0], min(b.epochBytes-expected, b.cwnd))
}

// watchLoss lowers the ceiling when a round has lost too much.
func (b *bbr) watchLoss(n *news, begins bool) {
	lost := float64(n.dropped - b.dropped)
	arrived := float64(n.delivered - b.roundDelivered)
	if !b.lossy && lost >= minLossSegments*b.mss && lost > maxLoss*(lost+arrived) && begins {
		b.lossy = true
		if b.state == bbrStartup {
			b.fill()
		}
		b.ceiling = max(b.product(1), min(lossBeta*b.ceiling, max(float64(n.peak), lossBeta*b.window())))
		if b.state == bbrProbe && b.phase == 0 {
			b.next(n.now)
		}
	}
	if begins {
		b.dropped, b.roundDelivered, b.lossy = n.dropped, n.delivered, false
	}
	if b.state == bbrProbe && b.phase == 0 && !b.lossy && float64(n.peak) > 0.9*b.ceiling {
		b.ceiling += float64(n.bytes) / 4
	}
}

func (b *bbr) fill() {
	b.filled = true
	b.state = bbrDrain
}

// watchGrowth ends the startup when the rate has ceased to grow.
func (b *bbr) watchGrowth(n *news, begins bool) {
	if b.filled || !begins || n.limited || 2*float64(n.peak) < b.window() {
		return // a round of little, such as a request, says nothing of what the path can take
	}
	if b.rate >= fullGrowth*b.full {
		b.full, b.fullCount = b.rate, 0
		return
	}
	if b.fullCount++; b.fullCount >= fullRounds {
		b.fill()
	}
}

// cycle moves on in the gain cycle.
func (b *bbr) cycle(n *news) {
	switch b.state {
	case bbrDrain:
		if float64(n.pipe) <= b.product(1)+b.quantum() {
			b.probe(n.now)
		}
	case bbrProbe:
		long := n.now-b.phaseAt > b.minRTT
		switch gain := gains[b.phase]; {
		case gain > 1:
			if long && (float64(n.pipe) >= b.product(gain) || float64(n.pipe) >= b.ceiling || n.limited) {
				b.next(n.now)
			}
		case gain < 1:
			if long || float64(n.pipe) <= b.product(1) {
				b.next(n.now)
			}
		case b.rate >= probeGrowth*b.probed:
			// The path took what was more than before, so there may be more: a startup that losses ended early is made up for.
			b.phase = -1
			b.next(n.now)
		case long:
			b.next(n.now)
		}
	}
}

// probe begins the gain cycle, not always at the same phase: flows that share a path should not all probe at once.
func (b *bbr) probe(now time.Duration) {
	b.state = bbrProbe
	b.phase = 2 + int(now/time.Microsecond)%(len(gains)-2)
	b.phaseAt, b.probed = now, b.rate
}

func (b *bbr) next(now time.Duration) {
	b.phase = (b.phase + 1) % len(gains)
	b.phaseAt = now
	if b.phase == 0 {
		b.probed = b.rate
	}
}

// probeRTT takes in the round-trip time, and sends little for a while when the least one was long ago: it may have been that of a queue
// of its own ever since.
func (b *bbr) probeRTT(n *news, begins bool) {
	old := n.now-b.minRTTAt > minRTTAge
	if n.rtt > 0 && (b.minRTT == 0 || n.rtt <= b.minRTT || old) {
		b.minRTT, b.minRTTAt = n.rtt, n.now
	} else {
		old = false
	}
	switch {
	case b.state != bbrProbeRTT:
		if old && b.filled {
			b.state, b.probeEnd = bbrProbeRTT, 0
		}
	case b.probeEnd == 0:
		if float64(n.pipe) <= b.window() {
			b.probeEnd, b.probeRound = n.now+probeRTTTime, b.rounds
		}
	case n.now > b.probeEnd && b.rounds > b.probeRound:
		b.minRTTAt = n.now
		b.probe(n.now)
	}
}

// grow sets the window.
func (b *bbr) grow(n *news) {
	target := b.product(windowGain) + 2*b.quantum() + max(b.extra[0], b.extra[1])
	if b.filled {
		b.cwnd = min(b.cwnd+float64(n.bytes), target)
	} else if b.cwnd < max(target, windowGain*b.rate*n.srtt.Seconds()) {
		// A busy machine makes round trips longer than the least one, which must not end the startup.
		b.cwnd += float64(n.bytes)
	}
	b.cwnd = max(b.cwnd, minBBRSegments*b.mss)
}

func (b *bbr) lost() {}
func (b *bbr) undo() {}

func (b *bbr) collapsed() {
	if b.prior == 0 {
		b.prior = b.cwnd
	}
	b.cwnd = b.mss
}

func (b *bbr) restored() {
	b.cwnd = max(b.cwnd, b.prior)
	b.prior = 0
}
