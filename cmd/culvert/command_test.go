package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// result is what a command line has led to.
type result struct {
	code        exitCode
	out, stderr string
}

// culvert runs a command line within this process.
func culvert(t testing.TB, stdin string, args ...string) result {
	t.Helper()
	return culvertEnv(t, stdin, map[string]string{}, args...)
}

func culvertEnv(t testing.TB, stdin string, env map[string]string, args ...string) result {
	t.Helper()
	var out, stderr bytes.Buffer
	code := run(t.Context(), args, strings.NewReader(stdin), &out, &stderr, func(k string) string { return env[k] })
	return result{code, out.String(), stderr.String()}
}

// TestUsage checks that mistakes end with status 2 and words that help.
func TestUsage(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	users := file("users", "alice:$2y$05$abcdefghijklmnopqrstuuSX9lXo1Rt1GQJm6mhz2ZmIDu2MrWBfC\n")
	for _, tt := range []struct {
		args, stdin, want string
	}{
		{"--frobnicate", "", "unknown flag: --frobnicate"},
		{"frobnicate", "", "unknown command"},
		{"stauts", "", "did you mean status?"},
		{"proxy --usr alice gw", "", "did you mean --user?"},
		{"proxy --mtu abc gw", "", "--mtu abc: want a whole number"},
		{"proxy -m 99999999999999999999 gw", "", "the number is too large"},
		{"proxy --reconnect-timeout abc gw", "", "--reconnect-timeout abc: want a number of seconds"},
		{"proxy --listen 0.0.0.0:0 gw", "", "--listen-auth"},
		{"proxy", "", "GATEWAY is missing"},
		{"proxy a b", "", `unexpected argument "b"`},
		{"proxy http://gw", "", "only https"},
		{"proxy https://u:p@gw", "", "--passwd-on-stdin"},
		{"proxy --mtu 10 gw", "", "576 to 9000"},
		{"proxy --os plan9 gw", "", "apple-ios"},
		{"proxy --servercert md5:1234 gw", "", "--servercert"},
		{"proxy --resolve gw gw", "", "HOST:IP"},
		{"proxy --form-entry x=y gw", "", "FORM:OPT=VALUE"},
		{"proxy --token-mode rsa --token-secret x gw", "", "totp or hotp"},
		{"proxy --token-mode totp gw", "", "--token-secret"},
		{"proxy --token-secret x gw", "", "--token-mode"},
		{"proxy --token-mode totp --token-secret base32:1 gw", "", "--token-secret"},
		{"proxy --passwd-on-stdin gw", "", "standard input holds no password"},
		{"proxy --passwd-on-stdin gw", "\n", "standard input holds no password"},
		{"proxy --passwd-on-stdin gw", strings.Repeat("x", 70000) + "\n", "longer than"},
		{"proxy --cookie-on-stdin gw", "", "standard input holds no cookie"},
		{"proxy --cookie-on-stdin gw", "a b\n", "characters that no cookie has"},
		{"proxy --cookie a --cookie-on-stdin gw", "b\n", "exclude each other"},
		{"proxy --cafile " + filepath.Join(dir, "nothing") + " gw", "", "--cafile"},
		{"proxy --cafile " + users + " gw", "", "no certificate in PEM"},
		{"proxy -c " + users + " gw", "", "--certificate"},
		{"proxy -k " + users + " gw", "", "--sslkey needs --certificate"},
		{"proxy --reconnect-timeout soon gw", "", "number of seconds"},
		{"proxy --no-cert-check gw", "", "--servercert pin-sha256:"},
		{"proxy -p secret gw", "", "--key-password-file"},
		{"proxy --listen-auth " + filepath.Join(dir, "nothing") + " gw", "", "--listen-auth"},
		{"proxy -L 80:h gw", "", "[BIND:]PORT:HOST:HOSTPORT"},
		{"proxy -L 80:h:0 gw", "", "no port of a host"},
		{"proxy --local-forward :80:h:80 gw", "", "to listen on: a host is missing"},
		{"connect", "", "GATEWAY is missing"},
		{"connect --authenticate --cookieonly gw", "", "one of"},
		{"connect --authenticate --always-on closed gw", "", "--always-on is about this machine"},
		{"connect --cookieonly -s x gw", "", "--script is about this machine"},
		{"connect --data-path fast gw", "", "packet, flow or auto"},
		{"connect --heal some gw", "", "all, routes or nothing"},
		{"connect --always-on maybe gw", "", "closed, open or locked"},
		{"connect --allow-host 192.0.2.1 gw", "", "--always-on"},
		{"connect --always-on closed --allow-host www.example.com gw", "", "an address or a prefix"},
		{"connect --include 10.0.0.0/33 gw", "", "--include 10.0.0.0/33: want an address"},
		{"connect --include 0.0.0.0/32 gw", "", "--local-lan"},
		{"connect --exclude bad_domain!.example gw", "", "--exclude"},
		{"connect --exclude 1.2.3 gw", "", "--exclude"},
		{"connect --dns-listen 192.0.2.1:53 gw", "", "loopback"},
		{"connect --dns-listen 127.0.0.9 gw", "", "loopback"},
		{"connect --no-dns --dns-listen 127.0.0.9:53 gw", "", "exclude each other"},
		{"connect --no-dns --dns-outside 192.0.2.1 gw", "", "exclude each other"},
		{"connect --dns-outside tls://dns.example gw", "", "NAME@ADDRESS"},
		{"connect --journal here gw", "", "absolute path"},
		{"connect --log-file x gw", "", "--background"},
		{"connect --netns culvert-no-such-namespace gw", "", "ip netns add"},
		{"status --netns /proc/1/no-such-namespace", "", "--netns: "},
		{"connect --setuid nobody gw", "", "--setuid is refused"},
		{"connect --filter " + filepath.Join(dir, "nothing") + " gw", "", "--filter"},
		{"connect --filter " + file("typo-filter.toml", "[[rules]]\naktion = 'block'") + " gw", "", `unknown key "rules.aktion"; want name, action, note, users, programs, names, prefixes, confirmed, ports, protocols, direction`},
		{"connect --filter " + file("top-filter.toml", "defualt = 'block'") + " gw", "", `unknown key "defualt"; want grade, filter_sockets, filter_packets, default, log_default, rules`},
		{"connect --filter " + file("bad-filter.toml", "[[rules]]\naction = 'block'\nports = ['none']") + " gw", "", "--filter"},
		{"connect --mtu 10 gw", "", "576 to 9000"},
		{"connect --servercert md5:1234 gw", "", "--servercert"},
		{"status x", "", "unknown command"},
		{"repair --journal x", "", "absolute path"},
		{"data-path confirm sideways", "", "flow or packet"},
		{"connect --authenticate --cookie x gw", "", "culvert proxy --cookie-on-stdin"},
		{"serve x", "", "unknown command"},
		{"serve --self-signed", "", "--user-file"},
		{"serve --user-file " + users, "", "--self-signed"},
		{"serve --user-file " + filepath.Join(dir, "nothing"), "", "--user-file"},
		{"serve --user-file " + file("nobody", "# nobody\n"), "", "htpasswd -B"},
		{"serve --user-file " + users + " --self-signed --pool 10.0.0.0/33", "", "--pool"},
		{"serve --user-file " + users + " --self-signed --pool 10.0.0.0/24 --pool 10.0.1.0/24", "", "pool"},
		{"serve --user-file " + users + " --self-signed --route x", "", "--route"},
		{"serve --user-file " + users + " --self-signed --dns x", "", "--dns"},
		{"serve --user-file " + users + " --self-signed --cert x", "", "needs --key"},
		{"serve --user-file " + users + " --key x", "", "--key needs --cert"},
		{"serve --user-file " + users + " --cert " + users + " --key " + users, "", "--cert"},
		{"serve --user-file " + users + " --self-signed --group =x", "", "NAME=LABEL"},
		{"sessions x", "", "unknown command"},
		{"sessions disconnect", "", "ID is missing"},
		{"sessions", "", "--control PATH"},
		{"proxy --config " + filepath.Join(dir, "nothing") + " gw", "", "nothing"},
		{"proxy --config " + file("bad.toml", "user = ") + " gw", "", "bad.toml"},
		{"proxy --config " + file("typo.toml", "usr = 'x'") + " gw", "", `unknown key "usr"`},
		{"proxy --config " + file("under.toml", "no_dtls = true") + " gw", "", `did you mean "no-dtls"`},
		{"proxy --config " + file("kind.toml", "no-dtls = 'yes'") + " gw", "", "true or false"},
		{"proxy --config " + file("kind2.toml", "user = true") + " gw", "", "want a value"},
		{"proxy --config " + file("list.toml", "user = ['a', 'b']") + " gw", "", "one value"},
		{"proxy --config " + file("table.toml", "[user]\nname = 'a'") + " gw", "", "string"},
		{"proxy --config " + file("self.toml", "config = 'x'") + " gw", "", `unknown key "config"`},
		{"proxy --config " + file("mtu.toml", "mtu = 'x'") + " gw", "", "mtu"},
	} {
		if tt.args == "sessions" && os.Getuid() == 0 {
			continue // root has a default place for the socket, so this is no mistake of usage
		}
		t.Run(tt.args, func(t *testing.T) {
			args := strings.Fields(tt.args)
			if len(args) > 1 && args[0] == "proxy" {
				args = append(args, "--listen", "127.0.0.1:0") // another program may have the usual port
			}
			got := culvert(t, tt.stdin, args...)
			if got.code != exitUsage {
				t.Errorf("exit status %d, want %d\n%s", got.code, exitUsage, got.stderr)
			}
			if !strings.Contains(got.stderr, tt.want) {
				t.Errorf("standard error lacks %q:\n%s", tt.want, got.stderr)
			}
			if got.out != "" {
				t.Errorf("standard output: %s", got.out)
			}
			if strings.Contains(got.stderr, "secret gw") {
				t.Errorf("a secret is printed:\n%s", got.stderr)
			}
		})
	}
}

