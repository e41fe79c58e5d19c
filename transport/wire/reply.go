package wire

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
)

// MaxHeader is the size in bytes of the largest header block of a reply. The document of X-CSTP-Post-Auth-XML takes tens
// of kilobytes of it with some gateways.
const MaxHeader = 64 << 10

// ErrReply reports that what came is no reply to a CONNECT request.
var ErrReply = errors.New("wire: not a reply to CONNECT")

// A ConnectReply is the answer to a [ConnectRequest]: what the gateway assigns, or why it does not. A header that did not
// come leaves its field zero. Durations are whole seconds; "none" is zero.
//
// It is what was said, not what it means: package cstp makes a lease of it.
type ConnectReply struct {
	// StatusCode is 200 if there is a tunnel now. Status is the text behind it.
	StatusCode int
	Status     string
	// Reason is why the gateway refuses, for people to read (X-Reason).
	Reason string

	// ServerName and Hostname are informational. Gateways disagree whose name the latter is.
	ServerName, Hostname string

	// Addresses are the inner addresses with their on-link prefixes, one of each family at most, IPv4 first.
	Addresses []netip.Prefix
	// DNS and NBNS are servers of both families.
	DNS, NBNS []netip.Addr
	// DefaultDomain are the search suffixes, SplitDNS those whose names the DNS servers answer.
	DefaultDomain, SplitDNS []string
	// TunnelAllDNS says that no name may be asked outside the tunnel.
	TunnelAllDNS bool

	// SplitInclude and SplitExclude are networks of both families, masked, in their order.
	SplitInclude, SplitExclude []netip.Prefix
	// ExcludeLocalLAN stands for the exclusion of 0.0.0.0/255.255.255.255, which is a flag and not a network.
	ExcludeLocalLAN bool
	// BypassProtocol is X-CSTP-Client-Bypass-Protocol, DynamicAddress X-CSTP-DynDNS.
	BypassProtocol, DynamicAddress bool

	// DPD, Keepalive and RekeyTime are intervals of the TLS channel. RekeyMethod is none, ssl or new-tunnel.
	DPD, Keepalive, RekeyTime time.Duration
	RekeyMethod               string

	// LeaseDuration is how long the addresses are assigned, SessionTimeout how long a session lasts from login on,
	// SessionTimeoutRemaining the rest of that, and SessionTimeoutAlert how long before the end to warn.
	LeaseDuration, SessionTimeout, SessionTimeoutRemaining, SessionTimeoutAlert time.Duration
	// IdleTimeout is how long a session lives without data, DisconnectedTimeout how long without a connection.
	IdleTimeout, DisconnectedTimeout time.Duration

	// License is "accept"; mobile clients refuse a tunnel without it.
	License string
	// The flags of the same names.
	Keep, TCPKeepalive, SmartcardRemovalDisconnect, Quarantine, RoutingFilteringIgnore, DisableAlwaysOnVPN bool

	// Banner is text for the user, which may have several lines. It holds no other control characters.
	Banner string
	// PostAuthXML is a document for ParseDocument, without line breaks.
	PostAuthXML string

	// The web proxy to use inside the tunnel: its method, host:port, address of a PAC file, exceptions, and whether the user
	// may not change it.
	ProxyMethod, ProxyServer, ProxyPACURL string
	ProxyExceptions                       []string
	ProxyLockdown                         bool

	// BaseMTU is the MTU of the outer path, MTU and DTLSMTU those of packets inside the two channels, in bytes. They are as
	// the gateway sent them, from 0 to 1<<31 - 1.
	BaseMTU, MTU, DTLSMTU int
	// ContentEncoding and DTLSContentEncoding are the compressions chosen, LZ4 or LZS.
	ContentEncoding, DTLSContentEncoding string

	// DTLSPort is the UDP port at the address of the TLS connection. There is no DTLS if it is zero, or if neither of the ids
	// or of the cipher suites came.
	DTLSPort int
	// DTLSSessionID are the 32 bytes of the session to resume, DTLSAppID the 1 to 32 bytes that name a session with
	// a pre-shared key.
	DTLSSessionID, DTLSAppID []byte
	// DTLSCipherSuite and DTLS12CipherSuite are the name chosen from the list of the same name; see LookupCipher.
	DTLSCipherSuite, DTLS12CipherSuite string
	// DTLSDPD, DTLSKeepalive and DTLSRekeyTime are intervals of the DTLS channel.
	DTLSDPD, DTLSKeepalive, DTLSRekeyTime time.Duration
	DTLSRekeyMethod                       string

	// Extra are headers not listed here, in their order.
	Extra []HeaderField

	// LegacyIPv6 makes Append write the IPv6 address in the form for clients without FullIPv6, and leave out routes and DNS
	// servers of IPv6, which those would not understand.
	LegacyIPv6 bool
	// PlainDNS6 makes Append write IPv6 servers as X-CSTP-DNS, where openconnect looks for them, instead of X-CSTP-DNS-IP6.
	PlainDNS6 bool

	// Malformed are the names of headers that ReadConnectReply left out, since their values made no sense.
	Malformed []string
}

