package wire

import (
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
)

// TunnelPath is the target of the CONNECT request.
const TunnelPath = "/CSCOSSLC/tunnel"

// The names of compressions, in X-CSTP-Accept-Encoding and the like.
const (
	LZ4 = "oc-lz4" // a raw LZ4 block for each packet
	LZS = "lzs"    // RFC 1974, without history between packets
)

// A ConnectRequest is the request for a tunnel. The zero value of a field leaves its header out.
//
// It holds two secrets, the cookie and the master secret, and shows neither when it is printed or logged.
type ConnectRequest struct {
	// Host is the name of the gateway, with its port unless that is 443. ParseConnectRequest does not set it.
	Host      string
	UserAgent string
	// Cookie is the value of the cookie webvpn, as it was received: it must not be encoded again.
	Cookie string
	// Hostname is the name of the client's machine.
	Hostname string
	// Protocol is the copyright notice that some clients send.
	Protocol string

	// STRAPVerify and STRAPPubkey bind the session to a key.
	STRAPVerify, STRAPPubkey string
	// ClientVersion, Platform, PlatformVersion, DeviceType and UniqueID are the X-AnyConnect-Identifier headers.
	ClientVersion, Platform, PlatformVersion, DeviceType, UniqueID string

	// AcceptEncoding and DTLSAcceptEncoding are the compressions that the client can do, LZ4 and LZS.
	AcceptEncoding, DTLSAcceptEncoding []string

	// BaseMTU is the MTU of the path to the gateway, MTU the largest inner packet that the client wants, both in bytes.
	BaseMTU, MTU int
	// IPv4 and IPv6 are the address families that the client wants. FullIPv6 says that it understands the headers
	// made for IPv6; Append writes it whenever IPv6 is set.
	IPv4, IPv6, FullIPv6 bool
	// Addresses are the inner addresses of the connection before, which the client would like again: one of each family.
	Addresses []netip.Addr
	// LocalAddress4 and LocalAddress6 are the client's own outer addresses, RemoteAddress4 and RemoteAddress6 the gateway's
	// as the client sees them.
	LocalAddress4, LocalAddress6, RemoteAddress4, RemoteAddress6 netip.Addr
	// License is "mobile" on a mobile device.
	License string

	// MasterSecret are 48 random bytes, fresh for each request, from which DTLS takes its keys if it does not negotiate them.
	MasterSecret []byte
	// DTLSCipherSuites and DTLS12CipherSuites are the names offered, best first; see LookupCipher.
	DTLSCipherSuites, DTLS12CipherSuites []string

	// Extra are more headers to write. ParseConnectRequest does not set it.
	Extra []HeaderField

	// Malformed are the names of headers that ParseConnectRequest left out, since their values made no sense.
	Malformed []string
}

// String returns what the request says but its secrets.
func (r ConnectRequest) String() string {
	return fmt.Sprintf("CONNECT %s from %q, address types %s, MTU %d of %d, DTLS %v or %v", r.Host, r.UserAgent,
		r.addressTypes(), r.MTU, r.BaseMTU, r.DTLSCipherSuites, r.DTLS12CipherSuites)
}

// GoString implements fmt.GoStringer.
func (r ConnectRequest) GoString() string { return r.String() }

// LogValue implements slog.LogValuer.
func (r ConnectRequest) LogValue() slog.Value { return slog.StringValue(r.String()) }

func (r *ConnectRequest) addressTypes() string {
	switch {
	case r.IPv4 && r.IPv6:
		return "IPv6,IPv4"
	case r.IPv6:
		return "IPv6"
	case r.IPv4:
		return "IPv4"
	}
	return ""
}

// Append appends the request to b, from the request line to the empty line after the header.
func (r *ConnectRequest) Append(b []byte) []byte {
	b = append(b, "CONNECT "+TunnelPath+" HTTP/1.1\r\n"...)
	b = appendField(b, "Host", r.Host)
	b = appendOpt(b, "User-Agent", r.UserAgent)
	if r.Cookie != "" {
		b = appendField(b, "Cookie", "webvpn="+r.Cookie)
	}
	b = appendField(b, "X-CSTP-Version", "1")
	b = appendOpt(b, "X-CSTP-Protocol", r.Protocol)
	b = appendOpt(b, "X-CSTP-Hostname", r.Hostname)
	b = appendOpt(b, "X-AnyConnect-STRAP-Verify", r.STRAPVerify)
	b = appendOpt(b, "X-AnyConnect-STRAP-Pubkey", r.STRAPPubkey)
	b = appendOpt(b, "X-AnyConnect-Identifier-ClientVersion", r.ClientVersion)
	b = appendOpt(b, "X-AnyConnect-Identifier-Platform", r.Platform)
	b = appendOpt(b, "X-AnyConnect-Identifier-PlatformVersion", r.PlatformVersion)
	b = appendOpt(b, "X-AnyConnect-Identifier-DeviceType", r.DeviceType)
	b = appendOpt(b, "X-AnyConnect-Identifier-Device-UniqueID", r.UniqueID)
	b = appendOpt(b, "X-CSTP-License", r.License)
	// Gateways split this list at the commas and do not trim, so a space would hide an item.
	b = appendOpt(b, "X-CSTP-Accept-Encoding", strings.Join(r.AcceptEncoding, ","))
	if r.BaseMTU > 0 {
		b = appendInt(b, "X-CSTP-Base-MTU", r.BaseMTU)
	}
	if r.MTU > 0 {
		b = appendInt(b, "X-CSTP-MTU", r.MTU)
	}
	b = appendOpt(b, "X-CSTP-Address-Type", r.addressTypes())
	for _, a := range r.Addresses {
		if a.Is4() {
			b = appendField(b, "X-CSTP-Address", a.String())
		}
	}
	if r.IPv6 {
		b = appendBool(b, "X-CSTP-Full-IPv6-Capability", true)
		for _, a := range r.Addresses {
			if a.Is6() {
				b = appendField(b, "X-CSTP-Address", a.String())
			}
		}
	}
	for _, a := range []struct {
		name string
		addr netip.Addr
	}{
		{"X-CSTP-Local-Address-IP4", r.LocalAddress4},
		{"X-CSTP-Local-Address-IP6", r.LocalAddress6},
		{"X-CSTP-Remote-Address-IP4", r.RemoteAddress4},
		{"X-CSTP-Remote-Address-IP6", r.RemoteAddress6},
	} {
		if a.addr.IsValid() {
			b = appendField(b, a.name, a.addr.String())
		}
	}
	if len(r.MasterSecret) > 0 {
		b = append(b, "X-DTLS-Master-Secret: "...)
		const digits = "0123456789ABCDEF"
		for _, c := range r.MasterSecret {
			b = append(b, digits[c>>4], digits[c&15])
		}
		b = append(b, '\r', '\n')
	}
	b = appendOpt(b, "X-DTLS-CipherSuite", strings.Join(r.DTLSCipherSuites, ":"))
	b = appendOpt(b, "X-DTLS12-CipherSuite", strings.Join(r.DTLS12CipherSuites, ":"))
	b = appendOpt(b, "X-DTLS-Accept-Encoding", strings.Join(r.DTLSAcceptEncoding, ","))
	for _, f := range r.Extra {
		b = appendField(b, f.Name, f.Value)
	}
	return append(b, '\r', '\n')
}

