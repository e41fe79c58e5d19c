package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

var begin = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)

// A scene drives a machine and writes down what happens.
type scene struct {
	m    *Machine
	now  time.Time
	next time.Time
	log  strings.Builder
}

func newScene(cfg Config) *scene { return &scene{m: New(cfg, begin), now: begin} }

func (s *scene) at(ms int) { s.now = begin.Add(time.Duration(ms) * time.Millisecond) }

func (s *scene) step(e Event) {
	var actions []Action
	s.next, actions = s.m.Step(s.now, e)
	what := [...]string{"tick", "start", "stop", "up", "alive", "down", "switched", "fail over", "revert"}[e.Kind]
	if e.Kind >= Up && e.Kind <= Down {
		what += " " + e.Part.String()
	}
	if e.Reason != None {
		what += " " + e.Reason.String()
	}
	if e.Err != "" {
		what += ": " + e.Err
	}
	fmt.Fprintf(&s.log, "%5d %s", s.now.Sub(begin).Milliseconds(), what)
	for _, a := range actions {
		fmt.Fprintf(&s.log, " → %v", a.Do)
		if a.Do == Switch {
			fmt.Fprintf(&s.log, " %v", a.Path)
			if a.Reason != None {
				fmt.Fprintf(&s.log, " (%v)", a.Reason)
			}
		}
		fmt.Fprintf(&s.log, " %d", a.Run)
	}
	r := s.m.Report()
	fmt.Fprintf(&s.log, " | %v", r.Path)
	if r.Healthy {
		s.log.WriteString(" healthy")
	}
	if !s.next.IsZero() {
		fmt.Fprintf(&s.log, " until %d", s.next.Sub(begin).Milliseconds())
	}
	s.log.WriteString("\n")
}

// all sends an event about each part of a run.
func (s *scene) all(k Kind, run uint64) {
	for p := range Parts {
		s.step(Event{Kind: k, Part: Part(p), Run: run})
	}
}

