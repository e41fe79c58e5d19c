//go:build !unix

package main

import "os/exec"

// detach does nothing: a command is not in the way of the signals of this program here.
func detach(*exec.Cmd) {}
