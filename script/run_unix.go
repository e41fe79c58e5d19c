//go:build unix

package script

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
)

const (
	// searchPath is where scripts find programs, and Command finds scripts.
	searchPath    = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	rootDirectory = "/"
)

func executable(fi fs.FileInfo) bool    { return fi.Mode()&0o111 != 0 }
func worldWritable(fi fs.FileInfo) bool { return fi.Mode()&0o002 != 0 }

// escapable reports whether a backslash before c takes its meaning away.
func escapable(byte) bool { return true }

// checkUser returns why this process cannot run programs as u.
func checkUser(u *User) error {
	if u == nil {
		return nil
	}
	if euid := os.Geteuid(); euid != 0 && uint32(euid) != u.UID {
		return fmt.Errorf("only root can run it as user %d: %w", u.UID, fs.ErrPermission)
	}
	return nil
}

// isolate gives the program a process group of its own, by which it is ended, and the rights of the user.
func isolate(cmd *exec.Cmd, u *User) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if u != nil && os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
	}
}

// terminate asks the process group to end, and kill ends it. It may be gone.
func terminate(cmd *exec.Cmd) { syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
func kill(cmd *exec.Cmd)      { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }

// signalOf names the signal that ended a process.
func signalOf(state *os.ProcessState) string {
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return ws.Signal().String()
	}
	return ""
}

// errRoot says that hooks do not run as root.
var errRoot = errors.New("scripts of the user do not run as root; say which user")

// checkHookUser returns why hooks cannot run as u.
func checkHookUser(u *User) error {
	if u == nil && os.Geteuid() == 0 || u != nil && u.UID == 0 {
		return errRoot
	}
	return checkUser(u)
}