// TestTranscript is the life of a tunnel: it comes up, a part panics, a person goes back, a part falls silent, and it ends.
func TestTranscript(t *testing.T) {
	s := newScene(Config{})
	s.step(Event{Kind: Start})
	s.at(10)
	s.step(Event{Kind: Switched, Run: 1})
	s.at(50)
	s.all(Up, 1)
	s.at(60)
	s.step(Event{Kind: Switched, Run: 2})
	s.at(300)
	s.all(Alive, 1)
	s.at(400)
	s.step(Event{Kind: Down, Part: ContentFilter, Reason: Panic, Err: "index out of range", Run: 1})
	s.at(410)
	s.step(Event{Kind: Switched, Run: 3})
	s.at(420)
	s.step(Event{Kind: Alive, Part: DNSProxy, Run: 1}) // which has been told to stop
	s.at(2000)
	s.step(Event{Kind: Revert})
	s.at(2100)
	s.all(Up, 3)
	s.at(2110)
	s.step(Event{Kind: Switched, Run: 4})
	s.at(2300)
	s.step(Event{Kind: Alive, Part: DNSProxy, Run: 3})
	s.step(Event{Kind: Alive, Part: ContentFilter, Run: 3})
	s.at(2800)
	s.step(Event{}) // the transparent proxy has been silent since 2100
	s.at(2801)
	s.step(Event{Kind: Switched, Run: 5})
	s.at(3000)
	s.step(Event{Kind: Stop})
	s.step(Event{Kind: Switched, Run: 6})
	const want = `    0 start → switch packet 1 → start 1 | packet until 250
   10 switched | packet until 5000
   50 up dns-proxy | packet until 750
   50 up transparent-proxy | packet until 750
   50 up content-filter → switch flow 2 | flow until 300
   60 switched | flow healthy until 750
  300 alive dns-proxy | flow healthy until 750
  300 alive transparent-proxy | flow healthy until 750
  300 alive content-filter | flow healthy until 1000
  400 down content-filter panic: index out of range → switch packet (panic) 3 → stop 2 | packet until 650
  410 switched | packet
  420 alive dns-proxy | packet
 2000 revert → start 3 | packet until 7000
 2100 up dns-proxy | packet until 2800
 2100 up transparent-proxy | packet until 2800
 2100 up content-filter → switch flow 4 | flow until 2350
 2110 switched | flow healthy until 2800
 2300 alive dns-proxy | flow healthy until 2800
 2300 alive content-filter | flow healthy until 2800
 2800 tick → switch packet (watchdog) 5 → stop 4 | packet until 3050
 2801 switched | packet
 3000 stop → switch nowhere (command) 6 → stop 5 | nowhere until 3250
 3000 switched | nowhere
`
	if got := s.log.String(); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// up returns a scene on the flow path at 100 ms.
func up(t *testing.T, cfg Config) *scene {
	t.Helper()
	s := newScene(cfg)
	s.step(Event{Kind: Start})
	s.step(Event{Kind: Switched, Run: s.m.switches})
	s.at(100)
	s.all(Up, 1)
	s.step(Event{Kind: Switched, Run: s.m.switches})
	if r := s.m.Report(); !r.Healthy || r.Path != Flow || r.Check(Flow) != nil {
		t.Fatalf("%+v, %v", r, r.Check(Flow))
	}
	return s
}

func TestFailures(t *testing.T) {
	for _, tt := range []struct {
		name   string
		cfg    Config
		do     func(s *scene)
		path   Path
		reason Reason
		part   string
		err    string
	}{
		{"a panic", Config{}, func(s *scene) { s.step(Event{Kind: Down, Part: DNSProxy, Reason: Panic, Err: "x", Run: 1}) }, Packet, Panic, "dns-proxy", "x"},
		{"a panic under always-on", Config{Close: true}, func(s *scene) { s.step(Event{Kind: Down, Part: DNSProxy, Reason: Panic, Err: "x", Run: 1}) }, Nowhere, Panic, "dns-proxy", "x"},
		{"an error without a reason", Config{}, func(s *scene) { s.step(Event{Kind: Down, Part: TransparentProxy, Run: 1}) }, Packet, Failure, "transparent-proxy", ""},
		{"overload", Config{}, func(s *scene) { s.step(Event{Kind: Down, Part: ContentFilter, Reason: Overload, Run: 1}) }, Packet, Overload, "content-filter", ""},
		{"silence", Config{}, func(s *scene) { s.at(800); s.step(Event{}) }, Packet, Watchdog, "dns-proxy", "it shows no sign of life"},
		{"silence under always-on", Config{Close: true}, func(s *scene) { s.at(800); s.step(Event{}) }, Nowhere, Watchdog, "dns-proxy", "it shows no sign of life"},
		{"not quite silence", Config{}, func(s *scene) { s.at(799); s.step(Event{}) }, Flow, None, "", ""},
		{"a command", Config{}, func(s *scene) { s.step(Event{Kind: FailOver}) }, Packet, Command, "", ""},
		{"a command under always-on", Config{Close: true}, func(s *scene) { s.step(Event{Kind: FailOver}) }, Nowhere, Command, "", ""},
		{"revert without need", Config{}, func(s *scene) { s.step(Event{Kind: Revert}) }, Flow, None, "", ""},
		{"start twice", Config{}, func(s *scene) { s.step(Event{Kind: Start}) }, Flow, None, "", ""},
		{"down of an earlier run", Config{}, func(s *scene) { s.step(Event{Kind: Down, Part: DNSProxy, Reason: Panic, Run: 0}) }, Flow, None, "", ""},
		{"down of a part that does not exist", Config{}, func(s *scene) { s.step(Event{Kind: Down, Part: 9, Reason: Panic, Run: 1}) }, Flow, None, "", ""},
		{"the second failure does not hide the first", Config{}, func(s *scene) {
			s.step(Event{Kind: Down, Part: DNSProxy, Reason: Panic, Err: "x", Run: 1})
			s.step(Event{Kind: Down, Part: ContentFilter, Reason: Overload, Err: "y", Run: 1})
		}, Packet, Panic, "dns-proxy", "x"},
		{"fail over when it has failed", Config{}, func(s *scene) {
			s.step(Event{Kind: Down, Part: DNSProxy, Reason: Panic, Err: "x", Run: 1})
			s.step(Event{Kind: FailOver})
		}, Packet, Panic, "dns-proxy", "x"},
		{"the packet path cannot be had", Config{}, func(s *scene) {
			s.step(Event{Kind: FailOver})
			s.step(Event{Kind: Switched, Run: s.m.switches, Err: "no device"})
		}, Nowhere, NoSwitch, "", "no device"},
		{"the packet path takes too long", Config{}, func(s *scene) { s.step(Event{Kind: FailOver}); s.at(350); s.step(Event{}) }, Nowhere, NoSwitch, "", "changing the data path takes too long"},
		{"an answer to an earlier switch", Config{}, func(s *scene) {
			s.step(Event{Kind: FailOver})
			s.step(Event{Kind: Switched, Run: s.m.switches - 1, Err: "x"})
			s.step(Event{Kind: Switched, Run: s.m.switches})
			s.step(Event{Kind: Switched, Run: s.m.switches, Err: "twice"})
		}, Packet, Command, "", ""},
		{"stop", Config{}, func(s *scene) { s.step(Event{Kind: Stop}); s.step(Event{Kind: Stop}) }, Nowhere, None, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := up(t, tt.cfg)
			tt.do(s)
			r := s.m.Report()
			if r.Path != tt.path || r.Reason != tt.reason || r.Part != tt.part || r.Err != tt.err {
				t.Errorf("%+v\n%s", r, s.log.String())
			}
			if tt.path != Flow && (r.Healthy || r.Check(Flow) == nil) {
				t.Errorf("healthy in spite of that: %+v", r)
			}
		})
	}
}

