//go:build unix

package main

import "syscall"

// replaceProcess runs a program in the place of this one.
func replaceProcess(exe string, args, env []string) error { return syscall.Exec(exe, args, env) }
