package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway/gatewaytest"
)

func TestConnect(t *testing.T) {
	gw := gatewaytest.New(t)
	pass := gatewaytest.Password + "\n"
	login := []string{"--non-inter", "-u", gatewaytest.User, "--passwd-on-stdin"}
	args := func(more ...string) []string { return append(append([]string{"connect"}, login...), more...) }

	// Without trust it fails, and what it says to do makes the next attempt succeed.
	got := culvert(t, pass, args("--cookieonly", gw.URL)...)
	if got.code != exitUntrusted || got.out != "" {
		t.Fatalf("untrusted: %+v", got)
	}
	_, after, ok := strings.Cut(got.stderr, "--servercert ")
	pin, _, _ := strings.Cut(after, "\n")
	if !ok || pin != gw.Pin {
		t.Fatalf("the advice is not --servercert %s:\n%s", gw.Pin, got.stderr)
	}

	got = culvert(t, pass, args("--authenticate", "--servercert", pin, gw.URL)...)
	if got.code != exitOK {
		t.Fatalf("authenticate: %+v", got)
	}
	if strings.Contains(got.stderr, "webvpn") {
		t.Errorf("the cookie is on standard error: %s", got.stderr)
	}
	host, _, _ := net.SplitHostPort(gw.Addr.String())
	for _, line := range []string{"COOKIE='webvpn=", "\nHOST='" + host + "'\n", "\nCONNECT_URL='" + gw.URL + "/'\n", "\nFINGERPRINT='" + gw.Pin + "'\n", "\nRESOLVE='" + host + ":" + host + "'\n"} {
		if !strings.Contains(got.out, line) {
			t.Errorf("standard output lacks %q:\n%s", line, got.out)
		}
	}
	if sh, err := exec.LookPath("sh"); err == nil {
		out, err := exec.Command(sh, "-c", got.out+`echo "$COOKIE"; echo "$FINGERPRINT"`).CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "webvpn=") || !strings.Contains(string(out), gw.Pin) {
			t.Errorf("a shell reads %q, %v", out, err)
		}
	}

	cafile := filepath.Join(t.TempDir(), "ca.pem")
	writePEM(t, cafile, gw.Certificate.Raw)
	got = culvert(t, pass, args("--cookieonly", "-q", "--no-system-trust", "--cafile", cafile, gw.URL)...)
	if got.code != exitOK || got.stderr != "" || !strings.HasPrefix(got.out, "webvpn=") || strings.Count(got.out, "\n") != 1 {
		t.Errorf("cookieonly: %+v", got)
	}

	got = culvert(t, "no\n", args("--cookieonly", "-q", "--servercert", pin, gw.URL)...)
	if want := "culvert: error: the gateway refused the user name or the password, which was read from standard input: "; got.code != exitLogin ||
		!strings.HasPrefix(got.stderr, want) || !strings.Contains(got.stderr, "Login failed.") || !strings.Contains(got.stderr, "lock accounts") || strings.Count(got.stderr, "\n") != 2 {
		t.Errorf("wrong password: %+v", got)
	}
	for _, tt := range []struct {
		name, stdin string
		args        []string
		code        exitCode
	}{
		{"wrong password", "no\n", args("--cookieonly", "--servercert", pin, gw.URL), exitLogin},
		{"no password", "", []string{"connect", "--cookieonly", "--non-inter", "-u", "alice", "--servercert", pin, gw.URL}, exitPrompt},
		{"another key", pass, args("--cookieonly", "--servercert", "pin-sha256:"+strings.Repeat("A", 43)+"=", gw.URL), exitUntrusted},
		{"nothing listens", pass, args("--cookieonly", "--servercert", pin, "https://127.0.0.1:1"), exitUnreachable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := culvert(t, tt.stdin, append(tt.args, "--json")...)
			if got.code != tt.code || got.out != "" {
				t.Errorf("exit status %d, want %d; %+v", got.code, tt.code, got)
			}
			lines := strings.Split(strings.TrimSpace(got.stderr), "\n")
			var last event
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Event != "error" || last.Exit == nil || *last.Exit != int(tt.code) || last.Hint == "" {
				t.Errorf("the last event is %s", lines[len(lines)-1])
			}
		})
	}
}

func TestDemo(t *testing.T) {
	got := culvert(t, "", "demo")
	if got.code != exitOK {
		t.Fatalf("%+v", got)
	}
	for _, want := range []string{strings.TrimSpace(gatewaytest.Page), "(over DTLS", "(over TLS", "Cutting UDP", "Done."} {
		if !strings.Contains(got.out, want) {
			t.Errorf("the output lacks %q:\n%s", want, got.out)
		}
	}
	if got.stderr != "" {
		t.Errorf("standard error: %s", got.stderr)
	}
}

// TestDemoJSON tells the end that the demo itself brings about without an error.
func TestDemoJSON(t *testing.T) {
	got := culvert(t, "", "demo", "--json")
	if got.code != exitOK || got.out != "" {
		t.Fatalf("%+v", got)
	}
	var last event
	for line := range strings.Lines(got.stderr) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Error != "" {
			t.Errorf("%v: %s", err, line)
		}
		if e.Event == "tunnel" {
			last = e
		}
	}
	if last.State != "closed" {
		t.Errorf("the last event is %+v", last)
	}
}

// TestTunnelEventError has an error in the event of a tunnel that has ended for another reason than Close.
func TestTunnelEventError(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{net.ErrClosed, ""},
		{vpn.ErrExpired, vpn.ErrExpired.Error()},
		{fmt.Errorf("no path: %w", net.ErrClosed), "no path: " + net.ErrClosed.Error()},
	} {
		if e := tunnelEvent(vpn.Status{State: vpn.Closed, Err: tt.err}); e.Error != tt.want || e.State != "closed" {
			t.Errorf("%v: %+v", tt.err, e)
		}
	}
}

func writePEM(t *testing.T, file string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
