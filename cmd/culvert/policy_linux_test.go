package main

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"culvert.example/vpn/internal/logind"
	"culvert.example/vpn/internal/ocserv"
	"culvert.example/vpn/policy/certificate"
	"culvert.example/vpn/policy/plan"
)

// profileOf returns a profile with settings, whose one entry has a gateway that is dead and another one behind it.
func (m *machine) profileOf(settings string) string {
	m.t.Helper()
	at, err := url.Parse(m.server.URL)
	if err != nil {
		m.t.Fatal(err)
	}
	dead := net.JoinHostPort(at.Hostname(), "9")
	const file = "/etc/profile.xml"
	m.write(file, `<?xml version="1.0" encoding="UTF-8"?>
<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/">
  <ClientInitialization>
    <LinuxVPNEstablishment>AllowRemoteUsers</LinuxVPNEstablishment>
`+settings+`
  </ClientInitialization>
  <ServerList>
    <HostEntry>
      <HostName>Head office</HostName>
      <HostAddress>`+dead+`</HostAddress>
      <BackupServerList><HostAddress>`+at.Host+`</HostAddress></BackupServerList>
    </HostEntry>
  </ServerList>
</AnyConnectProfile>
`)
	return file
}

// named is the command line that connects to the entry of a profile.
func (m *machine) named(file string, args ...string) []string {
	return append([]string{"connect", "--user", "alice", "--passwd-on-stdin", "--non-inter", "--servercert", m.server.Pin, "--profile", file, "Head office"}, args...)
}

// govern starts the command with preferences of its own, which the documents are combined with.
func (m *machine) govern(args ...string) *process {
	m.t.Helper()
	return m.startIn([]string{"env", "HOME=/run/home", "XDG_CONFIG_HOME=/run/home/.config"}, "pass\n", args...)
}

