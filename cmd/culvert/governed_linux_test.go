package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/host/logins"
	"culvert.example/vpn/policy/profile"
	"culvert.example/vpn/transport/login"
)

// corp returns a profile with settings, and an entry Office with what stands in it.
func corp(settings, entry string) string {
	return `<?xml version="1.0" encoding="UTF-8"?>
<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/">
<ClientInitialization><LinuxVPNEstablishment>AllowRemoteUsers</LinuxVPNEstablishment>
` + settings + `
</ClientInitialization>
<ServerList><HostEntry><HostName>Office</HostName>` + entry + `</HostEntry></ServerList>
</AnyConnectProfile>
`
}

// localPolicy returns a local policy with elements, which begin in its second line.
func localPolicy(elements string) string {
	return `<AnyConnectLocalPolicy xmlns="http://schemas.xmlsoap.org/encoding/" acversion="5.1">
` + elements + `
</AnyConnectLocalPolicy>
`
}

// address returns the host and port of a gateway.
func address(gw *gatewaytest.Gateway) string { return strings.TrimPrefix(gw.URL, "https://") }

// loggingIn is how the tests log in, with documents below a directory only.
func loggingIn(root string, gw *gatewaytest.Gateway) []string {
	return []string{"--document-root", root, "-u", gatewaytest.User, "--passwd-on-stdin", "--non-inter", "--servercert", gw.Pin}
}

const password = gatewaytest.Password + "\n"

// TestProxyGoverned: the proxy obeys a profile as connect does, and names what it cannot obey.
func TestProxyGoverned(t *testing.T) {
	gw := gatewaytest.New(t)
	root := t.TempDir()
	put(t, root, machineProfiles+"corp.xml", corp(`<ShowPreConnectMessage>true</ShowPreConnectMessage>
<LocalLanAccess>true</LocalLanAccess><AutoUpdate>true</AutoUpdate>
<AutomaticVPNPolicy>true
<AlwaysOn>true</AlwaysOn></AutomaticVPNPolicy>`, `<HostAddress>127.0.0.1:1</HostAddress>
<BackupServerList><HostAddress>`+address(gw)+`</HostAddress></BackupServerList>`))

	put(t, root, machinePolicy, localPolicy("<OCSPRevocation>true</OCSPRevocation>"))

	// The profile is named without its place and its ending.
	p := start(t, password, append([]string{"proxy", "--listen", "127.0.0.1:0", "--profile", "corp", "Office"}, loggingIn(root, gw)...)...)
	var told int
	p.wait(&told, "the message before connecting", func(e event) bool { return strings.Contains(e.Message, "reminded") })
	var without []string
	p.wait(&told, "the first gateway", func(e event) bool {
		if e.Kind == "unapplied" {
			without = append(without, e.Message)
		}
		return e.State == "connecting" && strings.HasSuffix(e.Gateway, "127.0.0.1:1")
	})
	p.wait(&told, "the backup", func(e event) bool { return e.State == "connecting" && e.Gateway == gw.URL })
	p.wait(&told, "the tunnel", func(e event) bool { return e.State == "connected" })
	at := p.wait(&told, "listening", func(e event) bool { return e.State == "listening" }).Address
	tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "socks5h", Host: at})}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get("http://" + gatewaytest.WebName + "/")
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(page) != gatewaytest.Page {
		t.Errorf("page %q, %v", page, err)
	}
	all := strings.Join(without, "\n")
	for _, want := range []string{"AutomaticVPNPolicy/AlwaysOn = true (line 7)", "LocalLanAccess = true (line 5)", "AutomaticVPNPolicy = true (line 6)", "corp.xml", "OCSPRevocation = true (line 2)"} {
		if !strings.Contains(all, want) {
			t.Errorf("it does not say that %s has no effect:\n%s", want, all)
		}
	}
	if strings.Contains(all, "AutoUpdate") {
		t.Errorf("it names what has its default:\n%s", all)
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	if code := p.exit(); code != exitOK {
		t.Errorf("exit status %d", code)
	}

	// The message was shown, so it is not shown again.
	p = start(t, password, append([]string{"proxy", "--listen", "127.0.0.1:0", "Office"}, loggingIn(root, gw)...)...)
	told = 0
	p.wait(&told, "the first gateway", func(e event) bool {
		if strings.Contains(e.Message, "reminded") {
			t.Error("the message before connecting is shown again")
		}
		return e.State == "connecting"
	})
}

