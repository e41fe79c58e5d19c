package system_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"culvert.example/vpn/flow"
	"culvert.example/vpn/flow/filter"
	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/split"
	"culvert.example/vpn/system"
	"culvert.example/vpn/transport"
)

// On the flow path every flow of every program is judged, and goes its way by name or address.
func TestFlowPath(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	w.teach()
	before := w.state()
	cfg := w.config()
	cfg.DataPath = system.Flow
	cfg.User = split.Rules{DynamicInclude: []string{"app.example.net"}}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if program, err = filepath.EvalSymlinks(program); err != nil {
		t.Fatal(err)
	}
	cfg.Filter = &filter.Config{Default: filter.Allow, Rules: []filter.Rule{
		{Name: "no finance", Action: filter.Block, Prefixes: []string{"172.20.9.0/24"}},
		{Name: "no games", Action: filter.Block, Prefixes: []string{"203.0.113.99/32"}},
		{Name: "not this user", Action: filter.Block, Prefixes: []string{"172.20.8.0/24"}, Users: []string{"0"}},
		{Name: "not this program", Action: filter.Block, Prefixes: []string{"172.20.7.0/24"}, Programs: []string{program}},
		{Name: "not other ones", Action: filter.Block, Prefixes: []string{"172.20.6.0/24"}, Users: []string{"65534"}},
		{Name: "not others", Action: filter.Block, Prefixes: []string{"172.20.6.0/24"}, Programs: []string{"/usr/bin/nothing"}},
	}}
	s := w.open(cfg)
	k := w.attach(s, lease(func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12") }))
	if err := s.Confirm(health.Flow); err != nil {
		t.Fatalf("%v\n%s", err, s.Status().DataPath.Report)
	}
	w.expect(map[string]string{
		"172.20.1.1": "inside", "203.0.113.80": "outside", "172.20.9.1": "nowhere", "203.0.113.99": "nowhere", "198.51.100.1": "outside",
		"172.20.8.1": "nowhere", "172.20.7.1": "nowhere", "172.20.6.1": "inside",
	})
	// What programs ask at port 53 of whatever address is answered by the proxy, on the side where it belongs.
	for name, want := range map[string]string{"git.corp.example": "172.20.1.1", "www.example.org": "203.0.113.80", "app.example.net": "203.0.113.91"} {
		if got := w.query("9.9.9.9:53", name, false); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	w.expect(map[string]string{"203.0.113.91": "inside"})
	for _, name := range w.outside.heard() {
		if strings.HasSuffix(name, "corp.example") {
			t.Errorf("%s was asked for outside", name)
		}
	}
	for addr, want := range map[string]bool{"172.20.1.1": true, "203.0.113.80": true} {
		if got := w.pings(addr); got != want {
			t.Errorf("ping %s: %v, want %v", addr, got, want)
		}
	}
	st := s.Status().DataPath
	if st.Path != health.Flow || st.Report == nil || !st.Report.Healthy || len(st.Rules) != 7 || st.Rules[0].Flows == 0 || st.FilterOff {
		t.Errorf("status %+v", st)
	}
	// The routes of the machine lead all to the interface, but that is not where everything lies.
	if r := s.Status().Routes; !r.Judged || !slices.Equal(r.Tunnel, prefixes("::/0", "10.8.0.0/24", "172.16.0.0/12", "203.0.113.91/32")) || r.Learned != 1 {
		t.Errorf("status %+v", r)
	}
	// A flow that goes on is seen with its program.
	c, err := w.client.DialContext(t.Context(), "tcp", "172.20.1.1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	echoes(t, c)
	flows := s.Flows()
	if i := slices.IndexFunc(flows, func(f flow.Info) bool { return f.Flow.Destination.Port() == 7 }); i < 0 || flows[i].Flow.Owner.UID != 0 || flows[i].Flow.Owner.Program == "" {
		t.Errorf("flows %+v", flows)
	}
	k.close()
	if after := w.state(); after != before {
		t.Errorf("the machine was\n%s\nand is\n%s", before, after)
	}
}

// pings reports whether a host answers a ping from the client.
func (w *world) pings(addr string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	return w.client.Command(ctx, "ping", "-c", "1", "-W", "2", addr).Run() == nil
}

// echoes checks that what is said comes back.
func echoes(tb testing.TB, c net.Conn) {
	tb.Helper()
	c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		tb.Error(err)
		return
	}
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "hello\n" {
		tb.Errorf("the echo is %q, %v", line, err)
	}
}

// When the flow path is left, packets go on by the packet path within a second, in the same session, and can go back.
func TestFailover(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.teach()
	cfg := w.config()
	cfg.DataPath = system.Flow
	cfg.Filter = &filter.Config{Default: filter.Allow, Rules: []filter.Rule{{Name: "no finance", Action: filter.Block, Prefixes: []string{"172.20.9.0/24"}}}}
	s := w.open(cfg)
	if err := s.Failover(); !errors.Is(err, system.ErrNoFlowPath) {
		t.Errorf("Failover without a tunnel: %v", err)
	}
	k := w.attach(s, lease(func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12") }))
	w.expect(map[string]string{"172.20.1.1": "inside", "203.0.113.80": "outside", "172.20.9.1": "nowhere"})
	if err := s.Revert(t.Context()); !errors.Is(err, flow.ErrNoRevert) {
		t.Errorf("Revert of nothing: %v", err)
	}
	start := time.Now()
	if err := s.Failover(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "packets take the packet path", func() bool { return s.Confirm(health.Packet) == nil && w.from("172.20.1.1") == "inside" })
	t.Logf("failing over took %v", time.Since(start))
	w.expect(map[string]string{"172.20.1.1": "inside", "203.0.113.80": "outside"})
	if got := w.query(proxy, "git.corp.example", false); got != "172.20.1.1" {
		t.Errorf("git.corp.example is %s", got)
	}
	st := s.Status()
	if r := st.DataPath.Report; r.Path != health.Packet || r.Reason != health.Command || r.Revert == "" || st.Routes.Tunnels != 3 {
		t.Errorf("status %+v", st)
	}
	// Nothing filters now, and that is said.
	w.expect(map[string]string{"172.20.9.1": "inside"})
	told := 0
	for _, e := range st.Events {
		if e.Kind == system.EventDataPath && strings.Contains(e.What, "the content filter is not in force there, until: "+health.RevertCommand) {
			told++
		}
	}
	if !st.DataPath.FilterOff || told != 1 {
		t.Errorf("%+v, events %+v", st.DataPath, st.Events)
	}
	if err := s.Confirm(health.Flow); !errors.Is(err, health.ErrNotConfirmed) {
		t.Errorf("Confirm: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.Revert(ctx); err != nil {
		t.Fatal(err)
	}
	w.expect(map[string]string{"172.20.1.1": "inside", "203.0.113.80": "outside", "172.20.9.1": "nowhere"})
	if s.Status().DataPath.FilterOff {
		t.Error("after the revert the filter is still said not to be in force")
	}
	select {
	case err := <-k.ended:
		t.Errorf("the session ended: %v", err)
	default:
	}
	if !slices.ContainsFunc(s.Status().Events, func(e system.Event) bool { return e.Kind == system.EventDataPath }) {
		t.Error("no event tells of it")
	}
}

// A part that fails by itself makes the same happen: one that panics at once, and one that hangs when that is noticed.
func TestPartFails(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fail   func()
		within time.Duration
		why    health.Reason
	}{
		"panic": {func() { panic("broken by a test") }, 500 * time.Millisecond, health.Panic},
		"hang":  {func() {}, 2 * time.Second, health.Watchdog},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.teach()
			cfg := w.config()
			cfg.DataPath = system.Flow
			s := w.open(cfg)
			var broken atomic.Bool
			system.Interpose(s, func(d flow.Decider) flow.Decider {
				return flow.DeciderFunc(func(ctx context.Context, f *flow.Flow) (flow.Verdict, error) {
					if broken.Load() {
						if tc.why == health.Watchdog {
							<-ctx.Done() // which is too late
							time.Sleep(3 * time.Second)
						}
						tc.fail()
					}
					return d.Decide(ctx, f)
				})
			})
			w.attach(s, lease(func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12") }))
			w.expect(map[string]string{"172.20.1.1": "inside"})
			broken.Store(true)
			start := time.Now()
			var program sync.WaitGroup
			defer program.Wait()
			program.Go(func() { w.from("172.20.1.2") }) // which is judged, at which the part fails
			eventually(t, tc.within, "packets take the packet path", func() bool { return s.Confirm(health.Packet) == nil })
			t.Logf("failing over took %v", time.Since(start))
			w.expect(map[string]string{"172.20.1.1": "inside", "203.0.113.80": "outside"})
			r := s.Status().DataPath.Report
			if r.Reason != tc.why || r.Part != "content-filter" || r.Parts[health.ContentFilter].State != health.Failed || r.Parts[health.ContentFilter].Err == "" {
				t.Errorf("report %+v", r)
			}
			broken.Store(false)
		})
	}
}

// With a closed kill switch nothing passes when the flow path fails, and the session lives on.
func TestFailClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.teach()
	cfg := w.config()
	cfg.DataPath = system.Flow
	cfg.KillSwitch = &system.KillSwitch{Reject: true}
	s := w.open(cfg)
	k := w.attach(s, lease(func(l *transport.Lease) {
		l.Include = prefixes("172.16.0.0/12")
		l.Exclude = prefixes("203.0.114.0/24")
	}))
	w.expect(map[string]string{"172.20.1.1": "inside", "203.0.113.80": "nowhere", "203.0.114.1": "outside"})
	for host, want := range map[string]string{
		"172.20.1.1": "tunnel by include 172.16.0.0/12", "203.0.114.1": "direct by exclude 203.0.114.0/24",
		"203.0.113.80": "nowhere by not included, and the kill switch stops what would leave past the tunnel", "127.0.0.1": "direct by loopback",
	} {
		if r, err := s.Explain(t.Context(), host); err != nil || len(r) != 1 || r[0].Way.String()+" by "+r[0].Rule != want {
			t.Errorf("%s: %+v, %v, want %s", host, r, err, want)
		}
	}
	if err := s.Failover(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "nothing passes", func() bool { return s.Confirm(health.Nowhere) == nil })
	w.air.Forget()
	w.probe()
	w.expect(map[string]string{"172.20.1.1": "nowhere", "203.0.114.1": "nowhere"})
	if leaks := w.leaks(); len(leaks) > 0 {
		t.Errorf("left the machine: %v", leaks)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.Revert(ctx); err != nil {
		t.Fatal(err)
	}
	w.expect(map[string]string{"172.20.1.1": "inside"})
	select {
	case err := <-k.ended:
		t.Errorf("the session ended: %v", err)
	default:
	}
}

// Auto takes the flow path only if something needs it.
func TestAutoPath(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open(w.config())
	k := w.attach(s, lease(nil))
	if err := s.Confirm(health.Packet); err != nil {
		t.Error(err)
	}
	if err := s.Confirm(health.Flow); !errors.Is(err, health.ErrNotConfirmed) {
		t.Errorf("Confirm: %v", err)
	}
	if err := s.Revert(t.Context()); !errors.Is(err, system.ErrNoFlowPath) {
		t.Errorf("Revert: %v", err)
	}
	k.close()
	s.Close()
	cfg := w.config()
	cfg.Filter = &filter.Config{Default: filter.Allow}
	s = w.open(cfg)
	w.attach(s, lease(nil))
	if err := s.Confirm(health.Flow); err != nil {
		t.Error(err)
	}
}

// Connections that come in through the tunnel reach the programs of the machine, on either path.
func TestInward(t *testing.T) {
	t.Parallel()
	for _, path := range []system.DataPath{system.Packet, system.Flow} {
		w := newWorld(t)
		cfg := w.config()
		cfg.DataPath = path
		s := w.open(cfg)
		k := w.attach(s, lease(nil))
		l, err := w.client.Listen("tcp", netip.AddrPortFrom(innerAddr.Addr(), 2222).String())
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if c, err := l.Accept(); err == nil {
				greet(c, "hello")
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		c, err := k.inside.DialTCP(ctx, netip.MustParseAddrPort("172.20.1.1:0"), netip.AddrPortFrom(innerAddr.Addr(), 2222))
		cancel()
		if err != nil {
			t.Errorf("%v: %v", path, err)
		} else if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
			t.Errorf("%v: %q, %v", path, b, err)
		}
		if c != nil {
			c.Close()
		}
		l.Close()
	}
}
