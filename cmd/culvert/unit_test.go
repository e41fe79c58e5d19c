package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/youmark/pkcs8"
	"software.sslmate.com/src/go-pkcs12"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/internal/issue"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/trust"
)

func TestParseCookie(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"AFMmbYZRg3xV3M2VmyZqmQUXYLckxC/5Jef6k8O1xfc=", "AFMmbYZRg3xV3M2VmyZqmQUXYLckxC/5Jef6k8O1xfc="},
		{"webvpn=abc@def", "abc@def"},
		{"openconnect_strapkey=MHcC+/==; webvpn=AF=", "AF="},
		{"COOKIE='webvpn=abc'", "abc"},
		{" abc\t", "abc"},
		{"abc def", ""},
		{"abc; other=x", ""},
		{"abc\r\nHost: evil", ""},
		{"a\x00b", ""},
		{"é", ""},
	} {
		got, err := parseCookie(tt.in)
		if (err == nil) != (tt.want != "") || got.Reveal() != tt.want && err == nil {
			t.Errorf("parseCookie(%q) = %q, %v; want %q", tt.in, got.Reveal(), err, tt.want)
		}
		if err != nil && (codeOf(err) != exitUsage || strings.Contains(err.Error(), "abc")) {
			t.Errorf("parseCookie(%q): %v", tt.in, err)
		}
	}
}

func FuzzCookie(f *testing.F) {
	f.Add("openconnect_strapkey=MHcC+/==; webvpn=AF=")
	f.Add("COOKIE='abc'")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseCookie(s)
		if err == nil && strings.ContainsAny(c.Reveal(), "\r\n; \x00") {
			t.Fatalf("%q became %q", s, c.Reveal())
		}
	})
}

func TestParseResolve(t *testing.T) {
	m, err := parseResolve([]string{"VPN.example.com:192.0.2.1", "six:fd00::1", "b:[fd00::2]"})
	if err != nil || len(m) != 3 || m["vpn.example.com"] != netip.MustParseAddr("192.0.2.1") || m["six"] != netip.MustParseAddr("fd00::1") || m["b"] != netip.MustParseAddr("fd00::2") {
		t.Errorf("%v, %v", m, err)
	}
	for _, bad := range []string{"", "host", "host:", ":192.0.2.1", "host:name", "host:192.0.2.1:443"} {
		if _, err := parseResolve([]string{bad}); codeOf(err) != exitUsage {
			t.Errorf("parseResolve(%q): %v", bad, err)
		}
	}
}

func TestTarget(t *testing.T) {
	for _, tt := range []struct{ server, arg, group, want string }{
		{"", "vpn.example.com", "", "https://vpn.example.com"},
		{"", "vpn.example.com:4443/a", "", "https://vpn.example.com:4443/a"},
		{"other", "https://vpn.example.com", "staff", "https://vpn.example.com/staff"},
		{"vpn.example.com/x", "", "/staff", "https://vpn.example.com/staff"},
		{"", "[fd00::1]:443", "", "https://[fd00::1]:443"},
		{"", "", "", ""},
		{"", "http://vpn.example.com", "", ""},
		{"", "https://", "", ""},
		{"", "https://alice:pw@vpn.example.com", "", ""},
		{"", "https://vpn.example.com:x", "", ""},
	} {
		c := &clientFlags{server: tt.server, usergroup: tt.group}
		var args []string
		if tt.arg != "" {
			args = []string{tt.arg}
		}
		got, err := c.target(args)
		if got != tt.want || (err == nil) != (tt.want != "") || err != nil && (codeOf(err) != exitUsage || strings.Contains(err.Error(), "pw")) {
			t.Errorf("%+v: got %q, %v", tt, got, err)
		}
	}
}

