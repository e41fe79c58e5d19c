//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/gateway"
)

// The password of alice and bob is "pass".
const (
	alice = "alice:*:$5$wB60e5DETpcpsZ1T$Djh4/2eZWj4lpAEgfzbEpfzzSy.NY8aU5VBaYhyhkC6\n"
	bob   = "bob:*:$5$wB60e5DETpcpsZ1T$Djh4/2eZWj4lpAEgfzbEpfzzSy.NY8aU5VBaYhyhkC6\n"
)

// TestServe runs a gateway from a TOML file and a proxy beside it, each in its own process, and looks at them from outside.
func TestServe(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) {
		if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("users", alice)
	write("serve.toml", fmt.Sprintf(`
listen = "127.0.0.1:0"
user-file = %q
self-signed = true
cert = %q
key = %q
pool = ["10.77.0.0/24", "fd00:77::/64"]
route = "127.0.0.0/8"
allow-special = ["127.0.0.0/8"]
control = %q
pid-file = %q
`, path("users"), path("cert.pem"), path("key.pem"), path("run/serve.sock"), path("serve.pid")))
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "inside") }))
	defer page.Close()

	gw := start(t, "", "serve", "--config", path("serve.toml"))
	var seen int
	up := gw.wait(&seen, "listening", func(e event) bool { return e.State == "listening" })
	if !strings.HasPrefix(up.Pin, "pin-sha256:") || up.Address == "" {
		t.Fatalf("%+v", up)
	}
	if b, err := os.ReadFile(path("serve.pid")); err != nil || string(b) != fmt.Sprintln(gw.cmd.Process.Pid) {
		t.Errorf("pid file: %q, %v", b, err)
	}
	if fi, err := os.Stat(path("run/serve.sock")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("control socket: %v, %v", fi, err)
	}
	sessions := func(args ...string) result {
		return culvert(t, "", append([]string{"sessions", "--control", path("run/serve.sock")}, args...)...)
	}
	if got := sessions(); got.code != exitOK || !strings.Contains(got.out, "Nobody") {
		t.Errorf("%+v", got)
	}
	if got := sessions("--json"); got.out != "[]\n" {
		t.Errorf("%+v", got)
	}
	// A second gateway must not take over the socket of the first.
	if got := culvert(t, "", "serve", "--config", path("serve.toml")); got.code != exitFailed || !strings.Contains(got.stderr, "another culvert serve") {
		t.Errorf("second gateway: %+v", got)
	}

	client := func(user string, more ...string) *process {
		return start(t, "pass\n", append([]string{
			"proxy", "-u", user, "--passwd-on-stdin", "--non-inter", "--servercert", up.Pin,
			"--listen", "127.0.0.1:0", "https://" + up.Address,
		}, more...)...)
	}
	proxy := client("alice", "--pid-file", path("proxy.pid"))
	var told int
	on := proxy.wait(&told, "listening", func(e event) bool { return e.State == "listening" })
	for _, scheme := range []string{"socks5h", "http"} {
		tr := &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return &url.URL{Scheme: scheme, Host: on.Address}, nil }}
		resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get(page.URL)
		if err != nil {
			t.Fatalf("%s: %v", scheme, err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		tr.CloseIdleConnections()
		if string(body) != "inside" {
			t.Errorf("%s: %q", scheme, body)
		}
	}
	e := gw.wait(&seen, "alice is connected over DTLS", func(e event) bool { return e.Event == "session" && e.State == "connected" && e.Path == "dtls" })
	if e.User != "alice" || !strings.HasPrefix(e.Address, "10.77.0.") || e.Remote == "" {
		t.Errorf("%+v", e)
	}
	var infos []gateway.SessionInfo
	if err := json.Unmarshal([]byte(sessions("--json").out), &infos); err != nil || len(infos) != 1 || infos[0].User != "alice" || infos[0].Path != "dtls" {
		t.Fatalf("%+v, %v", infos, err)
	}
	if got := sessions(); !strings.Contains(got.out, "alice") || !strings.Contains(got.out, infos[0].ID) || !strings.Contains(got.out, "dtls") {
		t.Errorf("%+v", got)
	}

	proxy.cmd.Process.Signal(syscall.SIGUSR1)
	proxy.wait(&told, "the state, on SIGUSR1", func(e event) bool { return e.Event == "tunnel" && e.State == "connected" && e.Sent+e.Received > 0 })

	// SIGTERM logs out, and leaves nothing behind.
	proxy.cmd.Process.Signal(syscall.SIGTERM)
	if code := proxy.exit(); code != exitOK {
		t.Errorf("exit status after SIGTERM: %d", code)
	}
	if _, err := os.Stat(path("proxy.pid")); err == nil {
		t.Error("the pid file is still there")
	}
	gw.wait(&seen, "alice has left", func(e event) bool { return e.Event == "session" && e.State == "disconnected" && e.User == "alice" })

	// Bob is let in once the users have been read again.
	if code := client("bob").exit(); code != exitLogin {
		t.Errorf("exit status of a stranger: %d", code)
	}
	write("users", alice+bob)
	gw.cmd.Process.Signal(syscall.SIGHUP)
	gw.wait(&seen, "users read", func(e event) bool { return e.Message == "users read" })
	gw.wait(&seen, "certificate read", func(e event) bool { return e.Message == "certificate read" && e.Pin == up.Pin })
	second := client("bob")
	told = 0
	second.wait(&told, "connected", func(e event) bool { return e.State == "connected" })
	e = gw.wait(&seen, "bob is connected", func(e event) bool { return e.State == "connected" && e.User == "bob" })
	if got := sessions("disconnect", "nobody"); got.code != exitFailed {
		t.Errorf("%+v", got)
	}
	if got := sessions("disconnect", "--user", "nobody"); got.code != exitFailed || !strings.Contains(got.stderr, "nobody has no session") {
		t.Errorf("%+v", got)
	}
	if got := sessions("disconnect", "--user", "bob", "--reason", "maintenance"); got.code != exitOK {
		t.Errorf("%+v", got)
	}
	if code := second.exit(); code != exitEnded {
		t.Errorf("exit status after being disconnected: %d", code)
	}
	if !strings.Contains(second.said(), "maintenance") {
		t.Error("the user was not told why")
	}

	gw.cmd.Process.Signal(syscall.SIGTERM)
	if code := gw.exit(); code != exitOK {
		t.Errorf("exit status of the gateway after SIGTERM: %d", code)
	}
	for _, left := range []string{"serve.pid", "run/serve.sock"} {
		if _, err := os.Stat(path(left)); err == nil {
			t.Errorf("%s is still there", left)
		}
	}
	if got := sessions(); got.code != exitUnreachable || !strings.Contains(got.stderr, "is it running") {
		t.Errorf("%+v", got)
	}

	// A gateway that was killed leaves its socket, which the next one replaces; the certificate stays the same.
	again := start(t, "", "serve", "--config", path("serve.toml"))
	seen = 0
	again.wait(&seen, "listening", func(e event) bool { return e.State == "listening" })
	again.cmd.Process.Kill()
	again.exit()
	third := start(t, "", "serve", "--config", path("serve.toml"))
	seen = 0
	if e := third.wait(&seen, "listening", func(e event) bool { return e.State == "listening" }); e.Pin != up.Pin {
		t.Errorf("the pin has changed from %s to %s", up.Pin, e.Pin)
	}
	third.cmd.Process.Signal(syscall.SIGINT)
	if code := third.exit(); code != exitInterrupted {
		t.Errorf("exit status of the gateway after SIGINT: %d", code)
	}
}