// Append appends the reply to b, from the status line to the empty line after the header, with its names in the case that clients
// compare. It has no body, and says nothing about one. The first frame belongs into another write.
func (r *ConnectReply) Append(b []byte) []byte {
	b = fmt.Appendf(b, "HTTP/1.1 %d %s\r\n", r.StatusCode, printable(r.Status, 256))
	if r.StatusCode != 200 {
		b = appendOpt(b, "X-Reason", printable(r.Reason, 1024))
		for _, f := range r.Extra {
			b = appendField(b, f.Name, f.Value)
		}
		return append(b, '\r', '\n')
	}
	b = appendField(b, "X-CSTP-Version", "1")
	b = appendOpt(b, "X-CSTP-Server-Name", r.ServerName)
	b = appendOpt(b, "X-CSTP-Hostname", r.Hostname)
	b = r.appendAddressing(b)
	b = r.appendTimers(b)
	b = appendOpt(b, "X-CSTP-License", r.License)
	b = appendBool(b, "X-CSTP-Keep", r.Keep)
	b = appendBool(b, "X-CSTP-TCP-Keepalive", r.TCPKeepalive)
	b = appendBool(b, "X-CSTP-Smartcard-Removal-Disconnect", r.SmartcardRemovalDisconnect)
	b = appendBool(b, "X-CSTP-Routing-Filtering-Ignore", r.RoutingFilteringIgnore)
	b = appendBool(b, "X-CSTP-Quarantine", r.Quarantine)
	b = appendBool(b, "X-CSTP-Disable-Always-On-VPN", r.DisableAlwaysOnVPN)
	b = appendOpt(b, "X-CSTP-MSIE-Proxy-Method", r.ProxyMethod)
	b = appendOpt(b, "X-CSTP-MSIE-Proxy-Server", r.ProxyServer)
	// Two spellings are about, and each has clients that know no other.
	b = appendOpt(b, "X-CSTP-MSIE-Proxy-PAC-URL", r.ProxyPACURL)
	b = appendOpt(b, "X-CSTP-MSIE-Proxy-Pac-URL", r.ProxyPACURL)
	b = appendOpt(b, "X-CSTP-MSIE-Proxy-Exception", strings.Join(r.ProxyExceptions, ","))
	b = appendBool(b, "X-CSTP-MSIE-Proxy-Lockdown", r.ProxyLockdown)
	b = r.appendDTLS(b)
	if r.BaseMTU > 0 {
		b = appendInt(b, "X-CSTP-Base-MTU", r.BaseMTU)
	}
	if r.MTU > 0 {
		b = appendInt(b, "X-CSTP-MTU", r.MTU)
	}
	b = appendOpt(b, "X-CSTP-Content-Encoding", r.ContentEncoding)
	b = appendOpt(b, "X-CSTP-Banner", escapeBanner(r.Banner))
	b = appendOpt(b, "X-CSTP-Post-Auth-XML", r.PostAuthXML)
	for _, f := range r.Extra {
		b = appendField(b, f.Name, f.Value)
	}
	return append(b, '\r', '\n')
}

