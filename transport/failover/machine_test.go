package failover

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"culvert.example/vpn/transport"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// A script plays events to a machine and writes down what it does.
type script struct {
	bytes.Buffer
	m    *machine
	now  time.Time
	next time.Time
}

func newScript(cfg Config, paths int) *script {
	cfg.Paths = make([]Path, paths)
	if cfg.random == nil {
		cfg.random = func() float64 { return 0.5 }
	}
	cfg = cfg.withDefaults()
	s := &script{now: epoch, m: newMachine(cfg, epoch)}
	s.tell("start", event{})
	return s
}

func (s *script) tell(what string, ev event) {
	next, do := s.m.step(s.now, ev)
	fmt.Fprintf(s, "%8.3f  %-28s", s.now.Sub(epoch).Seconds(), what)
	for i, a := range do {
		if i > 0 {
			s.WriteString(", ")
		}
		s.WriteString(a.String())
	}
	if s.m.ended {
		fmt.Fprintf(s, " (%v)", s.m.err)
	} else if !next.IsZero() {
		fmt.Fprintf(s, " until %.3f", next.Sub(epoch).Seconds())
	}
	s.WriteString("\n")
	s.next = next
}

// pass lets time pass, with all the steps that become due in it.
func (s *script) pass(d time.Duration) {
	end := s.now.Add(d)
	for !s.next.IsZero() && !s.next.After(end) {
		s.now = s.next
		s.tell("time", event{})
	}
	s.now = end
}

func (s *script) opened(path int) {
	s.tell(fmt.Sprintf("path %d opened", path), event{kind: evOpened, path: path, try: s.m.paths[path].try})
}

func (s *script) failed(path int) {
	s.tell(fmt.Sprintf("path %d failed", path), event{kind: evFailed, path: path, try: s.m.paths[path].try, err: errors.New("broken")})
}

func (s *script) notReady(path int) {
	s.tell(fmt.Sprintf("path %d not ready", path),
		event{kind: evFailed, path: path, try: s.m.paths[path].try, err: ErrNotReady, notReady: true})
}

func (s *script) terminal(path int) {
	s.tell(fmt.Sprintf("path %d refused for good", path),
		event{kind: evFailed, path: path, try: s.m.paths[path].try, err: transport.ErrExpired, terminal: true})
}

func (s *script) ask(path int) {
	s.tell(fmt.Sprintf("path %d is asked for", path), event{kind: evAsk, path: path})
}

func (s *script) replaced(path int, hasty bool) {
	s.tell(fmt.Sprintf("path %d has another", path), event{kind: evReplaced, path: path, hasty: hasty})
}

func (s *script) kept(path int) {
	s.tell(fmt.Sprintf("path %d keeps its own", path), event{kind: evKept, path: path, err: errors.New("captive")})
}

func (s *script) network() { s.tell("network changed", event{kind: evNetwork}) }

