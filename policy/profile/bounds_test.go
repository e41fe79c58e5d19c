package profile

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/policy/document"
)

// wide returns a profile in one line, with as much in front of the settings and the hosts as there may be.
func wide(settings, hosts string) []byte {
	const head, middle, tail = `<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/"><!-- `, ` --><ClientInitialization>`, `</ServerList></AnyConnectProfile>`
	rest := middle + settings + `</ClientInitialization><ServerList>` + hosts + tail
	return []byte(head + strings.Repeat("é", (document.MaxSize-len(head)-len(rest))/2) + rest)
}

func numbered(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// TestCostly: the largest profiles, made to be expensive, are judged soon and in few words.
func TestCostly(t *testing.T) {
	const host = "<HostEntry><HostName>h%d</HostName></HostEntry>"
	for name, tt := range map[string]struct {
		data  []byte
		rules string // that are found
	}{
		"hosts":            {wide("", numbered(24000, host)), "too-many"},
		"equal backups":    {wide("<BackupServerList>"+strings.Repeat("<HostAddress>a</HostAddress>", 49000)+"</BackupServerList>", ""), "duplicate-host too-many more-findings"},
		"hosts, backups":   {wide("<BackupServerList>"+numbered(16000, "<HostAddress>b%d</HostAddress>")+"</BackupServerList>", numbered(16000, host)), "too-many"},
		"backups":          {wide("<BackupServerList>"+numbered(45000, "<HostAddress>b%d</HostAddress>")+"</BackupServerList>", numbered(1000, host)), "too-many"},
		"URLs":             {wide("", numbered(16000, "<HostEntry><HostName>h%d</HostName><HostAddress>https://h/</HostAddress></HostEntry>")), "host-address too-many more-findings"},
		"names":            {wide(numbered(24000, "<Zebra%05d>x</Zebra%05[1]d>"), ""), "unknown-element too-large more-findings"},
		"hosts of no kind": {wide("", strings.Repeat("<HostEntry/>", 49000)), "missing-element too-many more-findings"},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			findings := Lint("", tt.data)
			p, err := Parse("", tt.data)
			if err != nil {
				t.Fatal(err)
			}
			if p.Err() == nil {
				t.Error("it may be acted upon")
			}
			hosts := (&Collection{Profiles: []*Profile{p}}).Hosts()
			for _, h := range hosts[:min(MaxHosts, len(hosts))] {
				h.Servers()
			}
			p.View()
			Diff(p, p)
			// What grows with the square of the size takes minutes; a busy machine under the detector of races takes seconds.
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("that took %v", took)
			}
			found := map[document.Rule]bool{}
			for _, f := range findings {
				found[f.Rule] = true
			}
			for rule := range strings.FieldsSeq(tt.rules) {
				if !found[document.Rule(rule)] {
					t.Errorf("nothing of the rule %s is found", rule)
				}
			}
			if len(findings) > 250 {
				t.Errorf("%d findings", len(findings))
			}
		})
	}
}