// TestProxyRefused: what the documents refuse, the proxy refuses too, with the setting, the document and the line.
func TestProxyRefused(t *testing.T) {
	gw := gatewaytest.New(t, gatewaytest.Options{NoUDP: true})
	root := t.TempDir()
	entry := "<HostAddress>" + address(gw) + "</HostAddress>"
	office := put(t, root, "office.xml", corp("", entry))
	disabled := put(t, root, "disabled.xml", corp("<ServiceDisable>true</ServiceDisable>", entry))
	listed := put(t, root, "listed.xml", corp("<AllowManualHostInput>false</AllowManualHostInput>", entry))
	ipsec := put(t, root, "ipsec.xml", corp("", entry+"<PrimaryProtocol>IPsec</PrimaryProtocol>"))
	six := put(t, root, "six.xml", corp("<IPProtocolSupport>IPv6</IPProtocolSupport>", entry))
	pinned := put(t, root, "pinned.xml", corp("<CertificatePinning>true<CertificatePinList><Pin>"+strings.Repeat("ab", 64)+"</Pin></CertificatePinList></CertificatePinning>", entry))
	grouped := put(t, root, "grouped.xml", corp("", "<HostAddress>127.0.0.1:1</HostAddress><UserGroup>staff</UserGroup>"))
	noTLS := put(t, root, "notls.xml", localPolicy("<RestrictTunnelProtocols>TLS</RestrictTunnelProtocols>"))
	strict := put(t, root, "strict.xml", localPolicy("<StrictCertificateTrust>true</StrictCertificateTrust>"))
	for _, tt := range []struct {
		args, want string
		code       exitCode
	}{
		{"--profile " + disabled + " Office", "ServiceDisable (profile " + disabled + ":4:1)", exitFailed},
		{"--profile " + listed + " else.example", "AllowManualHostInput (profile " + listed + ":4:1)", exitFailed},
		{"--profile " + ipsec + " Office", "PrimaryProtocol (profile " + ipsec + ":6:", exitFailed},
		{"--profile " + pinned + " Office", "pin", exitUntrusted},
		{"--profile " + six + " Office", "127.0.0.1: gateways are reached over IPv6 only", exitUnreachable},
		{"--profile " + office + " --local-policy " + noTLS + " Office", "RestrictTunnelProtocols (local policy " + noTLS + ":2:1)", exitFailed},
		{"--local-policy " + noTLS + " gw.example", "RestrictTunnelProtocols (local policy " + noTLS + ":2:1)", exitFailed},
		{"--profile " + office + " --local-policy " + strict + " Office", "StrictCertificateTrust (local policy " + strict + ":2:1)", exitFailed},
		{"--profile nowhere Office", "nowhere", exitUsage},
		// The group in a URL is the user's word, whatever the entry of that gateway says.
		{"--profile " + grouped + " https://127.0.0.1:1/contractors", "connecting to https://127.0.0.1:1/contractors", exitUnreachable},
		{"--profile " + grouped + " 127.0.0.1:1/contractors", "connecting to https://127.0.0.1:1/contractors", exitUnreachable},
		{"--profile " + grouped + " https://127.0.0.1:1", "connecting to https://127.0.0.1:1/staff", exitUnreachable},
	} {
		for _, command := range [][]string{{"proxy", "--listen", "127.0.0.1:0"}, {"connect", "--authenticate"}} {
			got := culvert(t, password, append(append(command, strings.Fields(tt.args)...), loggingIn(root, gw)...)...)
			if got.code != tt.code || !strings.Contains(got.stderr, tt.want) {
				t.Errorf("%s %s: %+v, want %d: %s", command[0], tt.args, got, tt.code, tt.want)
			}
		}
	}
	if n := len(gw.Sessions()); n > 0 {
		t.Errorf("%d sessions at the gateway", n)
	}
}

