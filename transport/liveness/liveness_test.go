package liveness_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"culvert.example/vpn/transport/liveness"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

const (
	ms  = time.Millisecond
	sec = time.Second
)

// A channel is a simulated channel with a peer: traffic and faults by the clock.
type channel struct {
	cfg      liveness.Config
	rtt      time.Duration
	mute     bool          // the peer does not answer probes
	lost     int           // so many probes are lost at the beginning
	cutAt    time.Duration // from then on nothing comes back
	healAt   time.Duration // until then
	out, in  func(t time.Duration) bool
	checkAt  time.Duration
	sleepAt  time.Duration
	sleepFor time.Duration
	until    time.Duration
}

// run plays the channel in steps of a millisecond and returns what the machine did when, and when it died.
func (c channel) run(note func(t time.Duration, do liveness.Action)) (deadAt time.Duration) {
	m := liveness.New(c.cfg, 0)
	var seen liveness.Seen
	var answers []time.Duration
	next := time.Duration(0)
	for t := 1 * ms; t <= c.until; t += ms {
		cut := c.cutAt > 0 && t >= c.cutAt && (c.healAt == 0 || t < c.healAt)
		data := false
		if c.out != nil && c.out(t) {
			seen.Sent, seen.Data, data = t, t, true
		}
		if c.in != nil && c.in(t) && !cut {
			seen.Received, seen.Data, data = t, t, true
		}
		for len(answers) > 0 && answers[0] <= t {
			if !cut {
				seen.Received, seen.Control, seen.Answered = t, t, t
			}
			answers = answers[1:]
		}
		stir := data && !m.Suspect()
		if c.checkAt == t {
			m.Check(t)
			stir = true
		}
		if c.sleepAt == t {
			m.Slept(t, c.sleepFor)
			stir = true
		}
		if t < next && !stir {
			continue
		}
		var do liveness.Action
		next, do = m.Step(t, seen)
		if do != 0 {
			note(t, do)
		}
		if do&liveness.Dead != 0 {
			return t
		}
		if do&liveness.SendProbe != 0 && !c.mute && !cut {
			if c.lost--; c.lost < 0 {
				answers = append(answers, t+c.rtt)
			}
		}
	}
	return 0
}

func every(d time.Duration, from, to time.Duration) func(time.Duration) bool {
	return func(t time.Duration) bool { return t >= from && t < to && (t-from)%d == 0 }
}