// TestFlags holds the flags to those of openconnect and of the manual: names and short forms are an interface.
func TestFlags(t *testing.T) {
	client := []string{
		"user/u", "passwd-on-stdin", "authgroup", "usergroup/g", "certificate/c", "sslkey/k", "cafile", "servercert", "cookie/C", "cookie-on-stdin",
		"no-dtls", "os", "useragent", "local-hostname", "reconnect-timeout", "token-mode", "token-secret", "form-entry/F", "non-inter", "resolve",
		"mtu/m", "pid-file", "no-cert-check", "config", "server", "force-dpd", "no-system-trust", "json", "quiet/q", "verbose/v",
	}
	for command, flags := range map[string][]string{
		"proxy": append([]string{"listen", "listen-auth", "allow-open", "no-direct", "local-forward/L"}, client...),
		"connect": append([]string{"authenticate", "cookieonly", "interface/i", "script/s", "background/b", "log-file", "data-path", "include", "exclude",
			"local-lan", "no-dns", "dns-listen", "dns-outside", "no-ipv6-names", "always-on", "allow-host", "netns", "journal", "control", "filter", "heal"}, client...),
		"serve":    {"listen", "user-file", "cert", "key", "self-signed", "pool", "route", "no-route", "dns", "no-dtls", "config", "json", "quiet/q", "verbose/v", "control", "pid-file", "mtu/m"},
		"sessions": {"control", "json"},
	} {
		a := &app{getenv: func(string) string { return "" }}
		cmd, _, err := a.command().Find([]string{command})
		if err != nil {
			t.Fatal(err)
		}
		cmd.InheritedFlags() // joins those of the root
		for _, want := range flags {
			name, short, _ := strings.Cut(want, "/")
			if f := cmd.Flag(name); f == nil || f.Shorthand != short {
				t.Errorf("%s: flag --%s is missing or has another short form than %q", command, name, short)
			}
		}
	}
}

