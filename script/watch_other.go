//go:build !linux

package script

import "os/exec"

// watch returns a channel that is closed when the process has ended, and what returns how.
func watch(cmd *exec.Cmd) (exited <-chan struct{}, reap func() error) {
	done := make(chan struct{})
	var err error
	go func() {
		defer close(done)
		err = cmd.Wait()
	}()
	return done, func() error { return err }
}
