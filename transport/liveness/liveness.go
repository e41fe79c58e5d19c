// Package liveness decides when a channel to a peer is probed, kept warm, keyed anew and given up.
//
// A channel is a connection that may die without a word: a UDP flow whose NAT mapping is gone, a TCP connection whose
// other end has lost its power. Only what arrives proves that it lives, so the [Machine] counts silence:
//
//   - An idle channel is probed after [Config.DPD] of silence and then every half of it, and is dead after twice
//     that. This is dead peer detection as AnyConnect gateways and clients have it.
//   - A channel under load is held to more. Data that went either way raises the question whether the channel still works,
//     and whatever else then arrives answers it. As long as the question stands, silence of a fraction of a second causes a
//     probe, and silence of at most [Config.Load] is death. One answer settles the question until the next
//     data, so that a channel at rest is never probed at that pace.
//   - A peer that has sent data, but never answered a probe, is not held to the second rule: it may not know probes. It is
//     asked a few more times while data flows.
//
// The package has no clock, no goroutine and no I/O. Times are durations since any fixed instant, and "now" is an argument.
// Package heartbeat adds the timer.
package liveness

import (
	"math"
	"strings"
	"time"
)

// Never is the deadline of a [Machine] that waits for nothing.
const Never time.Duration = math.MaxInt64

const (
	// DefaultLoad is how long a channel under load may be silent if [Config.Load] is zero.
	DefaultLoad = 3 * time.Second

	// minGap is the least time between two probes, and the silence under load that causes one, where the round-trip time and
	// the Config do not ask for another.
	minGap = 250 * time.Millisecond

	// With a round trip that is known to be short, a channel under load need not wait for all of Config.Load: it is dead
	// once manyProbes are unanswered and it has been silent for enoughSilence and for four round trips.
	manyProbes    = 4
	enoughSilence = 1200 * time.Millisecond

	// fewProbes must be unanswered before silence under load counts at all, or a process that was stopped for a while would find
	// its channels dead before it has read what waits in the sockets.
	fewProbes = 2

	// mostAsked is how often a peer that has sent data is asked again whether it knows probes, the first time after minGap
	// and then after twice as long each time. The answer to the first probe may have been lost.
	mostAsked = 6

	// checkTime is the silence that ends a channel after Check.
	checkTime = 1500 * time.Millisecond

	// maxSample bounds one measurement of the round-trip time. A longer one says that a probe was lost.
	maxSample = 3 * time.Second

	// pause is how late a Step may come before the Machine takes it that the process stood still.
	pause = time.Second

	// shortest and longest bound what a Config may ask for: no busy loop, and no overflow when added to a time.
	shortest = 10 * time.Millisecond
	longest  = 10 * 365 * 24 * time.Hour
)

// A Config says how patient a [Machine] is. Positive periods are taken to be at least 10 milliseconds.
type Config struct {
	// DPD is the silence after which an idle channel is probed. It is dead after twice as much. Not positive means that an idle
	// channel is neither probed nor declared dead.
	DPD time.Duration

	// Keepalive is the time without sending after which a keepalive goes out. Not positive means never.
	Keepalive time.Duration

	// Rekey is the age at which the channel is keyed anew, and again after each such period. Not positive means never.
	Rekey time.Duration

	// Load is the longest silence of a channel under load. Zero means [DefaultLoad]; negative means that load makes
	// no difference.
	Load time.Duration
}

// An Action is what the owner of a [Machine] has to do, as a set of bits.
type Action uint8

// The actions, in the order in which they are to be done.
const (
	// DoRekey: key the channel anew, or open another in its place.
	DoRekey Action = 1 << iota
	// SendProbe: send what the peer has to answer at once.
	SendProbe
	// SendKeepalive: send anything, so that nobody on the way forgets the channel.
	SendKeepalive
	// Dead: the channel is dead. It comes alone and last.
	Dead
)

// String returns the names of the actions in a, joined by "+", or "nothing".
func (a Action) String() string {
	if a == 0 {
		return "nothing"
	}
	var names []string
	for i, name := range [...]string{"rekey", "probe", "keepalive", "dead"} {
		if a&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "+")
}

// Seen is what has happened on the channel so far: the last time of each kind of event, zero if there was none. A received
// frame counts in several.
type Seen struct {
	// Sent is when anything was sent.
	Sent time.Duration
	// Data is when data was sent or received.
	Data time.Duration
	// Received is when anything was received.
	Received time.Duration
	// Control is when something other than data was received.
	Control time.Duration
	// Answered is when the latest probe was answered: the first answer, if there were several.
	Answered time.Duration
}

