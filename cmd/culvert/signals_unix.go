//go:build unix

package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"culvert.example/vpn"
)

// watchSignals answers SIGUSR1 with the state of the tunnel and SIGUSR2 with a check of its paths, as openconnect does.
func watchSignals(ctx context.Context, r *reporter, t *vpn.Tunnel) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)
	for {
		select {
		case sig := <-signals:
			if sig == syscall.SIGUSR2 {
				t.NetworkChanged()
				continue
			}
			s := t.Status()
			e := tunnelEvent(s)
			e.Sent, e.Received = s.Counters.SentBytes, s.Counters.ReceivedBytes
			r.say(e, "%v %s; sent %d bytes, received %d", s.State, describe(s), s.Counters.SentBytes, s.Counters.ReceivedBytes)
		case <-ctx.Done():
			return
		}
	}
}

// survivePipes has writes to a pipe that nobody reads any more fail, instead of ending the process in the midst of whatever it does. The
// signal is caught and not ignored, which programs that this one starts would inherit.
func survivePipes() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// reloadSignal returns a channel that gets SIGHUP, which asks a server to read its files again.
func reloadSignal() (signals chan os.Signal, stop func()) {
	signals = make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	return signals, func() { signal.Stop(signals) }
}

// hangupSignal returns a channel that is closed by the first SIGHUP before ctx ends, or nil if the command is to ignore that signal, as
// nohup(1) wants. A terminal that goes away sends one too.
func hangupSignal(ctx context.Context) <-chan struct{} {
	if signal.Ignored(syscall.SIGHUP) {
		return nil
	}
	signals, hangup := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		defer signal.Stop(signals)
		select {
		case <-signals:
			close(hangup)
		case <-ctx.Done():
		}
	}()
	return hangup
}
