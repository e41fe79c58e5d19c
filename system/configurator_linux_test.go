package system_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/system"
	"culvert.example/vpn/transport"
)

// A script configures the client as an administrator's would.
type script struct {
	host  *netns.Host
	fails bool
	takes time.Duration // to reconnect and to disconnect

	mu    sync.Mutex
	calls []string
}

func (s *script) called(what string, c system.Connection) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, what)
	if c.Device != system.DefaultDevice || c.Gateway != gatewayAddr || c.MTU != 1400 {
		return errors.New("not what the script was to be told")
	}
	return nil
}

func (s *script) Prepare(_ context.Context, c system.Connection) error { return s.called("prepare", c) }

func (s *script) Connect(_ context.Context, c system.Connection) error {
	if s.fails {
		return errors.New("the script failed")
	}
	s.host.IP("addr", "add", c.Lease.Addresses[0].Addr().String()+"/32", "dev", c.Device)
	s.host.IP("link", "set", c.Device, "up")
	s.host.IP("route", "add", "172.16.0.0/12", "dev", c.Device)
	return s.called("connect", c)
}

func (s *script) Reconnecting(_ context.Context, c system.Connection) error {
	return s.called("attempt-reconnect", c)
}
func (s *script) Reconnect(ctx context.Context, c system.Connection) error {
	return s.slowly(ctx, "reconnect", c)
}
func (s *script) Disconnect(ctx context.Context, c system.Connection) error {
	return s.slowly(ctx, "disconnect", c)
}

func (s *script) slowly(ctx context.Context, what string, c system.Connection) error {
	select {
	case <-time.After(s.takes):
		return s.called(what, c)
	case <-ctx.Done():
		s.called(what+" was broken off", c)
		return ctx.Err()
	}
}

func (s *script) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// A Configurator takes the place of this package's own changes of routes and resolver.
func TestConfigurator(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.state()
	c := &script{host: w.client}
	cfg := w.config()
	cfg.Configurator = c
	s := w.open(cfg)
	l := lease(func(l *transport.Lease) { l.Include = prefixes("203.0.113.0/24") })
	k := w.attach(s, l)
	w.expect(map[string]string{"172.20.1.1": "inside", "203.0.113.80": "outside"})
	k.device.Changed(vpn.Reconnecting, l)
	eventually(t, time.Second, "it is told of the interruption", func() bool { return slices.Contains(c.list(), "attempt-reconnect") })
	if st := s.Status(); !st.Attached || !st.Reconnecting {
		t.Errorf("meanwhile attached %v, reconnecting %v", st.Attached, st.Reconnecting)
	}
	k.device.Changed(vpn.Connected, l)
	eventually(t, time.Second, "it is told of the end of it", func() bool { return slices.Contains(c.list(), "reconnect") })
	if s.Status().Reconnecting {
		t.Error("it is still reconnecting after the end of it")
	}
	k.close()
	if want := []string{"prepare", "connect", "attempt-reconnect", "reconnect", "disconnect"}; !slices.Equal(c.list(), want) {
		t.Errorf("called: %v, want %v", c.list(), want)
	}
	c.fails = true
	if _, err := w.tryAttach(s, l); err == nil {
		t.Error("a tunnel in spite of a script that failed")
	}
	if after := w.state(); after != before {
		t.Errorf("the machine was\n%s\nand is\n%s", before, after)
	}
}

// A Configurator may take longer than the changes of this package may, which are made in full after it.
func TestSlowConfigurator(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.state()
	c := &script{host: w.client, takes: 3 * time.Second}
	cfg := w.config()
	cfg.Configurator = c
	cfg.KillSwitch = &system.KillSwitch{Open: true, Reject: true}
	s := w.open(cfg)
	system.SetApplyTime(s, 2*time.Second)
	l := lease(func(l *transport.Lease) { l.Include = prefixes("203.0.113.0/24") })
	k := w.attach(s, l)
	w.expect(map[string]string{"172.20.1.1": "inside", "203.0.113.80": "nowhere"})
	k.device.Changed(vpn.Reconnecting, l)
	eventually(t, time.Second, "it is told of the interruption", func() bool { return len(c.list()) > 2 })
	k.device.Changed(vpn.Connected, l)
	eventually(t, 5*time.Second, "it is told of the end of it", func() bool { return len(c.list()) > 3 })
	k.close()
	if want := []string{"prepare", "connect", "attempt-reconnect", "reconnect", "disconnect"}; !slices.Equal(c.list(), want) {
		t.Errorf("called: %v, want %v", c.list(), want)
	}
	w.expect(map[string]string{"203.0.113.80": "outside"})
	if after := w.state(); after != before {
		t.Errorf("the machine was\n%s\nand is\n%s", before, after)
	}
}

// A deaf script does not hear that it is to come to an end, and counts how many calls it has at the same time.
type deaf struct {
	*script
	begun, calls, most atomic.Int32
}

func (d *deaf) call(f func(context.Context, system.Connection) error, c system.Connection) error {
	defer d.calls.Add(-1)
	d.begun.Add(1)
	d.most.Store(max(d.most.Load(), d.calls.Add(1)))
	time.Sleep(300 * time.Millisecond)
	return f(context.Background(), c)
}

func (d *deaf) Reconnecting(_ context.Context, c system.Connection) error {
	return d.call(d.script.Reconnecting, c)
}
func (d *deaf) Reconnect(_ context.Context, c system.Connection) error {
	return d.call(d.script.Reconnect, c)
}
func (d *deaf) Disconnect(_ context.Context, c system.Connection) error {
	return d.call(d.script.Disconnect, c)
}

// The tunnel may end while a Configurator is being told of something. It is told of the end after that, and then of nothing more.
func TestConfiguratorOneAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for what, end := range map[string]func(*system.System, *link){
		"the tunnel": func(_ *system.System, k *link) { k.close() },
		"the System": func(s *system.System, _ *link) {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		},
	} {
		d := &deaf{script: &script{host: w.client}}
		cfg := w.config()
		cfg.Configurator = d
		s := w.open(cfg)
		l := lease(nil)
		k := w.attach(s, l)
		k.device.Changed(vpn.Reconnecting, l)
		eventually(t, time.Second, "it is told of the interruption", func() bool { return slices.Contains(d.list(), "attempt-reconnect") })
		k.device.Changed(vpn.Connected, l)
		eventually(t, time.Second, "it is told of the end of it", func() bool { return d.begun.Load() == 2 })
		end(s, k)
		k.close()
		s.Close()
		if want := []string{"prepare", "connect", "attempt-reconnect", "reconnect", "disconnect"}; !slices.Equal(d.list(), want) || d.most.Load() != 1 {
			t.Errorf("%s ends: called: %v, want %v; %d at the same time", what, d.list(), want, d.most.Load())
		}
	}
}
