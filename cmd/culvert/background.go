package main

import "fmt"

// backgroundEnv is set for the process in the background: the number of the descriptor by which it tells that all is up.
const backgroundEnv = "CULVERT_BACKGROUND_FD"

// An exitError ends the command with a status, and without words since another process has said why.
type exitError struct{ code exitCode }

// Error implements error.
func (e *exitError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// inBackground lets the process in the foreground end, if there is one.
func (a *app) inBackground() error {
	if a.release == nil {
		return nil
	}
	release := a.release
	a.release = nil
	return release()
}
