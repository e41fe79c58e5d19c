package dns

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// ParseUpstream returns an [Exchanger] for a server that is written as one of
//
//	192.0.2.1, 192.0.2.1:5353, 2001:db8::1      over UDP and TCP (RFC 1035): a [Client]
//	tls://dns.example@192.0.2.1                 over TLS (RFC 7858): a [TLSClient]
//	https://dns.example@192.0.2.1/dns-query     over HTTPS (RFC 8484): an [HTTPSClient]
//
// The name is what the certificate of the server must be for; without one it must be for the address. There is always an address, since
// there may be nobody yet to ask for it. Dial and verify are as in a TLSClient. The caller closes what has a method for that.
func ParseUpstream(s string, dial func(ctx context.Context, network, addr string) (net.Conn, error), verify *tls.Config) (Exchanger, error) {
	if !strings.Contains(s, "://") {
		server, err := netip.ParseAddrPort(s)
		if err != nil {
			var addr netip.Addr
			addr, err = netip.ParseAddr(s)
			server = netip.AddrPortFrom(addr, 53)
		}
		if err != nil || server.Port() == 0 {
			return nil, fmt.Errorf("dns: upstream %.80q: want an address with or without a port, tls://NAME@ADDRESS or https://NAME@ADDRESS/PATH", s)
		}
		return &Client{Servers: []netip.AddrPort{server}, Dial: dial}, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("dns: an upstream is no URL; want tls://NAME@ADDRESS or https://NAME@ADDRESS/PATH")
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return nil, fmt.Errorf("dns: upstream %.80q: %.80q is not an address; put the name in front of it, as in NAME@ADDRESS", u.Redacted(), u.Hostname())
	}
	name := u.User.Username()
	_, secret := u.User.Password()
	switch {
	case secret || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("dns: upstream %.80q: want no password, query or fragment", u.Redacted())
	case name != "" && !validName(name):
		return nil, fmt.Errorf("dns: upstream %.80q: %.80q is not the name of a host", u.Redacted(), name)
	}
	var port uint64
	if p := u.Port(); p != "" {
		if port, err = strconv.ParseUint(p, 10, 16); err != nil || port == 0 {
			return nil, fmt.Errorf("dns: upstream %.80q: port %.20q: want from 1 to 65535", u.Redacted(), p)
		}
	}
	server := netip.AddrPortFrom(addr, uint16(port))
	switch u.Scheme {
	case "tls":
		if u.Path != "" {
			return nil, fmt.Errorf("dns: upstream %.80q: DNS over TLS has no path", u.Redacted())
		}
		if name == "" {
			name = addr.WithZone("").String()
		}
		return &TLSClient{Server: server, Name: name, TLS: verify, Dial: dial}, nil
	case "https":
		if u.Path == "" {
			return nil, fmt.Errorf("dns: upstream %.80q: want a path, such as /dns-query", u.Redacted())
		}
		if name == "" {
			name = addr.WithZone("").String()
		}
		at := url.URL{Scheme: u.Scheme, Host: name, Path: u.Path}
		switch {
		case port != 0:
			at.Host = net.JoinHostPort(name, u.Port())
		case strings.Contains(name, ":"):
			at.Host = "[" + name + "]"
		}
		return &HTTPSClient{URL: at.String(), Servers: []netip.AddrPort{server}, TLS: verify, Dial: dial}, nil
	}
	return nil, fmt.Errorf("dns: upstream %.80q: scheme %.20q: want tls or https", u.Redacted(), u.Scheme)
}