func TestProfileMachine(t *testing.T) {
	t.Parallel()
	// The server of the PPP connection stands in the middle of a network behind the gateway.
	const ppp = "172.31.5.5"
	m := newMachine(t, taste{lines: splitLines, network: func(l *lab) {
		l.router.IP("address", "add", ppp, "dev", "lo")
		l.echo(l.router, ppp)
	}})
	file := m.profileOf("<LocalLanAccess UserControllable=\"false\">false</LocalLanAccess>\n<ShowPreConnectMessage>true</ShowPreConnectMessage>\n" +
		"<PPPExclusion>Override<PPPExclusionServerIP>" + ppp + "</PPPExclusionServerIP></PPPExclusion>\n<EnableScripting>true</EnableScripting>\n" +
		"<AutoUpdate>false</AutoUpdate><DeviceLockRequired>true</DeviceLockRequired><MinimizeOnConnect>true</MinimizeOnConnect>")

	p := m.govern(m.named(file)...)
	var told int
	p.wait(&told, "the message before connecting", func(e event) bool { return e.Event == "message" && strings.Contains(e.Message, "reminded") })
	p.wait(&told, "the settings without effect", func(e event) bool {
		return e.Kind == "unapplied" && strings.Contains(e.Message, "AutoUpdate = false (line 9)") && !strings.Contains(e.Message, "MinimizeOnConnect")
	})
	p.wait(&told, "the first gateway", func(e event) bool { return e.State == "connecting" && strings.HasSuffix(e.Gateway, ":9") })
	p.wait(&told, "the second gateway", func(e event) bool { return e.State == "connecting" && e.Gateway == m.server.URL })
	p.wait(&told, "the machine uses the tunnel", func(e event) bool { return e.Event == "system" && e.State == "connected" })
	m.seen(ocserv.Inside.String(), tunnelled)
	m.seen(ppp, plainly)
	var r machineReport
	if got := m.culvert("status", "--json"); json.Unmarshal([]byte(got.out), &r) != nil || len(r.Features) != 18 || !strings.HasSuffix(r.Profile, "profile.xml") {
		t.Errorf("%+v", got)
	}
	if !slices.ContainsFunc(r.Ignored, func(e plan.Effect) bool { return e.Path == "MinimizeOnConnect" && e.Says != "" && e.Line == 9 }) {
		t.Errorf("ignored: %+v", r.Ignored)
	}
	got := m.culvert("status")
	for _, want := range []string{
		"Show Pre-connect Message: on = true\n", "Local LAN Access: off = false", "PPP Exclusion: on = Override\n", "Scripting: on = true\n",
		"Local proxy connections: on = true\n", "Device Lock Required: not applicable = true, not applicable on linux", "Always-On: off = false",
		"\nScripts      ", "\nBy proxy     direct: ", "\nNo effect    ", "AutoUpdate = false (line 9)",
	} {
		if !strings.Contains(got.out, want) {
			t.Errorf("the status lacks %q:\n%s", want, got.out)
		}
	}
	if got := m.culvert("policy", "explain", ocserv.Inside.String()); got.code != exitOK || !strings.Contains(got.out, "tunnel") {
		t.Errorf("explain: %+v", got)
	}
	terminated(t, m, p)

	got = m.culvertWith("pass\n", m.named(file, "--local-lan")...)
	if got.code != exitFailed || !strings.Contains(got.stderr, "LocalLanAccess") {
		t.Errorf("with --local-lan: %+v", got)
	}

	const local = "/etc/AnyConnectLocalPolicy.xml"
	policy := func(setting string) {
		m.write(local, `<?xml version="1.0" encoding="UTF-8"?>
<AnyConnectLocalPolicy xmlns="http://schemas.xmlsoap.org/encoding/" acversion="4.10.0">`+setting+`</AnyConnectLocalPolicy>`)
	}
	for setting, name := range map[string]string{
		"<RestrictTunnelProtocols>TLS</RestrictTunnelProtocols>":      "RestrictTunnelProtocols",
		"<StrictCertificateTrust>true</StrictCertificateTrust>":       "StrictCertificateTrust",
		"<RestrictTunnelProtocols>nonsense</RestrictTunnelProtocols>": "RestrictTunnelProtocols",
	} {
		policy(setting)
		got := m.culvertWith("pass\n", m.named(file, "--local-policy", local)...)
		if got.code == exitOK || !strings.Contains(got.stderr, name) {
			t.Errorf("%s: %+v", setting, got)
		}
	}
	// With two entries and no name the one that answers is measured, which nobody has to wait for in the first one. Each has the pin of
	// its own key.
	data, err := os.ReadFile(filepath.Join(m.server.Dir, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	pinned := func(pin string) string {
		return `<CertificatePinList><Pin Subject="a" Issuer="b">` + pin + "</Pin></CertificatePinList>"
	}
	other, own := pinned(strings.Repeat("cd", 64)), pinned(certificate.PinOf(cert))
	dead, _, _ := strings.Cut(strings.TrimPrefix(m.server.URL, "https://"), ":")
	m.write(file, `<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/"><ClientInitialization>
<LinuxVPNEstablishment>AllowRemoteUsers</LinuxVPNEstablishment><EnableAutomaticServerSelection>true</EnableAutomaticServerSelection>
<CertificatePinning>true</CertificatePinning></ClientInitialization><ServerList>
<HostEntry><HostName>Dead</HostName><HostAddress>`+dead+`:9</HostAddress>`+other+`</HostEntry>
<HostEntry><HostName>Near</HostName><HostAddress>`+strings.TrimPrefix(m.server.URL, "https://")+`</HostAddress>`+own+`</HostEntry>
</ServerList></AnyConnectProfile>`)
	args := m.named(file)
	args = args[:len(args)-1]
	for _, why := range []string{"it is the fastest", "the last tunnel ended less than 4h"} {
		p, told = m.govern(args...), 0
		p.wait(&told, "the choice", func(e event) bool { return e.Kind == "selection" && strings.Contains(e.Message, why) })
		if e := p.wait(&told, "the gateway", func(e event) bool { return e.State == "connecting" }); e.Gateway != m.server.URL {
			t.Errorf("%s, and yet %s is dialled", why, e.Gateway)
		}
		p.wait(&told, "the machine uses the tunnel", func(e event) bool { return e.Event == "system" && e.State == "connected" })
		terminated(t, m, p)
	}
	if b, err := os.ReadFile(m.path("/run/home/.config/culvert/preferences.xml")); err != nil || !strings.Contains(string(b), "<DefaultHostName>Near<") {
		t.Errorf("what was used last: %s, %v", b, err)
	}
	p, told = m.govern(append(args, "Dead")...), 0
	if e := p.wait(&told, "the gateway", func(e event) bool { return e.State == "connecting" }); !strings.HasSuffix(e.Gateway, ":9") {
		t.Errorf("Dead was named, and %s is dialled", e.Gateway)
	}
	if code := p.exit(); code != exitUnreachable {
		t.Errorf("exit status %d", code)
	}

	policy("")
	if err := syscall.Chmod(m.path(local), 0o666); err != nil {
		t.Fatal(err)
	}
	if got := m.culvertWith("pass\n", m.named(file, "--local-policy", local)...); got.code != exitUsage || !strings.Contains(got.stderr, local) {
		t.Errorf("a policy that everybody may write: %+v", got)
	}
	m.unchanged("after refusals")
}

// TestLogonRules refuses an SSH user by default, and ends a tunnel when a second user logs on, as the real systemd-logind says.
func TestLogonRules(t *testing.T) {
	t.Parallel()
	m := newMachine(t, taste{lines: append(splitLines[:len(splitLines):len(splitLines)], "custom-header = \"X-CSTP-Disable-Always-On-VPN: true\"")})
	d := logind.Start(t)
	m.run("ln", "-s", strings.TrimPrefix(d.Address, "unix:path="), "/run/dbus/system_bus_socket")
	ssh := d.LogOn(logind.Logon{UID: 0, Leader: m.holder, Service: "sshd", Type: "tty", Remote: true, RemoteHost: "203.0.113.1"})
	file := m.profileOf("<LinuxLogonEnforcement>SingleLogon</LinuxLogonEnforcement>")
	p := m.govern(m.named(file)...)
	var told int
	p.wait(&told, "the machine uses the tunnel", func(e event) bool { return e.Event == "system" && e.State == "connected" })
	another := logind.Logon{UID: 65534, Service: "sshd", Remote: true, RemoteHost: "203.0.113.77"}
	second := d.LogOn(another)
	p.wait(&told, "the rule that ends it", func(e event) bool { return e.Event == "error" && strings.Contains(e.Error, "LinuxLogonEnforcement") })
	if code := p.exit(); code != exitFailed {
		t.Errorf("exit status %d", code)
	}
	m.unchanged("after a second logon")
	got := m.culvertWith("pass\n", m.named(file)...)
	if got.code != exitFailed || !strings.Contains(got.stderr, "SingleLogon") {
		t.Errorf("with two logons: %+v", got)
	}

	// With AutomaticVPNPolicy the command lives through that, and goes on when it may. When the one user of the machine logs off, that is
	// the end of the tunnel, since RetainVpnOnLogoff is not set (D1219).
	ssh.LogOff()
	local := d.LogOn(logind.Logon{UID: 65534, Service: "login"})
	m.profileOf(`<LinuxLogonEnforcement>SingleLogon</LinuxLogonEnforcement>
<AutomaticVPNPolicy>true<TrustedDNSDomains>office.example</TrustedDNSDomains><AlwaysOn>true</AlwaysOn></AutomaticVPNPolicy>`)
	p, told = m.govern(m.named(file)...), 0
	connected := func(e event) bool { return e.Event == "system" && e.State == "connected" }
	// A service keeps closed what Always-On closes, although there are too many users for a tunnel when it starts.
	p.wait(&told, "the rule that permits none", func(e event) bool { return e.Kind == "ended" && strings.Contains(e.Message, "rules about users") })
	m.offline("with two users and no tunnel")
	second.LogOff()
	p.wait(&told, "the machine uses the tunnel", connected)
	// The gateway lifts Always-On for this user, until the command ends (B.6).
	m.eventually(5*time.Second, "Always-On is lifted", func() bool {
		r := m.report()
		return r.Network != nil && r.Network.AlwaysOn == "lifted" && r.KillSwitch.Mode == "lifted"
	})
	second = d.LogOn(another)
	p.wait(&told, "the rule that ends it", func(e event) bool { return e.Kind == "ended" && strings.Contains(e.Message, "rules about users") })
	second.LogOff()
	p.wait(&told, "the machine uses the tunnel again", connected)
	local.LogOff()
	p.wait(&told, "the end with its user", func(e event) bool { return e.Event == "tunnel" && e.State == "closed" && e.Message == "logoff" })
	m.seen(somebody, plainly)
	terminated(t, m, p)

	// Nobody is logged on. A service waits for somebody then, unless it is to connect before the logon (D1215).
	const automatic = "<AutomaticVPNPolicy>true<TrustedDNSDomains>office.example</TrustedDNSDomains></AutomaticVPNPolicy>"
	m.run("mkdir", "-p", "/run/systemd/seats") // as a machine has it that keeps account of logons
	m.profileOf(automatic)
	p, told = m.govern(m.named(file)...), 0
	m.eventually(5*time.Second, "it waits for a logon", func() bool {
		r := m.report()
		return r.Network != nil && strings.Contains(r.Network.Held, "nobody is logged on")
	})
	if said := p.said(); strings.Contains(said, `"connecting"`) {
		t.Errorf("with nobody there it connects: %s", said)
	}
	terminated(t, m, p)
	m.profileOf("<UseStartBeforeLogon>true</UseStartBeforeLogon>" + automatic)
	p, told = m.govern(m.named(file)...), 0
	p.wait(&told, "a tunnel before the logon", connected)
	// Whoever logs on finds it.
	d.LogOn(logind.Logon{UID: 65534, Service: "login"})
	m.seen(ocserv.Inside.String(), tunnelled)
	terminated(t, m, p)
}

// TestTrustedNetwork goes from a trusted network to another one, back, where the tunnel pauses, and out again (B.12).
func TestTrustedNetwork(t *testing.T) {
	t.Parallel()
	m := newMachine(t, taste{lines: splitLines})
	conf := func(domain string) {
		m.write("/etc/resolv.conf", "search "+domain+"\nnameserver "+resolver+"\n")
	}
	conf("office.example")
	m.before = m.picture()
	file := m.profileOf(`<AutomaticVPNPolicy>true
  <TrustedDNSDomains>*.nowhere.example,office.example</TrustedDNSDomains>
  <TrustedNetworkPolicy>Pause</TrustedNetworkPolicy>
  <UntrustedNetworkPolicy>Connect</UntrustedNetworkPolicy>
</AutomaticVPNPolicy>`)
	p := m.govern(m.named(file)...)
	report := func() (r machineReport) {
		got := m.culvert("status", "--json")
		_ = json.Unmarshal([]byte(got.out), &r)
		return r
	}
	m.eventually(5*time.Second, "the network is trusted", func() bool {
		r := report()
		return r.Network != nil && r.Network.Verdict == "trusted"
	})
	time.Sleep(300 * time.Millisecond)
	if said := p.said(); strings.Contains(said, `"connecting"`) {
		t.Errorf("in the trusted network it connects: %s", said)
	}
	m.seen(somebody, plainly)

	conf("home.example")
	var told int
	p.wait(&told, "the machine uses the tunnel", func(e event) bool { return e.Event == "system" && e.State == "connected" })
	m.seen(ocserv.Inside.String(), tunnelled)
	if r := report(); r.Network.Verdict != "untrusted" || r.Network.Tunnel != "connected" || !strings.HasSuffix(m.server.URL, r.Network.Server) {
		t.Errorf("%+v", r.Network)
	}

	session := m.session()
	paused := func() {
		t.Helper()
		conf("office.example")
		p.wait(&told, "the pause", func(e event) bool { return e.Event == "tunnel" && e.State == "paused" })
		m.loggedOut() // as far as connections go
		m.seen(somebody, plainly)
		m.unchanged("in a pause")
	}
	paused()
	conf("home.example")
	p.wait(&told, "the machine uses the tunnel again", func(e event) bool { return e.Event == "system" && e.State == "connected" })
	m.seen(ocserv.Inside.String(), tunnelled)
	// A person may do the same.
	if got := m.culvert("pause"); got.code != exitOK {
		t.Errorf("pause: %+v", got)
	}
	p.wait(&told, "the pause of a person", func(e event) bool { return e.Event == "tunnel" && e.State == "paused" })
	m.seen(somebody, plainly)
	if got := m.culvert("pause"); got.code != exitFailed || !strings.Contains(got.stderr, "no tunnel to pause") {
		t.Errorf("pause in a pause: %+v", got)
	}
	if got := m.culvert("resume"); got.code != exitOK {
		t.Errorf("resume: %+v", got)
	}
	p.wait(&told, "the machine uses the tunnel once more", func(e event) bool { return e.Event == "system" && e.State == "connected" })
	if again := m.session(); again != session {
		t.Errorf("the session was %s and is %s", session, again)
	}
	paused()
	terminated(t, m, p)

	// The DNS servers alone can make a network trusted too, if all of them are in the list (D1213).
	m.profileOf(`<AutomaticVPNPolicy>true<TrustedDNSServers>192.0.2.5*,` + resolver + `</TrustedDNSServers></AutomaticVPNPolicy>`)
	p, told = m.govern(m.named(file)...), 0
	m.eventually(5*time.Second, "the network of the DNS server is trusted", func() bool {
		r := report()
		return r.Network != nil && r.Network.Verdict == "trusted"
	})
	if said := p.said(); strings.Contains(said, `"connecting"`) {
		t.Errorf("in the trusted network it connects: %s", said)
	}
	m.write("/etc/resolv.conf", "search office.example\nnameserver "+resolver+"\nnameserver 192.0.2.66\n")
	p.wait(&told, "the machine uses the tunnel", func(e event) bool { return e.Event == "system" && e.State == "connected" })
	conf("office.example")
	p.wait(&told, "the end of it", func(e event) bool { return e.Event == "tunnel" && e.State == "closed" })
	terminated(t, m, p)

	// B.1, AllowVPNDisconnect: under Always-On a person who ends the tunnel gets no network beside it, even with ConnectFailurePolicy
	// Open. That outlives the command, and a profile that cannot be read any more changes nothing about it.
	conf("home.example")
	m.profileOf(`<AutomaticVPNPolicy>true
  <TrustedDNSDomains>office.example</TrustedDNSDomains>
  <AlwaysOn>true<ConnectFailurePolicy>Open</ConnectFailurePolicy></AlwaysOn>
</AutomaticVPNPolicy>`)
	p, told = m.govern(m.named(file)...), 0
	p.wait(&told, "the machine uses the tunnel", func(e event) bool { return e.Event == "system" && e.State == "connected" })
	if got := m.culvert("disconnect"); got.code != exitOK || !strings.Contains(got.stderr+got.out, "kill switch stays closed") {
		t.Errorf("disconnect: %+v", got)
	}
	if code := p.exit(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
	m.write(file, "<AnyConnectProfile>")
	if got := m.culvertWith("pass\n", m.named(file)...); got.code != exitUsage || !strings.Contains(got.stderr, file) {
		t.Errorf("with a broken profile: %+v", got)
	}
	m.offline("after a person has disconnected")
	if got := m.culvert("repair"); got.code != exitOK {
		t.Errorf("repair: %+v", got)
	}
	conf("office.example")
	m.unchanged("after culvert repair")
}

// TestAlwaysOnPolicy comes to a hotel: the kill switch of the profile holds, but for what it takes to satisfy the captive portal.
func TestAlwaysOnPolicy(t *testing.T) {
	t.Parallel()
	m := newMachine(t, taste{lines: wholeLines})
	const home, office = "search home.example\nnameserver " + resolver + "\n", "search office.example\nnameserver " + resolver + "\n"
	m.write("/etc/resolv.conf", home)
	file := m.profileOf(`<AutomaticVPNPolicy>true
  <TrustedDNSDomains>office.example</TrustedDNSDomains>
  <TrustedNetworkPolicy>Disconnect</TrustedNetworkPolicy>
  <UntrustedNetworkPolicy>Connect</UntrustedNetworkPolicy>
  <AlwaysOn>true
    <ConnectFailurePolicy>Closed
      <AllowCaptivePortalRemediation>true<CaptivePortalRemediationTimeout>2</CaptivePortalRemediationTimeout></AllowCaptivePortalRemediation>
    </ConnectFailurePolicy>
    <AllowVPNDisconnect>false</AllowVPNDisconnect>
  </AlwaysOn>
</AutomaticVPNPolicy>`)

	// Web pages are answered by the portal, and nothing goes further, until somebody logs in.
	portal, err := m.router.Listen("tcp", "0.0.0.0:8080")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/login" {
			m.router.Run("nft", "delete", "table", "ip", "hotel")
			return
		}
		http.Redirect(w, r, "http://10.98.0.1/page", http.StatusFound)
	})}
	go srv.Serve(portal)
	t.Cleanup(func() { srv.Close() })
	m.router.Run("nft", "add table ip hotel; add chain ip hotel in { type nat hook prerouting priority -100; }; "+
		"add rule ip hotel in tcp dport 80 redirect to :8080; add chain ip hotel through { type filter hook forward priority 0; }; add rule ip hotel through reject")

	// Without a policy it is named too, unless a profile does not want it to be looked for.
	const quiet = "/etc/quiet.xml"
	m.write(quiet, `<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/"><ClientInitialization>
<LinuxVPNEstablishment>AllowRemoteUsers</LinuxVPNEstablishment><DisableCaptivePortalDetection>true</DisableCaptivePortalDetection>
</ClientInitialization><ServerList><HostEntry><HostName>a</HostName><HostAddress>`+strings.TrimPrefix(m.server.URL, "https://")+`</HostAddress></HostEntry></ServerList></AnyConnectProfile>`)
	for _, command := range [][]string{{"proxy", "--listen", "127.0.0.1:0"}, {"connect"}} {
		args := append(command, "--user", "alice", "--passwd-on-stdin", "--non-inter", "--servercert", m.server.Pin, m.server.URL)
		const page = "http://10.98.0.1/page"
		if got := m.culvertWith("pass\n", args...); got.code != exitUnreachable || strings.Count(got.stderr, page) < 2 || !strings.Contains(got.stderr, "captive portal") {
			t.Errorf("%s behind the portal: %+v", command[0], got)
		}
		if got := m.culvertWith("pass\n", append(args, "--profile", quiet)...); got.code != exitUnreachable || strings.Contains(got.stderr, page) {
			t.Errorf("%s with DisableCaptivePortalDetection: %+v", command[0], got)
		}
	}

	p := m.govern(m.named(file)...)
	var told int
	p.wait(&told, "the captive portal", func(e event) bool { return e.Kind == "portal" && strings.Contains(e.Message, "10.98.0.1/page") })
	m.eventually(5*time.Second, "the window for the portal", func() bool {
		n := m.report().Network
		return n != nil && n.Portal == "portal" && !n.PortalUntil.IsZero()
	})
	if got := m.culvert("portal"); got.code != exitOK || !strings.Contains(got.stderr, "captive portal") {
		t.Errorf("portal: %+v", got)
	}
	since := time.Now()
	m.try("curl", "-sS", "-m", "1", "http://"+somebody+":8081/")
	if found := m.out.strangers(since); found["tcp "+somebody+" 8081"] > 0 {
		t.Errorf("in the window this leaves the machine: %v", found)
	}
	// The answer may get lost with the translation of its addresses.
	m.try("curl", "-sS", "-m", "1", "http://"+somebody+"/login")
	if rules := m.router.Run("nft", "list", "tables"); strings.Contains(rules, "hotel") {
		t.Fatal("nobody could log in at the portal")
	}
	p.within(25*time.Second, &told, "the machine uses the tunnel", func(e event) bool { return e.Event == "system" && e.State == "connected" })
	m.seen(ocserv.Inside.String(), tunnelled)

	for _, what := range []string{"disconnect", "pause"} {
		if got := m.culvert(what); got.code == exitOK || !strings.Contains(got.stderr, "AllowVPNDisconnect") {
			t.Errorf("%s: %+v", what, got)
		}
	}
	m.write("/etc/resolv.conf", office)
	p.wait(&told, "the end of the tunnel", func(e event) bool {
		return e.Event == "tunnel" && e.State == "closed" && e.Message == "trusted network"
	})
	m.eventually(5*time.Second, "the trusted network is open", func() bool { return strings.HasPrefix(m.from(somebody), plainly) })
	m.eventually(5*time.Second, "the status says so", func() bool {
		r := m.report()
		return r.Network != nil && r.Network.AlwaysOn == "trusted" && r.KillSwitch.Mode == "lifted"
	})
	p.cmd.Process.Signal(syscall.SIGTERM)
	if code := p.exit(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
	m.seen(somebody, plainly)
}