func (r *ConnectReply) appendAddressing(b []byte) []byte {
	for _, a := range r.Addresses {
		switch {
		case a.Addr().Is4():
			b = appendField(b, "X-CSTP-Address", a.Addr().String())
			b = appendField(b, "X-CSTP-Netmask", dottedMask(a.Bits()))
		case r.LegacyIPv6:
			b = appendField(b, "X-CSTP-Address", a.Addr().String())
			b = appendField(b, "X-CSTP-Netmask", a.Masked().String())
		default:
			b = appendField(b, "X-CSTP-Address-IP6", a.String())
		}
	}
	for _, a := range r.DNS {
		switch {
		case a.Is4(), r.PlainDNS6 && !r.LegacyIPv6:
			b = appendField(b, "X-CSTP-DNS", a.String())
		case !r.LegacyIPv6:
			b = appendField(b, "X-CSTP-DNS-IP6", a.String())
		}
	}
	for _, a := range r.NBNS {
		b = appendField(b, "X-CSTP-NBNS", a.String())
	}
	b = appendOpt(b, "X-CSTP-Default-Domain", strings.Join(r.DefaultDomain, " "))
	for _, d := range r.SplitDNS {
		b = appendField(b, "X-CSTP-Split-DNS", d)
	}
	if r.ExcludeLocalLAN {
		// In front of the others, since clients expect it there.
		b = appendField(b, "X-CSTP-Split-Exclude", "0.0.0.0/255.255.255.255")
	}
	b = r.appendNetworks(b, "X-CSTP-Split-Include", r.SplitInclude)
	b = r.appendNetworks(b, "X-CSTP-Split-Exclude", r.SplitExclude)
	b = appendBool(b, "X-CSTP-Tunnel-All-DNS", r.TunnelAllDNS)
	b = appendBool(b, "X-CSTP-Client-Bypass-Protocol", r.BypassProtocol)
	if r.DynamicAddress {
		b = appendBool(b, "X-CSTP-DynDNS", true)
	}
	return b
}

func (r *ConnectReply) appendNetworks(b []byte, name string, list []netip.Prefix) []byte {
	for _, p := range list {
		p = p.Masked()
		switch {
		case p.Addr().Is4():
			b = appendField(b, name, p.Addr().String()+"/"+dottedMask(p.Bits()))
		case !r.LegacyIPv6:
			b = appendField(b, name+"-IP6", p.String())
		}
	}
	return b
}

func (r *ConnectReply) appendTimers(b []byte) []byte {
	b = appendSeconds(b, "X-CSTP-DPD", r.DPD, "")
	b = appendSeconds(b, "X-CSTP-Keepalive", r.Keepalive, "")
	b = appendSeconds(b, "X-CSTP-Idle-Timeout", r.IdleTimeout, "none")
	b = appendSeconds(b, "X-CSTP-Session-Timeout", r.SessionTimeout, "none")
	b = appendSeconds(b, "X-CSTP-Session-Timeout-Remaining", r.SessionTimeoutRemaining, "none")
	b = appendSeconds(b, "X-CSTP-Session-Timeout-Alert-Interval", r.SessionTimeoutAlert, "")
	b = appendSeconds(b, "X-CSTP-Lease-Duration", r.LeaseDuration, "")
	b = appendSeconds(b, "X-CSTP-Disconnected-Timeout", r.DisconnectedTimeout, "none")
	b = appendSeconds(b, "X-CSTP-Rekey-Time", r.RekeyTime, "")
	return appendOpt(b, "X-CSTP-Rekey-Method", r.RekeyMethod)
}

func (r *ConnectReply) appendDTLS(b []byte) []byte {
	if r.DTLSPort <= 0 {
		return b
	}
	b = appendInt(b, "X-DTLS-Port", r.DTLSPort)
	b = appendSeconds(b, "X-DTLS-DPD", r.DTLSDPD, "")
	b = appendSeconds(b, "X-DTLS-Keepalive", r.DTLSKeepalive, "")
	b = appendSeconds(b, "X-DTLS-Rekey-Time", r.DTLSRekeyTime, "")
	b = appendOpt(b, "X-DTLS-Rekey-Method", r.DTLSRekeyMethod)
	b = appendOpt(b, "X-DTLS-App-ID", hex.EncodeToString(r.DTLSAppID))
	b = appendOpt(b, "X-DTLS-Session-ID", strings.ToUpper(hex.EncodeToString(r.DTLSSessionID)))
	b = appendOpt(b, "X-DTLS-CipherSuite", r.DTLSCipherSuite)
	b = appendOpt(b, "X-DTLS12-CipherSuite", r.DTLS12CipherSuite)
	if r.DTLSMTU > 0 {
		b = appendInt(b, "X-DTLS-MTU", r.DTLSMTU)
	}
	return appendOpt(b, "X-DTLS-Content-Encoding", r.DTLSContentEncoding)
}

