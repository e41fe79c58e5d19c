package stack

import (
	"math"
	"time"
)

// cubic is the congestion control of RFC 9438 with the slow start of RFC 9406 in its simplest form. It counts in bytes, and in fractions
// of them: a window of a few segments grows by less than one for each acknowledgement.
type cubic struct {
	cwnd, ssthresh float64

	// Congestion avoidance: the window before the last loss, when the present epoch began, when the curve is back at
	// that window, and what Reno would have by now.
	max   float64
	epoch time.Duration
	k     float64
	reno  float64

	// Slow start watches the round-trip time of each round for a queue that builds up.
	roundEnd        uint32
	roundRTT        time.Duration
	lastRTT         time.Duration
	samples         int
	growing, seeded bool
	// left is the round-trip time that ended the slow start, or 0, and rounds how many more may show that it was none of a
	// queue: a packet that others have overtaken looks the same.
	left   time.Duration
	rounds int
	// threshold is what ssthresh was until then.
	threshold float64

	mss int
	// before is the state from before the last reduction.
	before *cubic
}

const (
	cubicC    = 0.4
	cubicBeta = 0.7
	// renoShare is how fast Reno would have to grow to share fairly with the smaller reduction of CUBIC.
	renoShare = 3 * (1 - cubicBeta) / (1 + cubicBeta)

	initialSegments = 10
	// slowStartSamples is how many round-trip times make a round's least one credible.
	slowStartSamples = 4
	// slowStartRounds is for how many rounds the end of the slow start may turn out to be an error.
	slowStartRounds = 5
	minDelayRise    = 4 * time.Millisecond
	maxDelayRise    = 16 * time.Millisecond
)

func (c *cubic) init(mss int) {
	*c = cubic{cwnd: float64(initialSegments * mss), ssthresh: math.MaxFloat64, mss: mss, before: c.before}
	if c.before == nil {
		c.before = new(cubic)
	}
}

func (c *cubic) window() float64 { return c.cwnd }
func (c *cubic) pace() float64   { return 0 }

func (c *cubic) acked(n *news) {
	c.mss = n.mss
	c.round(n.una, n.nxt, n.rtt)
	if !n.recovering && c.limited(float64(n.peak)) {
		c.grow(float64(n.bytes), n.mss, n.now, n.srtt)
	}
}

func (c *cubic) lost() {
	*c.before = *c
	c.reduce(c.mss)
}

func (c *cubic) undo() { *c = *c.before }

func (c *cubic) collapsed() {
	c.reduce(c.mss)
	c.cwnd = float64(c.mss)
}

func (c *cubic) restored() {}

// round watches the slow start: una and nxt are the ends of what is in flight.
func (c *cubic) round(una, nxt uint32, rtt time.Duration) {
	if c.cwnd >= c.ssthresh && c.left == 0 || rtt <= 0 {
		return
	}
	if !c.seeded || int32(una-c.roundEnd) >= 0 {
		c.seeded = true
		c.roundEnd = nxt
		c.lastRTT, c.roundRTT, c.samples = c.roundRTT, 0, 0
		if c.rounds--; c.rounds < 0 {
			c.left = 0
		}
	}
	if c.roundRTT == 0 || rtt < c.roundRTT {
		c.roundRTT = rtt
	}
	c.samples++
	switch {
	case c.samples < slowStartSamples:
	case c.left > 0:
		if c.roundRTT < c.left {
			c.left, c.ssthresh, c.growing = 0, c.threshold, false
		}
	case c.cwnd < c.ssthresh && c.lastRTT > 0:
		rise := min(max(c.lastRTT/8, minDelayRise), maxDelayRise)
		if c.roundRTT >= c.lastRTT+rise {
			c.threshold, c.ssthresh = c.ssthresh, c.cwnd
			c.left, c.rounds = c.roundRTT, slowStartRounds
		}
	}
}

// limited reports whether it is the window that keeps more than used bytes from being in flight.
func (c *cubic) limited(used float64) bool {
	if c.cwnd < c.ssthresh {
		return 2*used > c.cwnd
	}
	return 4*used >= 3*c.cwnd
}

// grow is called for acked bytes that have arrived while the window was used.
func (c *cubic) grow(acked float64, mss int, now, rtt time.Duration) {
	if c.cwnd < c.ssthresh {
		n := min(acked, c.ssthresh-c.cwnd)
		c.cwnd += n
		if acked -= n; acked <= 0 {
			return
		}
	}
	m := float64(mss)
	if !c.growing {
		c.growing = true
		c.epoch = now
		c.reno = c.cwnd
		if c.max < c.cwnd {
			c.max = c.cwnd
			c.k = 0
		} else {
			c.k = math.Cbrt((c.max - c.cwnd) / m / cubicC)
		}
	}
	at := func(t float64) float64 {
		d := t - c.k
		return cubicC*d*d*d*m + c.max
	}
	t := (now - c.epoch).Seconds()
	share := renoShare
	if c.reno >= c.max {
		share = 1
	}
	c.reno += share * acked * m / c.cwnd
	if at(t) < c.reno {
		c.cwnd = max(c.cwnd, c.reno)
		return
	}
	target := min(max(at(t+rtt.Seconds()), c.cwnd), 1.5*c.cwnd)
	c.cwnd += (target - c.cwnd) * acked / c.cwnd
}

// reduce makes the window smaller after a loss.
func (c *cubic) reduce(mss int) {
	if c.cwnd < c.max {
		c.max = c.cwnd * (1 + cubicBeta) / 2 // others want a share
	} else {
		c.max = c.cwnd
	}
	c.cwnd = max(c.cwnd*cubicBeta, float64(2*mss))
	c.ssthresh = c.cwnd
	c.growing = false
	c.left = 0
}