// TestBounds: what is more than this client takes is an error where it stands, with what to do about it.
func TestBounds(t *testing.T) {
	const server = "<TrustedHttpsServer><Address>%s</Address><Port>443</Port><CertificateHash>%s</CertificateHash></TrustedHttpsServer>"
	servers := func(all ...string) string {
		return "<AutomaticVPNPolicy>true<TrustedHttpsServerList>" + strings.Join(all, "") + "</TrustedHttpsServerList></AutomaticVPNPolicy>"
	}
	proof := fmt.Sprintf(server, "proof.example", strings.Repeat("c4", 32))
	many := func(n int) string {
		all := make([]string, n)
		for i := range all {
			all[i] = "\n" + proof
		}
		return servers(all...)
	}
	automatic := func(name, value string) string {
		return "<AutomaticVPNPolicy>true<" + name + ">" + value + "</" + name + "></AutomaticVPNPolicy>"
	}
	allowed := func(value string) string {
		return "<AutomaticVPNPolicy>true<TrustedDNSDomains>a.example</TrustedDNSDomains><AlwaysOn>true<AllowedHosts>" + value + "</AllowedHosts></AlwaysOn></AutomaticVPNPolicy>"
	}
	backups := func(n int) string {
		return "<BackupServerList>" + numbered(n, "\n<HostAddress>b%d.example</HostAddress>") + "</BackupServerList>"
	}
	const one = "\n<HostEntry><HostName>one</HostName><HostAddress>one.example</HostAddress></HostEntry>"
	label := strings.Repeat("a", 63)
	long := strings.Join([]string{label, label, label, label[:61]}, ".") // 253 characters
	for _, tt := range []struct {
		name, settings, hosts string
		want                  string // of the one error, "" for none
	}{
		{"as many hosts as may be", "", numbered(MaxHosts, "\n<HostEntry><HostName>h%d</HostName></HostEntry>"), ""},
		{"hosts", "", numbered(MaxHosts+2, "\n<HostEntry><HostName>h%d</HostName></HostEntry>"),
			"1026:1: error: <ServerList> has 1026 hosts, at most 1024 are allowed; remove 2 of them, or divide them among several profiles (too-many)"},
		{"as many backups as may be", backups(MaxServers), one, ""},
		{"backups", backups(MaxServers + 1), one, "258:1: error: <BackupServerList> has 257 gateways, at most 256 are allowed; remove 1 of them (too-many)"},
		{"members", "", "<HostEntry><HostName>one</HostName><LoadBalancingServerList>" + numbered(MaxServers+1, "\n<HostAddress>m%d</HostAddress>") + "</LoadBalancingServerList></HostEntry>",
			"258:1: error: <LoadBalancingServerList> has 257 gateways, at most 256 are allowed; remove 1 of them (too-many)"},
		{"as many servers as may be", many(MaxTrustedServers), one, ""},
		{"servers", many(MaxTrustedServers + 1), one, "18:1: error: <TrustedHttpsServerList> has 17 servers, at most 16 are allowed; remove 1 of them (too-many)"},
		{"SHA-1", servers(fmt.Sprintf(server, "a", "\n"+strings.Repeat("c4", 20))), one,
			"2:1: error: <CertificateHash>: \"" + strings.Repeat("c4", 20) + "\" is not allowed here; it is a SHA-1, which proves nothing any more; write the SHA-256 of the certificate (wrong-value)"},
		{"SHA-512", servers(fmt.Sprintf(server, "a", strings.Repeat("c4", 64))), one, ""},
		{"long address", servers(fmt.Sprintf(server, long, strings.Repeat("c4", 32))), one, ""},
		{"longer address", servers(fmt.Sprintf(server, long+".", strings.Repeat("c4", 32))), one, "it has 254 characters; write at most 253 (wrong-value)"},
		{"hole", allowed("\n10.0.0.0/4"), one,
			"2:1: error: <AllowedHosts>: \"10.0.0.0/4\" is not allowed here; 10.0.0.0/4 is a hole and not a host; write IPv4 networks of at least 8 bits, and IPv6 ones of at least 16 (wrong-value)"},
		{"hole of IPv6", allowed("2000::/3"), one, "2000::/3 is a hole"},
		{"networks", allowed("10.0.0.0/8, 2001:d00::/24, a.example, 192.0.2.1"), one, ""},
		{"wrapped", allowed("::ffff:10.0.0.0/104"), one, "write an IPv4 network as such"},
		{"zone", allowed("fe80::1%eth0/64"), one, `"fe80::1%eth0/64" is neither a host nor a network`},
		{"allowed", allowed(strings.Repeat("a1.example, ", 45) + "abcde"), one, ""},
		{"too much allowed", allowed(strings.Repeat("a1.example, ", 45) + "abcdef"), one, "it has 501 characters, at most 500 are allowed; write networks instead of single hosts (wrong-value)"},
		{"domains", automatic("TrustedDNSDomains", numbered(MaxTrustedPatterns, "d%d.example,")), one, ""},
		{"too many domains", automatic("TrustedDNSDomains", numbered(MaxTrustedPatterns+1, "d%d.example,")), one, "it has 257 domains; write at most 256"},
		{"long domain", automatic("TrustedDNSDomains", long+"."), one, ""},
		{"longer domain", automatic("TrustedDNSDomains", "*"+long), one, "a domain has 254 characters; write at most 253"},
		{"addresses", automatic("TrustedDNSServers", numbered(MaxTrustedPatterns, "192.0.2.%d,")), one, ""},
		{"too many addresses", automatic("TrustedDNSServers", numbered(MaxTrustedPatterns+1, "192.0.2.%d*,")), one, "it has 257 addresses; write at most 256"},
		{"long address of DNS", automatic("TrustedDNSServers", strings.Repeat("*", 65)), one, "an entry of 65 characters is no address"},
		{"gateways of another kind", allowed("a"), "<HostEntry><HostName>one</HostName><PrimaryProtocol>IPsec</PrimaryProtocol></HostEntry>",
			"AlwaysOn is true and the profile has no gateway that this client can connect to; add a HostEntry with an address and with SSL as its PrimaryProtocol (contradiction)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Parse("p", []byte(`<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/"><ClientInitialization>`+
				tt.settings+`</ClientInitialization><ServerList>`+tt.hosts+`</ServerList></AnyConnectProfile>`))
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if err := p.Err(); err != nil {
				got = err.Error()
			}
			if tt.want == "" && got != "" || tt.want != "" && !strings.Contains(got, tt.want) || strings.Contains(got, "\n") {
				t.Errorf("%s\nwant %q", got, tt.want)
			}
			if len(schemaErrors(p.Findings())) > 0 {
				t.Errorf("an XML Schema does not see that: %v", p.Findings())
			}
		})
	}
}

// TestSaysWhatTheClientDoes: what the client does with a gateway by IPsec and with one that was typed in is what is said about it.
func TestSaysWhatTheClientDoes(t *testing.T) {
	const head = `<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/"><ClientInitialization>`
	always := head + `<AutomaticVPNPolicy>true<TrustedDNSDomains>corp.example</TrustedDNSDomains><AlwaysOn>true</AlwaysOn></AutomaticVPNPolicy>`
	const tail = `</ClientInitialization><ServerList><HostEntry><HostName>one</HostName></HostEntry>%s</ServerList></AnyConnectProfile>`
	for _, tt := range []struct{ profile, extra, want string }{
		{always, "", "1:162: note: when a gateway sends this profile, all other profiles are deleted, since AlwaysOn is true (consequence)"},
		{always + "<AllowManualHostInput>false</AllowManualHostInput>", "", "1:162: note: when a gateway sends this profile, all other profiles are deleted, since AlwaysOn is true (consequence)"},
		{always + "<AllowManualHostInput>true</AllowManualHostInput>", "", "1:162: note: when a gateway sends this profile, all other profiles are deleted, since AlwaysOn is true (consequence)\n" +
			"1:208: note: AllowManualHostInput has no effect while AlwaysOn is true, which connects to listed gateways alone (no-effect)"},
		{head, "<HostEntry><HostName>ike</HostName><PrimaryProtocol>IPsec</PrimaryProtocol></HostEntry>",
			"1:204: warning: this client does not speak IPsec and refuses to connect to the gateway; write SSL if the gateway also speaks TLS (not-implemented)"},
	} {
		var got []string
		for _, f := range Lint("", []byte(tt.profile+fmt.Sprintf(tail, tt.extra))) {
			got = append(got, f.String())
		}
		if strings.Join(got, "\n") != tt.want {
			t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), tt.want)
		}
	}
}