// ReadConnectReply reads the reply to a CONNECT request up to the end of its header, at most MaxHeader bytes, and not a byte more:
// the first frame may follow at once, and stays in br. It ignores all headers about a body, since there is none, even where the HTTP
// library of a gateway says so. An error is that of br, or matches ErrReply.
//
// What makes no sense in a header is left out and named in Malformed. So a reply without addresses or MTU is for the caller to
// judge, as is StatusCode.
func ReadConnectReply(br *bufio.Reader) (*ConnectReply, error) {
	left := MaxHeader
	first, err := readLine(br, &left)
	if err != nil {
		return nil, err
	}
	r := new(ConnectReply)
	if err := r.statusLine(string(first)); err != nil {
		return nil, err
	}
	p := replyParser{r: r}
	var name string
	var value []byte
	for {
		line, err := readLine(br, &left)
		if err != nil {
			return nil, err
		}
		if len(line) > 0 && (line[0] == ' ' || line[0] == '\t') && name != "" {
			// A folded line goes on with the value before it (RFC 9112 section 5.2).
			value = append(append(value, ' '), bytes.TrimSpace(line)...)
			continue
		}
		if name != "" {
			p.set(name, string(bytes.TrimSpace(value)))
		}
		if len(line) == 0 {
			break
		}
		before, after, _ := bytes.Cut(line, []byte{':'})
		value = append(value[:0], after...)
		if name = string(bytes.TrimSpace(before)); !isToken(name) {
			name = ""
			p.malformed("(no header name)")
		}
	}
	p.finish()
	return r, nil
}

// readLine reads one line without its end, and takes its length off left.
func readLine(br *bufio.Reader, left *int) ([]byte, error) {
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		if *left -= len(part); *left < 0 {
			return nil, fmt.Errorf("%w: its header is longer than %d bytes", ErrReply, MaxHeader)
		}
		if err == bufio.ErrBufferFull {
			line = append(line, part...)
			continue
		}
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		line = append(line, part...)
		return bytes.TrimSuffix(line[:len(line)-1], []byte{'\r'}), nil
	}
}

func (r *ConnectReply) statusLine(s string) error {
	version, rest, _ := strings.Cut(s, " ")
	code, text, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
	n, ok := parseInt(code)
	if version != "HTTP/1.1" && version != "HTTP/1.0" || !ok || len(code) != 3 || n < 100 {
		return fmt.Errorf("%w: it begins with %.60q", ErrReply, s)
	}
	r.StatusCode, r.Status = n, printable(text, 256)
	return nil
}

// A replyParser holds what only later headers give sense to.
type replyParser struct {
	r            *ConnectReply
	addr4, addr6 netip.Addr
	net4, net6   string       // X-CSTP-Netmask by its family
	ip6          netip.Prefix // X-CSTP-Address-IP6
	banners      []string
}

func (p *replyParser) malformed(name string) {
	if len(p.r.Malformed) < maxList {
		p.r.Malformed = append(p.r.Malformed, printable(name, 64))
	}
}

// set takes one header. Names are compared whatever their case: those of gateways written in Go are canonical.
func (p *replyParser) set(name, v string) {
	if !p.setAddressing(strings.ToLower(name), v, name) {
		p.malformed(name)
	}
}

