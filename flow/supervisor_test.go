package flow

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/stack"
)

// A station is a machine with both data paths and a supervisor. The packet path leads straight to the hosts of the tunnel.
type station struct {
	*world
	sw    *Switch
	super *Supervisor
	// sick makes a part fail, as its name says, until it is set to nothing.
	sick    atomic.Value
	opens   atomic.Int32
	release chan struct{}
}

func newStation(t *testing.T, cfg health.Config) *station { return newStationOf(t, cfg, 0) }

// newStationOf is newStation with room for so many flows, the usual number if it is 0.
func newStationOf(t *testing.T, cfg health.Config, room int) *station {
	t.Helper()
	s := &station{world: openWorld(t), release: make(chan struct{})}
	s.sick.Store("")
	near, dev := packet.Pipe(1400, 256)
	join(t, s.programs.Link(), near)
	s.sw = NewSwitch(dev)
	t.Cleanup(func() { s.sw.Close() })

	// The packet path: the hosts see the packets of the machine as they are.
	session := newStack(t, stack.Config{MTU: 1400, AcceptTCP: func(ctx context.Context, r *stack.TCPRequest) { s.tunnel.tcp(ctx, r, nil) }})
	t.Cleanup(func() { session.Close() })
	packets := s.sw.Side()
	join(t, session.Link(), packets)

	var flows *Side
	var err error
	s.super, err = Supervise(SupervisorConfig{
		Health:   cfg,
		Interval: 50 * time.Millisecond,
		Open: func(failed func(health.Part, health.Reason, error)) (*Interceptor, error) {
			s.opens.Add(1)
			if s.sick.Load() == "open" {
				return nil, errors.New("no memory")
			}
			flows = s.sw.Side()
			cfg := s.config(Config{Failed: failed, Device: flows, DecideTime: 100 * time.Millisecond, Decider: DeciderFunc(s.decide), MaxFlows: room})
			return New(cfg)
		},
		Switch: func(_ context.Context, to health.Path) error {
			switch to {
			case health.Flow:
				return s.sw.Select(flows)
			case health.Packet:
				return s.sw.Select(packets)
			}
			return s.sw.Select(nil)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.super.Close() })
	return s
}

func (s *station) decide(_ context.Context, f *Flow) (Verdict, error) {
	if f.Destination.Port() == 666 {
		switch s.sick.Load() {
		case "panic":
			panic("no rule 7")
		case "hang":
			<-s.release
		}
	}
	return Verdict{Allow: true, Way: Direct}, nil
}

// reaches returns who answers a program: direct on the flow path, tunnel on the packet path, or nobody.
func (s *station) reaches() string {
	ctx, cancel := context.WithTimeout(s.tb.Context(), 250*time.Millisecond)
	defer cancel()
	c, err := s.programs.DialContext(ctx, "tcp", "198.51.100.7:25")
	if err != nil {
		return "nobody"
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil {
		return "nobody"
	}
	return string(b[4 : n-2])
}

func (s *station) healthy() bool { return s.super.Report().Healthy }

// TestFailover has parts of the flow path fail, and looks at how long programs are without a network.
func TestFailover(t *testing.T) {
	for _, tt := range []struct {
		sick   string
		closed bool
		reason health.Reason
		want   string // who answers then
	}{
		{"panic", false, health.Panic, "tunnel"},
		{"panic", true, health.Panic, "nobody"},
		{"hang", false, health.Watchdog, "tunnel"},
		{"hang", true, health.Watchdog, "nobody"},
	} {
		t.Run(tt.sick+map[bool]string{true: " under always-on"}[tt.closed], func(t *testing.T) {
			checkLeaks(t)
			s := newStation(t, health.Config{Close: tt.closed})
			eventually(t, "the flow path is healthy", s.healthy)
			eventually(t, "the flow path carries", func() bool { return s.reaches() == "direct" })
			if err := s.super.Confirm(health.Flow); err != nil {
				t.Error(err)
			}
			open := s.mustDial("tcp", "198.51.100.7:7")
			s.ask(open, "x")

			s.sick.Store(tt.sick)
			poke, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			s.programs.DialContext(poke, "tcp", "198.51.100.7:666")
			cancel()
			start := time.Now()
			eventually(t, "the flow path is left", func() bool {
				r := s.super.Report()
				return r.Path != health.Flow && r.Confirmed
			})
			took := time.Since(start)
			// A decision may take its time, and then the part has to be silent for a while before that is believed, a while longer if
			// the machine is so busy that the supervisor does not run in time.
			t.Logf("it took %v", took)
			if took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
			eventually(t, tt.want+" answers", func() bool { return s.reaches() == tt.want })
			// Programs learned that their connections are over.
			if _, err := open.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the open connection: %v", err)
			}
			r := s.super.Report()
			if r.Reason != tt.reason || r.Part != "content-filter" || r.Parts[health.ContentFilter].State != health.Failed || r.Err == "" {
				t.Errorf("%v", r)
			}
			if err := s.super.Confirm(health.Flow); !errors.Is(err, health.ErrNotConfirmed) {
				t.Errorf("%v", err)
			}
			if err := s.super.Confirm(r.Path); err != nil {
				t.Error(err)
			}

			// It goes back by command, once the cause is gone.
			s.sick.Store("open")
			if err := s.super.Revert(soon(t)); !errors.Is(err, health.ErrNotConfirmed) {
				t.Errorf("reverting too early: %v", err)
			}
			s.sick.Store("")
			close(s.release)
			if err := s.super.Revert(soon(t)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the flow path carries again", func() bool { return s.reaches() == "direct" })
			if err := s.super.Revert(soon(t)); !errors.Is(err, ErrNoRevert) {
				t.Errorf("reverting twice: %v", err)
			}
			if n := s.opens.Load(); n != 3 || s.super.Report().Failovers != 2 {
				t.Errorf("opened %d times, %v", n, s.super.Report())
			}
		})
	}
}

// A part that has more to do than it can is left for the packet path, which has no such limit, or for nothing under always-on.
func TestFailoverOfOverload(t *testing.T) {
	for _, closed := range []bool{false, true} {
		t.Run(map[bool]string{false: "packet", true: "nowhere"}[closed], func(t *testing.T) {
			checkLeaks(t)
			s := newStationOf(t, health.Config{Close: closed}, 1)
			defer close(s.release)
			eventually(t, "the flow path carries", func() bool { return s.healthy() && s.reaches() == "direct" })
			var open net.Conn
			eventually(t, "there is room for a flow", func() (ok bool) {
				var err error
				open, err = s.dial("tcp", "198.51.100.7:7")
				return err == nil
			})
			defer open.Close()
			s.ask(open, "x")
			eventually(t, "the flow path is left", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				defer cancel()
				if c, err := s.programs.DialContext(ctx, "tcp", "198.51.100.7:25"); err == nil {
					c.Close()
				}
				return s.super.Report().Reason != health.None
			})
			want := map[bool]string{false: "tunnel", true: "nobody"}[closed]
			eventually(t, want+" answers", func() bool { return s.super.Report().Confirmed && s.reaches() == want })
			if r := s.super.Report(); r.Reason != health.Overload || r.Part != "transparent-proxy" || r.Parts[health.TransparentProxy].State != health.Failed {
				t.Errorf("%v", r)
			}
		})
	}
}

// The flow path can be left by command.
func TestFailOverByCommand(t *testing.T) {
	s := newStation(t, health.Config{})
	defer close(s.release)
	eventually(t, "the flow path is healthy", s.healthy)
	s.super.FailOver()
	eventually(t, "the packet path is confirmed", func() bool { return s.super.Confirm(health.Packet) == nil })
	eventually(t, "the packet path carries", func() bool { return s.reaches() == "tunnel" })
	if s.super.Interceptor() != nil {
		t.Error("the flow path still runs")
	}
}

// Watch sees the states, the last one for certain.
func TestSupervisorWatch(t *testing.T) {
	checkLeaks(t)
	s := newStation(t, health.Config{})
	defer close(s.release)
	seen := make(chan health.Report, 1000)
	ended := make(chan error, 1)
	go func() { ended <- s.super.Watch(t.Context(), func(r health.Report) { seen <- r }) }()
	for r := range seen {
		if r.Healthy {
			break
		}
	}
	s.super.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := s.super.Report(); got.Path != health.Nowhere || got.Healthy {
		t.Errorf("%v", got)
	}
	if got := s.reaches(); got != "nobody" {
		t.Errorf("%s answers after Close", got)
	}
}

// A switch that hangs does not keep the supervisor from anything.
func TestSwitchHangs(t *testing.T) {
	checkLeaks(t)
	release := make(chan struct{})
	w := openWorld(t)
	_, dev := pipe(t, w, nil)
	s, err := Supervise(SupervisorConfig{
		Health:   health.Config{SwitchTime: 50 * time.Millisecond},
		Interval: 20 * time.Millisecond,
		Open: func(failed func(health.Part, health.Reason, error)) (*Interceptor, error) {
			return New(w.config(Config{Failed: failed, Device: dev, Decider: viaTunnel}))
		},
		Switch: func(_ context.Context, to health.Path) error {
			switch to {
			case health.Flow:
				<-release
			case health.Packet:
				panic("no route")
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	// The packet path, where it begins, cannot be had either: nothing passes.
	eventually(t, "nothing passes", func() bool { return s.Confirm(health.Nowhere) == nil && s.Report().Reason == health.NoSwitch })
	close(release)
	s.Close()
}

func TestSuperviseErrors(t *testing.T) {
	if _, err := Supervise(SupervisorConfig{}); err == nil {
		t.Error("a supervisor of nothing")
	}
}
