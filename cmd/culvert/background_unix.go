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

	"golang.org/x/sys/unix"
)

// forkBackground starts this command once more, as the process that will be in the background, and waits until that says that all
// is up, or ends. It returns false in that process, which still has the terminal to ask at. Once all is up, that process writes to the
// file log instead of the standard output and error of the caller, who may be waiting for their end.
//
// Go programs cannot fork: what was begun before is lost in the child. So the child begins anew.
func (a *app) forkBackground(ctx context.Context, log string) (parent bool, err error) {
	if n, err := strconv.Atoi(a.getenv(backgroundEnv)); err == nil {
		f := os.NewFile(uintptr(n), "foreground")
		syscall.CloseOnExec(n)
		to, err := os.OpenFile(log, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return true, usagef("--log-file: %w", err)
		}
		a.release = func() error {
			// A session of its own, so that the end of the terminal is none of ours.
			syscall.Setsid()
			if err := moveStreams(to); err != nil {
				return err
			}
			a.reporter().inLog()
			f.WriteString("up\n")
			return f.Close()
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
		text := fmt.Sprintf("in the background as process %d, which writes to %s", cmd.Process.Pid, log)
		a.reporter().say(event{Event: "message", Message: text}, "goes on %s", text)
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

// moveStreams makes the file to standard output and error of this process, those of its crashes included, and closes it. Standard input
// is empty from then on.
func moveStreams(to *os.File) error {
	defer to.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	for fd, f := range []*os.File{null, to, to} {
		if err := unix.Dup2(int(f.Fd()), fd); err != nil {
			return os.NewSyscallError("dup2", err)
		}
	}
	return nil
}
