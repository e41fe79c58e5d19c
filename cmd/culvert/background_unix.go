//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// forkBackground starts this command once more, as the process that will be in the background, and waits until that says that all
// is up, or ends. It returns false in that process, which still has the terminal to ask at.
//
// Go programs cannot fork: what was begun before is lost in the child. So the child begins anew.
func (a *app) forkBackground(ctx context.Context) (parent bool, err error) {
	if n, err := strconv.Atoi(a.getenv(backgroundEnv)); err == nil {
		f := os.NewFile(uintptr(n), "foreground")
		syscall.CloseOnExec(n)
		a.release = func() {
			// A session of its own, so that the end of the terminal is none of ours.
			syscall.Setsid()
			f.WriteString("up\n")
			f.Close()
		}
		return false, nil
	}
	exe, err := os.Executable()
	if err != nil {
		return true, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return true, err
	}
	defer r.Close()
	cmd := exec.Command(exe, a.args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.in, a.out, a.err
	cmd.ExtraFiles = []*os.File{w}
	cmd.Env = append(os.Environ(), backgroundEnv+"=3")
	err = cmd.Start()
	w.Close()
	if err != nil {
		return true, err
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	if line, _ := bufio.NewReader(r).ReadString('\n'); line == "up\n" {
		a.reporter().say(event{Event: "message", Message: fmt.Sprintf("in the background as process %d", cmd.Process.Pid)},
			"goes on in the background as process %d", cmd.Process.Pid)
		return true, cmd.Process.Release()
	}
	err = cmd.Wait()
	if exited := (*exec.ExitError)(nil); errors.As(err, &exited) {
		if code := exited.ExitCode(); code >= 0 {
			return true, &exitError{exitCode(code)}
		}
	}
	return true, err
}