// masterSecretLen is the length in bytes of a TLS master secret.
const masterSecretLen = 48

// ParseConnectRequest returns what the header of a request for a tunnel says, whatever the case of its names, such as
// an http.Header. It leaves out what makes no sense and names it in Malformed. Whether the cookie is one to accept is for the
// caller to judge; it is empty if there is none.
func ParseConnectRequest(h map[string][]string) *ConnectRequest {
	r := new(ConnectRequest)
	// A map has no order, and two of its keys may differ in case only; of the values of such keys any may win.
	for name, values := range h {
		if len(values) > maxList {
			values = values[:maxList]
		}
		for _, v := range values {
			if !r.set(strings.ToLower(name), strings.TrimSpace(v)) && len(r.Malformed) < maxList {
				r.Malformed = append(r.Malformed, printable(name, 64))
			}
		}
	}
	return r
}

// set takes one header with its name in lower case. It reports false for a value that makes no sense.
func (r *ConnectRequest) set(name, v string) (ok bool) {
	ok = true
	switch name {
	case "user-agent":
		r.UserAgent = v
	case "cookie":
		for _, c := range list(v, ';') {
			if name, value, _ := strings.Cut(c, "="); strings.TrimSpace(name) == "webvpn" && r.Cookie == "" {
				r.Cookie = strings.TrimSpace(value)
			}
		}
	case "x-cstp-protocol":
		r.Protocol = v
	case "x-cstp-hostname":
		r.Hostname = v
	case "x-anyconnect-strap-verify":
		r.STRAPVerify = v
	case "x-anyconnect-strap-pubkey":
		r.STRAPPubkey = v
	case "x-anyconnect-identifier-clientversion":
		r.ClientVersion = v
	case "x-anyconnect-identifier-platform":
		r.Platform = v
	case "x-anyconnect-identifier-platformversion":
		r.PlatformVersion = v
	case "x-anyconnect-identifier-devicetype":
		r.DeviceType = v
	case "x-anyconnect-identifier-device-uniqueid":
		r.UniqueID = v
	case "x-cstp-license":
		r.License = v
	case "x-cstp-accept-encoding":
		r.AcceptEncoding = append(r.AcceptEncoding, list(v, ',')...)
	case "x-dtls-accept-encoding":
		r.DTLSAcceptEncoding = append(r.DTLSAcceptEncoding, list(v, ',')...)
	case "x-cstp-base-mtu":
		r.BaseMTU, ok = parseInt(v)
	case "x-cstp-mtu":
		r.MTU, ok = parseInt(v)
	case "x-cstp-address-type":
		for _, t := range list(v, ',') {
			r.IPv4 = r.IPv4 || strings.EqualFold(t, "IPv4")
			r.IPv6 = r.IPv6 || strings.EqualFold(t, "IPv6")
		}
	case "x-cstp-full-ipv6-capability":
		r.FullIPv6, ok = parseBool(v)
	case "x-cstp-address":
		var a netip.Addr
		if a, ok = parseAddr(v); ok {
			r.Addresses = append(r.Addresses, a)
		}
	case "x-cstp-local-address-ip4":
		r.LocalAddress4, ok = parseAddr(v)
	case "x-cstp-local-address-ip6":
		r.LocalAddress6, ok = parseAddr(v)
	case "x-cstp-remote-address-ip4":
		r.RemoteAddress4, ok = parseAddr(v)
	case "x-cstp-remote-address-ip6":
		r.RemoteAddress6, ok = parseAddr(v)
	case "x-dtls-master-secret":
		secret, err := hex.DecodeString(v)
		if ok = err == nil && len(secret) == masterSecretLen; ok {
			r.MasterSecret = secret
		}
	case "x-dtls-ciphersuite":
		r.DTLSCipherSuites = append(r.DTLSCipherSuites, list(v, ':')...)
	case "x-dtls12-ciphersuite":
		r.DTLS12CipherSuites = append(r.DTLS12CipherSuites, list(v, ':')...)
	}
	return ok
}
