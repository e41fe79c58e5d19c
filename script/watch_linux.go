package script

import (
	"os/exec"

	"golang.org/x/sys/unix"
)

// watch returns a channel that is closed when the process has ended, and what collects it after that. Until then its number,
// and so that of its group, belongs to nobody else, and the group can be killed safely.
func watch(cmd *exec.Cmd) (exited <-chan struct{}, reap func() error) {
	done := make(chan struct{})
	pid := cmd.Process.Pid
	go func() {
		defer close(done)
		for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
	}()
	return done, cmd.Wait
}