// The flow path is not taken before it is there, and not at all if it does not come.
func TestStart(t *testing.T) {
	for _, closed := range []bool{false, true} {
		fallback := Config{Close: closed}.fallback()
		s := newScene(Config{Close: closed})
		s.step(Event{Kind: Start})
		s.step(Event{Kind: Switched, Run: s.m.switches})
		s.at(4000)
		s.step(Event{Kind: Up, Part: DNSProxy, Run: 1})
		for ms := 4500; ms < 5000; ms += 250 {
			s.at(ms)
			s.step(Event{Kind: Alive, Part: DNSProxy, Run: 1})
		}
		if r := s.m.Report(); r.Path != fallback || r.Healthy || r.Parts[DNSProxy].State != Active || r.Parts[ContentFilter].State != Starting {
			t.Errorf("%+v", r)
		}
		s.at(5000)
		s.step(Event{})
		r := s.m.Report()
		if r.Path != fallback || r.Reason != TooSlow || r.Part != "transparent-proxy" || r.Revert != RevertCommand {
			t.Errorf("%+v\n%s", r, s.log.String())
		}
		if r.Parts[DNSProxy].State != Inactive || r.Parts[TransparentProxy].State != Failed {
			t.Errorf("%+v", r)
		}
		// And back, this time for good.
		s.at(6000)
		s.step(Event{Kind: Revert})
		s.all(Up, s.m.run)
		s.step(Event{Kind: Switched, Run: s.m.switches})
		if r := s.m.Report(); !r.Healthy || r.Reason != None || r.Err != "" || r.Part != "" || r.Failovers != 1 {
			t.Errorf("%+v\n%s", r, s.log.String())
		}
	}
}

// When the flow path cannot be taken, the other one is.
func TestNoSwitchToFlow(t *testing.T) {
	s := newScene(Config{})
	s.step(Event{Kind: Start})
	s.step(Event{Kind: Switched, Run: 1})
	s.all(Up, 1)
	s.step(Event{Kind: Switched, Run: 2, Err: "no device"})
	if r := s.m.Report(); r.Path != Packet || r.Reason != NoSwitch || r.Err != "no device" {
		t.Errorf("%+v\n%s", r, s.log.String())
	}
	s.step(Event{Kind: Switched, Run: 3})
	if err := s.m.Report().Check(Packet); err != nil {
		t.Error(err)
	}
}

// A process that was stopped as a whole, such as by the machine being busy, does not blame its parts.
func TestForgive(t *testing.T) {
	s := up(t, Config{})
	s.at(800 + 5000)
	s.step(Event{})
	if r := s.m.Report(); !r.Healthy {
		t.Fatalf("%+v", r)
	}
	s.all(Alive, 1)
	s.at(800 + 5000 + 699)
	s.step(Event{})
	if r := s.m.Report(); !r.Healthy {
		t.Errorf("%+v", r)
	}
	s.at(800 + 5000 + 700)
	s.step(Event{})
	if r := s.m.Report(); r.Reason != Watchdog {
		t.Errorf("%+v", r)
	}
}

// From the last sign of life to the order to take the other path, confirmed or not, goes by less than a second.
func TestWithinASecond(t *testing.T) {
	c := Config{}.withDefaults()
	if d := c.Silence + c.SwitchTime; d >= time.Second {
		t.Errorf("%v", d)
	}
}

func TestCheck(t *testing.T) {
	s := up(t, Config{})
	if err := s.m.Report().Check(Packet); !errors.Is(err, ErrNotConfirmed) || err.Error() != "the data path is not confirmed: packets go flow and not packet" {
		t.Error(err)
	}
	s.step(Event{Kind: Down, Part: DNSProxy, Reason: Overload, Err: "1024 questions wait", Run: 1})
	const want = `the data path is not confirmed: packets go packet and not flow, because of overload of the dns-proxy (1024 questions wait); ` +
		`when the cause is gone, run "culvert data-path revert"`
	if err := s.m.Report().Check(Flow); !errors.Is(err, ErrNotConfirmed) || err.Error() != want {
		t.Error(err)
	}
	if err := s.m.Report().Check(Packet); !errors.Is(err, ErrNotConfirmed) {
		t.Errorf("before the switch is confirmed: %v", err)
	}
	s.step(Event{Kind: Switched, Run: s.m.switches})
	if err := s.m.Report().Check(Packet); err != nil {
		t.Error(err)
	}
}