func TestHelp(t *testing.T) {
	for _, command := range []string{"", "demo", "proxy", "connect", "status", "disconnect", "repair", "pause", "resume", "portal", "data-path", "serve", "sessions", "preferences"} {
		args := []string{"--help"}
		if command != "" {
			args = []string{command, "--help"}
		}
		got := culvert(t, "", args...)
		if got.code != exitOK || !strings.Contains(got.out, exitHelp) {
			t.Errorf("%q: exit status %d, or no exit statuses in the help:\n%s", args, got.code, got.out)
		}
		if strings.Contains(got.out, "no-cert-check") {
			t.Errorf("%q offers --no-cert-check", args)
		}
	}
}

func TestVersion(t *testing.T) {
	got := culvert(t, "", "version")
	if got.code != exitOK || !strings.HasPrefix(got.out, "culvert ") || !strings.Contains(got.out, runtime.Version()) {
		t.Errorf("%+v", got)
	}
	var b buildInfo
	if err := json.Unmarshal([]byte(culvert(t, "", "version", "--json").out), &b); err != nil || b.Go != runtime.Version() {
		t.Errorf("%+v, %v", b, err)
	}
	if got := culvert(t, "", "--version"); got.code != exitOK || !strings.HasPrefix(got.out, "culvert ") {
		t.Errorf("%+v", got)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if got := culvert(t, "", "completion", shell); got.code != exitOK || !strings.Contains(got.out, "culvert") {
			t.Errorf("%s: %+v", shell, got)
		}
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"__complete", "proxy", "--os", ""}, "apple-ios"},
		{[]string{"__complete", "proxy", "--token-mode", ""}, "totp"},
		{[]string{"__complete", "se"}, "serve"},
		{[]string{"__complete", "proxy", "--serverc"}, "--servercert"},
		{[]string{"__complete", "proxy", "--local"}, "--local-forward"},
		{[]string{"__complete", "connect", "--data-path", ""}, "flow\tconnections end here"},
		{[]string{"__complete", "connect", "--always-on", ""}, "closed\t"},
		{[]string{"__complete", "connect", "--heal", ""}, "nothing\t"},
		{[]string{"__complete", "data-path", ""}, "revert"},
		{[]string{"__complete", "data-path", "confirm", ""}, "packet"},
	} {
		if got := culvert(t, "", tt.args...); !strings.Contains(got.out, tt.want) {
			t.Errorf("%q lacks %q:\n%s", tt.args, tt.want, got.out)
		}
	}
}

