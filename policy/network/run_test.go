package network

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"culvert.example/vpn/policy/network/portal"
	"culvert.example/vpn/policy/network/selection"
	"culvert.example/vpn/policy/network/trusted"
	"culvert.example/vpn/policy/profile"
)

// A diary are Hooks that write down what they are called for.
type diary struct {
	mu     sync.Mutex
	log    []string
	exempt bool
	expire bool // a session that is resumed has expired
}

func (d *diary) note(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, what)
}

func (d *diary) Connect(_ context.Context, a Attempt) (Up, error) {
	d.note("connect " + a.Server)
	return Up{Exempt: d.exempt}, nil
}

func (d *diary) Resume(_ context.Context, a Attempt) (Up, error) {
	d.note("resume " + a.Server)
	if d.expire {
		return Up{}, &Failure{SessionTimeout, errors.New("expired")}
	}
	return Up{}, nil
}

func (d *diary) Disconnect(_ context.Context, why Reason) error {
	d.note("disconnect " + string(why))
	return nil
}

func (d *diary) Pause(context.Context) error { d.note("pause"); return nil }

func (d *diary) SetFirewall(_ context.Context, f Firewall) error {
	d.note("firewall " + f.Mode.String())
	return nil
}

func (d *diary) OpenPortal(context.Context, time.Duration) error           { return nil }
func (d *diary) ClosePortal(context.Context) error                         { return nil }
func (d *diary) AskTrusted(context.Context, trusted.Rules) trusted.Answers { return trusted.Answers{} }
func (d *diary) AskPortal(context.Context, []string) portal.Report         { return portal.Report{} }
func (d *diary) RoundTrip(context.Context, string) (time.Duration, error) {
	return 0, errors.ErrUnsupported
}
func (d *diary) Save(selection.Cache) {}
func (d *diary) Notify(Notice)        {}

// keep runs a Runner with the diary, hands it the events one by one, and returns what was written down.
func (d *diary) keep(t *testing.T, cfg Config, links []trusted.Link, events ...Event) (log string, last Status) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg.NoPortals, cfg.Hosts = true, []Host{{Name: "Main", Server: "a"}}
		m, err := New(cfg, selection.Cache{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		r := NewRunner(m, d, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = r.Run(ctx, links) }()
		synctest.Wait()
		for _, e := range events {
			if err := r.Do(ctx, e); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		last = r.Status()
		cancel()
		<-done
	})
	return strings.Join(d.log, ", "), last
}

// B.12: Pause keeps the session, which is resumed outside without a login, unless it has expired.
func TestPause(t *testing.T) {
	cfg := Config{Automatic: true, Trusted: rules(), TrustedPolicy: profile.Pause}
	out, home := Event{Kind: NetworkChanged, Links: cafe}, Event{Kind: NetworkChanged, Links: office}
	for expired, want := range map[bool]string{
		false: "firewall open, connect a, pause, resume a, pause",
		true:  "firewall open, connect a, pause, resume a, connect a, pause",
	} {
		d := &diary{expire: expired}
		if got, s := d.keep(t, cfg, cafe, home, out, home); got != want || s.Tunnel != string(paused) {
			t.Errorf("expired %v: the tunnel is %s:\n got %s\nwant %s", expired, s.Tunnel, got, want)
		}
	}
}

// B.6: X-CSTP-Disable-Always-On-VPN lifts Always-On until the restart.
func TestExempt(t *testing.T) {
	for exempt, want := range map[bool]string{
		false: "firewall closed, connect a, firewall tunnel, firewall closed, disconnect ended by the user",
		true:  "firewall closed, connect a, firewall open, disconnect ended by the user",
	} {
		d := &diary{exempt: exempt}
		if got, _ := d.keep(t, closed(), cafe, Event{Kind: UserDisconnect}); got != want {
			t.Errorf("exempt %v:\n got %s\nwant %s", exempt, got, want)
		}
	}
}
