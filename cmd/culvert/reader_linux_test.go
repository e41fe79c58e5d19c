package main

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestReader: whoever reads what is told may end, or stop reading, and the machine fares no worse for it.
func TestReader(t *testing.T) {
	t.Parallel()
	m := newMachine(t, taste{lines: wholeLines})
	// connect connects with a small pipe as standard error, and returns its other end.
	connect := func() (*exec.Cmd, *os.File) {
		t.Helper()
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
			t.Fatal(err)
		}
		cmd, kill := m.command(self(t), m.connectArgs("--always-on", "closed", "--json")...)
		t.Cleanup(kill)
		cmd.Env, cmd.Stdin, cmd.Stderr = append(os.Environ(), asCommand+"=1"), strings.NewReader("pass\n"), w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		for lines := bufio.NewScanner(r); ; {
			if !lines.Scan() {
				t.Fatal("the command ends before it is connected")
			}
			if s := lines.Text(); strings.Contains(s, `"event":"system"`) && strings.Contains(s, `"connected"`) {
				return cmd, r
			}
		}
	}
	end := func(cmd *exec.Cmd) {
		t.Helper()
		defer time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() }).Stop()
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the command ended with: %v", err)
		}
		m.unchanged("after SIGTERM")
	}

	cmd, r := connect()
	r.Close()
	m.run("ip", "rule", "del", "priority", "10400") // so that there is something to tell
	m.eventually(20*time.Second, "the rule is there again", func() bool { return strings.Contains(m.run("ip", "rule"), "10400:") })
	end(cmd)

	cmd, _ = connect()
	for range 100 {
		cmd.Process.Signal(syscall.SIGUSR1)
		time.Sleep(2 * time.Millisecond)
	}
	for range 3 {
		m.run("nft", "delete", "table", "inet", "culvert")
		m.eventually(5*time.Second, "the kill switch is there again", func() bool {
			_, err := m.try("nft", "list", "table", "inet", "culvert")
			return err == nil
		})
	}
	if got := m.culvert("status"); got.code != exitOK {
		t.Errorf("status: %+v", got)
	}
	end(cmd)
}