func TestSeconds(t *testing.T) {
	for in, want := range map[string]time.Duration{"300": 5 * time.Minute, "5m": 5 * time.Minute, "-1": -time.Second, "0": 0, "1500ms": 1500 * time.Millisecond} {
		var s seconds
		if err := s.Set(in); err != nil || time.Duration(s) != want {
			t.Errorf("%q: %v, %v", in, time.Duration(s), err)
		}
	}
	for _, bad := range []string{"", "x", "-5", "-5m", "99999999999999999999", "5000000000"} {
		if err := new(seconds).Set(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestPrintTicket(t *testing.T) {
	cert := &x509.Certificate{RawSubjectPublicKeyInfo: []byte("key")}
	for _, tt := range []struct {
		ticket vpn.Ticket
		want   string
	}{
		{
			vpn.Ticket{Cookie: "a'b=", Host: "vpn.example.com:443", Addr: netip.MustParseAddrPort("192.0.2.1:443"), URL: &url.URL{Path: "/staff"}, Certificate: cert},
			"COOKIE='webvpn=a'\\''b='\nHOST='192.0.2.1'\nCONNECT_URL='https://vpn.example.com/staff'\nFINGERPRINT='" + trust.PinOf(cert) + "'\nRESOLVE='vpn.example.com:192.0.2.1'\n",
		},
		{
			vpn.Ticket{Cookie: "c", Host: "[fd00::1]:4443", Addr: netip.MustParseAddrPort("[fd00::1]:4443"), Certificate: cert},
			"COOKIE='webvpn=c'\nHOST='[fd00::1]'\nCONNECT_URL='https://[fd00::1]:4443/'\nFINGERPRINT='" + trust.PinOf(cert) + "'\nRESOLVE='fd00::1:fd00::1'\n",
		},
		{
			vpn.Ticket{Cookie: "c", Host: "vpn.example.com:443", URL: &url.URL{}},
			"COOKIE='webvpn=c'\nHOST='vpn.example.com'\nCONNECT_URL='https://vpn.example.com/'\nFINGERPRINT=''\nRESOLVE=''\n",
		},
	} {
		var b strings.Builder
		if err := printTicket(&b, &tt.ticket); err != nil || b.String() != tt.want {
			t.Errorf("got\n%s\nwant\n%s", b.String(), tt.want)
		}
	}
}

// TestQuote has a shell read what is printed for it.
func TestQuote(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no shell")
	}
	for _, s := range []string{"plain", "it's", "'; rm -rf /; '", "$(id) `id` \\ \"", "a=b&c"} {
		out, err := exec.Command(sh, "-c", "V="+quote(s)+`; printf %s "$V"`).Output()
		if err != nil || string(out) != s {
			t.Errorf("%q came out as %q, %v", s, out, err)
		}
	}
}

func TestLoadCertificate(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	must := func(b []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	block := func(typ string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}) }
	alice := issue.New(x509.Certificate{Subject: pkix.Name{CommonName: "alice"}}, nil)
	cert, key := alice.Certificate, alice.Key.(*ecdsa.PrivateKey)
	certPEM, keyPEM := []byte(alice.PEM()), []byte(alice.KeyPEM())
	encrypted := block("ENCRYPTED PRIVATE KEY", must(pkcs8.MarshalPrivateKey(key, []byte("sesame"), nil)))
	p := map[string]string{
		"cert":      write("cert.pem", certPEM),
		"key":       write("key.pem", keyPEM),
		"ec":        write("ec.pem", block("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(key)))),
		"both":      write("both.pem", append(append([]byte("Bag Attributes\n"), keyPEM...), certPEM...)),
		"encrypted": write("encrypted.pem", encrypted),
		"other":     write("other.pem", []byte(issue.New(x509.Certificate{}, nil).KeyPEM())),
		"old":       write("old.pem", []byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n")),
		"p12":       write("open.p12", must(pkcs12.Passwordless.Encode(key, cert, nil, ""))),
		"p12pw":     write("closed.p12", must(pkcs12.Modern.Encode(key, cert, []*x509.Certificate{cert}, "sesame"))),
		"junk":      write("junk", []byte("\x00\x01\x02")),
		"empty":     write("empty", nil),
		"missing":   filepath.Join(dir, "missing"),
	}
	for _, tt := range []struct{ cert, key, pass, fail string }{
		{"cert", "key", "", ""},
		{"cert", "ec", "", ""},
		{"both", "", "", ""},
		{"cert", "encrypted", "sesame", ""},
		{"p12", "", "", ""},
		{"p12pw", "", "sesame", ""},
		{"cert", "", "", "holds no private key"},
		{"cert", "encrypted", "wrong", "passphrase is wrong"},
		{"p12pw", "", "wrong", "passphrase is wrong"},
		{"cert", "other", "", "does not belong to the certificate"},
		{"cert", "old", "", "openssl pkcs8 -topk8"},
		{"key", "", "", "holds no certificate"},
		{"junk", "", "", "neither PEM nor PKCS#12"},
		{"empty", "", "", "neither PEM nor PKCS#12"},
		{"missing", "", "", "no such file"},
		{"cert", "missing", "", "no such file"},
	} {
		t.Run(tt.cert+" "+tt.key+" "+tt.pass, func(t *testing.T) {
			asked := 0
			got, err := loadCertificate(p[tt.cert], p[tt.key], func() (string, error) { asked++; return tt.pass, nil })
			if tt.fail != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fail) && !(tt.fail == "no such file" && errors.Is(err, os.ErrNotExist)) {
					t.Errorf("error %v lacks %q", err, tt.fail)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !key.Equal(got.PrivateKey) || !got.Leaf.Equal(cert) {
				t.Error("another key or certificate came out")
			}
			if (asked != 0) != (tt.pass != "") {
				t.Errorf("the passphrase was asked %d times", asked)
			}
		})
	}

	pair, _, err := gateway.SelfSigned("gw.example")
	if err != nil {
		t.Fatal(err)
	}
	c, k := filepath.Join(dir, "new.pem"), filepath.Join(dir, "new.key")
	if err := writePair(pair, c, k); err != nil {
		t.Fatal(err)
	}
	back, err := loadCertificate(c, k, nil)
	if err != nil || !back.Leaf.Equal(pair.Leaf) {
		t.Errorf("the pair was not read back: %v", err)
	}
	if fi, err := os.Stat(k); err != nil || runtime.GOOS != "windows" && fi.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", fi, err)
	}
	if err := writePair(pair, c, k); err == nil {
		t.Error("the pair was overwritten")
	}
}

func TestWritePID(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	remove, err := writePID(file)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(file); string(b) != fmt.Sprintln(os.Getpid()) {
		t.Errorf("the file holds %q", b)
	}
	remove()
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Error("the file was not removed")
	}
	if remove, err = writePID(file); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(file, []byte("1\n"), 0o644)
	remove()
	if _, err := os.Stat(file); err != nil {
		t.Error("the file of another process was removed")
	}
	if _, err := writePID(filepath.Join(file, "x")); err == nil {
		t.Error("no error where no file can be")
	}
	if entries, _ := os.ReadDir(filepath.Dir(file)); len(entries) != 1 {
		t.Errorf("left over: %v", entries)
	}
}

func TestProxyAuth(t *testing.T) {
	write := func(s string) string {
		file := filepath.Join(t.TempDir(), "users")
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	a := &app{err: new(bytes.Buffer), getenv: func(string) string { return "" }}
	check, err := a.proxyAuth(write("# users\nann:p:w\r\n\nbob:x\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		user, pw string
		want     bool
	}{{"ann", "p:w", true}, {"bob", "x", true}, {"bob", "p:w", false}, {"ann", "", false}, {"", "", false}, {"# users", "", false}} {
		if got := check(tt.user, tt.pw); got != tt.want {
			t.Errorf("%q %q: %v", tt.user, tt.pw, got)
		}
	}
	for _, bad := range []string{"", "# nobody\n", "ann\n", ":pw\n", "ann:\n", strings.Repeat("a", 256) + ":x\n"} {
		if _, err := a.proxyAuth(write(bad)); codeOf(err) != exitUsage {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		err  error
		code exitCode
		hint string
	}{
		{errors.New("x"), 1, ""},
		{usagef("x"), 2, "--help"},
		{&vpn.OpError{Err: fmt.Errorf("%w: no answer: %w", vpn.ErrLogin, vpn.ErrPrompt)}, 3, "password"},
		{(&clientFlags{passwdStdin: true}).blame(&vpn.OpError{Err: &login.RejectedError{Err: login.ErrCannot}}), 3, "password"},
		{&vpn.OpError{Err: &trust.Error{Certificate: &x509.Certificate{}, Reason: errors.New("x")}}, 4, "--servercert pin-sha256:"},
		{&vpn.OpError{Err: &net.OpError{Op: "dial", Err: errors.New("x")}}, 5, ""},
		{&vpn.OpError{Err: &net.DNSError{IsNotFound: true}}, 5, "--resolve"},
		{vpn.ErrUnreachable, 5, ""},
		{vpn.ErrExpired, 6, "Log in again"},
		{vpn.ErrDisconnected, 6, ""},
		{vpn.ErrAddressChanged, 6, "Start the command again"},
		{vpn.ErrRefused, 6, ""},
		{vpn.ErrPrompt, 7, "--non-inter"},
		{vpn.ErrProtocol, 8, "--useragent"},
		{vpn.ErrUnsupported, 8, ""},
	} {
		if got := codeOf(tt.err); got != tt.code {
			t.Errorf("%v: exit status %d, want %d", tt.err, got, tt.code)
		}
		if got := hint(tt.err); !strings.Contains(got, tt.hint) {
			t.Errorf("%v: the hint %q lacks %q", tt.err, got, tt.hint)
		}
	}
}

func TestReport(t *testing.T) {
	var b bytes.Buffer
	r := &reporter{w: &b}
	r.say(event{Event: "tunnel", State: "connected", Path: "dtls"}, "connected over %s", "DTLS")
	r.say(event{Event: "system", State: "closed"}, "nothing passes")
	r.warn("mind %s", "this")
	r.fail(&vpn.OpError{Op: "dial", Server: "gw", Err: errors.New("two\nlines \x1b[2J")}, exitFailed)
	if want := "culvert: connected over DTLS\nculvert: nothing passes\nculvert: warning: mind this\nculvert: error: two lines \uFFFD[2J\n"; b.String() != want {
		t.Errorf("got %q", b.String())
	}
	b.Reset()
	r.colour = true
	r.say(event{State: "connected"}, "connected to x")
	if !strings.Contains(b.String(), green+"connected"+plain+" to x") {
		t.Errorf("no colour in %q", b.String())
	}
	b.Reset()
	r.inLog()
	r.say(event{State: "connected"}, "connected to x")
	if at, rest, ok := strings.Cut(b.String(), " culvert: "); !ok || rest != "connected to x\n" || len(at) < len(time.DateTime) {
		t.Errorf("in a log: %q", b.String())
	}
	b.Reset()
	r = &reporter{w: &b, json: true}
	r.say(event{Event: "tunnel", State: "connected", Path: "dtls", Address: "10.0.0.1"}, "x")
	r.fail(vpn.ErrExpired, exitEnded)
	r.logger(2).Info("hello", "n", 1)
	for line := range strings.Lines(b.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
	if s := b.String(); !strings.Contains(s, `"state":"connected","path":"dtls","address":"10.0.0.1"`) || !strings.Contains(s, `"exit":6`) || strings.Count(s, "\n") != 3 {
		t.Errorf("got %s", s)
	}
	b.Reset()
	(&reporter{w: &b, quiet: true}).say(event{}, "x")
	if b.Len() != 0 {
		t.Errorf("a quiet reporter says %q", b.String())
	}
}

func TestOneLine(t *testing.T) {
	if got := oneLine("a\r\nb\x1b[31m\u009bc "); got != "a  b\uFFFD[31m\uFFFDc" {
		t.Errorf("%q", got)
	}
	if got := oneLine(strings.Repeat("x", 1<<20)); len(got) > 2100 {
		t.Errorf("%d bytes", len(got))
	}
}

func TestPrintSessions(t *testing.T) {
	var b strings.Builder
	now := time.Now()
	err := printSessions(&b, []gateway.SessionInfo{
		{
			ID: "1", User: "alice\x1b", Group: "staff", Remote: netip.MustParseAddrPort("192.0.2.9:1234"), Addresses: []netip.Addr{netip.MustParseAddr("10.20.0.2")},
			Path: "dtls", Connected: now.Add(-90 * time.Minute), Received: gateway.Traffic{Bytes: 1536}, Sent: gateway.Traffic{Bytes: 5 << 30}, UserAgent: "client",
		},
		{ID: "2", User: "bob"},
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	want := `ID  USER    GROUP  ADDRESS    FROM            PATH  SINCE  RECEIVED  SENT     CLIENT
1   alice` + "\uFFFD" + `  staff  10.20.0.2  192.0.2.9:1234  dtls  1h30m  1.5 KiB   5.0 GiB  client
2   bob     -                 -               -     -      0 B       0 B      -
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Second: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m", 26 * time.Hour: "1d02h"} {
		if got := ago(d); got != want {
			t.Errorf("%v: %s", d, got)
		}
	}
}

func TestSessionWatch(t *testing.T) {
	var b bytes.Buffer
	r := &reporter{w: &b, json: true}
	var w sessionWatch
	s := gateway.SessionInfo{ID: "1", User: "alice", Addresses: []netip.Addr{netip.MustParseAddr("10.20.0.2")}}
	steps := []struct {
		change func()
		want   string
	}{
		{func() {}, `"state":"login"`},
		{func() {}, ""},
		{func() { s.Path, s.Connects = "tls", 1 }, `"state":"connected","path":"tls","address":"10.20.0.2"`},
		{func() { s.Path = "dtls" }, `"state":"connected","path":"dtls"`},
		{func() { s.Received.Bytes = 9 }, ""},
		{func() { s.Path = "" }, `"state":"disconnected"`},
	}
	for i, step := range steps {
		b.Reset()
		step.change()
		w.look(r, []gateway.SessionInfo{s})
		if got := b.String(); !strings.Contains(got, step.want) || (step.want == "") != (got == "") {
			t.Errorf("step %d: %s", i, got)
		}
	}
	b.Reset()
	w.look(r, nil)
	if !strings.Contains(b.String(), `"state":"closed"`) {
		t.Errorf("end: %s", b.String())
	}
}