// TestGovernedIdentity: the client certificate is the one that the CertificateMatch of the profile chooses.
func TestGovernedIdentity(t *testing.T) {
	authority := sign("Corp CA", "", 100*24*time.Hour, true, nil)
	var mu sync.Mutex
	var shown []string
	gw := gatewaytest.New(t, gatewaytest.Options{NoUDP: true, Config: func(c *gateway.Config) {
		c.TLS.ClientCAs, c.TLS.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
		c.TLS.ClientCAs.AddCert(authority.Certificate)
		c.TLS.VerifyConnection = func(s tls.ConnectionState) error {
			name := "none"
			if len(s.PeerCertificates) > 0 {
				name = s.PeerCertificates[0].Subject.CommonName
			}
			mu.Lock()
			defer mu.Unlock()
			shown = append(shown, name)
			return nil
		}
	}})
	root := t.TempDir()
	for name, unit := range map[string]string{"alice-mail": "Mail", "alice-vpn": "VPN", "alice-admin": "Admin"} {
		left := 20 * 24 * time.Hour
		if name == "alice-mail" {
			left = 90 * 24 * time.Hour // without a rule the one that lasts longest is taken
		}
		c := sign(name, unit, left, false, authority)
		save(t, 0o644, c.PEM(), root, "home/anna/.cisco/certificates/client", name+".pem")
		save(t, 0o600, c.KeyPEM(), root, "home/anna/.cisco/certificates/client/private", name+".key")
	}
	entry := "<HostAddress>" + address(gw) + "</HostAddress>"
	match := func(unit string) string {
		return "<CertificateMatch><DistinguishedName><DistinguishedNameDefinition><Name>OU</Name><Pattern>" + unit + "</Pattern></DistinguishedNameDefinition></DistinguishedName></CertificateMatch>"
	}
	for _, tt := range []struct{ settings, want string }{
		{"", "alice-mail"},
		{match("VPN"), "alice-vpn"},
		{match("Admin"), "alice-admin"},
		{match("Nobody"), "none"},
		{"<CertificateStoreLinux>Machine</CertificateStoreLinux>", "none"},
	} {
		file := put(t, root, "corp.xml", corp(tt.settings, entry))
		mu.Lock()
		shown = nil
		mu.Unlock()
		got := culvertEnv(t, password, map[string]string{"HOME": "/home/anna"}, append([]string{"connect", "--authenticate", "--profile", file, "Office"}, loggingIn(root, gw)...)...)
		mu.Lock()
		if got.code != exitOK || len(shown) == 0 || shown[0] != tt.want {
			t.Errorf("%q: the gateway has seen %q, want %s; %+v", tt.settings, shown, tt.want, got)
		}
		mu.Unlock()
	}

	// With AutomaticCertSelection false a person chooses, once.
	file := put(t, root, "corp.xml", corp("<AutomaticCertSelection>false</AutomaticCertSelection>", entry))
	asked := 0
	person := login.PrompterFunc(func(_ context.Context, f *login.Form) error {
		asked++
		for _, o := range f.Fields[0].Options {
			if strings.Contains(o.Text, "alice-admin") {
				f.Fields[0].Set(o.Value)
			}
		}
		return nil
	})
	for range 2 {
		a, stderr := reading()
		c := &clientFlags{documents: documentFlags{root: root, profileFile: file}}
		if err := c.govern(a, []string{"Office"}, false); err != nil {
			t.Fatal(err)
		}
		cert, err := c.identify(t.Context(), a, &asker{person: person})(nil)
		if err != nil || cert.Leaf == nil || cert.Leaf.Subject.CommonName != "alice-admin" {
			t.Errorf("%+v, %v: %s", cert, err, stderr)
		}
		c.remember(a)
	}
	if asked != 1 {
		t.Errorf("the person was asked %d times", asked)
	}
	a, stderr := reading()
	put(t, root, userPreferences, "<AnyConnectPreferences/>")
	c := &clientFlags{documents: documentFlags{root: root, profileFile: file}}
	if err := c.govern(a, []string{"Office"}, false); err != nil {
		t.Fatal(err)
	}
	if cert, err := c.identify(t.Context(), a, &asker{})(nil); err != nil || len(cert.Certificate) > 0 || !strings.Contains(stderr.String(), "name one with --certificate") {
		t.Errorf("with nobody to ask: %+v, %v: %s", cert, err, stderr)
	}
}