var scripts = []struct {
	name string
	cfg  Config
	play func(s *script)
	want error
}{
	{"both open, the better one fails and comes back", Config{}, func(s *script) {
		s.notReady(0)
		s.pass(50 * time.Millisecond)
		s.opened(1)
		s.pass(100 * time.Millisecond)
		s.opened(0)
		s.pass(time.Minute)
		s.failed(0)
		s.pass(5 * time.Second)
		s.failed(0)
		s.pass(5 * time.Second)
		s.failed(0)
		s.pass(5 * time.Second)
		s.opened(0)
	}, nil},
	{"not ready, but the other path opened while it was tried", Config{}, func(s *script) {
		s.opened(1)
		s.notReady(0)
		s.notReady(0)
		s.pass(time.Hour)
	}, nil},
	{"udp is blocked for good", Config{}, func(s *script) {
		s.opened(1)
		for range 8 {
			s.failed(0)
			s.pass(30 * time.Second)
		}
	}, nil},
	{"both cut for twenty seconds", Config{}, func(s *script) {
		s.opened(1)
		s.opened(0)
		s.pass(time.Minute)
		s.failed(0)
		s.pass(time.Second)
		s.failed(1)
		s.failed(0)
		for range 4 {
			s.pass(5 * time.Second)
			if s.m.paths[0].phase == opening {
				s.failed(0)
			}
			if s.m.paths[1].phase == opening {
				s.failed(1)
			}
		}
		s.pass(10 * time.Second)
		s.opened(1)
		s.opened(0)
	}, nil},
	{"flapping", Config{RetryMin: time.Second, RetryMax: 8 * time.Second}, func(s *script) {
		s.opened(1)
		for range 7 {
			s.opened(0)
			s.pass(2 * time.Second)
			s.failed(0)
			s.pass(8 * time.Second)
		}
		s.opened(0)
		s.pass(time.Minute)
		s.failed(0)
	}, nil},
	{"unreachable", Config{ReconnectTimeout: 30 * time.Second}, func(s *script) {
		s.failed(0)
		s.failed(1)
		s.pass(10 * time.Second)
		s.opened(1)
		s.pass(time.Minute)
		s.failed(1)
		s.failed(1)
		for s.pass(0); !s.m.ended; s.pass(time.Second) {
			if s.m.paths[1].phase == opening {
				s.failed(1)
			}
		}
	}, transport.ErrUnreachable},
	{"no time to reconnect, but some to connect", Config{ReconnectTimeout: time.Millisecond}, func(s *script) {
		s.pass(5 * time.Second)
		s.opened(1)
		s.pass(time.Minute)
		s.failed(1)
		s.pass(time.Millisecond)
	}, transport.ErrUnreachable},
	{"never gives up", Config{ReconnectTimeout: -1}, func(s *script) {
		s.failed(0)
		s.failed(1)
		s.pass(time.Minute)
		s.failed(1)
		s.pass(24 * time.Hour)
	}, nil},
	{"refused for good", Config{}, func(s *script) {
		s.opened(1)
		s.pass(time.Second)
		s.terminal(0)
		s.opened(1)
		s.pass(time.Hour)
	}, transport.ErrExpired},
	{"connection ended for good", Config{}, func(s *script) {
		s.opened(1)
		s.terminal(1)
	}, transport.ErrExpired},
	{"closed", Config{}, func(s *script) {
		s.opened(1)
		s.tell("close", event{kind: evClose})
	}, net.ErrClosed},
	{"the network changes", Config{}, func(s *script) {
		s.opened(1)
		s.failed(0)
		s.pass(2 * time.Second)
		s.failed(0)
		s.network()
		s.network()
		s.pass(5 * time.Second)
		s.network()
		s.failed(0)
		s.pass(5 * time.Second)
		s.network()
		s.opened(0)
	}, nil},
	{"replaced", Config{}, func(s *script) {
		s.opened(1)
		s.opened(0)
		s.pass(time.Minute)
		s.ask(1)
		s.pass(300 * time.Millisecond)
		s.replaced(1, false)
		s.tell("path 1 #1 ended for good", event{kind: evFailed, path: 1, try: 1, err: transport.ErrDisconnected, terminal: true})
		s.tell("path 0 #1 failed", event{kind: evFailed, path: 0, try: 1, err: errors.New("closed")})
		s.pass(100 * time.Millisecond)
		s.opened(0)
		s.pass(time.Minute)
	}, nil},
	{"replaced, and a writer is stuck", Config{}, func(s *script) {
		s.notReady(0)
		s.opened(1)
		s.pass(time.Minute)
		s.ask(1)
		s.replaced(1, true)
		s.pass(time.Minute)
	}, nil},
	{"replaced twice in a row", Config{}, func(s *script) {
		s.opened(1)
		s.opened(0)
		s.ask(1)
		s.replaced(1, false)
		s.pass(100 * time.Millisecond)
		s.opened(0)
		s.pass(400 * time.Millisecond)
		s.ask(1)
		s.replaced(1, false)
		s.pass(time.Minute)
		s.opened(0)
	}, nil},
	{"replaced while the better path is being opened", Config{}, func(s *script) {
		s.opened(1)
		s.pass(500 * time.Millisecond)
		s.ask(1)
		s.replaced(1, false)
		s.network()
		s.notReady(0)
		s.opened(0)
		s.pass(time.Minute)
	}, nil},
	{"the gateway ends the old connection first", Config{}, func(s *script) {
		s.opened(1)
		s.opened(0)
		s.pass(time.Minute)
		s.ask(1)
		s.terminal(1)
		s.terminal(0)
		s.replaced(1, false)
		s.opened(0)
		s.pass(time.Minute)
		s.terminal(1)
	}, transport.ErrExpired},
	{"no replacement", Config{}, func(s *script) {
		s.opened(1)
		s.opened(0)
		s.pass(time.Minute)
		s.ask(1)
		s.pass(20 * time.Second)
		s.kept(1)
		s.pass(time.Minute)
	}, nil},
	{"replaced while nothing is open", Config{}, func(s *script) {
		s.opened(1)
		s.pass(time.Minute)
		s.failed(1)
		s.failed(0)
		s.ask(1)
		s.pass(2 * time.Second)
		s.replaced(1, false)
		s.tell("path 1 #2 failed", event{kind: evFailed, path: 1, try: 2, err: errors.New("cancelled")})
		s.failed(0)
		s.opened(0)
	}, nil},
	{"neither replaced nor connected", Config{ReconnectTimeout: 30 * time.Second}, func(s *script) {
		s.opened(1)
		s.ask(1)
		s.failed(1)
		s.failed(0)
		s.pass(5 * time.Second)
		s.kept(1)
		s.pass(time.Minute)
	}, transport.ErrUnreachable},
	{"refused for good after a replacement was", Config{}, func(s *script) {
		s.opened(1)
		s.ask(1)
		s.terminal(1)
		s.network()
		s.failed(1)
		s.kept(1)
		s.terminal(1)
	}, transport.ErrExpired},
	{"late news of an old connection", Config{}, func(s *script) {
		s.opened(1)
		s.failed(1)
		s.tell("path 1 failed again (writer)", event{kind: evFailed, path: 1, try: 1, err: errors.New("broken")})
		s.opened(1)
		s.tell("path 1 #1 failed", event{kind: evFailed, path: 1, try: 1, err: errors.New("broken")})
	}, nil},
}