// A Machine watches over one channel. Its owner calls Step, at the latest at the deadline that the last Step
// returned, and does what it says. It is not safe for concurrent use.
//
//	                 data, either way
//	   ┌───────┐ ──────────────────────► ┌─────────┐  silent for Load, or for four
//	   │ quiet │                         │ suspect │  round trips and four probes
//	   └───────┘ ◄────────────────────── └─────────┘ ───────────────┐
//	     │   ▲     anything but data       │   ▲                    │
//	     │   │      was received           │   │                    ▼
//	Check│   │answer                  Check│   │answer          ┌──────┐
//	     ▼   │                             ▼   │                │ dead │
//	   ┌─────────────────────────────────────────┐ silent 1.5 s └──────┘
//	   │                 checked                 │ ─────────────► ▲
//	   └─────────────────────────────────────────┘                │
//	     any state: silent for 2*DPD, or asleep for so long ──────┘
type Machine struct {
	cfg  Config
	now  time.Duration // the latest time seen; time does not run backwards
	next time.Duration // what the last Step returned

	rekeyAt  time.Duration
	sent     time.Duration // when anything was last sent
	received time.Duration // when anything was last received, or the start
	heard    bool          // anything was ever received
	answered time.Duration // when the last answer came
	proven   bool          // a probe was ever answered, so the peer knows probes

	probed     time.Duration // when the last probe was sent
	probing    bool          // a probe was ever sent
	unanswered int           // probes since anything was received
	asked      int           // probes since the peer was first heard, which only find out whether it knows them
	open       bool          // a probe awaits its answer
	first      time.Duration // when the first probe that awaits its answer was sent
	srtt       time.Duration // smoothed round-trip time; 0 while unknown

	suspect bool
	since   time.Duration // when suspect became true

	check   bool
	checkAt time.Duration

	lost bool // the host slept for too long
	dead bool
}

// New returns a Machine for a channel that opens now.
func New(cfg Config, now time.Duration) *Machine {
	if cfg.Load == 0 {
		cfg.Load = DefaultLoad
	}
	for _, d := range []*time.Duration{&cfg.DPD, &cfg.Keepalive, &cfg.Rekey, &cfg.Load} {
		if *d > 0 {
			*d = min(max(*d, shortest), longest)
		} else {
			*d = 0
		}
	}
	m := &Machine{cfg: cfg, now: now, next: Never, rekeyAt: Never, sent: now, received: now}
	if cfg.Rekey > 0 {
		m.rekeyAt = after(now, cfg.Rekey)
	}
	return m
}

// Step takes note of what was seen up to now, and returns what there is to do now and when to call Step next if nothing
// happens. That is later than now, and [Never] once the channel is dead. When [Machine.Suspect] is false, the owner must also call
// Step as soon as data goes either way.
func (m *Machine) Step(now time.Duration, s Seen) (next time.Duration, do Action) {
	if m.dead {
		return Never, 0
	}
	now = max(now, m.now)
	if m.next != Never && now > after(m.next, pause) {
		// Nothing was read in the meantime, so the silence means nothing, unless it was long enough for an idle channel.
		m.since, m.checkAt, m.unanswered = now, now, 0
	}
	m.now = now
	m.learn(s)
	if now >= m.deadAt() {
		m.dead, m.next = true, Never
		return Never, Dead
	}
	if now >= m.rekeyAt {
		do |= DoRekey
		m.rekeyAt = after(now, m.cfg.Rekey)
	}
	if now >= m.probeAt() {
		do |= SendProbe
		again := m.heard && !m.proven
		if again {
			m.asked++
		}
		if !m.open || again || now-m.first > maxSample {
			m.open, m.first = true, now
		}
		m.probing, m.probed, m.sent = true, now, now
		m.unanswered++
	}
	if now >= m.keepaliveAt() {
		do |= SendKeepalive
		m.sent = now
	}
	m.next = min(m.rekeyAt, m.probeAt(), m.keepaliveAt(), m.deadAt())
	return m.next, do
}

// learn takes over what was seen since the last Step.
func (m *Machine) learn(s Seen) {
	m.sent = max(m.sent, s.Sent)
	if last := max(s.Received, s.Control, s.Answered); last > 0 {
		m.heard = true
		if last > m.received {
			m.received, m.unanswered = last, 0
		}
	}
	if s.Answered > m.answered {
		m.answered, m.proven, m.unanswered = s.Answered, true, 0
		if m.open && s.Answered >= m.first {
			m.open = false
			m.measure(s.Answered - m.first)
		}
	}
	// Two events of the same instant have no order here. To suspect costs a probe; not to suspect could cost the channel.
	suspect := s.Data > 0 && s.Data >= max(s.Control, s.Answered)
	if suspect && !m.suspect {
		m.since = s.Data
	}
	m.suspect = suspect
	if m.check && (m.answered >= m.checkAt || !m.proven && m.heard && m.received > m.checkAt) {
		m.check = false
	}
}