// A webProxy is an HTTP proxy that counts, and leads wherever it is told.
type webProxy struct {
	net.Listener
	used atomic.Int32
}

func newWebProxy(t *testing.T) *webProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &webProxy{Listener: l}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.used.Add(1)
		to, err := net.Dial("tcp", r.Host)
		if r.Method != http.MethodConnect || err != nil {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		defer to.Close()
		w.WriteHeader(http.StatusOK)
		from, rest, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer from.Close()
		go func() {
			io.Copy(to, rest)
			to.Close()
		}()
		io.Copy(from, to)
	})}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return p
}

// TestGovernedProxy: the gateway is reached through the proxy that the profile wants, or through none.
func TestGovernedProxy(t *testing.T) {
	gw := gatewaytest.New(t, gatewaytest.Options{NoUDP: true})
	ofProfile, ofMachine := newWebProxy(t), newWebProxy(t)
	root := t.TempDir()
	_, port, _ := net.SplitHostPort(address(gw))
	// The name is not of this machine, or no proxy would be asked; what it stands for is said on the command line.
	entry := "<HostAddress>gw.corp.example:" + port + "</HostAddress>"
	override := func(attributes string) string {
		return "<ProxySettings" + attributes + ">Override<PublicProxyServerAddress" + attributes + ">" + ofProfile.Addr().String() + "</PublicProxyServerAddress></ProxySettings>"
	}
	const locked = ` UserControllable="false"`
	machine := "http://" + ofMachine.Addr().String()
	for _, tt := range []struct {
		name, settings      string
		env                 string // https_proxy
		args                string
		byProfile, byOthers bool
		refused             string
	}{
		{"nothing names one", "", "", "", false, false, ""},
		{"Native", "<ProxySettings>Native</ProxySettings>", machine, "", false, true, ""},
		{"IgnoreProxy", "<ProxySettings>IgnoreProxy</ProxySettings>", machine, "", false, false, ""},
		{"Override", override(""), machine, "", true, false, ""},
		{"Override, and the user names another", override(""), "", "--proxy " + machine, false, true, ""},
		{"Override, locked, and the user names another", override(locked), "", "--proxy " + machine, false, false, "ProxySettings (profile "},
		{"Override, locked, and the user wants none", override(locked), "", "--no-proxy", false, false, "ProxySettings (profile "},
		{"IgnoreProxy, locked", "<ProxySettings" + locked + ">IgnoreProxy</ProxySettings>", "", "--proxy " + machine, false, false, "ProxySettings (profile "},
		{"no proxy of this machine", "<AllowLocalProxyConnections>false</AllowLocalProxyConnections>", machine, "", false, false, "AllowLocalProxyConnections (profile "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := put(t, root, "corp.xml", corp(tt.settings, entry))
			ofProfile.used.Store(0)
			ofMachine.used.Store(0)
			args := append([]string{"connect", "--authenticate", "--resolve", "gw.corp.example:127.0.0.1", "--profile", file, "Office"}, strings.Fields(tt.args)...)
			got := culvertEnv(t, password, map[string]string{"https_proxy": tt.env}, append(args, loggingIn(root, gw)...)...)
			if tt.refused != "" {
				if got.code != exitUsage || !strings.Contains(got.stderr, tt.refused+file+":4:1)") {
					t.Errorf("%+v, want a refusal by %s", got, tt.refused)
				}
			} else if got.code != exitOK {
				t.Errorf("%+v", got)
			}
			if byProfile, byOthers := ofProfile.used.Load() > 0, ofMachine.used.Load() > 0; byProfile != tt.byProfile || byOthers != tt.byOthers {
				t.Errorf("by the proxy of the profile %v, want %v; by that of the machine %v, want %v", byProfile, tt.byProfile, byOthers, tt.byOthers)
			}
		})
	}
}