var scenarios = []struct {
	name             string
	c                channel
	deadMin, deadMax time.Duration // zero: it lives
	probesMax        int           // zero: any number
}{
	{"idle", channel{cfg: liveness.Config{DPD: 30 * sec}, rtt: 30 * ms, until: 120 * sec}, 0, 0, 5},
	{"idle-dies", channel{cfg: liveness.Config{DPD: 10 * sec}, rtt: 30 * ms, cutAt: 5 * sec, until: 60 * sec}, 20 * sec, 21 * sec, 4},
	{"keepalive", channel{cfg: liveness.Config{Keepalive: 10 * sec}, rtt: 30 * ms, until: 45 * sec}, 0, 0, 1},
	{"rekey", channel{cfg: liveness.Config{Rekey: 20 * sec, DPD: 30 * sec}, rtt: 30 * ms, until: 50 * sec}, 0, 0, 3},
	{"busy", channel{cfg: liveness.Config{DPD: 30 * sec}, rtt: 30 * ms, until: 20 * sec,
		out: every(7*ms, sec, 19*sec), in: every(9*ms, sec, 19*sec)}, 0, 0, 2},
	{"busy-dies", channel{cfg: liveness.Config{DPD: 30 * sec}, rtt: 30 * ms, until: 20 * sec, cutAt: 5 * sec,
		out: every(7*ms, sec, 19*sec), in: every(9*ms, sec, 19*sec)}, 6200 * ms, 6300 * ms, 6},
	{"download-dies", channel{cfg: liveness.Config{DPD: 30 * sec}, rtt: 30 * ms, until: 20 * sec, cutAt: 5 * sec,
		in: every(9*ms, sec, 19*sec)}, 6200 * ms, 6300 * ms, 6},
	{"upload", channel{cfg: liveness.Config{DPD: 30 * sec}, rtt: 30 * ms, until: 6 * sec,
		out: every(7*ms, sec, 5*sec)}, 0, 0, 20},
	{"first-packet-after-rest-is-lost", channel{cfg: liveness.Config{DPD: 30 * sec}, rtt: 100 * ms, until: 40 * sec, cutAt: 20 * sec,
		out: every(sec, 21*sec, 22*sec)}, 22 * sec, 22500 * ms, 6},
	{"slow-link-under-load", channel{cfg: liveness.Config{DPD: 30 * sec}, rtt: 1100 * ms, until: 20 * sec,
		out: every(7*ms, 2*sec, 19*sec)}, 0, 0, 30},
	{"slow-link-dies", channel{cfg: liveness.Config{DPD: 30 * sec}, rtt: 700 * ms, until: 20 * sec, cutAt: 5 * sec,
		out: every(7*ms, 2*sec, 19*sec), in: every(9*ms, sec, 19*sec)}, 7500 * ms, 8000 * ms, 8},
	{"short-gap-heals", channel{cfg: liveness.Config{DPD: 30 * sec}, rtt: 30 * ms, until: 20 * sec, cutAt: 5 * sec, healAt: 5900 * ms,
		out: every(7*ms, sec, 19*sec), in: every(9*ms, sec, 19*sec)}, 0, 0, 10},
	{"dead-from-the-start", channel{cfg: liveness.Config{DPD: 30 * sec}, rtt: 30 * ms, until: 20 * sec, cutAt: 1,
		out: every(7*ms, sec, 19*sec)}, 3900 * ms, 4100 * ms, 20},
	{"peer-without-probes", channel{cfg: liveness.Config{DPD: 30 * sec}, rtt: 30 * ms, until: 50 * sec, mute: true,
		out: every(900*ms, sec, 19*sec), in: every(5*sec, 500*ms, 49*sec)}, 0, 0, 8},
	{"first-answers-are-lost", channel{cfg: liveness.Config{DPD: 30 * sec}, rtt: 30 * ms, until: 20 * sec, cutAt: 5 * sec, lost: 3,
		in: every(9*ms, 5*ms, 19*sec)}, 6200 * ms, 6300 * ms, 9},
	{"load-off", channel{cfg: liveness.Config{DPD: 10 * sec, Load: -1}, rtt: 30 * ms, until: 40 * sec, cutAt: 5 * sec,
		out: every(7*ms, sec, 39*sec), in: every(9*ms, sec, 39*sec)}, 24900 * ms, 25100 * ms, 3},
	{"check-answered", channel{cfg: liveness.Config{DPD: 30 * sec}, rtt: 200 * ms, until: 20 * sec, checkAt: 5 * sec}, 0, 0, 3},
	{"check-unanswered", channel{cfg: liveness.Config{DPD: 30 * sec}, rtt: 200 * ms, until: 20 * sec, cutAt: 4 * sec, checkAt: 5 * sec}, 6400 * ms, 6600 * ms, 8},
	{"slept-long", channel{cfg: liveness.Config{DPD: 30 * sec}, rtt: 20 * ms, until: 20 * sec, sleepAt: 5 * sec, sleepFor: 61 * sec}, 5 * sec, 5 * sec, 1},
	{"slept-short", channel{cfg: liveness.Config{DPD: 30 * sec}, rtt: 20 * ms, until: 20 * sec, sleepAt: 5 * sec, sleepFor: 40 * sec}, 0, 0, 2},
	{"everything-off", channel{cfg: liveness.Config{Load: -1}, until: 20 * sec, out: every(7*ms, sec, 19*sec)}, 0, 0, 0},
}

func TestScenarios(t *testing.T) {
	var got bytes.Buffer
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			fmt.Fprintf(&got, "# %s\n", s.name)
			probes := 0
			dead := s.c.run(func(at time.Duration, do liveness.Action) {
				fmt.Fprintf(&got, "%9.3f %v\n", at.Seconds(), do)
				if do&liveness.SendProbe != 0 {
					probes++
				}
			})
			switch {
			case s.deadMax == 0 && dead != 0:
				t.Errorf("dead at %v, but the channel is alive", dead)
			case s.deadMax != 0 && (dead < s.deadMin || dead > s.deadMax):
				t.Errorf("dead at %v, want between %v and %v", dead, s.deadMin, s.deadMax)
			}
			if s.probesMax > 0 && probes > s.probesMax {
				t.Errorf("%d probes, want at most %d", probes, s.probesMax)
			}
		})
	}
	golden := filepath.Join("testdata", "scenarios.txt")
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("what the machine does differs from %s; run with -update and look at the difference", golden)
	}
}

func TestDeadIsFinal(t *testing.T) {
	m := liveness.New(liveness.Config{DPD: sec, Keepalive: sec, Rekey: sec}, 0)
	m.Step(1, liveness.Seen{})
	if _, do := m.Step(2*sec+1, liveness.Seen{}); do != liveness.Dead {
		t.Fatalf("Step = %v, want dead alone", do)
	}
	m.Check(3 * sec)
	m.Slept(3*sec, sec)
	next, do := m.Step(4*sec, liveness.Seen{Received: 4 * sec, Answered: 4 * sec, Data: 4 * sec})
	if next != liveness.Never || do != 0 {
		t.Errorf("Step after death = %v, %v", next, do)
	}
}

