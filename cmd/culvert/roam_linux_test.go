package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/internal/ocserv"
)

// TestRoam gives a machine a better way out, and takes the one from before away, while a transfer runs through the tunnel.
func TestRoam(t *testing.T) {
	t.Parallel()
	var better string
	m := newMachine(t, taste{lines: splitLines, network: func(l *lab) {
		better, _ = l.net.Join(l.client, "10.97.0.2/24", l.router, "10.97.0.1/24")
		l.client.IP("route", "del", "default")
		l.client.IP("route", "add", "default", "via", "10.98.0.1", "dev", l.clientIf, "metric", "200")
	}})
	echo := ocserv.Echo(t, m.gateway, ocserv.Inside)
	p := m.connect()
	c, err := m.client.DialContext(t.Context(), "tcp", echo.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	const step, rate = 10 * time.Millisecond, 1 << 20 // bytes a second
	stop := make(chan struct{})
	sent := make(chan int64, 1) // how many bytes, in the end
	go func() {
		from, total := rand.NewChaCha8([32]byte{9}), int64(0)
		tick := time.NewTicker(step)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				n, err := io.CopyN(c, from, rate/int64(time.Second/step))
				if total += n; err == nil {
					continue
				}
			case <-stop:
			}
			c.(interface{ CloseWrite() error }).CloseWrite()
			sent <- total
			return
		}
	}()
	var received int64
	var stall time.Duration
	done := make(chan error, 1)
	go func() {
		want, got, expected := rand.NewChaCha8([32]byte{9}), make([]byte, 32<<10), make([]byte, 32<<10)
		for last := time.Now(); ; last = time.Now() {
			n, err := c.Read(got)
			stall = max(stall, time.Since(last))
			want.Read(expected[:n])
			if !bytes.Equal(got[:n], expected[:n]) {
				err = fmt.Errorf("what came back after %d bytes is not what was sent", received)
			}
			if received += int64(n); err != nil {
				done <- err
				return
			}
		}
	}()

	var told int
	m.client.IP("route", "add", "default", "via", "10.97.0.1", "dev", better, "metric", "100")
	e := p.within(10*time.Second, &told, "the tunnel moves", func(e event) bool { return e.Event == "system" && e.Kind == "roam" })
	if e.Error != "" || !strings.Contains(e.Message, better) {
		t.Errorf("%+v", e)
	}
	m.client.IP("link", "set", m.clientIf, "down")
	time.Sleep(500 * time.Millisecond)
	if r := m.report(); r.Uplink.Interface != better || r.Uplink.Roams != 1 || r.Reconnects != 0 {
		t.Errorf("%+v", r)
	}
	close(stop)
	if err := <-done; err != io.EOF {
		t.Errorf("the transfer: %v", err)
	}
	if total := <-sent; received != total || received < rate/2 {
		t.Errorf("%d bytes were sent, and %d came back", total, received)
	}
	if stall > time.Second {
		t.Errorf("the transfer stood still for %v", stall)
	}
	t.Logf("interop: %d bytes came back, and nothing for %v at most", received, stall.Round(time.Millisecond))
	p.cmd.Process.Signal(syscall.SIGTERM)
	if code := p.exit(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
	m.loggedOut()
}