func TestMachineTranscripts(t *testing.T) {
	var got bytes.Buffer
	for _, test := range scripts {
		s := newScript(test.cfg, 2)
		test.play(s)
		fmt.Fprintf(&got, "# %s\n%s\n", test.name, s.Bytes())
		if !errors.Is(s.m.err, test.want) {
			t.Errorf("%s: ended with %v, want %v", test.name, s.m.err, test.want)
		}
	}
	golden := filepath.Join("testdata", "machine.txt")
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

func TestPause(t *testing.T) {
	for _, random := range []float64{0, 0.5, 0.999} {
		cfg := Config{random: func() float64 { return random }}.withDefaults()
		cfg.Paths = make([]Path, 1)
		m := newMachine(cfg, epoch)
		if limit := m.pause(50); limit > cfg.RetryMax/4 {
			t.Errorf("waits for %v while nothing works", limit)
		}
		m.paths[0].phase = open
		last := time.Duration(0)
		for strikes := range 100 {
			d := m.pause(strikes)
			if d < cfg.RetryMin/2 || d > cfg.RetryMax || d < last {
				t.Fatalf("pause(%d) = %v after %v", strikes, d, last)
			}
			last = d
		}
		if last < cfg.RetryMax/2 {
			t.Errorf("the pause grows to %v only", last)
		}
	}
}

func FuzzMachine(f *testing.F) {
	f.Add(uint8(2), int64(0), uint64(1), []byte("\x01\x11\x21\x02\x12\x22\x03\x04\x05"))
	f.Add(uint8(1), int64(-1), uint64(2), []byte("\x02\x02\x00\x00\x02\x02"))
	f.Add(uint8(3), int64(time.Minute), uint64(3), []byte("\x01\x02\x07\x07\x01\x02\x05\x04\x14\x06"))
	f.Add(uint8(1), int64(time.Minute), uint64(4), []byte("\x02\x12\x0f\x8f\x18\x02\x0f\x14\x8f\x28\x00\x0f\x7f\x00"))
	f.Fuzz(func(t *testing.T, n uint8, giveUp int64, seed uint64, ops []byte) {
		paths := int(n)%4 + 1
		cfg := Config{
			Paths: make([]Path, paths), ReconnectTimeout: time.Duration(giveUp),
			random: rand.New(rand.NewPCG(seed, 0)).Float64,
		}.withDefaults()
		m := newMachine(cfg, epoch)
		// What a driver would know: what it was told to do.
		opening, open := make([]bool, paths), make([]bool, paths)
		retired, gone, asking := make([]bool, paths), make([]bool, paths), false
		active, ended := -1, false
		now, next := epoch, epoch
		for _, op := range ops {
			ev := event{path: int(op>>4) % paths}
			ev.try = m.paths[ev.path].try
			switch op & 15 {
			case 0, 1:
				if !next.IsZero() && next.After(now) {
					now = next
				}
			case 2, 3:
				if opening[ev.path] {
					ev.kind = evOpened
					opening[ev.path], open[ev.path] = false, true
				}
			case 4, 5:
				ev.kind, ev.err = evFailed, errors.New("broken")
				opening[ev.path] = false
			case 6:
				ev.kind, ev.err, ev.notReady = evFailed, ErrNotReady, true
				opening[ev.path] = false
			case 7:
				ev.kind = evNetwork
			case 8:
				now = now.Add(time.Duration(op>>4) * time.Second)
			case 9:
				now = now.Add(time.Duration(op>>4) * time.Millisecond)
			case 10:
				ev.kind, ev.try, ev.err = evFailed, ev.try-1, errors.New("late")
			case 11:
				ev.kind = evResized
			case 12:
				now = now.Add(-time.Duration(op>>4) * time.Second)
			case 13:
				if op>>4 == 15 {
					ev.kind = evClose
				}
			case 14:
				if op>>4 == 15 {
					ev.kind, ev.err, ev.terminal = evFailed, transport.ErrExpired, true
				}
			case 15:
				if ended {
					break
				}
				switch {
				case !asking && op>>6 != 3:
					ev.kind = evAsk
				case op>>7 != 0:
					ev.kind, ev.hasty = evReplaced, op>>6 == 3
				default:
					ev.kind, ev.err = evKept, errors.New("captive")
				}
				if asking = ev.kind == evAsk; !asking {
					clear(gone)
				}
			}
			var do []action
			next, do = m.step(now, ev)
			if ended && (len(do) > 0 && do[0].kind != doClose || !next.IsZero()) {
				t.Fatalf("after the end: %v until %v", do, next)
			}
			if !ended && !next.IsZero() && !next.After(now) {
				t.Fatalf("deadline %v at %v: busy loop", next, now)
			}
			for _, a := range do {
				switch a.kind {
				case doOpen:
					if opening[a.path] || open[a.path] {
						t.Fatalf("opens path %d twice", a.path)
					}
					if a.try != m.paths[a.path].try {
						t.Fatalf("opens path %d with number %d, which is not its last", a.path, a.try)
					}
					opening[a.path] = true
				case doClose:
					if !open[a.path] {
						t.Fatalf("closes path %d, which is not open", a.path)
					}
					open[a.path], gone[a.path] = false, asking
				case doCheck:
					if !open[a.path] {
						t.Fatalf("checks path %d, which is not open", a.path)
					}
				case doCancel:
					if !opening[a.path] {
						t.Fatalf("cancels path %d, which is not being opened", a.path)
					}
				case doRetire:
					if !open[a.path] || retired[a.path] {
						t.Fatalf("retires path %d, open %v, retired already %v", a.path, open[a.path], retired[a.path])
					}
					open[a.path], retired[a.path] = false, true
				case doDrop:
					if !retired[a.path] {
						t.Fatalf("drops path %d, which has no retired connection", a.path)
					}
					retired[a.path] = false
				case doTake:
					if open[a.path] || a.try != m.paths[a.path].try {
						t.Fatalf("takes number %d for path %d, open %v", a.try, a.path, open[a.path])
					}
					opening[a.path], open[a.path] = false, true
					active = -1
				case doActivate:
					active = a.path
				case doEnd:
					ended, active = true, -1
				}
			}
			if ended != m.ended || ended && m.err == nil {
				t.Fatalf("ended: %v, told: %v, error %v", m.ended, ended, m.err)
			}
			if ended {
				continue
			}
			best := -1
			for i := range open {
				if open[i] || gone[i] {
					best = i
					break
				}
			}
			if active != best {
				t.Fatalf("path %d is active, the best open one is %d", active, best)
			}
			if (best < 0) == m.down.IsZero() {
				t.Fatalf("best path %d, down since %v", best, m.down)
			}
			for i := range m.paths {
				if at := m.paths[i].retired; retired[i] == at.IsZero() || retired[i] && (next.IsZero() || next.After(at)) {
					t.Fatalf("path %d has a retired connection: %v, until %v, next step %v", i, retired[i], at, next)
				}
				if p := m.paths[i]; p.phase == waiting && p.at.Sub(now) > cfg.RetryMax+16*time.Duration(len(ops))*time.Second {
					t.Fatalf("path %d waits for %v", i, p.at.Sub(now))
				}
			}
		}
	})
}
