package network

import (
	"encoding/xml"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/policy/network/trusted"
	"culvert.example/vpn/policy/profile"
)

const document = `<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/"><ClientInitialization>
<AutomaticVPNPolicy>true
 <TrustedDNSDomains>*.corp.example, corp.example</TrustedDNSDomains><TrustedDNSServers>10.0.0.*</TrustedDNSServers>
 <TrustedHttpsServerList><TrustedHttpsServer><Address>proof.corp.example</Address><Port>8443</Port>
  <CertificateHash>000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f</CertificateHash></TrustedHttpsServer></TrustedHttpsServerList>
 <TrustedNetworkPolicy>Pause</TrustedNetworkPolicy><UntrustedNetworkPolicy>Connect</UntrustedNetworkPolicy>
 <BypassConnectUponSessionTimeout>true</BypassConnectUponSessionTimeout>
 <AlwaysOn>true<ConnectFailurePolicy>Closed
   <AllowCaptivePortalRemediation>true<CaptivePortalRemediationTimeout>7</CaptivePortalRemediationTimeout></AllowCaptivePortalRemediation>
   <ApplyLastVPNLocalResourceRules>true</ApplyLastVPNLocalResourceRules></ConnectFailurePolicy>
  <AllowVPNDisconnect>false</AllowVPNDisconnect><AllowedHosts>proxy.example,192.0.2.0/24</AllowedHosts></AlwaysOn>
</AutomaticVPNPolicy>
<BackupServerList><HostAddress>backup.example</HostAddress></BackupServerList>
<EnableAutomaticServerSelection UserControllable="true">true<AutoServerSelectionImprovement>30</AutoServerSelectionImprovement>
 <AutoServerSelectionSuspendTime>6</AutoServerSelectionSuspendTime></EnableAutomaticServerSelection>
<RetainVpnOnLogoff>true<UserEnforcement>AnyUser</UserEnforcement></RetainVpnOnLogoff>
</ClientInitialization><ServerList>
<HostEntry><HostName>One</HostName><HostAddress>one.example:8443</HostAddress><LoadBalancingServerList><HostAddress>m.example</HostAddress></LoadBalancingServerList></HostEntry>
<HostEntry><HostName>Two</HostName><HostAddress>two.example</HostAddress><BackupServerList><HostAddress>own.example</HostAddress></BackupServerList></HostEntry>
<HostEntry><HostName>IKE</HostName><HostAddress>ike.example</HostAddress><PrimaryProtocol>IPsec</PrimaryProtocol></HostEntry>
</ServerList></AnyConnectProfile>`

func TestFromProfile(t *testing.T) {
	p, err := profile.Parse("corp.xml", []byte(document))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Err(); err != nil {
		t.Fatal(err)
	}
	c := FromProfile(p, profile.Resolve(p, nil, "linux"))
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	a := c.AlwaysOn
	if !c.Automatic || len(c.Trusted.Domains) != 2 || c.Trusted.Servers[0] != "10.0.0.*" || c.Trusted.HTTPS[0].HostPort() != "proof.corp.example:8443" ||
		c.TrustedPolicy != profile.Pause || c.UntrustedPolicy != profile.Connect || !c.BypassSessionTimeout ||
		!a.On || !a.Closed || a.AllowDisconnect || !a.Remediation || a.Window != 7*time.Minute || !a.LastRules || len(a.Allowed) != 2 ||
		!c.RetainOnLogoff || !c.AnyUser || !c.Select || c.Selection.Improvement != 30 || c.Selection.Suspend != 6*time.Hour || !c.DisconnectOnSuspend {
		t.Errorf("%+v", c)
	}
	if len(c.Hosts) != 2 || c.Hosts[0].Server != "one.example:8443" || strings.Join(c.Hosts[0].Backups, " ") != "backup.example" ||
		strings.Join(c.Hosts[0].Members, " ") != "m.example" || strings.Join(c.Hosts[1].Backups, " ") != "own.example" {
		t.Errorf("%+v", c.Hosts)
	}
	// D1209: without a profile all of it is off.
	c = FromProfile(nil, profile.Resolve(nil, nil, "linux"))
	if c.Automatic || c.AlwaysOn.On || c.Select || c.RetainOnLogoff || c.Disabled || !c.Trusted.Empty() {
		t.Errorf("%+v", c)
	}
}

