package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
)

// TestMain lets the test binary be what the program is inside of the namespaces.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == helpWord {
		os.Args[1] = "--help"
		main()
		os.Exit(0)
	}
	if len(os.Args) > 1 && (os.Args[1] == insideWord || os.Args[1] == visitWord || os.Args[1] == parentWord) {
		if os.Args[1] == parentWord {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			fail(run(ctx, os.Args[2:], os.Stdout))
			os.Exit(0)
		}
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// parentWord as the first argument has the test binary be the program itself, for a test as another user, and helpWord the program
// with --help.
const (
	parentWord = "rootless-parent"
	helpWord   = "rootless-help"
)

// need skips the test where there are no user namespaces, and fails it where there must be.
func need(t *testing.T) {
	t.Helper()
	var err error
	if _, e := exec.LookPath("ip"); e != nil {
		err = e
	}
	if _, e := os.Stat("/dev/net/tun"); e != nil {
		err = e
	}
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}},
	}
	if e := cmd.Run(); e != nil {
		err = fmt.Errorf("user namespaces: %w", e)
	}
	if err == nil {
		return
	}
	if os.Getenv("CULVERT_INTEROP") == "1" {
		t.Fatalf("CULVERT_INTEROP=1, but %v", err)
	}
	t.Skip(err)
}

// check looks at what the demonstration prints.
func check(t *testing.T, text string, uid int) {
	t.Helper()
	for _, want := range []string{
		"interface lo: [127.0.0.1/8", "interface tun0: [10.", "cannot be reached", "the network cannot be changed",
		fmt.Sprintf("user %d\n", uid), gatewaytest.Page,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if n := strings.Count(text, "interface "); n != 2 {
		t.Errorf("%d interfaces:\n%s", n, text)
	}
}

func TestRun(t *testing.T) {
	leak.Check(t)
	need(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	before, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(ctx, nil, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	check(t, out.String(), os.Getuid())
	if after, err := os.ReadFile("/etc/resolv.conf"); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the machine's resolv.conf has changed: %v", err)
	}
}

// TestUnprivileged runs it as a user without any rights.
func TestUnprivileged(t *testing.T) {
	need(t)
	if os.Geteuid() != 0 {
		return // TestRun is this test
	}
	const nobody = 65534
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The test binary lies where nobody may look.
	dir, err := os.MkdirTemp("/tmp", "rootless")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "rootless")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(program, b, 0o755)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, parentWord)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=/tmp"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	check(t, string(out), nobody)
}

// TestHelp asks for help, which is no failure, and tries a gateway outside of the program.
func TestHelp(t *testing.T) {
	var out bytes.Buffer
	err := run(t.Context(), []string{"--help"}, &out)
	if !errors.Is(err, flag.ErrHelp) || !strings.Contains(out.String(), "http://"+gatewaytest.WebName+"/") {
		t.Errorf("%v: %s", err, &out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.CommandContext(t.Context(), self, helpWord).Run(); err != nil {
		t.Errorf("--help: %v", err)
	}
}

// TestPin has the gateway trusted by its pin, and by no other.
func TestPin(t *testing.T) {
	gw := gatewaytest.New(t)
	pin := "pin-sha256:" + strings.Repeat("A", 43) + "="
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := run(ctx, []string{"-gateway", gw.URL, "-servercert", pin, "--", "true"}, io.Discard); !errors.Is(err, vpn.ErrUntrusted) {
		t.Errorf("with a wrong pin: %v", err)
	}
	if err := run(ctx, []string{"-gateway", gw.URL, "-servercert", gw.Pin, "--", "true"}, io.Discard); errors.Is(err, vpn.ErrUntrusted) || err == nil {
		t.Errorf("with its pin the login is next, for which there is nobody: %v", err)
	}
}

// TestStatus passes the exit status of the command on.
func TestStatus(t *testing.T) {
	leak.Check(t)
	need(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out bytes.Buffer
	err := run(ctx, []string{"--", "sh", "-c", "cat /etc/resolv.conf; exit 7"}, &out)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || !strings.HasPrefix(out.String(), "nameserver 10.") {
		t.Errorf("%v: %s", err, &out)
	}
	if err := run(ctx, []string{"--", "no-such-program"}, &out); err == nil {
		t.Error("a program that there is not")
	}
}
