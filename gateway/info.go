package gateway

import (
	"context"
	"net/netip"
	"time"
)

// A SessionInfo is a session as it was at one moment.
type SessionInfo struct {
	// ID names the session. It is no secret, and not the cookie.
	ID string `json:"id"`
	// User and Group are who logged in, and as what.
	User  string `json:"user"`
	Group string `json:"group,omitempty"`
	// UserAgent, Platform and Hostname are what the client says about itself.
	UserAgent string `json:"user_agent,omitempty"`
	Platform  string `json:"platform,omitempty"`
	Hostname  string `json:"hostname,omitempty"`
	// Remote is where the TLS connection comes from, RemoteUDP where DTLS comes from; the zero value if there is none.
	Remote    netip.AddrPort `json:"remote,omitzero"`
	RemoteUDP netip.AddrPort `json:"remote_udp,omitzero"`
	// Addresses are the inner addresses, IPv4 before IPv6.
	Addresses []netip.Addr `json:"addresses"`
	// Path is how packets go to the client now: "dtls", "tls", or "" if there is no connection.
	Path string `json:"path"`
	// DTLSCipher is the cipher suite of DTLS, empty if there is none.
	DTLSCipher string `json:"dtls_cipher,omitempty"`
	// MTU is the MTU of the tunnel in bytes.
	MTU int `json:"mtu,omitempty"`
	// LoggedIn is when the session began, Connected when its connection did, LastPacket when the client last sent one;
	// the zero value for never. Expires is when the session ends at the latest.
	LoggedIn   time.Time `json:"logged_in"`
	Connected  time.Time `json:"connected,omitzero"`
	LastPacket time.Time `json:"last_packet,omitzero"`
	Expires    time.Time `json:"expires"`
	// Received counts what the client sent, Sent what went to it.
	Received Traffic `json:"received"`
	Sent     Traffic `json:"sent"`
	// Dropped counts packets to the client that found its queue full or no connection, Spoofed packets from it that had
	// another source than its addresses.
	Dropped uint64 `json:"dropped"`
	Spoofed uint64 `json:"spoofed"`
	// Connects counts the tunnels of the session, so 1 less is the number of reconnects.
	Connects int `json:"connects"`
}

// Traffic counts packets and their bytes.
type Traffic struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

type sessionKey struct{}

// SessionOf returns the session whose flow a [Config.Dial] is to open.
func SessionOf(ctx context.Context) (SessionInfo, bool) {
	s, ok := ctx.Value(sessionKey{}).(*session)
	if !ok {
		return SessionInfo{}, false
	}
	return s.info(), true
}
