package main

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"culvert.example/vpn"
	"culvert.example/vpn/transport/upstream"
)

// TestUpstreamFlags goes from the command line and the environment to the proxy.
func TestUpstreamFlags(t *testing.T) {
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("hunter2\nrest\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		env  map[string]string
		want string // the proxy, "" for none, or what the error has in it after "!"
	}{
		{nil, nil, ""},
		{[]string{"-P", "proxy:3128"}, nil, "http://proxy:3128"},
		{[]string{"--proxy", "socks5://u@proxy", "--proxy-password-file", password}, nil, "socks5://proxy:1080"},
		{nil, map[string]string{"https_proxy": "https://env"}, "https://env:443"},
		{nil, map[string]string{"https_proxy": "env:1", "no_proxy": "example.com"}, ""},
		{[]string{"--no-proxy"}, map[string]string{"https_proxy": "env:1"}, ""},
		{[]string{"--no-proxy", "-P", "a"}, nil, "!exclude each other"},
		{[]string{"-P", "ftp://u:hunter2@a"}, nil, "!http, https and socks5"},
		{[]string{"-P", "a", "--proxy-auth", "ntlm"}, nil, "!there are basic and digest"},
		{[]string{"-P", "a", "--proxy-password-file", password}, nil, "!USER@HOST:PORT"},
		{[]string{"-P", "u@a", "--proxy-password-file", "/nowhere"}, nil, "!/nowhere"},
		{[]string{"--proxy-password-file", password}, nil, "!no proxy is used"},
		{[]string{"--libproxy"}, nil, "!PAC"},
	} {
		var out strings.Builder
		a := &app{out: &out, err: &out, getenv: func(name string) string { return tt.env[name] }}
		var u upstreamFlags
		f := pflag.NewFlagSet("x", pflag.ContinueOnError)
		u.add(f)
		if err := f.Parse(tt.args); err != nil {
			t.Fatal(err)
		}
		u.gateway = &url.URL{Scheme: "https", Host: "vpn.example.com"}
		cfg := &vpn.Config{}
		err := u.apply(a, f, cfg)
		if text, bad := strings.CutPrefix(tt.want, "!"); bad {
			var usage *usageError
			if !errors.As(err, &usage) || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q: error %v", tt.args, err)
			}
			continue
		}
		got := ""
		if u.dialer != nil {
			got = u.dialer.Proxy.String()
		}
		if err != nil || got != tt.want || (cfg.Dial != nil) != (tt.want != "") {
			t.Errorf("%q %v: %s, %v", tt.args, tt.env, got, err)
		}
		if u.file != "" && u.dialer != nil && u.dialer.Proxy.Password.Reveal() != "hunter2" {
			t.Errorf("%q: the password is not that of the file", tt.args)
		}
	}
}

// TestUpstreamWarning tells that a password on the command line is seen by others, without telling it.
func TestUpstreamWarning(t *testing.T) {
	var out strings.Builder
	a := &app{out: &out, err: &out, getenv: func(string) string { return "" }}
	u := upstreamFlags{proxy: "u:hunter2@proxy:1"}
	if err := u.apply(a, pflag.NewFlagSet("x", pflag.ContinueOnError), &vpn.Config{}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "--proxy-password-file") || strings.Contains(out.String(), "hunter2") {
		t.Errorf("it says %q", out.String())
	}
	u = upstreamFlags{sources: upstream.Sources{NoLocal: true}, proxy: "localhost:1"}
	if err := u.apply(a, pflag.NewFlagSet("x", pflag.ContinueOnError), &vpn.Config{}); !errors.Is(err, upstream.ErrLocal) {
		t.Errorf("a local proxy where none may be: %v", err)
	}
}