// TestConfig checks that a file and a command line are put together.
func TestConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.toml")
	text := "server = 'gw.example'\nuser = 'from file'\nno-dtls = true\nreconnect-timeout = 60\nlisten = ['127.0.0.1:1', '127.0.0.1:2']\nlocal-forward = '1:h:2'\nservercert = 'pin-sha256:AAAA'\nmtu = 1300\ncookie = 'c'\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	a := &app{err: &stderr, getenv: func(string) string { return "" }}
	root := a.command()
	cmd, _, err := root.Find([]string{"proxy"})
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.ParseFlags([]string{"--config", file, "--user", "from the command line"}); err != nil {
		t.Fatal(err)
	}
	if err := a.loadConfig(cmd.Flags()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"server": "gw.example", "user": "from the command line", "no-dtls": "true", "reconnect-timeout": "60", "listen": "[127.0.0.1:1,127.0.0.1:2]",
		"servercert": "[pin-sha256:AAAA]", "mtu": "1300", "local-forward": "[1:h:2]",
	} {
		if got := cmd.Flag(name).Value.String(); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if runtime.GOOS != "windows" && !strings.Contains(stderr.String(), "chmod 600") {
		t.Errorf("no warning of a secret that others can read: %q", stderr.String())
	}
}

func TestSecretsOnTheCommandLine(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nothing shall be dialed
	var out, stderr bytes.Buffer
	run(ctx, []string{"proxy", "--listen", "127.0.0.1:0", "--cookie", "c00kie", "--token-mode", "totp", "--token-secret", "base32:JBSWY3DPEHPK3PXP", "192.0.2.1"},
		strings.NewReader(""), &out, &stderr, func(string) string { return "" })
	for _, want := range []string{"--cookie-on-stdin", "--token-secret @FILE"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("standard error lacks %q:\n%s", want, stderr.String())
		}
	}
	if strings.Contains(stderr.String(), "c00kie") || strings.Contains(stderr.String(), "JBSWY") {
		t.Errorf("a secret is printed:\n%s", stderr.String())
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("user = 'a'\nno-dtls = true\nlisten = ['x', 1, true]\n")
	f.Add("reconnect-timeout = '5m'\nmtu = 1e3\n[table]\nx = 1979-05-27\n")
	file := filepath.Join(f.TempDir(), "c.toml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, command := range []string{"proxy", "serve"} {
			a := &app{err: new(bytes.Buffer), getenv: func(string) string { return "" }}
			cmd, _, err := a.command().Find([]string{command})
			if err != nil {
				t.Fatal(err)
			}
			a.config = file
			if err := a.loadConfig(cmd.Flags()); err != nil && codeOf(err) != exitUsage {
				t.Fatalf("exit status %d for %v", codeOf(err), err)
			}
		}
	})
}
