package cstp

import (
	"crypto/tls"
	"net"
)

// A Link is a TLS connection that can write the records of a batch in one piece, and from which DTLS can take keys. It is
// made by [Client] or [Server], used for HTTP like any other, and handed to [NewConn] in the end.
type Link struct {
	*tls.Conn
	sock *socket
	keys *keyLog
}

// Client returns the client's side of a TLS connection over nc. It copies cfg, whose ServerName or its like must be set. The handshake is
// not done yet.
func Client(nc net.Conn, cfg *tls.Config) *Link {
	limitUnsent(nc)
	sock := &socket{Conn: nc, incoming: true}
	cfg, keys := linkConfig(cfg)
	// Nothing in a tunnel may start another handshake.
	cfg.Renegotiation = tls.RenegotiateNever
	return &Link{Conn: tls.Client(sock, cfg), sock: sock, keys: keys}
}

// Server returns the gateway's side of a TLS connection over nc. It copies cfg. The handshake is not done yet.
func Server(nc net.Conn, cfg *tls.Config) *Link {
	limitUnsent(nc)
	sock := &socket{Conn: nc}
	cfg, keys := linkConfig(cfg)
	return &Link{Conn: tls.Server(sock, cfg), sock: sock, keys: keys}
}

func linkConfig(cfg *tls.Config) (*tls.Config, *keyLog) {
	if cfg == nil {
		cfg = new(tls.Config)
	} else {
		cfg = cfg.Clone()
	}
	// By default the first records of a connection are small, which would split frames.
	cfg.DynamicRecordSizingDisabled = true
	cfg.NextProtos = []string{"http/1.1"}
	keys := &keyLog{next: cfg.KeyLogWriter}
	cfg.KeyLogWriter = keys
	return cfg, keys
}

// Close closes the connection. It tells the peer, but does not wait long to do so. It wipes the keys that ExportKey may need.
func (l *Link) Close() error {
	l.keys.wipe()
	l.sock.closing.Store(true)
	return l.Conn.Close()
}