func TestValidate(t *testing.T) {
	for setting, edit := range map[string]func(*Config){
		"AutomaticVPNPolicy":                   func(c *Config) { c.Trusted.HTTPS = []trusted.Server{{Address: "a"}} },
		"TrustedNetworkPolicy":                 func(c *Config) { c.TrustedPolicy = "connect" },
		"UntrustedNetworkPolicy":               func(c *Config) { c.UntrustedPolicy = profile.Pause },
		"CaptivePortalRemediationTimeout":      func(c *Config) { c.AlwaysOn.Window = 25 * time.Hour },
		"AllowedHosts: it has 501":             func(c *Config) { c.AlwaysOn.Allowed = []string{strings.Repeat("a", 501)} },
		"AllowedHosts: 0.0.0.0/0 is a hole":    func(c *Config) { c.AlwaysOn.Allowed = []string{"0.0.0.0/0"} },
		"AllowedHosts: 2000::/3 is a hole":     func(c *Config) { c.AlwaysOn.Allowed = []string{"2000::/3"} },
		"AllowedHosts: ::ffff:10.0.0.0/104: ":  func(c *Config) { c.AlwaysOn.Allowed = []string{"::ffff:10.0.0.0/104"} },
		"AllowedHosts: \"a b\"":                func(c *Config) { c.AlwaysOn.Allowed = []string{"a b"} },
		"ServerList: it has":                   func(c *Config) { c.Hosts = make([]Host, MaxHosts+1) },
		"ServerList: a host needs":             func(c *Config) { c.Hosts = []Host{{Name: "a"}} },
		"AlwaysOn: there is no host":           func(c *Config) { c.Automatic, c.AlwaysOn.On, c.Hosts = true, true, nil },
		"corp.xml: CaptivePortalRemediationTi": func(c *Config) { c.AlwaysOn.Window = -1 },
	} {
		c := Config{Document: "corp.xml", Hosts: []Host{{Name: "a", Server: "a"}}}
		edit(&c)
		if err := c.Validate(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), setting) {
			t.Errorf("%s: %v", setting, err)
		}
	}
}

