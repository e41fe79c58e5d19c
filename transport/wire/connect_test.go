package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func request() *ConnectRequest {
	return &ConnectRequest{
		Host:               "vpn.example.com:4443",
		UserAgent:          "AnyConnect-compatible OpenConnect VPN Agent v9.12",
		Cookie:             "q1+/w==",
		Hostname:           "laptop",
		AcceptEncoding:     []string{LZ4, LZS},
		DTLSAcceptEncoding: []string{LZ4, LZS},
		BaseMTU:            1500,
		MTU:                1390,
		IPv4:               true,
		IPv6:               true,
		FullIPv6:           true,
		Addresses:          addrs("10.1.0.5", "fd00:1::5"),
		MasterSecret:       bytes.Repeat([]byte{0xab, 0x01}, 24),
		DTLSCipherSuites:   []string{PSKNegotiate, "OC-DTLS1_2-AES256-GCM"},
		DTLS12CipherSuites: []string{"ECDHE-RSA-AES256-GCM-SHA384"},
	}
}

// TestConnectRequestBytes pins the case of every name: gateways compare byte by byte.
func TestConnectRequestBytes(t *testing.T) {
	want := strings.ReplaceAll(`CONNECT /CSCOSSLC/tunnel HTTP/1.1
Host: vpn.example.com:4443
User-Agent: AnyConnect-compatible OpenConnect VPN Agent v9.12
Cookie: webvpn=q1+/w==
X-CSTP-Version: 1
X-CSTP-Hostname: laptop
X-CSTP-Accept-Encoding: oc-lz4,lzs
X-CSTP-Base-MTU: 1500
X-CSTP-MTU: 1390
X-CSTP-Address-Type: IPv6,IPv4
X-CSTP-Address: 10.1.0.5
X-CSTP-Full-IPv6-Capability: true
X-CSTP-Address: fd00:1::5
X-DTLS-Master-Secret: `+strings.Repeat("AB01", 24)+`
X-DTLS-CipherSuite: PSK-NEGOTIATE:OC-DTLS1_2-AES256-GCM
X-DTLS12-CipherSuite: ECDHE-RSA-AES256-GCM-SHA384
X-DTLS-Accept-Encoding: oc-lz4,lzs

`, "\n", "\r\n")
	if got := string(request().Append(nil)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestConnectRequestRoundTrip(t *testing.T) {
	want := request()
	want.Protocol = "Copyright (c) 2004 Cisco Systems, Inc."
	want.STRAPVerify, want.STRAPPubkey = "MEU=", "MFk="
	want.ClientVersion, want.Platform, want.PlatformVersion, want.DeviceType, want.UniqueID = "5.1", "win", "10", "PC", "00ff"
	want.License = "mobile"
	want.LocalAddress4, want.LocalAddress6 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	want.RemoteAddress4, want.RemoteAddress6 = netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(want.Append(nil))))
	if err != nil {
		t.Fatal(err)
	}
	got := ParseConnectRequest(r.Header)
	got.Host = r.Host
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %#v\nwant %#v", *got, *want)
	}
}