// TestGovernedFIPS: where the local policy demands it, the command is in FIPS 140-3 mode, and refuses a gateway that has nothing that
// is approved (D1243).
func TestGovernedFIPS(t *testing.T) {
	approved := gatewaytest.New(t, gatewaytest.Options{NoUDP: true})
	other := gatewaytest.New(t, gatewaytest.Options{NoUDP: true, Config: func(c *gateway.Config) {
		c.TLS.MaxVersion = tls.VersionTLS12
		c.TLS.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256}
	}})
	root := t.TempDir()
	fips := put(t, root, "fips.xml", localPolicy("<FipsMode>true</FipsMode>"))
	office := put(t, root, "office.xml", corp("", "<HostAddress>"+address(other)+"</HostAddress>"))
	if got := culvert(t, password, append([]string{"connect", "--authenticate", "--profile", office, "Office"}, loggingIn(root, other)...)...); got.code != exitOK {
		t.Fatalf("without FipsMode: %+v", got)
	}

	run := func(gw *gatewaytest.Gateway, args ...string) *process {
		return start(t, password, append(append([]string{"proxy", "--listen", "127.0.0.1:0", "--local-policy", fips}, args...), loggingIn(root, gw)...)...)
	}
	p := run(approved, approved.URL)
	var told int
	p.wait(&told, "the tunnel", func(e event) bool { return e.State == "connected" && e.Path == "tls" })
	p.cmd.Process.Signal(syscall.SIGTERM)
	if code := p.exit(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
	p, told = run(other, "--profile", office, "Office"), 0
	e := p.wait(&told, "the refusal", func(e event) bool { return e.Event == "error" })
	if !strings.HasPrefix(e.Error, "FipsMode (local policy "+fips+":2:1): ") {
		t.Errorf("%+v", e)
	}
	if code := p.exit(); code == exitOK {
		t.Error("exit status 0")
	}
}