func (p *replyParser) setAddressing(lower, v, name string) (ok bool) {
	r := p.r
	ok = true
	switch lower {
	case "x-reason":
		r.Reason = printable(v, 1024)
	case "x-cstp-server-name":
		r.ServerName = printable(v, 256)
	case "x-cstp-hostname":
		r.Hostname = printable(v, 256)
	case "x-cstp-address":
		var a netip.Addr
		if a, ok = parseAddr(v); !ok {
			break
		}
		if a.Is4() {
			p.addr4 = a
		} else {
			p.addr6 = a
		}
	case "x-cstp-netmask":
		if strings.IndexByte(v, ':') >= 0 {
			p.net6 = v
		} else {
			p.net4 = v
		}
	case "x-cstp-address-ip6":
		var a netip.Prefix
		if a, ok = parseInterface(v); ok {
			if ok = a.Addr().Is6(); ok {
				p.ip6 = a
			}
		}
	case "x-cstp-dns", "x-cstp-dns-ip6":
		r.DNS, ok = appendAddr(r.DNS, v)
	case "x-cstp-nbns":
		r.NBNS, ok = appendAddr(r.NBNS, v)
	case "x-cstp-default-domain":
		r.DefaultDomain = appendDomains(r.DefaultDomain, v)
	case "x-cstp-split-dns":
		r.SplitDNS = appendDomains(r.SplitDNS, v)
	case "x-cstp-tunnel-all-dns":
		r.TunnelAllDNS, ok = parseBool(v)
	case "x-cstp-split-include", "x-cstp-split-include-ip6":
		r.SplitInclude, ok = appendPrefix(r.SplitInclude, v)
	case "x-cstp-split-exclude", "x-cstp-split-exclude-ip6":
		if n, valid := parsePrefix(v); valid && n.Addr().IsUnspecified() && n.IsSingleIP() {
			r.ExcludeLocalLAN = true
		} else {
			r.SplitExclude, ok = appendPrefix(r.SplitExclude, v)
		}
	case "x-cstp-client-bypass-protocol":
		r.BypassProtocol, ok = parseBool(v)
	case "x-cstp-dyndns":
		r.DynamicAddress, ok = parseBool(v)
	default:
		return p.setSession(lower, v, name)
	}
	return ok
}

func (p *replyParser) setSession(lower, v, name string) (ok bool) {
	r := p.r
	ok = true
	switch lower {
	case "x-cstp-dpd":
		r.DPD, ok = parseSeconds(v)
	case "x-cstp-keepalive":
		r.Keepalive, ok = parseSeconds(v)
	case "x-cstp-rekey-time":
		r.RekeyTime, ok = parseSeconds(v)
	case "x-cstp-rekey-method":
		r.RekeyMethod = strings.ToLower(printable(v, 64))
	case "x-cstp-lease-duration":
		r.LeaseDuration, ok = parseSeconds(v)
	case "x-cstp-session-timeout":
		r.SessionTimeout, ok = parseSeconds(v)
	case "x-cstp-session-timeout-remaining":
		r.SessionTimeoutRemaining, ok = parseSeconds(v)
	case "x-cstp-session-timeout-alert-interval":
		r.SessionTimeoutAlert, ok = parseSeconds(v)
	case "x-cstp-idle-timeout":
		r.IdleTimeout, ok = parseSeconds(v)
	case "x-cstp-disconnected-timeout":
		r.DisconnectedTimeout, ok = parseSeconds(v)
	case "x-cstp-keep":
		r.Keep, ok = parseBool(v)
	case "x-cstp-tcp-keepalive":
		r.TCPKeepalive, ok = parseBool(v)
	case "x-cstp-smartcard-removal-disconnect":
		r.SmartcardRemovalDisconnect, ok = parseBool(v)
	case "x-cstp-license":
		r.License = printable(v, 64)
	case "x-cstp-quarantine":
		r.Quarantine, ok = parseBool(v)
	case "x-cstp-routing-filtering-ignore":
		r.RoutingFilteringIgnore, ok = parseBool(v)
	case "x-cstp-disable-always-on-vpn":
		r.DisableAlwaysOnVPN, ok = parseBool(v)
	case "x-cstp-banner":
		p.banners = append(p.banners, unescapeBanner(v))
	case "x-cstp-post-auth-xml":
		r.PostAuthXML = v
	case "x-cstp-msie-proxy-method":
		r.ProxyMethod = printable(v, 64)
	case "x-cstp-msie-proxy-server":
		r.ProxyServer = printable(v, 256)
	case "x-cstp-msie-proxy-pac-url":
		r.ProxyPACURL = printable(v, 2048)
	case "x-cstp-msie-proxy-exception":
		for _, e := range strings.FieldsFunc(v, func(c rune) bool { return c == ',' || c == ';' || c == ' ' }) {
			if e = printable(e, 256); e != "" && len(r.ProxyExceptions) < maxList {
				r.ProxyExceptions = append(r.ProxyExceptions, e)
			}
		}
	case "x-cstp-msie-proxy-lockdown":
		r.ProxyLockdown, ok = parseBool(v)
	default:
		return p.setChannels(lower, v, name)
	}
	return ok
}

