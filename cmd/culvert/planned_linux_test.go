package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/policy"
	"culvert.example/vpn/policy/certificate"
	"culvert.example/vpn/policy/decision"
	"culvert.example/vpn/system"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/upstream"
)

// TestPlanned connects to a gateway by the documents of a machine: its authority is in the user's directory, and its key is pinned.
func TestPlanned(t *testing.T) {
	gw := gatewaytest.New(t)
	root := t.TempDir()
	put(t, root, "home/anna/.cisco/certificates/ca/gw.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: gw.Certificate.Raw})))
	host := strings.TrimPrefix(gw.URL, "https://")
	pinned := func(pin string) string {
		return strings.NewReplacer("vpn.corp.example", host, "<AlwaysOn>true", "<AlwaysOn>false", "<UserGroup>staff</UserGroup>", "",
			"</ClientInitialization>", `<CertificatePinning>true<CertificatePinList><Pin Subject="a" Issuer="b">`+pin+`</Pin></CertificatePinList></CertificatePinning></ClientInitialization>`).Replace(profileXML)
	}
	dial := func(elements, profile string) (*vpn.Tunnel, *decision.Decider, error) {
		t.Helper()
		put(t, root, machinePolicy, strings.Replace(policyXML, "<StrictCertificateTrust>true</StrictCertificateTrust>", elements, 1))
		put(t, root, machineProfiles+"corp.xml", profile)
		a, _ := reading()
		f := &documentFlags{root: root}
		p, err := a.documents(f, "Office")
		if err != nil {
			return nil, nil, err
		}
		c := &clientFlags{argv: pflag.NewFlagSet("", pflag.ContinueOnError)}
		if err := planFlags(p, c); err != nil {
			return nil, nil, err
		}
		cfg := &vpn.Config{Login: login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password}, ReconnectTimeout: time.Second}
		if _, err := a.planConfig(p, f, c, cfg); err != nil {
			return nil, nil, err
		}
		if cfg.TLS, err = c.trusted(cfg.TLS, p.PinsOf("")); err != nil {
			return nil, nil, err
		}
		d := cfg.Policy.(*decision.Decider)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		tunnel, err := vpn.Dial(ctx, p.Servers[0], cfg)
		return tunnel, d, err
	}

	right := certificate.PinOf(gw.Certificate)
	tunnel, d, err := dial("", pinned(right))
	if err != nil {
		t.Fatalf("with the right pin: %v", err)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: tunnel.DialContext, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Get("http://" + gatewaytest.WebName + "/")
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(page) != gatewaytest.Page {
		t.Errorf("page %q, %v", page, err)
	}
	// The decider says no from now on, and every refusal has its setting and document.
	d.Set(decision.Inputs{Filter: blockAll})
	_, err = tunnel.DialContext(t.Context(), "tcp", net.JoinHostPort(gatewaytest.WebName, "80"))
	var refused *policy.RefusedError
	if !errors.As(err, &refused) || refused.Setting != "payroll" || refused.Document != "flow rules" || !errors.Is(err, vpn.ErrDenied) {
		t.Errorf("a flow that is blocked: %v", err)
	}
	if err := tunnel.Close(); err != nil {
		t.Error(err)
	}

	_, _, err = dial("", pinned(hex.EncodeToString(bytes.Repeat([]byte{7}, 64))))
	var pin *certificate.PinError
	if !errors.As(err, &pin) || codeOf(err) != exitUntrusted {
		t.Errorf("with another pin: %v", err)
	}
	// The user's directory does not vouch for gateways, and the system does not know this one.
	for setting, element := range map[string]string{"ExcludePem": "<ExcludePemFileCertStore>true</ExcludePemFileCertStore>", "Restrict": "<RestrictServerCertStore>true</RestrictServerCertStore>"} {
		if _, _, err := dial(element, pinned(right)); codeOf(err) != exitUntrusted {
			t.Errorf("%s: %v", setting, err)
		}
	}
	if _, _, err = dial("<FipsMode>true</FipsMode>", pinned(right)); !errors.As(err, &refused) || refused.Setting != "FipsMode" {
		t.Errorf("FipsMode: %v", err)
	}
}

// blockAll is a Filter that blocks.
func blockAll(decision.Query) decision.Answer {
	return decision.Answer{Outcome: decision.Block, Steps: []decision.Step{{Document: "flow rules", Setting: "payroll", Says: "it is blocked", Effect: decision.Block}}}
}

// TestPlanFlags: what the user says on the command line, against the documents.
func TestPlanFlags(t *testing.T) {
	root := t.TempDir()
	put(t, root, machineProfiles+"corp.xml", strings.Replace(profileXML, "<ShowPreConnectMessage>",
		`<ProxySettings UserControllable="false">Override<PublicProxyServerAddress>proxy.example:8080</PublicProxyServerAddress></ProxySettings>
		<AllowLocalProxyConnections>false</AllowLocalProxyConnections><ShowPreConnectMessage>`, 1))
	put(t, root, machinePolicy, policyXML)
	a, _ := reading()
	p, err := a.documents(&documentFlags{root: root}, "Office")
	if err != nil {
		t.Fatal(err)
	}
	var refused *policy.RefusedError
	c := &clientFlags{servercert: []string{"pin-sha256:x"}}
	if err := planFlags(p, c); !errors.As(err, &refused) || refused.Setting != "StrictCertificateTrust" || !strings.Contains(refused.Document, machinePolicy) {
		t.Errorf("--servercert under strict trust: %v", err)
	}
	c = &clientFlags{}
	if err := planFlags(p, c); err != nil {
		t.Fatal(err)
	}
	if s := c.upstream.sources; s.Mode != upstream.Override || s.Public != "proxy.example:8080" || !s.Locked || !s.NoLocal {
		t.Errorf("%+v", s)
	}
	// A kill switch that the profile locks is locked, whatever the user wants it to be.
	put(t, root, machineProfiles+"corp.xml", strings.Replace(profileXML, "<AllowedHosts>", "<AllowVPNDisconnect>false</AllowVPNDisconnect><AllowedHosts>", 1))
	if p, err = a.documents(&documentFlags{root: root}, "Office"); err != nil {
		t.Fatal(err)
	}
	for _, of := range []system.KillSwitch{{}, {Open: true}} {
		cfg := system.Config{KillSwitch: &of}
		if err := new(machineFlags).obey(a, p, &cfg); err != nil || !cfg.KillSwitch.Locked || cfg.KillSwitch.Open {
			t.Errorf("%+v: %+v, %v", of, cfg.KillSwitch, err)
		}
	}
	// Without a profile, only a proxy that is named may be on this machine.
	p, err = a.documents(&documentFlags{root: t.TempDir()}, "gw.example")
	if err != nil {
		t.Fatal(err)
	}
	for named, want := range map[string]bool{"": true, "http://127.0.0.1:3128": false} {
		c := &clientFlags{servercert: []string{"x"}}
		c.upstream.proxy = named
		if err := planFlags(p, c); err != nil || c.upstream.sources.NoLocal != want || c.upstream.sources.Locked {
			t.Errorf("%q: %v, %+v", named, err, c.upstream.sources)
		}
	}
}
