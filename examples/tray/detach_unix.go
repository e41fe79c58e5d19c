//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// detach keeps Ctrl-C at the terminal of this program from ending the command as well.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
