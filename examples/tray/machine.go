package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"time"
)

// A machine asks the command culvert for the tunnel that the whole machine uses, which another process has, with other rights than
// this one: the command knows where to find it and who may ask. It is a command line, such as sudo -n culvert.
type machine []string

const (
	machineInterval = 5 * time.Second
	// machineTime is how long culvert status may take, and departureTime culvert disconnect, which waits until all is undone.
	machineTime   = 5 * time.Second
	departureTime = time.Minute
	// mostMachine is how much it may say, in bytes.
	mostMachine = 1 << 20
)

// A machineTunnel is what culvert status --json tells, as far as it is shown here. The zero machineTunnel is none, or one that this
// user may not know of.
type machineTunnel struct {
	State  string `json:"state"` // connecting, connected, reconnecting or closed, and none if there is none
	Server string `json:"server"`
	Path   string `json:"path"`
}

// there reports whether there is one.
func (t machineTunnel) there() bool { return t.State != "" && t.State != "none" }

// title is what the menu says.
func (t machineTunnel) title() string {
	if !t.there() {
		return "This machine: no tunnel"
	}
	s := "This machine: " + line(t.State)
	if t.Server != "" {
		s += ", " + displayName(t.Server)
	}
	if t.Path != "" {
		s += " over " + strings.ToUpper(line(t.Path))
	}
	return s
}

// status asks how it is.
func (m machine) status(ctx context.Context) (t machineTunnel, err error) {
	out, err := m.run(ctx, machineTime, "status", "--json")
	// Without a tunnel the status is not 0, and the report is there all the same.
	if jerr := json.Unmarshal(out, &t); err == nil {
		err = jerr
	} else if jerr == nil {
		err = nil
	}
	return t, err
}

// disconnect ends it.
func (m machine) disconnect(ctx context.Context) error {
	_, err := m.run(ctx, departureTime, "disconnect")
	return err
}

// run runs the command and returns what it prints. The error is what it complains of.
func (m machine) run(ctx context.Context, limit time.Duration, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, m[0], append(m[1:len(m):len(m)], args...)...)
	cmd.WaitDelay = time.Second
	var out, complaint bounded
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err != nil && complaint.b.Len() > 0:
		err = errors.New(line(complaint.b.String()))
	}
	return out.b.Bytes(), err
}

// bounded takes so much and no more.
type bounded struct{ b bytes.Buffer }

func (w *bounded) Write(p []byte) (int, error) {
	if w.b.Len()+len(p) > mostMachine {
		return 0, errors.New("too much")
	}
	return w.b.Write(p)
}

// watchMachine has the model tell of the machine until ctx ends.
func (a *app) watchMachine(ctx context.Context) {
	again := time.NewTicker(machineInterval)
	defer again.Stop()
	for {
		t, err := a.machine.status(ctx)
		if err != nil {
			a.logger.Debug("the tunnel of this machine is not known", "err", err)
		}
		a.post(func() { a.m.machine = t })
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

// leaveMachine ends the tunnel of the machine, if this user may.
func (a *app) leaveMachine(ctx context.Context) {
	if a.m.leaving || !a.m.machine.there() {
		return
	}
	a.m.leaving = true
	a.work.Go(func() {
		err := a.machine.disconnect(ctx)
		t, _ := a.machine.status(ctx) // what is not known is not shown
		a.post(func() {
			a.m.leaving, a.m.machine = false, t
			if err != nil && ctx.Err() == nil {
				a.notes.notify(notice{topic: topicTrouble, title: "The tunnel of this machine goes on", body: line(err.Error()), urgent: true})
			}
		})
	})
}
