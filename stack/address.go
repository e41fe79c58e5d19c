package stack

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// A target is a network and an address of it, as the functions of package net take them.
type target struct {
	network string
	kind    string // tcp, udp or ping
	family  byte   // 4, 6 or 0 for either
	addr    netip.AddrPort
}

// parseTarget understands the networks tcp, udp and ping, each with 4 or 6 behind it or without, and addresses that are a
// literal: host:port for tcp and udp, host for ping. An empty host is an invalid Addr.
func parseTarget(network, address string) (target, error) {
	t := target{network: network, kind: network}
	if k, ok := strings.CutSuffix(network, "4"); ok {
		t.kind, t.family = k, 4
	} else if k, ok := strings.CutSuffix(network, "6"); ok {
		t.kind, t.family = k, 6
	}
	host, port := address, uint64(0)
	switch t.kind {
	case "tcp", "udp":
		h, p, err := net.SplitHostPort(address)
		if err != nil {
			return t, err
		}
		host = h
		if p != "" {
			if port, err = strconv.ParseUint(p, 10, 16); err != nil {
				return t, &net.AddrError{Err: "invalid port", Addr: address}
			}
		}
	case "ping":
	default:
		return t, net.UnknownNetworkError(network)
	}
	var addr netip.Addr
	if host != "" {
		var err error
		if addr, err = netip.ParseAddr(host); err != nil || addr.Zone() != "" {
			return t, &net.AddrError{Err: errNotLiteral.Error(), Addr: host}
		}
		addr = addr.Unmap()
		if t.family == 4 && !addr.Is4() || t.family == 6 && addr.Is4() {
			return t, &net.AddrError{Err: "address is not of the family of " + network, Addr: host}
		}
	}
	t.addr = netip.AddrPortFrom(addr, uint16(port))
	return t, nil
}

// netAddr returns a as an address of the network of t.
func (t target) netAddr(a netip.AddrPort) net.Addr {
	if !a.Addr().IsValid() {
		unspecified := netip.IPv6Unspecified()
		if t.family == 4 {
			unspecified = netip.IPv4Unspecified()
		}
		a = netip.AddrPortFrom(unspecified, a.Port())
	}
	switch t.kind {
	case "tcp":
		return net.TCPAddrFromAddrPort(a)
	case "udp":
		return net.UDPAddrFromAddrPort(a)
	}
	return &net.IPAddr{IP: a.Addr().AsSlice()}
}
