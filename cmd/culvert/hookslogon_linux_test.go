package main

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/host/logins"
	"culvert.example/vpn/internal/logind"
	"culvert.example/vpn/script"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
)

// TestHooksLogon has a service bring a tunnel up before anybody has logged on, as the real systemd-logind says: OnConnect runs for who
// logs on at the machine itself, if the profile lets it run after a tunnel from before the logon, and OnDisconnect at the end.
func TestHooksLogon(t *testing.T) {
	t.Parallel()
	const nobody = 65534
	for name, before := range map[string]bool{"allowed": true, "not after the logon": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := logind.Start(t)
			base := t.TempDir()
			open := func(mode os.FileMode, path ...string) string {
				t.Helper()
				dir := filepath.Join(append([]string{base}, path...)...)
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(dir, mode); err != nil {
					t.Fatal(err)
				}
				return dir
			}
			write := func(mode os.FileMode, name, text string) {
				t.Helper()
				if err := os.WriteFile(name, []byte(text), mode); err != nil {
					t.Fatal(err)
				}
			}
			// Another user has to get there.
			open(0o755, "..")
			open(0o755)
			scripts, said := open(0o755, "script"), filepath.Join(open(0o777, "said"), "all")
			for _, name := range []string{"OnConnect.sh", "OnDisconnect.sh"} {
				write(0o755, filepath.Join(scripts, name), "#!/bin/sh\necho \"$reason $TUNDEV $INTERNAL_IP4_ADDRESS $(id -u)\" >>"+said+"\n")
			}
			// This process is a service, whoever has started the test.
			self := open(0o755, "proc", strconv.Itoa(os.Getpid()))
			write(0o644, filepath.Join(self, "stat"), strconv.Itoa(os.Getpid())+" (culvert) S 0 0 0")
			write(0o644, filepath.Join(self, "status"), "Uid:\t0\t0\t0\t0\n")
			var stderr bytes.Buffer
			h := &hooks{
				app: &app{err: &stderr, getenv: func(string) string { return "" }}, device: func() string { return "tun7" },
				cfg:    script.HooksConfig{Dir: scripts, BeforeLogon: before, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))},
				source: logins.New(logins.Options{Bus: d.Address, Proc: filepath.Join(base, "proc")}), over: make(chan struct{}),
				lease: &transport.Lease{Addresses: []netip.Prefix{netip.MustParsePrefix("10.8.0.5/32")}, MTU: 1400},
			}
			gw := gatewaytest.New(t)
			tunnel, err := vpn.Dial(t.Context(), gw.URL, &vpn.Config{
				Login: login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password}, Pins: []string{gw.Pin},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer tunnel.Close()
			h.connected(tunnel)
			if got := stderr.String(); !strings.Contains(got, "nobody has logged on yet") {
				t.Errorf("the user is told %q", got)
			}
			d.LogOn(logind.Logon{UID: 0, Service: "login"})
			d.LogOn(logind.Logon{UID: nobody, Service: "sshd", Remote: true, RemoteHost: "203.0.113.1"})
			d.LogOn(logind.Logon{UID: nobody, Service: "gdm-password", Type: "x11"})
			known := func() bool {
				h.mu.Lock()
				defer h.mu.Unlock()
				return h.run != nil
			}
			for deadline := time.Now().Add(10 * time.Second); !known() && time.Now().Before(deadline); {
				time.Sleep(20 * time.Millisecond)
			}
			h.finish()
			want := "disconnect tun7 10.8.0.5 65534\n"
			if before {
				want = "connect tun7 10.8.0.5 65534\n" + want
			}
			if got, _ := os.ReadFile(said); string(got) != want {
				t.Errorf("the scripts have said %q, want %q", got, want)
			}
			// What comes after the end is nothing.
			h.finish()
		})
	}
}

// TestHooksNobody ends a tunnel that nobody has logged on for: no script runs, and nothing is waited for.
func TestHooksNobody(t *testing.T) {
	t.Parallel()
	h := &hooks{source: logins.New(logins.Options{Bus: "unix:path=" + filepath.Join(t.TempDir(), "none"), Utmp: os.DevNull}), over: make(chan struct{})}
	gw := gatewaytest.New(t)
	tunnel, err := vpn.Dial(t.Context(), gw.URL, &vpn.Config{
		Login: login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password}, Pins: []string{gw.Pin},
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan *script.Hooks)
	h.tunnels.Go(func() { done <- h.logon(tunnel) })
	tunnel.Close()
	select {
	case run := <-done:
		if run != nil {
			t.Error("there is somebody")
		}
	case <-time.After(5 * time.Second):
		t.Error("it waits for ever")
	}
	h.finish()
}
