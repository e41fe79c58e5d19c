package vpn_test

import (
	"context"
	"net/http"
	"os"
	"strings"
	"testing"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/stack/tun"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/login/oath"
	"culvert.example/vpn/transport/login/terminal"
)

// The programs of the package documentation, with what a reader has: secrets are strings. That this file compiles shows that they do.

var _ = func(ctx context.Context, password string) error {
	tunnel, err := vpn.Dial(ctx, "https://vpn.example.com", &vpn.Config{
		Login: login.Fixed{Username: "alice", Password: transport.Secret(password)},
	})
	if err != nil {
		return err
	}
	defer tunnel.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: tunnel.DialContext}}
	client.CloseIdleConnections()
	return nil
}

var _ = func(cfg *vpn.Config, secret, password string) error {
	code, err := oath.TOTP(transport.Secret(secret))
	cfg.Login = login.Chain(code, login.Fixed{Username: "alice", Password: transport.Secret(password)}, terminal.New(nil, nil))
	return err
}

var _ = func(cfg *vpn.Config) {
	cfg.Device = func(lease *transport.Lease) (packet.Conn, error) {
		return tun.Open(tun.Config{Name: "vpn0", MTU: lease.MTU})
	}
}

// TestDocSnippets fails for a program of the package documentation that stands above in another form.
func TestDocSnippets(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile("docsnippets_test.go")
	if err != nil {
		t.Fatal(err)
	}
	here := "\n" + strings.ReplaceAll(string(file), "\n\t", "\n")
	blocks, block := 0, ""
	for line := range strings.Lines(string(doc)) {
		if code, ok := strings.CutPrefix(line, "//\t"); ok {
			block += code
			continue
		}
		if block != "" && !strings.Contains(here, "\n"+block) {
			t.Errorf("doc.go has a program that is not compiled here:\n%s", block)
		}
		if block != "" {
			blocks++
		}
		block = ""
	}
	if blocks != 3 {
		t.Errorf("%d programs in doc.go, want 3", blocks)
	}
}
