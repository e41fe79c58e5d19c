package network

import (
	"errors"
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