// measure takes a sample of the round-trip time. A sample that spans a lost probe is too long, which errs on the side of
// patience.
func (m *Machine) measure(sample time.Duration) {
	sample = min(max(sample, 1), maxSample)
	if m.srtt == 0 {
		m.srtt = sample
		return
	}
	m.srtt += (sample - m.srtt) / 4
}

// loaded reports whether the rules for a channel under load hold.
func (m *Machine) loaded() bool {
	return m.cfg.Load > 0 && m.suspect && (m.proven || !m.heard)
}

// gap is the time between probes under load, and the silence before the first.
func (m *Machine) gap() time.Duration {
	return min(max(minGap, 2*m.srtt), m.cfg.Load/4)
}

// checkGap is the time between probes after Check.
func (m *Machine) checkGap() time.Duration {
	if m.cfg.Load > 0 {
		return min(minGap, m.cfg.Load/4)
	}
	return minGap
}

// quiet returns the begin of the silence that counts under load.
func (m *Machine) quiet() time.Duration { return max(m.received, m.since) }

// probeAt returns when the next probe is due.
func (m *Machine) probeAt() time.Duration {
	at := Never
	if m.cfg.Load > 0 && !m.probing {
		// The first probe measures the round trip, shows whether the peer knows probes, and tells a gateway that the channel is
		// in use.
		return m.now
	}
	if m.cfg.DPD > 0 {
		at = after(m.received, m.cfg.DPD)
		if m.probing && m.probed > m.received {
			at = after(m.probed, m.cfg.DPD/2)
		}
	}
	if m.loaded() {
		at = min(at, after(max(m.quiet(), m.probed), m.gap()))
	} else if m.cfg.Load > 0 && m.suspect && m.asked < mostAsked {
		at = min(at, after(m.probed, minGap<<m.asked))
	}
	if m.check {
		due := m.checkAt
		if m.probing {
			due = max(due, after(m.probed, m.checkGap()))
		}
		at = min(at, due)
	}
	return at
}

// keepaliveAt returns when the next keepalive is due.
func (m *Machine) keepaliveAt() time.Duration {
	if m.cfg.Keepalive == 0 {
		return Never
	}
	return after(m.sent, m.cfg.Keepalive)
}

// deadAt returns when the channel is dead if nothing arrives and no more probes go out. The last probe always has a chance
// of its own.
func (m *Machine) deadAt() time.Duration {
	if m.lost {
		return m.now
	}
	at := Never
	if m.cfg.DPD > 0 {
		at = after(m.received, 2*m.cfg.DPD)
	}
	if m.loaded() && m.unanswered >= fewProbes {
		silence := m.cfg.Load
		if m.proven && m.unanswered >= manyProbes {
			silence = min(silence, max(enoughSilence, 4*m.srtt))
		}
		at = min(at, max(after(m.quiet(), silence), after(m.probed, m.gap())))
	}
	if m.check && m.unanswered >= fewProbes {
		silence := max(checkTime, min(3*m.srtt, maxSample))
		at = min(at, max(after(m.checkAt, silence), after(m.probed, m.checkGap())))
	}
	return at
}

// Check casts doubt on the channel, such as after a change of the network: it is probed at once, and is dead if that is not
// answered within about 1.5 seconds. The owner must call Step next.
func (m *Machine) Check(now time.Duration) {
	if m.check || m.dead {
		return
	}
	m.now = max(m.now, now)
	m.check, m.checkAt, m.unanswered = true, m.now, 0
}

// Slept tells that the host was asleep for d in a way that the times do not show. If it was silent for more than twice the DPD period
// then, the channel is dead; otherwise it is checked. The owner must call Step next.
func (m *Machine) Slept(now, d time.Duration) {
	if d <= 0 {
		return
	}
	m.now = max(m.now, now)
	if m.cfg.DPD > 0 && after(m.now-m.received, d) > 2*m.cfg.DPD {
		m.lost = true
		return
	}
	m.Check(now)
}

// Suspect reports whether data has raised the question whether the channel works, and nothing has answered it yet. While it is
// true, Step learns of more data early enough by itself.
func (m *Machine) Suspect() bool { return m.suspect }

// RTT returns the smoothed round-trip time of probes, and zero while it is unknown.
func (m *Machine) RTT() time.Duration { return m.srtt }

// Silence returns how long nothing was received up to the last Step, and how many probes went out in vain in that time.
func (m *Machine) Silence() (d time.Duration, probes int) { return m.now - m.received, m.unanswered }

// after returns t+d, and Never where that is beyond it.
func after(t, d time.Duration) time.Duration {
	if t > Never-d {
		return Never
	}
	return t + d
}
