package vpn_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/transport/cstp"
	"culvert.example/vpn/transport/login"
)

// A farewell is a log of a gateway that keeps why tunnels were closed.
type farewell struct {
	slog.Handler
	mu      sync.Mutex
	reasons []error
}

func (f *farewell) Enabled(context.Context, slog.Level) bool { return true }

func (f *farewell) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "tunnel closed" {
		return nil
	}
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok && a.Key == "reason" {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.reasons = append(f.reasons, err)
		}
		return true
	})
	return nil
}

// said reports whether the client said goodbye in the tunnel of that number.
func (f *farewell) said(t *testing.T, n int) bool {
	t.Helper()
	eventually(t, 5*time.Second, "the gateway notices the end of the tunnel", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.reasons) > n
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	_, said := errors.AsType[*cstp.DisconnectError](f.reasons[n])
	return said
}

// A tunnel that was suspended lives on at the gateway, and goes on there with nobody being asked.
func TestSuspend(t *testing.T) {
	t.Parallel()
	ends := &farewell{Handler: slog.DiscardHandler}
	gw := gatewaytest.New(t, gatewaytest.Options{Config: func(c *gateway.Config) { c.Logger = slog.New(ends) }})
	tun := dial(t, gw.URL, settings(gw))
	before := only(t, gw)
	ticket, err := tun.Suspend()
	if err != nil {
		t.Fatal(err)
	}
	if err := ended(t, tun, time.Second); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the tunnel has ended for %v", err)
	}
	if ends.said(t, 0) {
		t.Error("the client has logged out")
	}
	if again, err := tun.Suspend(); again != ticket || err != nil {
		t.Errorf("a second time: %v", err)
	}

	resume := func() (*vpn.Tunnel, error) {
		return vpn.Dial(timeout(t, 10*time.Second), gw.URL, settings(gw, func(c *vpn.Config) {
			c.Ticket, c.Login = ticket, asks(func() { t.Error("somebody is asked for credentials") })
		}))
	}
	if tun, err = resume(); err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	if after := only(t, gw); after.ID != before.ID || !after.LoggedIn.Equal(before.LoggedIn) || !slices.Equal(after.Addresses, before.Addresses) {
		t.Errorf("the session was\n%+v\nand is\n%+v", before, after)
	}
	conn, err := tun.DialContext(timeout(t, 10*time.Second), "tcp", gw.Echo.String())
	if err != nil {
		t.Fatal(err)
	}
	transfer(t, conn, 1<<16)
	tun.Close()
	if !ends.said(t, 1) {
		t.Error("at the end the client has not logged out")
	}
	if _, err := tun.Suspend(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}

	if err := gw.Expire(before.ID); err != nil {
		t.Fatal(err)
	}
	if tun, err := resume(); !errors.Is(err, vpn.ErrExpired) {
		t.Errorf("a session that has expired: %v, %v", tun, err)
	}
}

// asks is a Prompter that has no answer and tells when it is asked.
type asks func()

func (a asks) Answer(context.Context, *login.Form) error {
	a()
	return login.ErrCannot
}
