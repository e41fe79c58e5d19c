//go:build !unix

package script

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
)

const (
	searchPath    = `C:\Windows\System32;C:\Windows`
	rootDirectory = `C:\`
)

func executable(fs.FileInfo) bool    { return true }
func worldWritable(fs.FileInfo) bool { return false }

// escapable reports whether a backslash before c takes its meaning away, instead of being one of a path.
func escapable(c byte) bool { return c == '"' }

// checkUser returns why this process cannot run programs as u.
func checkUser(u *User) error {
	if u != nil {
		return errors.ErrUnsupported
	}
	return nil
}

func isolate(*exec.Cmd, *User) {}

// Without process groups the program is ended at once, and what it has started goes on.
func terminate(cmd *exec.Cmd) { cmd.Process.Kill() }
func kill(cmd *exec.Cmd)      { cmd.Process.Kill() }

func signalOf(*os.ProcessState) string { return "" }

func checkHookUser(u *User) error { return checkUser(u) }
