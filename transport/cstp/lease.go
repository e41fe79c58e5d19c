package cstp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/wire"
)

// LeaseOf returns what a reply to CONNECT assigns. Gateway is the outer address that it came from, and now the time. An error
// matches [transport.ErrProtocol]: the gateway gave no usable address or MTU. What else it got wrong is left out.
func LeaseOf(r *wire.ConnectReply, gateway netip.AddrPort, now time.Time) (*transport.Lease, error) {
	mtu, err := mtuOf(r)
	if err != nil {
		return nil, err
	}
	l := &transport.Lease{
		Gateway:     gateway,
		GatewayName: r.ServerName,
		MTU:         mtu,
		BaseMTU:     r.BaseMTU,

		DNS:           slices.Clone(r.DNS),
		NBNS:          slices.Clone(r.NBNS),
		SearchDomains: slices.Clone(r.DefaultDomain),
		SplitDNS:      slices.Clone(r.SplitDNS),
		TunnelAllDNS:  r.TunnelAllDNS,

		Include:         slices.Clone(r.SplitInclude),
		Exclude:         slices.Clone(r.SplitExclude),
		ExcludeLocalLAN: r.ExcludeLocalLAN,
		BypassProtocol:  r.BypassProtocol,

		Banner: r.Banner,

		DPD:                 r.DPD,
		Keepalive:           r.Keepalive,
		DTLSDPD:             r.DTLSDPD,
		DTLSKeepalive:       r.DTLSKeepalive,
		IdleTimeout:         r.IdleTimeout,
		DisconnectedTimeout: r.DisconnectedTimeout,
		ExpiryWarning:       r.SessionTimeoutAlert,

		Proxy: transport.Proxy{
			Method:     r.ProxyMethod,
			Server:     r.ProxyServer,
			PACURL:     r.ProxyPACURL,
			Exceptions: slices.Clone(r.ProxyExceptions),
			Lockdown:   r.ProxyLockdown,
		},

		SmartcardRemovalDisconnect: r.SmartcardRemovalDisconnect,
		DisableAlwaysOn:            r.DisableAlwaysOnVPN,
		Quarantine:                 r.Quarantine,
		DynamicAddress:             r.DynamicAddress,
		PostAuthXML:                r.PostAuthXML,
	}
	if r.RekeyMethod != "none" {
		l.Rekey = r.RekeyTime
	}
	if r.DTLSRekeyMethod != "none" {
		l.DTLSRekey = r.DTLSRekeyTime
	}
	for _, d := range []time.Duration{r.LeaseDuration, r.SessionTimeout, r.SessionTimeoutRemaining} {
		if end := now.Add(d); d > 0 && (l.Expires.IsZero() || end.Before(l.Expires)) {
			l.Expires = end
		}
	}
	if r.PostAuthXML != "" {
		// A document that cannot be read has no lists; the rest of the reply is not worse for it.
		l.DynamicInclude, l.DynamicExclude, _ = wire.DynamicSplit(r.PostAuthXML)
	}
	if l.Addresses, err = addressesOf(r, mtu); err != nil {
		return nil, err
	}
	return l, nil
}

// mtuOf returns the MTU for inner packets. Where the two channels differ, the lesser is one that both can carry.
func mtuOf(r *wire.ConnectReply) (int, error) {
	mtu := r.MTU
	if mtu == 0 || r.DTLSMTU > 0 && r.DTLSMTU < mtu && r.DTLSMTU >= packet.MinMTU4 {
		mtu = r.DTLSMTU
	}
	switch {
	case mtu == 0:
		return 0, fmt.Errorf("the gateway names no MTU (X-CSTP-MTU): %w", transport.ErrProtocol)
	case mtu < packet.MinMTU4 || mtu > packet.MaxSize:
		return 0, fmt.Errorf("the gateway names an MTU of %d, which is not between %d and %d: %w",
			mtu, packet.MinMTU4, packet.MaxSize, transport.ErrProtocol)
	}
	// No frame is larger than a TLS record.
	return min(mtu, wire.MaxPayload), nil
}

// addressesOf returns the inner addresses, IPv4 before IPv6. IPv6 does not run over a small MTU, and is left out then.
func addressesOf(r *wire.ConnectReply, mtu int) ([]netip.Prefix, error) {
	var out []netip.Prefix
	var refused []string
	for _, p := range r.Addresses {
		a := p.Addr()
		switch {
		case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			refused = append(refused, fmt.Sprintf("%v is not the address of a host", a))
		case a.Is6() && mtu < packet.MinMTU6:
			refused = append(refused, fmt.Sprintf("%v needs an MTU of %d, not %d", a, packet.MinMTU6, mtu))
		default:
			out = append(out, p)
		}
	}
	if len(out) > 0 {
		slices.SortStableFunc(out, func(a, b netip.Prefix) int { return a.Addr().BitLen() - b.Addr().BitLen() })
		return out, nil
	}
	for _, name := range r.Malformed {
		if strings.HasPrefix(strings.ToLower(name), "x-cstp-address") {
			refused = append(refused, name+" makes no sense")
		}
	}
	if len(refused) > 0 {
		return nil, fmt.Errorf("the gateway assigns no usable address: %s: %w", strings.Join(refused, ", "), transport.ErrProtocol)
	}
	return nil, fmt.Errorf("the gateway assigns no address: %w", transport.ErrProtocol)
}
