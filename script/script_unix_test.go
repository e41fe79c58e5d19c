//go:build unix

package script

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/transport"
)

// write writes a shell script that is given the directory as its argument by newScript.
func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

// newScript returns a Script of a shell script, whose argument is the directory that is returned, and its log.
func newScript(t *testing.T, text string, timeout time.Duration) (*Script, string, *safeBuffer) {
	t.Helper()
	leak.Check(t)
	dir := t.TempDir()
	log := new(safeBuffer)
	s, err := New(Config{
		Path: write(t, filepath.Join(dir, "script"), text), Args: []string{dir}, Timeout: timeout,
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, dir, log
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func read(t *testing.T, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestRun has a script record what it is given: the environment of the settings, and nothing of this process.
func TestRun(t *testing.T) {
	t.Setenv("CULVERT_TEST_SECRET", "hunter2")
	t.Setenv("LD_PRELOAD", "")
	s, dir, log := newScript(t, `tr '\0' '\n' < /proc/$$/environ > $1/env.$reason
pwd > $1/pwd; cat > $1/stdin
echo "hello from $TUNDEV"; printf 'no newline \033[31m' >&2`, 0)
	settings := FromLease(lease(), "tun7")
	for _, reason := range []Reason{PreInit, Connect, AttemptReconnect, Reconnect, Disconnect} {
		if err := s.Run(t.Context(), reason, settings); err != nil {
			t.Fatal(err)
		}
		env, _, err := settings.Environ(reason)
		if err != nil {
			t.Fatal(err)
		}
		want := strings.Join(append([]string{"PATH=" + searchPath, "LANG=C.UTF-8", "HOME=/"}, env...), "\n") + "\n"
		if got := read(t, dir, "env."+string(reason)); got != want {
			t.Errorf("%s: the environment is\n%s\nwant\n%s", reason, got, want)
		}
	}
	if pwd, stdin := read(t, dir, "pwd"), read(t, dir, "stdin"); pwd != "/\n" || stdin != "" {
		t.Errorf("it ran in %q and could read %q", pwd, stdin)
	}
	for _, line := range []string{`level=INFO msg="script output"`, `line="hello from tun7"`, `level=WARN msg="script error output"`, `line="no newline [31m"`} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("the log has no %s:\n%s", line, log)
		}
	}
}

// TestInjection gives a script that quotes nothing, and evaluates everything, the worst of values.
func TestInjection(t *testing.T) {
	s, dir, _ := newScript(t, `
for name in $(tr '\0' '\n' < /proc/$$/environ | sed -n 's/^\([A-Z][A-Za-z0-9_]*\)=.*/\1/p'); do
	eval "value=\"\${$name}\""
	eval "x=\"$value\""
	eval "x='$value'"
	case $name in
	CISCO_BANNER|CISCO_CSTP_OPTIONS) ;; # free texts
	*) eval ": $value"; eval "x=$value"; echo $value > "$1/last" ;;
	esac
	echo $name >> $1/names
done`, 0)
	for i, evil := range []string{
		"$(touch %[1]s/pwned)", "`touch %[1]s/pwned`", "';touch %[1]s/pwned;'", "\";touch %[1]s/pwned;\"", "\ntouch %[1]s/pwned\n", ";touch %[1]s/pwned;",
		"|touch %[1]s/pwned", "&touch %[1]s/pwned&", "\\$(touch %[1]s/pwned)", "\x00touch %[1]s/pwned", "${x:-$(touch %[1]s/pwned)}",
		"<(touch %[1]s/pwned)", "a\r\ntouch %[1]s/pwned\r\n", "\u2028touch %[1]s/pwned", "' ; touch %[1]s/pwned #", "> %[1]s/pwned", "a\tb > %[1]s/pwned",
	} {
		evil = fmt.Sprintf(evil, dir)
		l := &transport.Lease{
			Gateway: netip.MustParseAddrPort("192.0.2.1:443"), GatewayName: evil, Addresses: prefixes("10.0.0.2/32"), MTU: 1300,
			SearchDomains: []string{evil, "ok.example", "x" + evil + ".example"}, SplitDNS: []string{evil, "ok.example"},
			Banner: "Welcome " + evil, Proxy: transport.Proxy{Method: evil, Server: evil, PACURL: "http://" + evil},
		}
		settings := FromLease(l, "tun0")
		settings.Options = append(settings.Options, Option{"X-CSTP-" + evil, "x"}, Option{"X-CSTP-A", evil})
		// A script this bad may fail on a text. It must not do what the text says.
		err := s.Run(t.Context(), Connect, settings)
		if err != nil {
			t.Errorf("%d: %v", i, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "pwned")); err == nil {
			t.Fatalf("the gateway ran a command by %q", evil)
		}
		if names := read(t, dir, "names"); !strings.Contains(names, "CISCO_BANNER") || !strings.Contains(names, "CISCO_DEF_DOMAIN") {
			t.Fatalf("the script saw %q", names)
		}
	}
}

// TestLargest has the kernel take the largest environment that is made.
func TestLargest(t *testing.T) {
	s, dir, _ := newScript(t, `echo $CISCO_SPLIT_EXC > $1/count; /bin/true`, 0)
	settings := &Settings{Device: "tun0", Banner: strings.Repeat("ä", 1<<20), Options: []Option{{"X-CSTP-A", strings.Repeat("b", 1<<20)}}}
	for {
		i := len(settings.Exclude)
		for range 100 {
			settings.Exclude = append(settings.Exclude, netip.PrefixFrom(netip.AddrFrom4([4]byte{123, 123, byte(100 + i>>8), 200}), 32))
		}
		if _, _, err := settings.Environ(Connect); err != nil {
			settings.Exclude = settings.Exclude[:i]
			break
		}
	}
	if err := s.Run(t.Context(), Connect, settings); err != nil {
		t.Fatal(err)
	}
	if n := strings.TrimSpace(read(t, dir, "count")); n != strconv.Itoa(len(settings.Exclude)) || len(settings.Exclude) < 3000 {
		t.Errorf("%s networks", n)
	}
}

func TestExit(t *testing.T) {
	for _, tt := range []struct {
		text string
		want ExitError
	}{
		{"echo first >&2; echo 'RTNETLINK answers: no' >&2; exit 7", ExitError{Code: 7, Said: "RTNETLINK answers: no"}},
		{"kill -USR1 $$", ExitError{Code: -1, Signal: "user defined signal 1"}},
	} {
		s, _, _ := newScript(t, tt.text, 0)
		err := s.Run(t.Context(), Connect, &Settings{})
		var ee *ExitError
		if !errors.As(err, &ee) || ee.Code != tt.want.Code || ee.Signal != tt.want.Signal || ee.Said != tt.want.Said || ee.Err != nil || ee.Event != "connect" {
			t.Errorf("%q: %+v", tt.text, err)
		}
	}
}

// alive reports whether a process runs.
func alive(t *testing.T, pid string) bool {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(pid))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// ended reports whether a process is gone soon: SIGKILL takes its time on a busy machine.
func ended(t *testing.T, pid string) bool {
	t.Helper()
	for range 100 {
		if !alive(t, pid) {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}

// TestTimeout ends a script that hangs, with children that do not want to end.
func TestTimeout(t *testing.T) {
	s, dir, _ := newScript(t, `(trap '' TERM; echo $$; sh -c 'trap "" TERM; echo $$ > '$1'/child; while :; do sleep 0.05; done') &
while [ ! -s $1/child ]; do sleep 0.01; done
wait`, 400*time.Millisecond)
	start := time.Now()
	err := s.Run(t.Context(), Connect, &Settings{})
	var ee *ExitError
	if !errors.As(err, &ee) || !errors.Is(err, context.DeadlineExceeded) || ee.Signal != "terminated" {
		t.Errorf("%v", err)
	}
	if took := time.Since(start); took > grace {
		t.Errorf("it took %v", took)
	}
	if !ended(t, read(t, dir, "child")) {
		t.Error("the child is still there")
	}
}

// TestStubborn ends a script that ignores SIGTERM.
func TestStubborn(t *testing.T) {
	s, _, _ := newScript(t, `trap '' TERM; while :; do sleep 0.05; done`, time.Minute)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the user gave up")
	time.AfterFunc(100*time.Millisecond, func() { cancel(why) })
	err := s.Run(ctx, Connect, &Settings{})
	var ee *ExitError
	if !errors.As(err, &ee) || !errors.Is(err, why) || ee.Signal != "killed" {
		t.Errorf("%v", err)
	}
	if err := s.Run(ctx, Connect, &Settings{}); !errors.Is(err, why) {
		t.Errorf("after that: %v", err)
	}
}

// TestBackground does not wait for what a script leaves behind, nor end it.
func TestBackground(t *testing.T) {
	s, dir, _ := newScript(t, `sh -c 'echo $$ > '$1'/pid; exec sleep 60' & while [ ! -s $1/pid ]; do sleep 0.01; done; echo done`, 0)
	start := time.Now()
	if err := s.Run(t.Context(), Connect, &Settings{}); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	pid := read(t, dir, "pid")
	if !alive(t, pid) {
		t.Error("it was ended")
	}
	n, _ := strconv.Atoi(strings.TrimSpace(pid))
	syscall.Kill(n, syscall.SIGKILL)
}

// TestMuchOutput bounds what is logged.
func TestMuchOutput(t *testing.T) {
	s, _, log := newScript(t, `head -c 5000000 /dev/zero | tr '\0' x; echo; yes | head -n 5000; echo end`, 0)
	if err := s.Run(t.Context(), Connect, &Settings{}); err != nil {
		t.Fatal(err)
	}
	n := strings.Count(log.String(), "script output")
	if n != maxLines+1 || len(log.String()) > 300*(maxLines+10) || !strings.Contains(log.String(), "more than is kept") {
		t.Errorf("%d lines, %d bytes", n, len(log.String()))
	}
}

// TestOneAtATime runs a script twice at the same time.
func TestOneAtATime(t *testing.T) {
	s, dir, _ := newScript(t, `mkdir $1/lock || exit 1; sleep 0.1; rmdir $1/lock; echo >> $1/runs`, 0)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := s.Run(t.Context(), Connect, &Settings{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(read(t, dir, "runs")); n != 4 {
		t.Errorf("%d runs", n)
	}
}

func TestNewErrors(t *testing.T) {
	dir := t.TempDir()
	good := write(t, filepath.Join(dir, "good"), "exit 0")
	open := write(t, filepath.Join(dir, "open"), "exit 0")
	plain := write(t, filepath.Join(dir, "plain"), "exit 0")
	if err := errors.Join(os.Chmod(open, 0o777), os.Chmod(plain, 0o644)); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]Config{
		"relative": {Path: "good"}, "missing": {Path: filepath.Join(dir, "none")}, "directory": {Path: dir}, "writable by all": {Path: open},
		"not executable": {Path: plain}, "NUL": {Path: good, Args: []string{"a\x00b"}}, "timeout": {Path: good, Timeout: -1},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	s, err := New(Config{Path: write(t, filepath.Join(dir, "bad"), "")})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "bad")); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), Connect, &Settings{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a script that is gone: %v", err)
	}
}

// TestUser runs a script with the rights of another user.
func TestUser(t *testing.T) {
	if os.Geteuid() != 0 {
		me := &User{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
		if err := checkUser(me); err != nil {
			t.Error(err)
		}
		if err := checkUser(&User{UID: me.UID + 1}); err == nil {
			t.Error("another user is accepted")
		}
		return
	}
	nobody, err := LookupUser("nobody")
	if err != nil {
		t.Fatal(err)
	}
	leak.Check(t)
	dir := t.TempDir()
	for d := dir; d != "/" && d != "/tmp"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	log := new(safeBuffer)
	s, err := New(Config{
		Path: write(t, filepath.Join(dir, "script"), `echo "$(id -u) $(id -g) $(id -G) $USER $HOME"; grep CapEff /proc/self/status; touch $1/x 2>/dev/null && echo may write`),
		Args: []string{dir}, User: nobody, Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Run(t.Context(), Connect, &Settings{})
	want := fmt.Sprintf(`line="%d %d %d nobody %s"`, nobody.UID, nobody.GID, nobody.GID, nobody.Home)
	if !strings.Contains(log.String(), want) || !strings.Contains(log.String(), "CapEff: 0000000000000000") || strings.Contains(log.String(), "may write") {
		t.Errorf("want %s in\n%s", want, log)
	}
	if _, err := LookupUser("no such user"); err == nil {
		t.Error("a user that there is not")
	}
}

// hookUser is who runs hooks in tests.
func hookUser() *User {
	if os.Geteuid() != 0 {
		return nil
	}
	return &User{UID: 65534, GID: 65534}
}

func newHooks(t *testing.T, terminate bool, files map[string]string) (*Hooks, string, *safeBuffer) {
	t.Helper()
	leak.Check(t)
	dir := t.TempDir()
	for d := dir; d != "/" && d != "/tmp"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o777); err != nil {
		t.Fatal(err)
	}
	os.Chmod(out, 0o777)
	for name, text := range files {
		write(t, filepath.Join(dir, name), "out="+out+"\n"+text)
	}
	log := new(safeBuffer)
	h, err := NewHooks(HooksConfig{
		Dir: dir, TerminateOnNextEvent: terminate, BeforeLogon: terminate, User: hookUser(), Timeout: 5 * time.Second, Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h, out, log
}

func wait(t *testing.T, h *Hooks) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := h.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestHooks(t *testing.T) {
	h, out, log := newHooks(t, false, map[string]string{
		"OnConnect_b.sh": "echo second >> $out/log", "OnConnect.sh": "echo connect $reason $TUNDEV $(id -u) >> $out/log; sleep 0.2",
		"OnDisconnect": "echo disconnect $reason >> $out/log", "NotOnConnect.sh": "echo no >> $out/log", "onconnect": "echo no >> $out/log",
	})
	settings := FromLease(lease(), "tun3")
	h.Connected(settings, true) // not wanted before the logon
	h.Connected(settings, false)
	h.Disconnected(settings)
	h.Connected(settings, false)
	wait(t, h)
	uid := os.Geteuid()
	if uid == 0 {
		uid = 65534
	}
	line := fmt.Sprintf("connect connect tun3 %d\n", uid)
	if got, want := read(t, out, "log"), line+"disconnect disconnect\n"+line; got != want {
		t.Errorf("got %q, want %q; log:\n%s", got, want, log)
	}
	h.Close()
	h.Connected(settings, false)
	wait(t, h)
	if got := read(t, out, "log"); strings.Count(got, "connect connect") != 2 {
		t.Error("it ran after Close")
	}
}

func TestHooksTerminate(t *testing.T) {
	h, out, log := newHooks(t, true, map[string]string{
		"OnConnect.sh": "echo $$ > $out/pid; exec sleep 60", "OnDisconnect.sh": "echo disconnect > $out/log",
	})
	h.Connected(&Settings{}, true)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if b, err := os.ReadFile(filepath.Join(out, "pid")); err == nil && len(b) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("OnConnect does not start:\n%s", log)
		}
	}
	start := time.Now()
	h.Disconnected(&Settings{})
	wait(t, h)
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	if !ended(t, read(t, out, "pid")) {
		t.Error("OnConnect still runs")
	}
	if got := read(t, out, "log"); got != "disconnect\n" {
		t.Errorf("%q", got)
	}
}

// TestHooksClose ends the script that runs.
func TestHooksClose(t *testing.T) {
	h, _, _ := newHooks(t, false, map[string]string{"OnConnect": "exec sleep 60"})
	h.Connected(&Settings{}, false)
	for range 5 {
		h.Disconnected(&Settings{}) // there is none
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := h.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait: %v", err)
	}
	start := time.Now()
	h.Close()
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestFindHook(t *testing.T) {
	dir := t.TempDir()
	target := write(t, filepath.Join(dir, "target"), "")
	make := func(names ...string) string {
		d := t.TempDir()
		for _, n := range names {
			write(t, filepath.Join(d, n), "")
		}
		return d
	}
	linked, plain, open := make(), make("OnConnect.txt"), make("OnConnect")
	err := errors.Join(os.Symlink(target, filepath.Join(linked, "OnConnect")), os.Chmod(filepath.Join(plain, "OnConnect.txt"), 0o644), os.Chmod(open, 0o777))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		dir, want string
		fails     bool
	}{
		{make(), "", false}, {filepath.Join(dir, "none"), "", false}, {make("OnConnect.z", "OnConnect.a", "OnDisconnect"), "OnConnect.a", false},
		{linked, "", true}, {plain, "", true}, {open, "", true},
	} {
		got, err := findHook(tt.dir, onConnect)
		if (err != nil) != tt.fails || got != "" && filepath.Base(got) != tt.want || got == "" && tt.want != "" {
			t.Errorf("%s: %q, %v", tt.dir, got, err)
		}
	}
}

func TestNewHooksErrors(t *testing.T) {
	for name, cfg := range map[string]HooksConfig{
		"relative": {Dir: "x", User: hookUser()}, "root": {Dir: "/x", User: &User{}}, "timeout": {Dir: "/x", User: hookUser(), Timeout: -1},
	} {
		if _, err := NewHooks(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if os.Geteuid() == 0 {
		if _, err := NewHooks(HooksConfig{Dir: "/x"}); !errors.Is(err, errRoot) {
			t.Errorf("as root without a user: %v", err)
		}
	}
}
