package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// writePID writes the process id to a file, whole or not at all, and returns what removes it again. An empty name
// writes nothing.
func writePID(file string) (remove func(), err error) {
	if file == "" {
		return func() {}, nil
	}
	me := strconv.Itoa(os.Getpid()) + "\n"
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return nil, fmt.Errorf("--pid-file: %w", err)
	}
	_, err = tmp.WriteString(me)
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return nil, fmt.Errorf("--pid-file: %w", err)
	}
	return func() {
		// Another process may have written its own meanwhile.
		if b, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(b))+"\n" == me {
			os.Remove(file)
		}
	}, nil
}
