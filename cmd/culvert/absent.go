package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"culvert.example/vpn/host"
	"culvert.example/vpn/policy/decision"
)

// A notRunningError says that no client runs that this user may ask, and whether one has left changes.
type notRunningError struct {
	journal string
	left    bool // changes of this machine
	walled  bool // a kill switch is among them
	alone   bool // and is all that was left
	unknown bool // that is not for this user to see

	asRoot string // the command that root may call instead
}

// Error implements error.
func (e *notRunningError) Error() string {
	const none = "no culvert connect is running"
	switch left := none + ", but one has ended without undoing its changes of this machine, as " + e.journal + " says"; {
	case e.alone:
		return none + ", but the kill switch of one that has ended blocks the network of this machine, because it is" +
			" locked, policy demands it, or no tunnel came about; it is lifted by: culvert repair"
	case e.walled:
		return left + "; its kill switch blocks the network of this machine, also after --always-on open, until: culvert repair"
	case e.left:
		return left + "; undo them with: culvert repair"
	case e.unknown:
		return none + " for this user, and whether one has left changes of this machine, such as a closed kill switch, is for root to see"
	}
	return none
}

// Unwrap returns errNotRunning.
func (e *notRunningError) Unwrap() error { return errNotRunning }

// answer says what becomes of flows by what the client has left, nil if nothing keeps them from passing.
func (e *notRunningError) answer() func(decision.Query) decision.Answer {
	if !e.walled {
		return nil
	}
	return func(decision.Query) decision.Answer {
		return only(decision.Nowhere, decision.Step{Document: e.journal, Setting: "kill switch",
			Says: "a culvert connect has ended without undoing it, so it blocks the network of this machine, also after --always-on open, until: culvert repair"})
	}
}

// absence says what there is where no client runs.
func (w *whereFlags) absence() (*notRunningError, error) {
	e := &notRunningError{journal: w.journalPath(), asRoot: w.asRoot()}
	var err error
	e.left, e.walled, e.alone, err = host.Leftovers(e.journal)
	switch {
	case errors.Is(err, fs.ErrPermission):
		e.unknown = true
	case errors.Is(err, host.ErrJournal):
		e.left = true
	case err != nil:
		return nil, err
	}
	return e, nil
}

// statusOfNone tells what there is where no client runs.
func (a *app) statusOfNone(w *whereFlags) error {
	none, err := w.absence()
	if err != nil {
		return err
	}
	if a.json {
		r := machineReport{State: "none", Leftovers: none.left, Blocked: none.walled, Journal: none.journal}
		if err := json.NewEncoder(a.out).Encode(r); err != nil {
			return err
		}
	}
	return none
}

// ask finds the running client.
func (a *app) ask(w *whereFlags) (*controlClient, error) {
	if err := w.check(); err != nil {
		return nil, err
	}
	c, err := dialControlAt("connect", w.askPaths(a.getenv))
	if errors.Is(err, errNotRunning) {
		none, err := w.absence()
		if err != nil {
			return nil, err
		}
		return nil, none
	}
	if err != nil {
		return nil, w.refused(err)
	}
	return c, nil
}

// refused is the error of a client that could not be asked.
func (w *whereFlags) refused(err error) error {
	if closed := (*closedSocketError)(nil); errors.As(err, &closed) {
		closed.asRoot = w.asRoot()
	}
	return fmt.Errorf("asking culvert connect: %w", err)
}

// askPaths returns where a client may answer: in the places of this user, and in that of root, who may have started it.
func (w *whereFlags) askPaths(getenv func(string) string) []string {
	paths := w.controlPaths(getenv)
	if root := filepath.Join(rootSockets, w.of(connectSocket)); w.control == "" && !slices.Contains(paths, root) {
		paths = append(paths, root)
	}
	return paths
}

// A closedSocketError says that a control socket is not for this user.
type closedSocketError struct{ command, socket, asRoot string }

// Error implements error.
func (e *closedSocketError) Error() string {
	return fmt.Sprintf("the control socket %s is closed to this user: only root, and the user who started culvert %s, may ask there", oneLine(e.socket), e.command)
}

// A rootOnlyError is what a command did not do because this user may not.
type rootOnlyError struct {
	error
	asRoot string // the command that root may call instead
}

// Unwrap returns the cause.
func (e *rootOnlyError) Unwrap() error { return e.error }