// agrees reports whether a profile with the values may be acted upon, and fails if the manager then refuses what it says.
func agrees(t *testing.T, domains, servers, allowed, address, hash, host string, count int) bool {
	t.Helper()
	text := func(s string) string {
		var b strings.Builder
		if err := xml.EscapeText(&b, []byte(s)); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	proof := "<TrustedHttpsServer><Address>" + text(address) + "</Address><Port>443</Port><CertificateHash>" + text(hash) + "</CertificateHash></TrustedHttpsServer>"
	p, err := profile.Parse("p", []byte(`<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/"><ClientInitialization><AutomaticVPNPolicy>true
<TrustedDNSDomains>`+text(domains)+`</TrustedDNSDomains><TrustedDNSServers>`+text(servers)+`</TrustedDNSServers>
<TrustedHttpsServerList>`+strings.Repeat(proof, count)+`</TrustedHttpsServerList>
<AlwaysOn>true<AllowedHosts>`+text(allowed)+`</AllowedHosts></AlwaysOn></AutomaticVPNPolicy></ClientInitialization>
<ServerList>`+host+`</ServerList></AnyConnectProfile>`))
	if err != nil || p.Err() != nil {
		return false
	}
	for _, system := range []string{"linux", "windows", "darwin"} {
		if err := FromProfile(p, profile.Resolve(p, nil, system)).Validate(); err != nil {
			t.Errorf("nothing is found wrong with the profile, and on %s it is refused: %.300v", system, err)
		}
	}
	return true
}

const oneHost = "<HostEntry><HostName>one</HostName></HostEntry>"

// TestProfilesAgree: a profile that may be acted upon is acted upon. What the manager does not take must have been said of the profile.
func TestProfilesAgree(t *testing.T) {
	good, short := strings.Repeat("c4", 32), strings.Repeat("c4", 20)
	hosts := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "<HostEntry><HostName>h%d</HostName></HostEntry>", i)
		}
		return b.String()
	}
	label := strings.Repeat("a", 63)
	long := strings.Join([]string{label, label, label, label[:61]}, ".")
	for _, tt := range []struct {
		name                                           string
		domains, servers, allowed, address, hash, host string
		count                                          int
		want                                           bool
	}{
		{"good", "corp.example", "192.0.2.*", "a.example", "proof", good, oneHost, trusted.MaxHTTPS, true},
		{"servers", "", "", "", "proof", good, oneHost, trusted.MaxHTTPS + 1, false},
		{"SHA-1", "", "", "", "proof", short, oneHost, 1, false},
		{"address", "", "", "", long + ".", good, oneHost, 1, false},
		{"domains", strings.Repeat("a.example,", trusted.MaxPatterns), "", "", "", "", oneHost, 0, true},
		{"too many domains", strings.Repeat("a.example,", trusted.MaxPatterns+1), "", "", "", "", oneHost, 0, false},
		{"domain", "*" + long, "", "", "", "", oneHost, 0, false},
		{"domain that is longer in small letters", strings.Repeat("Ⱥ", 30) + "." + long[:190], "", "", "", "", oneHost, 0, false},
		{"addresses", "", strings.Repeat("192.0.2.1,", trusted.MaxPatterns), "", "", "", oneHost, 0, true},
		{"too many addresses", "", strings.Repeat("192.0.2.1,", trusted.MaxPatterns+1), "", "", "", oneHost, 0, false},
		{"address of DNS", "", "fe80::1%" + label, "", "", "", oneHost, 0, false},
		{"allowed", "", "", strings.Repeat("a,", 250) + "", "", "", oneHost, 0, true},
		{"too much allowed", "", "", strings.Repeat("a,", 251), "", "", oneHost, 0, false},
		{"hole", "", "", "10.0.0.0/4", "", "", oneHost, 0, false},
		{"hole of IPv6", "", "", "::/0", "", "", oneHost, 0, false},
		{"wrapped", "", "", "::ffff:192.0.2.0/120", "", "", oneHost, 0, false},
		{"zone", "", "", "fe80::1%a/64", "", "", oneHost, 0, false},
		{"hosts", "", "", "", "", "", hosts(MaxHosts), 0, true},
		{"too many hosts", "", "", "", "", "", hosts(MaxHosts + 1), 0, false},
		{"IPsec", "", "", "", "", "", "<HostEntry><HostName>one</HostName><PrimaryProtocol>IPsec</PrimaryProtocol></HostEntry>", 0, false},
	} {
		if got := agrees(t, tt.domains, tt.servers, tt.allowed, tt.address, tt.hash, tt.host, tt.count); got != tt.want {
			t.Errorf("%s: it may be acted upon: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// FuzzProfilesAgree looks for a value that is found good in a profile and refused by the manager.
func FuzzProfilesAgree(f *testing.F) {
	f.Add("*.corp.example, corp.example", "10.0.0.*,2001:db8::*", "a.example,192.0.2.0/24,fe80::1%25", "proof.example", strings.Repeat("c4", 32), "One", uint8(1))
	f.Add("*", "fe80::1%x", "::ffff:1.2.3.4, *.b, [::1]", "[::1]", "xMTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMQ=", "https://a:1/b", uint8(17))
	f.Fuzz(func(t *testing.T, domains, servers, allowed, address, hash, host string, count uint8) {
		var b strings.Builder
		if err := xml.EscapeText(&b, []byte(host)); err != nil {
			t.Fatal(err)
		}
		agrees(t, domains, servers, allowed, address, hash, "<HostEntry><HostName>One</HostName><HostAddress>"+b.String()+"</HostAddress></HostEntry>", int(count%20))
	})
}