// TestGovernedConfig: how long a login may take and over which IP protocols the gateway is reached come from the profile.
func TestGovernedConfig(t *testing.T) {
	root := t.TempDir()
	entry := "<HostAddress>vpn.corp.example</HostAddress>"
	for _, tt := range []struct {
		settings  string
		protocols string
		timeout   time.Duration
	}{
		{"", "IPv4 IPv6", 30 * time.Second},
		{"<IPProtocolSupport>IPv6,IPv4</IPProtocolSupport><AuthenticationTimeout>90</AuthenticationTimeout>", "IPv6 IPv4", 90 * time.Second},
		{"<IPProtocolSupport>IPv4</IPProtocolSupport>", "IPv4", 30 * time.Second},
	} {
		a, _ := reading()
		c := a.addClientFlags(&cobra.Command{})
		c.nonInter, c.documents.root, c.documents.profileFile = true, root, put(t, root, "corp.xml", corp(tt.settings, entry))
		if err := c.govern(a, []string{"Office"}, false); err != nil {
			t.Fatal(err)
		}
		if _, err := c.target([]string{"Office"}); err != nil {
			t.Fatal(err)
		}
		cfg, _, err := c.vpnConfig(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(cfg.IPProtocols, " "); got != tt.protocols || cfg.LoginTimeout != tt.timeout {
			t.Errorf("%s: %s, %v", tt.settings, got, cfg.LoginTimeout)
		}
	}
}

// TestStatusDocuments: a person is told of each of the eighteen features, and of every setting without effect (D1209–D1220).
func TestStatusDocuments(t *testing.T) {
	show := func(r *machineReport) string {
		var b strings.Builder
		p := &page{w: &b, paint: func(_, s string) string { return s }}
		p.documents(r)
		if p.err != nil {
			t.Fatal(p.err)
		}
		return b.String()
	}
	var none machineReport
	none.govern(nil)
	text := show(&none)
	if len(none.Features) != 18 || !strings.HasPrefix(text, "Features     off: no profile (") || strings.Count(text, "\n") != 1 {
		t.Errorf("without documents:\n%s", text)
	}
	for _, f := range none.Features {
		if !strings.Contains(text, f.Name) {
			t.Errorf("%s is not named:\n%s", f.Name, text)
		}
	}

	root := t.TempDir()
	put(t, root, machineProfiles+"corp.xml", corp(`<EnableScripting>true</EnableScripting><AllowLocalProxyConnections>false</AllowLocalProxyConnections>
<AutoUpdate>false</AutoUpdate><MinimizeOnConnect>true</MinimizeOnConnect><DeviceLockRequired>true</DeviceLockRequired>
<AutomaticVPNPolicy>true<AlwaysOn>true</AlwaysOn></AutomaticVPNPolicy>`, ""))
	for machine, want := range map[bool][]string{
		true: {
			"Scripting: on = true\n", "Local proxy connections: off = false, AllowLocalProxyConnections is false\n", "Always-On: on = true\n",
			"Device Lock Required: not applicable = true, not applicable on linux", "AutoUpdate = false (line 5): this client is not updated",
			"MinimizeOnConnect = true (line 5): this client has no window",
		},
		false: {
			"Scripting: not applicable = true, only a tunnel for the whole machine", "Always-On: not applicable = true, the tunnel carries one program",
			"AutomaticVPNPolicy = true (line 6): only a tunnel for the whole machine",
		},
	} {
		a, _ := reading()
		p, err := a.documents(&documentFlags{root: root, machine: machine, lenient: true}, "Office")
		if err != nil {
			t.Fatal(err)
		}
		r := machineReport{Scripts: "/etc/culvert/script", Proxy: "direct: nothing names a proxy"}
		r.govern(p)
		text := show(&r)
		for _, line := range append(want, "\nScripts      /etc/culvert/script\n", "\nBy proxy     direct: ") {
			if !strings.Contains(text, line) {
				t.Errorf("machine %v: the status lacks %q:\n%s", machine, line, text)
			}
		}
		for _, f := range r.Features {
			if !strings.Contains(text, f.Name+": "+string(f.State)) {
				t.Errorf("machine %v: %s is not named:\n%s", machine, f.Name, text)
			}
		}
	}
	// What is said to be unavailable exists.
	for _, machine := range []bool{true, false} {
		for path := range unavailable(machine) {
			if _, ok := profile.Resolve(nil, nil, "linux").Get(path); !ok {
				t.Errorf("there is no setting %s", path)
			}
		}
	}
}

// TestBeforeLogon: only a service that acts for nobody, before anybody has logged on, brings a tunnel up before the logon.
func TestBeforeLogon(t *testing.T) {
	service, user := logins.Asker{UID: logins.NoUID}, logins.Session{Class: logins.User, UID: 1000}
	greeter, leaving := user, user
	greeter.Class, leaving.Closing = logins.Greeter, true
	for name, tt := range map[string]struct {
		sessions []logins.Session
		asker    logins.Asker
		want     bool
	}{
		"a service, nobody there":        {nil, service, true},
		"a service, at the greeter":      {[]logins.Session{greeter, leaving}, service, true},
		"a service, somebody there":      {[]logins.Session{greeter, user}, service, false},
		"a user without session":         {nil, logins.Asker{UID: 1000}, false},
		"root by sudo from a session":    {nil, logins.Asker{Found: true, Session: user, UID: 1000}, false},
		"a service that acts for a user": {[]logins.Session{user}, logins.Asker{UID: 1000}, false},
	} {
		if got := beforeLogon(tt.sessions, tt.asker); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