func TestParseConnectRequest(t *testing.T) {
	got := ParseConnectRequest(map[string][]string{
		"COOKIE":                 {"webvpncontext=x; webvpn=a=b; webvpn=second"},
		"x-cstp-accept-encoding": {",oc-lz4, lzs,,"},
		"X-Cstp-Mtu":             {"1e3"},
		"X-Cstp-Base-Mtu":        {"-1"},
		"X-Cstp-Address":         {"10.0.0.1", "nonsense", "fe80::1%eth0"},
		"X-Cstp-Address-Type":    {"ipv6 ,IPv4"},
		"X-Dtls-Master-Secret":   {"ABCD"},
		"X-Dtls-Ciphersuite":     {"PSK-NEGOTIATE::AES256-SHA\r\n"},
	})
	slices.Sort(got.Malformed)
	want := &ConnectRequest{
		Cookie: "a=b", AcceptEncoding: []string{LZ4, LZS}, Addresses: addrs("10.0.0.1"), IPv4: true, IPv6: true,
		DTLSCipherSuites: []string{PSKNegotiate, "AES256-SHA"},
		Malformed:        []string{"X-Cstp-Address", "X-Cstp-Address", "X-Cstp-Base-Mtu", "X-Cstp-Mtu", "X-Dtls-Master-Secret"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestHeaderInjection has no value end its line.
func TestHeaderInjection(t *testing.T) {
	const evil = "x\r\nX-Evil: 1\n\r\n\x00"
	r := request()
	r.Host, r.UserAgent, r.Cookie, r.Hostname, r.AcceptEncoding = evil, evil, evil, evil, []string{evil}
	r.Extra = []HeaderField{{"X-Good", evil}, {evil, "v"}, {"", "v"}}
	p := &ConnectReply{StatusCode: 200, Status: evil, ServerName: evil, DefaultDomain: []string{evil}, Banner: evil, PostAuthXML: evil,
		ProxyServer: evil, License: evil, Extra: []HeaderField{{"X-Good", evil}, {"bad name", "v"}}}
	q := &ConnectReply{StatusCode: 503, Status: evil, Reason: evil}
	for _, b := range [][]byte{r.Append(nil), p.Append(nil), q.Append(nil)} {
		head, ok := bytes.CutSuffix(b, []byte("\r\n\r\n"))
		for line := range bytes.SplitSeq(head, []byte("\r\n")) {
			if bytes.HasPrefix(line, []byte("X-Evil")) || len(line) == 0 || bytes.ContainsAny(line, "\r\n\x00") {
				t.Errorf("line %q", line)
			}
		}
		if !ok {
			t.Errorf("%q does not end in an empty line", b)
		}
	}
}

func TestRequestHidesSecrets(t *testing.T) {
	r := request()
	r.Cookie = "c00kie"
	for _, s := range []string{fmt.Sprint(r), fmt.Sprintf("%+v %#v %v", *r, *r, r), r.LogValue().String()} {
		if strings.Contains(s, "c00kie") || strings.Contains(strings.ToLower(s), "ab01") || strings.Contains(s, "171") {
			t.Errorf("%s", s)
		}
	}
}

func reply() *ConnectReply {
	return &ConnectReply{
		StatusCode: 200, Status: "CONNECTED",
		ServerName: "culvert", Hostname: "laptop",
		Addresses:       prefixes("10.1.0.5/24", "fd00:1::5/64"),
		DNS:             addrs("10.1.0.1", "fd00:1::1"),
		NBNS:            addrs("10.1.0.2"),
		DefaultDomain:   []string{"corp.example", "example.net"},
		SplitDNS:        []string{"corp.example", "lab.example"},
		TunnelAllDNS:    true,
		SplitInclude:    prefixes("10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "fd00::/8"),
		SplitExclude:    prefixes("10.9.0.0/16", "fd00:9::/32"),
		ExcludeLocalLAN: true, BypassProtocol: true, DynamicAddress: true,
		DPD: 30 * time.Second, Keepalive: 20 * time.Second, RekeyTime: 24 * time.Hour, RekeyMethod: "new-tunnel",
		LeaseDuration: 1209600 * time.Second, SessionTimeout: 24 * time.Hour, SessionTimeoutRemaining: time.Hour,
		SessionTimeoutAlert: time.Minute, IdleTimeout: 30 * time.Minute, DisconnectedTimeout: 31 * time.Minute,
		License: "accept", Keep: true, TCPKeepalive: true, SmartcardRemovalDisconnect: true, Quarantine: true,
		RoutingFilteringIgnore: true, DisableAlwaysOnVPN: true,
		Banner:      "Welcome, 100% legal.\nGrüße: a%20b",
		PostAuthXML: `<?xml version="1.0"?><config-auth type="complete"></config-auth>`,
		ProxyMethod: "use-pac-url", ProxyServer: "10.1.0.3:3128", ProxyPACURL: "http://10.1.0.3/proxy.pac",
		ProxyExceptions: []string{"*.corp.example", "10.*"}, ProxyLockdown: true,
		BaseMTU: 1500, MTU: 1434, DTLSMTU: 1433, ContentEncoding: LZS, DTLSContentEncoding: LZ4,
		DTLSPort: 4443, DTLSSessionID: bytes.Repeat([]byte{0xa0}, 32), DTLSAppID: []byte{1, 2, 3},
		DTLSCipherSuite: PSKNegotiate, DTLS12CipherSuite: "AES256-GCM-SHA384",
		DTLSDPD: 31 * time.Second, DTLSKeepalive: 21 * time.Second, DTLSRekeyTime: time.Hour, DTLSRekeyMethod: "ssl",
		Extra: []HeaderField{{"X-Custom", "yes"}},
	}
}

func read(s string) (*ConnectReply, error) {
	return ReadConnectReply(bufio.NewReaderSize(strings.NewReader(s), 512))
}

// fieldNames returns the names of the header lines of b, each once, in order.
func fieldNames(b []byte) (names []string) {
	for _, line := range strings.Split(string(b), "\r\n")[1:] {
		if name, _, ok := strings.Cut(line, ":"); ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func TestConnectReplyRoundTrip(t *testing.T) {
	want := reply()
	b := want.Append(nil)
	got, err := read(string(b))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	// The exact names: clients compare them with strcmp.
	names := fieldNames(b)
	slices.Sort(names)
	if got, want := strings.Join(names, " "), "X-CSTP-Address X-CSTP-Address-IP6 X-CSTP-Banner X-CSTP-Base-MTU X-CSTP-Client-Bypass-Protocol "+
		"X-CSTP-Content-Encoding X-CSTP-DNS X-CSTP-DNS-IP6 X-CSTP-DPD X-CSTP-Default-Domain X-CSTP-Disable-Always-On-VPN X-CSTP-Disconnected-Timeout "+
		"X-CSTP-DynDNS X-CSTP-Hostname X-CSTP-Idle-Timeout X-CSTP-Keep X-CSTP-Keepalive X-CSTP-Lease-Duration X-CSTP-License X-CSTP-MSIE-Proxy-Exception "+
		"X-CSTP-MSIE-Proxy-Lockdown X-CSTP-MSIE-Proxy-Method X-CSTP-MSIE-Proxy-PAC-URL X-CSTP-MSIE-Proxy-Pac-URL X-CSTP-MSIE-Proxy-Server X-CSTP-MTU "+
		"X-CSTP-NBNS X-CSTP-Netmask X-CSTP-Post-Auth-XML X-CSTP-Quarantine X-CSTP-Rekey-Method X-CSTP-Rekey-Time X-CSTP-Routing-Filtering-Ignore "+
		"X-CSTP-Server-Name X-CSTP-Session-Timeout X-CSTP-Session-Timeout-Alert-Interval X-CSTP-Session-Timeout-Remaining "+
		"X-CSTP-Smartcard-Removal-Disconnect X-CSTP-Split-DNS X-CSTP-Split-Exclude X-CSTP-Split-Exclude-IP6 X-CSTP-Split-Include X-CSTP-Split-Include-IP6 "+
		"X-CSTP-TCP-Keepalive X-CSTP-Tunnel-All-DNS X-CSTP-Version X-Custom X-DTLS-App-ID X-DTLS-CipherSuite X-DTLS-Content-Encoding X-DTLS-DPD "+
		"X-DTLS-Keepalive X-DTLS-MTU X-DTLS-Port X-DTLS-Rekey-Method X-DTLS-Rekey-Time X-DTLS-Session-ID X-DTLS12-CipherSuite"; got != want {
		t.Errorf("names\n%s\nwant\n%s", got, want)
	}
	if !bytes.Contains(b, []byte("X-CSTP-Netmask: 255.255.255.0\r\n")) || !bytes.Contains(b, []byte("X-CSTP-Split-Include: 0.0.0.0/0.0.0.0\r\n")) ||
		bytes.Index(b, []byte("0.0.0.0/255.255.255.255")) > bytes.Index(b, []byte("X-CSTP-Split-Include")) {
		t.Errorf("%s", b)
	}
}

func TestConnectReplyLegacyIPv6(t *testing.T) {
	r := reply()
	r.LegacyIPv6 = true
	b := string(r.Append(nil))
	if strings.Contains(b, "-IP6") || !strings.Contains(b, "X-CSTP-Address: fd00:1::5\r\nX-CSTP-Netmask: fd00:1::/64\r\n") {
		t.Errorf("%s", b)
	}
	got, err := read(b)
	if err != nil || !slices.Equal(got.Addresses, r.Addresses) {
		t.Errorf("%v, %v", got.Addresses, err)
	}
	r.LegacyIPv6, r.PlainDNS6 = false, true
	if b := string(r.Append(nil)); !strings.Contains(b, "X-CSTP-DNS: fd00:1::1\r\n") {
		t.Errorf("%s", b)
	}
	r.DTLSPort = 0
	if b := string(r.Append(nil)); strings.Contains(b, "X-DTLS") {
		t.Errorf("DTLS headers without a port:\n%s", b)
	}
}

func TestReadConnectReply(t *testing.T) {
	// What a gateway on net/http sends: canonical names, a date, and a body that does not come. A frame follows at once.
	br := bufio.NewReader(iotest.OneByteReader(strings.NewReader("HTTP/1.1 200 OK\nDate: now\r\nTransfer-Encoding: chunked\r\n" +
		"X-Cstp-Address: 192.168.10.7\r\nX-Cstp-Netmask: 255.255.255.0\r\nX-Cstp-Mtu:1399\r\nX-Cstp-Dpd: 20\r\nX-Cstp-Idle-Timeout: none\r\n" +
		"X-CSTP-Session-Timeout: 99999999999999999999999\r\nX-CSTP-Banner: one\r\n two%0athree\r\nX-CSTP-Banner: four\x1b[31m%1b%zz\r\n" +
		"X-CSTP-Split-Exclude: 0.0.0.0/255.255.255.255\r\nX-CSTP-Split-Exclude-IP6: ::/128\r\nX-CSTP-Split-Include: 10.1.2.3/255.0.0.0\r\n" +
		"X-CSTP-Split-Include: 10.2.0.0/16\r\nX-CSTP-Split-Include: 10.0.0.0/255.0.255.0\r\nX-CSTP-Split-DNS: a.example, *.B.example.\r\n" +
		"X-CSTP-Split-DNS: b\xc3\xa4d.example\r\nX-DTLS-Session-ID: abcd\r\nX-DTLS-Port: 65536\r\nno colon\r\n: empty\r\n\r\nSTF\x01\x00\x00\x07\x00")))
	r, err := ReadConnectReply(br)
	if err != nil {
		t.Fatal(err)
	}
	want := &ConnectReply{
		StatusCode: 200, Status: "OK", Addresses: prefixes("192.168.10.7/24"), MTU: 1399, DPD: 20 * time.Second,
		SessionTimeout: maxSeconds * time.Second, Banner: "one two\nthree\nfour [31m %zz", ExcludeLocalLAN: true,
		SplitInclude: prefixes("10.0.0.0/8", "10.2.0.0/16"), SplitDNS: []string{"a.example", "b.example"},
		Extra:     []HeaderField{{"Date", "now"}, {"Transfer-Encoding", "chunked"}},
		Malformed: []string{"X-CSTP-Split-Include", "X-DTLS-Session-ID", "X-DTLS-Port", "(no header name)", "(no header name)"},
	}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("got  %+v\nwant %+v", r, want)
	}
	rest, err := io.ReadAll(br)
	if string(rest) != "STF\x01\x00\x00\x07\x00" || err != nil {
		t.Errorf("left: %q, %v", rest, err)
	}
}

func TestReadConnectReplyAddresses(t *testing.T) {
	for _, test := range []struct {
		header string
		want   []netip.Prefix
		bad    int
	}{
		{"X-CSTP-Netmask: 255.255.0.0\nX-CSTP-Address: 10.0.0.1\n", prefixes("10.0.0.1/16"), 0},
		{"X-CSTP-Address: 10.0.0.1\n", prefixes("10.0.0.1/32"), 0},
		{"X-CSTP-Address: 10.0.0.1\nX-CSTP-Netmask: 255.0.255.0\n", prefixes("10.0.0.1/32"), 1},
		{"X-CSTP-Address: 2001:db8::5\nX-CSTP-Netmask: 2001:db8::/64\n", prefixes("2001:db8::5/64"), 0},
		{"X-CSTP-Address: 2001:db8::5\nX-CSTP-Address-IP6: 2001:db8::6/127\nX-CSTP-Address: 10.0.0.1\n",
			prefixes("10.0.0.1/32", "2001:db8::6/127"), 0},
		{"X-CSTP-Address-IP6: 10.0.0.1/24\n", nil, 1},
		{"X-CSTP-Address: 10.0.0.256\n", nil, 1},
		{"X-CSTP-Address: ::ffff:10.0.0.1\n", nil, 1},
		{"X-CSTP-Address-IP6: fe80::1%eth0/64\n", nil, 1},
		{"X-CSTP-Address-IP6: fd00::1/129\n", nil, 1},
	} {
		r, err := read("HTTP/1.0 200 x\r\n" + test.header + "\r\n")
		if err != nil || !slices.Equal(r.Addresses, test.want) || len(r.Malformed) != test.bad {
			t.Errorf("%q: %v, malformed %q, %v", test.header, r.Addresses, r.Malformed, err)
		}
	}
}

func TestReadConnectReplyErrors(t *testing.T) {
	for _, s := range []string{
		"SSH-2.0-OpenSSH_9.2\r\n\r\n", "\r\n\r\n", "HTTP/2 200\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 099 x\r\n\r\n",
		"HTTP/1.1 200 OK\r\n" + strings.Repeat("X-CSTP-Post-Auth-XML: a\r\n", 3000),
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", MaxHeader) + "\r\n\r\n",
		strings.Repeat("x", MaxHeader+1),
	} {
		if r, err := read(s); !errors.Is(err, ErrReply) {
			t.Errorf("%.40q: %+v, %v", s, r, err)
		}
	}
	for _, s := range []string{"", "HTTP/1.1 200 OK", "HTTP/1.1 200 OK\r\nX-CSTP-MTU: 1400\r\n"} {
		if r, err := read(s); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%.40q: %+v, %v", s, r, err)
		}
	}
	big := strings.Repeat("a", 40000)
	if r, err := read("HTTP/1.1 200 OK\r\nX-CSTP-Post-Auth-XML: " + big + "\r\n\r\n"); err != nil || r.PostAuthXML != big {
		t.Errorf("large header: %v", err)
	}
	r, err := read("HTTP/1.1 503 Service Unavailable\r\nX-Reason: No address\x1b available\r\n\r\n")
	if err != nil || r.StatusCode != 503 || r.Reason != "No address available" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestLookupCipher(t *testing.T) {
	for _, test := range []struct {
		name  string
		d12   bool
		suite uint16
		mode  Mode
	}{
		{"PSK-NEGOTIATE", false, 0, ModePSK},
		{"PSK-NEGOTIATE", true, 0, 0},
		{"AES256-SHA", false, 0x35, ModeBadVer},
		{"AES256-SHA", true, 0x35, ModeResume},
		{"ECDHE-RSA-AES256-GCM-SHA384", true, 0xc030, ModeResume},
		{"OC-DTLS1_2-AES128-GCM", false, 0x9c, ModeResume},
		{"", true, 0, 0},
	} {
		c, ok := LookupCipher(test.name, test.d12)
		if c.Suite != test.suite || c.Mode != test.mode || ok != (test.mode != 0) {
			t.Errorf("%q, %v: %+v, %v", test.name, test.d12, c, ok)
		}
	}
}

func FuzzReadConnectReply(f *testing.F) {
	f.Add(reply().Append(nil))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Cstp-Address: 192.168.10.7\r\nX-CSTP-Banner: a\r\n b%0ac\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 503 x\r\nX-Reason: y\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ReadConnectReply(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		// What was understood survives being written and read again.
		r.Malformed, r.Extra = nil, nil
		if r.StatusCode != 200 {
			*r = ConnectReply{StatusCode: r.StatusCode, Status: r.Status, Reason: r.Reason}
		} else if r.Reason = ""; r.DTLSPort == 0 {
			*r = withoutDTLS(*r)
		}
		again, err := ReadConnectReply(bufio.NewReader(bytes.NewReader(r.Append(nil))))
		if err != nil {
			if !errors.Is(err, ErrReply) {
				t.Fatalf("%v", err)
			}
			return // it has grown over the limit
		}
		again.Extra = nil
		if !sameReply(again, r) {
			t.Errorf("got  %+v\nwant %+v", again, r)
		}
	})
}

func withoutDTLS(r ConnectReply) ConnectReply {
	r.DTLSSessionID, r.DTLSAppID, r.DTLSCipherSuite, r.DTLS12CipherSuite, r.DTLSRekeyMethod, r.DTLSContentEncoding = nil, nil, "", "", "", ""
	r.DTLSDPD, r.DTLSKeepalive, r.DTLSRekeyTime, r.DTLSMTU = 0, 0, 0, 0
	return r
}

// sameReply compares two replies but for the order of the families in lists, and control characters that became spaces.
func sameReply(a, b *ConnectReply) bool {
	norm := func(r *ConnectReply) ConnectReply {
		c := *r
		sortAddrs := func(l []netip.Addr) []netip.Addr {
			l = slices.Clone(l)
			slices.SortStableFunc(l, func(x, y netip.Addr) int { return x.BitLen() - y.BitLen() })
			return l
		}
		sortPrefixes := func(l []netip.Prefix) []netip.Prefix {
			l = slices.Clone(l)
			slices.SortStableFunc(l, func(x, y netip.Prefix) int { return x.Addr().BitLen() - y.Addr().BitLen() })
			return l
		}
		c.DNS, c.NBNS = sortAddrs(c.DNS), sortAddrs(c.NBNS)
		c.SplitInclude, c.SplitExclude = sortPrefixes(c.SplitInclude), sortPrefixes(c.SplitExclude)
		c.PostAuthXML = strings.TrimSpace(strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return ' '
			}
			return r
		}, c.PostAuthXML))
		return c
	}
	return fmt.Sprintf("%+v", norm(a)) == fmt.Sprintf("%+v", norm(b))
}

func FuzzParseConnectRequest(f *testing.F) {
	f.Add(request().Append(nil))
	f.Add([]byte("CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nHost: x\r\nCookie: a=b; webvpn=c\r\nX-Dtls12-Ciphersuite: a:b\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		hr, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		r := ParseConnectRequest(hr.Header)
		if n := len(r.MasterSecret); n != 0 && n != 48 {
			t.Errorf("master secret of %d bytes", n)
		}
		r.Host = "gw"
		hr, err = http.ReadRequest(bufio.NewReader(bytes.NewReader(r.Append(nil))))
		if err != nil {
			return
		}
		again := ParseConnectRequest(hr.Header)
		if again.Cookie != r.Cookie || again.MTU != r.MTU || again.BaseMTU != r.BaseMTU || !bytes.Equal(again.MasterSecret, r.MasterSecret) ||
			!slices.Equal(again.DTLSCipherSuites, r.DTLSCipherSuites) || again.IPv4 != r.IPv4 || again.IPv6 != r.IPv6 {
			t.Errorf("got  %+v\nwant %+v", again, r)
		}
	})
}