func TestStandstillIsNotDeath(t *testing.T) {
	// The process stands still for five seconds under load; answers wait in the socket.
	m := liveness.New(liveness.Config{DPD: 30 * sec}, 0)
	seen := liveness.Seen{}
	m.Step(1, seen)
	seen = liveness.Seen{Received: 20 * ms, Control: 20 * ms, Answered: 20 * ms, Data: sec, Sent: sec}
	next, _ := m.Step(sec, seen)
	for range 3 {
		next, _ = m.Step(next, seen)
	}
	if _, do := m.Step(next+5*sec, seen); do&liveness.Dead != 0 {
		t.Error("dead after a standstill, before anything could be read")
	}
}

func TestRoundTripTime(t *testing.T) {
	m := liveness.New(liveness.Config{DPD: sec}, 0)
	now := time.Duration(0)
	var seen liveness.Seen
	next, do := m.Step(now, seen)
	for range 40 {
		if do&liveness.SendProbe != 0 {
			now += 80 * ms
			seen.Received, seen.Control, seen.Answered = now, now, now
		} else {
			now = next
		}
		next, do = m.Step(now, seen)
	}
	if got := m.RTT(); got < 79*ms || got > 81*ms {
		t.Errorf("RTT = %v, want 80ms", got)
	}
}

func TestActionString(t *testing.T) {
	for a, want := range map[liveness.Action]string{
		0: "nothing", liveness.Dead: "dead", liveness.DoRekey | liveness.SendProbe | liveness.SendKeepalive: "rekey+probe+keepalive",
	} {
		if got := a.String(); got != want {
			t.Errorf("Action(%d) = %q, want %q", a, got, want)
		}
	}
}

func FuzzMachine(f *testing.F) {
	f.Add(int64(30*sec), int64(10*sec), int64(0), int64(0), []byte("0123456789abcdef"))
	f.Add(int64(5*sec), int64(0), int64(60*sec), int64(3*sec), []byte("\x00\x01\x02\x03\x04\x05\x06\x07\x00\x00\x00\x00\x00\x00"))
	f.Add(int64(-1), int64(1), int64(-1<<63), int64(1<<63-1), []byte("\xff\xfe\x01\x11\x21\x31"))
	f.Add(int64(1), int64(1), int64(1), int64(1), []byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, dpd, keepalive, rekey, load int64, ops []byte) {
		cfg := liveness.Config{DPD: time.Duration(dpd), Keepalive: time.Duration(keepalive), Rekey: time.Duration(rekey), Load: time.Duration(load)}
		// The least time between two probes that the Config allows.
		gap := 250 * ms
		if d := max(cfg.DPD, 10*ms) / 2; cfg.DPD > 0 {
			gap = min(gap, d)
		}
		if l := max(cfg.Load, 10*ms) / 4; cfg.Load > 0 {
			gap = min(gap, l)
		}
		m := liveness.New(cfg, 0)
		now, next, latest := time.Duration(1), time.Duration(0), time.Duration(0)
		lastProbe, probed, dead := time.Duration(0), false, false
		var seen liveness.Seen
		for _, op := range ops {
			arg := time.Duration(op >> 4)
			switch op & 15 {
			case 0, 1, 2:
				if next != liveness.Never {
					now = max(now, next)
				}
			case 3:
				now += arg * ms
			case 4:
				now += arg * arg * 100 * ms
			case 5:
				seen.Sent, seen.Data = now, now
			case 6:
				seen.Received, seen.Data = now, now
			case 7:
				seen.Received, seen.Control = now, now
			case 8:
				seen.Received, seen.Control, seen.Answered = now, now, now
			case 9:
				m.Check(now)
			case 10:
				m.Slept(now, arg*sec)
			case 11:
				seen.Received = now + arg*ms // noted while the step was on its way
			case 12:
				seen.Answered = now - arg*ms
			case 13:
				now -= arg * ms // a clock that runs backwards
			case 14:
				now += arg * time.Hour
			}
			var do liveness.Action
			next, do = m.Step(now, seen)
			latest = max(latest, now) // what the machine takes the time to be
			if dead && (do != 0 || next != liveness.Never) {
				t.Fatalf("Step after death = %v, %v", next, do)
			}
			if do&liveness.Dead != 0 {
				if do != liveness.Dead || next != liveness.Never {
					t.Fatalf("death came with %v, next %v", do, next)
				}
				dead = true
			}
			if !dead && next <= latest {
				t.Fatalf("deadline %v at %v: busy loop", next, latest)
			}
			if do&liveness.SendProbe != 0 {
				if probed && latest-lastProbe < gap {
					t.Fatalf("probes %v apart, want at least %v", latest-lastProbe, gap)
				}
				lastProbe, probed = latest, true
			}
			if again, more := m.Step(now, seen); more != 0 || again != next {
				t.Fatalf("a second Step at the same time does %v and moves the deadline from %v to %v", more, next, again)
			}
		}
	})
}

func BenchmarkStep(b *testing.B) {
	m := liveness.New(liveness.Config{DPD: 30 * sec, Keepalive: 10 * sec}, 0)
	b.ReportAllocs()
	for i := range b.N {
		now := time.Duration(i+1) * ms
		m.Step(now, liveness.Seen{Sent: now, Data: now, Received: now})
	}
}