func (p *replyParser) setChannels(lower, v, name string) (ok bool) {
	r := p.r
	ok = true
	switch lower {
	case "x-cstp-base-mtu":
		r.BaseMTU, ok = parseInt(v)
	case "x-cstp-mtu":
		r.MTU, ok = parseInt(v)
	case "x-dtls-mtu":
		r.DTLSMTU, ok = parseInt(v)
	case "x-cstp-content-encoding":
		r.ContentEncoding = strings.ToLower(printable(v, 64))
	case "x-dtls-content-encoding":
		r.DTLSContentEncoding = strings.ToLower(printable(v, 64))
	case "x-dtls-port":
		n, valid := parseInt(v)
		if ok = valid && n <= 65535; ok {
			r.DTLSPort = n
		}
	case "x-dtls-session-id":
		id, err := hex.DecodeString(v)
		if ok = err == nil && len(id) == 32; ok {
			r.DTLSSessionID = id
		}
	case "x-dtls-app-id":
		id, err := hex.DecodeString(v)
		if ok = err == nil && len(id) >= 1 && len(id) <= 32; ok {
			r.DTLSAppID = id
		}
	case "x-dtls-ciphersuite":
		r.DTLSCipherSuite = printable(v, 64)
	case "x-dtls12-ciphersuite":
		r.DTLS12CipherSuite = printable(v, 64)
	case "x-dtls-dpd":
		r.DTLSDPD, ok = parseSeconds(v)
	case "x-dtls-keepalive":
		r.DTLSKeepalive, ok = parseSeconds(v)
	case "x-dtls-rekey-time":
		r.DTLSRekeyTime, ok = parseSeconds(v)
	case "x-dtls-rekey-method":
		r.DTLSRekeyMethod = strings.ToLower(printable(v, 64))
	case "x-cstp-version", "x-cstp-protocol":
	default:
		if len(r.Extra) < maxList {
			r.Extra = append(r.Extra, HeaderField{name, v})
		}
	}
	return ok
}

// finish joins addresses with their masks, which may come in any order.
func (p *replyParser) finish() {
	r := p.r
	r.Banner = strings.Trim(strings.Join(p.banners, "\n"), "\n")
	if p.addr4.IsValid() {
		bits, ok := 32, true
		if p.net4 != "" {
			if bits, ok = parseMask(p.net4, 32); !ok {
				p.malformed("X-CSTP-Netmask")
				bits = 32
			}
		}
		r.Addresses = append(r.Addresses, netip.PrefixFrom(p.addr4, bits))
	}
	switch {
	case p.ip6.IsValid():
		r.Addresses = append(r.Addresses, p.ip6)
	case p.addr6.IsValid():
		bits := 128
		if p.net6 != "" {
			if n, ok := parsePrefix(p.net6); ok {
				bits = n.Bits()
			} else {
				p.malformed("X-CSTP-Netmask")
			}
		}
		r.Addresses = append(r.Addresses, netip.PrefixFrom(p.addr6, bits))
	}
}

func appendAddr(list []netip.Addr, v string) ([]netip.Addr, bool) {
	a, ok := parseAddr(v)
	if ok && len(list) < maxList {
		list = append(list, a)
	}
	return list, ok
}

func appendPrefix(list []netip.Prefix, v string) ([]netip.Prefix, bool) {
	n, ok := parsePrefix(v)
	if ok && len(list) < maxList {
		list = append(list, n)
	}
	return list, ok
}

// escapeBanner writes a banner on one line: what cannot stand in a header, and the percent sign, as %XX.
func escapeBanner(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == 0x7f || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// unescapeBanner takes %XX for the byte it means, leaves other percent signs alone, and leaves no control characters but line
// breaks.
func unescapeBanner(s string) string {
	var raw []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				raw = append(raw, c[0])
				i += 2
				continue
			}
		}
		raw = append(raw, s[i])
	}
	text := strings.ReplaceAll(string(raw), "\r\n", "\n")
	lines := strings.Split(strings.ReplaceAll(text, "\r", "\n"), "\n")
	for i, line := range lines {
		lines[i] = printable(line, MaxHeader)
	}
	return strings.Join(lines, "\n")
}