// TestWhy: a sentence is made of every reason.
func TestWhy(t *testing.T) {
	s := up(t, Config{})
	if why := s.m.Report().Why(); why != "" {
		t.Errorf("on the flow path: %q", why)
	}
	s.step(Event{Kind: FailOver})
	r := s.m.Report()
	if err := r.Check(Flow); r.Why() != "somebody wanted it so" || !strings.Contains(err.Error(), "because of a command") {
		t.Errorf("%q, %v", r.Why(), err)
	}
	seen := map[string]bool{}
	for r.Reason = Panic; r.Reason <= NoSwitch; r.Reason++ {
		if why := r.Why(); !strings.Contains(why, " ") || seen[why] {
			t.Errorf("%v: %q", r.Reason, why)
		}
		seen[r.Why()] = true
	}
	r.Part, r.Reason = "content-filter", Panic
	if why := r.Why(); why != "the content-filter has panicked" {
		t.Errorf("%q", why)
	}
}

func TestReportString(t *testing.T) {
	s := up(t, Config{})
	s.at(60_000)
	s.m.due = time.Time{}
	for i := range s.m.parts {
		s.m.parts[i].seen = s.now
	}
	s.step(Event{Kind: Down, Part: ContentFilter, Reason: Panic, Err: "index out of range", Run: 1})
	const want = `data path: packet, because of panic of the content-filter (index out of range), not confirmed
3 component(s)
enabled active name              since                state
               dns-proxy         2026-11-23T08:01:00Z [inactive]
               transparent-proxy 2026-11-23T08:01:00Z [inactive]
*              content-filter    2026-11-23T08:01:00Z [failed: panic: index out of range]
confirm: culvert data-path confirm
revert: culvert data-path revert`
	if got := s.m.Report().String(); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
	b, err := json.Marshal(s.m.Report())
	if err != nil || !strings.HasPrefix(string(b), `{"path":"packet","since":"2026-11-23T08:01:00Z","confirmed":false,"healthy":false,"reason":"panic",`) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestStrings(t *testing.T) {
	got := fmt.Sprint(Part(9), State(9), Path(9), Reason(99), Nowhere, Inactive, Starting, Active, Failed)
	if want := "part(9) state(9) path(9) reason(99) nowhere inactive starting active failed"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// FuzzStep does whatever comes, and looks at what must always hold.
func FuzzStep(f *testing.F) {
	f.Add(uint64(1), false)
	f.Add(uint64(2), true)
	f.Fuzz(func(t *testing.T, seed uint64, closed bool) { wander(t, rand.New(rand.NewPCG(seed, 0)), closed) })
}

func TestWander(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for i := range 500 {
		wander(t, r, i%2 == 0)
	}
}

func wander(t *testing.T, r *rand.Rand, closed bool) {
	s := newScene(Config{Close: closed})
	path := Nowhere
	for range 100 {
		late := s.now.Add(time.Duration(r.IntN(400)) * time.Millisecond)
		if !s.next.IsZero() && r.IntN(2) == 0 && s.next.After(s.now) {
			late = s.next
		}
		s.now = late
		e := Event{Kind: Kind(r.IntN(int(Revert) + 1)), Part: Part(r.IntN(Parts)), Run: s.m.run}
		switch e.Kind {
		case Down:
			e.Reason = Reason(r.IntN(4))
		case Switched:
			e.Run = s.m.switches
			if r.IntN(4) == 0 {
				e.Err = "x"
			}
		}
		if r.IntN(5) == 0 {
			e.Run--
		}
		wasFlow := s.m.phase == flow
		next, actions := s.m.Step(s.now, e)
		s.next = next
		for _, a := range actions {
			if a.Do == Switch {
				path = a.Path
			}
		}
		rep := s.m.Report()
		switch {
		case rep.Path != path:
			t.Fatalf("packets were told to go %v, and the report says %v", path, rep.Path)
		case closed && path == Packet:
			t.Fatal("the packet path in spite of always-on")
		case path == Flow && (s.m.phase != flow || !s.m.all(Active)):
			t.Fatalf("the flow path in phase %d: %+v", s.m.phase, rep)
		case s.m.phase == off && path != Nowhere:
			t.Fatalf("%v when it is off", path)
		case wasFlow && s.m.phase != flow && path == Flow:
			t.Fatalf("%+v", rep)
		case rep.Healthy != (path == Flow && rep.Confirmed):
			t.Fatalf("%+v", rep)
		case !next.IsZero() && (next.Before(s.now) || next.Sub(s.now) > 6*time.Second):
			t.Fatalf("next in %v", next.Sub(s.now))
		case s.m.phase == flow && next.IsZero():
			t.Fatal("nobody watches")
		}
	}
}
