package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/youmark/pkcs8"

	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
)

// fakeCulvert is culvert as far as the tray calls it. Its directory has the report, and a reason why it does not end, if it does not.
const fakeCulvert = `#!/bin/sh
dir=$(dirname "$0")
case "$*" in
"status --json")
	cat "$dir/report"
	! grep -q '"none"' "$dir/report" ;;
disconnect)
	if [ -e "$dir/refusal" ]; then
		cat "$dir/refusal" >&2
		exit 1
	fi
	echo '{"state":"none"}' >"$dir/report" ;;
*)
	exit 2 ;;
esac
`

// TestMachine shows the tunnel of the whole machine beside that of the program, and ends it.
func TestMachine(t *testing.T) {
	address, _ := startBus(t)
	desk := newPanel(t, address)
	desk.own(watcherName)
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("culvert", fakeCulvert, 0o700)
	write("report", `{"state":"connected","since":"2026-03-01T12:00:00Z","server":"https://vpn.example.com/staff","path":"dtls","reconnects":0}`, 0o600)
	write("refusal", "culvert: AllowVPNDisconnect of corp.xml is false\n", 0o600)
	startProgram(t, address, nil, "-demo", "-demo-step", "0", "-culvert", filepath.Join(dir, "culvert"))
	eventually(t, "the item", desk.registered)

	const up = "This machine: connected, vpn.example.com/staff over DTLS"
	desk.entry(up, disabled)
	desk.shows(symbolOff) // the icon is about the program's own
	desk.click("Disconnect this machine")
	if n := desk.noted(0, "The tunnel of this machine goes on"); !strings.Contains(n.body, "AllowVPNDisconnect of corp.xml is false") {
		t.Errorf("the notice is %+v", n)
	}
	desk.entry(up, disabled)
	if err := os.Remove(filepath.Join(dir, "refusal")); err != nil {
		t.Fatal(err)
	}
	desk.click("Disconnect this machine")
	eventually(t, "the end of the machine's tunnel", func() bool { _, found := desk.menu().find("This machine: "); return !found })
}

// TestIdentity logs in with one of the certificates that the profile allows, whose key has a passphrase. The user is asked for both.
func TestIdentity(t *testing.T) {
	address, _ := startBus(t)
	desk := newPanel(t, address)
	desk.own(watcherName)
	home := t.TempDir()
	clients := x509.NewCertPool()
	issue := func(name, unit string, serial int64, password string) {
		t.Helper()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name, OrganizationalUnit: []string{unit}},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Duration(serial) * time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		clients.AddCert(c)
		protected, err := pkcs8.MarshalPrivateKey(key, []byte(password), nil)
		if err != nil {
			t.Fatal(err)
		}
		store := filepath.Join(home, ".config/culvert/certificates/client")
		if err := os.MkdirAll(filepath.Join(store, "private"), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, block := range map[string]*pem.Block{
			name + ".pem": {Type: "CERTIFICATE", Bytes: der}, "private/" + name + ".key": {Type: "ENCRYPTED PRIVATE KEY", Bytes: protected},
		} {
			if err := os.WriteFile(filepath.Join(store, name), pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	issue("alice", "VPN", 1, "sesame")
	issue("boss", "VPN", 2, "other")
	issue("mail", "Mail", 3, "other")
	gw := gatewaytest.New(t, gatewaytest.Options{Config: func(c *gateway.Config) {
		c.Auth = gateway.Certificates{}
		c.TLS.ClientAuth, c.TLS.ClientCAs = tls.RequireAndVerifyClientCert, clients
	}})
	corp := filepath.Join(t.TempDir(), "corp.xml")
	if err := os.WriteFile(corp, fmt.Appendf(nil, `<?xml version="1.0" encoding="UTF-8"?>
<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/">
  <ClientInitialization>
    <AutomaticCertSelection>false</AutomaticCertSelection>
    <CertificateMatch><DistinguishedName><DistinguishedNameDefinition><Name>OU</Name><Pattern>VPN</Pattern></DistinguishedNameDefinition></DistinguishedName></CertificateMatch>
  </ClientInitialization>
  <ServerList><HostEntry><HostName>Head office</HostName><HostAddress>%s</HostAddress></HostEntry></ServerList>
</AnyConnectProfile>
`, gw.Addr), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startProgramIn(t, home, address, nil, "-profile", corp, "-servercert", gw.Pin)
	eventually(t, "the item", desk.registered)
	r := newReader(t)
	desk.click("Head office")
	asked := p.page()
	_, page := r.get(asked)
	options := regexp.MustCompile(`<option value="(\d+)"[^>]*>CN=(\w+)`).FindAllStringSubmatch(page, -1)
	if len(options) != 2 || options[1][2] != "alice" {
		t.Fatalf("the choice is %q: %s", options, page)
	}
	r.post(asked, page, url.Values{inputs.FindStringSubmatch(page)[1]: {options[1][1]}})
	asked = p.page()
	if _, page = r.get(asked); !strings.Contains(page, "alice.key") || !strings.Contains(page, `type="password"`) {
		t.Fatalf("the page is %s", page)
	}
	r.post(asked, page, url.Values{inputs.FindStringSubmatch(page)[1]: {"sesame"}})
	desk.noted(0, "Connected to Head office")
	if s := gw.Sessions(); len(s) != 1 || s[0].User != "alice" {
		t.Errorf("sessions %+v", s)
	}
	// Both are asked for once.
	desk.click("Disconnect")
	desk.noted(0, "Disconnected from Head office")
	before := desk.count()
	desk.click("Head office")
	desk.noted(before, "Connected to Head office")
}

func TestMachineTitle(t *testing.T) {
	for _, c := range []struct {
		state machineTunnel
		want  string
	}{
		{machineTunnel{}, "This machine: no tunnel"},
		{machineTunnel{State: "none"}, "This machine: no tunnel"},
		{machineTunnel{State: "connecting", Server: "https://u:p@gw.example/?secret"}, "This machine: connecting, gw.example"},
		{machineTunnel{State: "re\nconnecting", Server: "https://gw.example", Path: "tls\x1b"}, "This machine: re connecting, gw.example over TLS"},
	} {
		if got := c.state.title(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.state, got, c.want)
		}
	}
}
