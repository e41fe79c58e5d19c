package dtls

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/liveness"
)

// Errors that end a Conn, or keep one from coming about. They concern the DTLS channel only.
var (
	// ErrRekey: the keys have been used for as long as they may be. Dial again, on a new socket.
	ErrRekey = errors.New("DTLS keys are due for renewal")

	// ErrNotResumed: the peer began a full handshake instead of resuming the session. It has not shown who it is.
	ErrNotResumed = errors.New("the DTLS peer does not resume the session, so it may be anybody")

	// ErrPeerClosed: the peer closed the DTLS channel, or reported an error in it.
	ErrPeerClosed = errors.New("the peer closed the DTLS channel")

	// ErrPathTooNarrow: the path carries no datagrams that are large enough for the smallest MTU that is allowed.
	ErrPathTooNarrow = errors.New("the path does not carry DTLS datagrams of the least size")

	// ErrReplaced: a later handshake of the same session took the place of this Conn, or the session is gone.
	ErrReplaced = errors.New("replaced by a newer DTLS channel")
)

// OfferCipherSuites and OfferCipherSuites12 are what a client offers in X-DTLS-CipherSuite and X-DTLS12-CipherSuite,
// without the token PSK-NEGOTIATE, which goes in front of the former if a key could be exported from the TLS channel.
const (
	OfferCipherSuites   = "OC-DTLS1_2-AES256-GCM:OC-DTLS1_2-AES128-GCM"
	OfferCipherSuites12 = "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256:AES256-GCM-SHA384:AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384:DHE-RSA-AES128-GCM-SHA256"
)

// A PSK is what the mode PSK-NEGOTIATE needs.
type PSK struct {
	// Key is exported from the TLS channel with the label EXPORTER-openconnect-psk, 32 bytes.
	Key []byte
	// AppID is X-DTLS-App-ID, 1 to 32 bytes. A server does not need it: it has found the session by it.
	AppID []byte
	// CipherSuites are the names of the cipher suites that may be used, nil for all: PSK-AES256-GCM-SHA384,
	// PSK-AES128-GCM-SHA256, PSK-CHACHA20-POLY1305, PSK-AES128-CCM, PSK-AES256-CCM8 and PSK-AES128-CCM8, which is the order of
	// preference.
	CipherSuites []string
}

// A Resume is what the mode that resumes from a given master secret needs.
type Resume struct {
	// MasterSecret is what the client sent in X-DTLS-Master-Secret of the same CONNECT.
	MasterSecret [48]byte
	// SessionID is X-DTLS-Session-ID, 1 to 32 bytes.
	SessionID []byte
	// CipherSuite is the name that the gateway chose.
	CipherSuite string
	// DTLS12 says that CipherSuite came in X-DTLS12-CipherSuite. In X-DTLS-CipherSuite most of the same names mean the DTLS
	// from before the standard, which is not implemented: they give an error that matches transport.ErrUnsupported.
	DTLS12 bool
}

// A Config says how to open a DTLS channel. Exactly one of PSK and Resume is set.
type Config struct {
	PSK    *PSK
	Resume *Resume

	// MTU is the size in bytes of the largest inner packet that the gateway has assigned, and BaseMTU the MTU that it
	// assumes for the outer path (X-CSTP-Base-MTU). The lesser of what both allow is where the search for the MTU begins.
	// At least one of them is needed.
	MTU, BaseMTU int

	// IPv6 says that the tunnel carries IPv6, so that packets of 1280 bytes must fit.
	IPv6 bool

	// Beat are the intervals of the channel. Keepalive is held to 10 s at most: gateways leave a DTLS channel that is
	// silent for 15 s, and NATs forget it. A period Rekey makes the Conn end with ErrRekey.
	Beat liveness.Config

	// Burst is how many datagrams at most are handed to the network in one piece, 1 to 64. 0 means 8. A longer piece costs less
	// to send, and reaches the gateway later and all at once.
	Burst int

	// Batch lets small datagrams come together under load as large ones do. Where they are acknowledgements for the TCP of another
	// kernel, such as behind a device, that saves much of the work; a TCP inside the program is slowed by it.
	Batch bool

	// PeerBuffer is how much the socket of the peer holds, in bytes as Linux counts them (what getsockopt says of SO_RCVBUF), if the
	// peer is known to read one datagram at a time. Over a near path to a peer that repeats the payload of DPD requests, no more is
	// sent then than that holds unread. WriteBatch waits meanwhile, for 5 ms at most. 0 means that nothing is known. It
	// has no effect on Windows.
	PeerBuffer int

	// HandshakeTimeout bounds the handshake. 0 means 12 s.
	HandshakeTimeout time.Duration

	// Linger is how long the socket stays open after Close. 0 means 20 s, negative not at all. ocserv ends the whole
	// session when a datagram for the client comes back as undeliverable, and it goes on sending to the old socket until
	// data on another channel reaches it. Only a *net.UDPConn lingers. Nothing is read from it, and no goroutine waits for it.
	Linger time.Duration

	// Logger takes what happens to the channel, never a line for each packet. nil discards it.
	Logger *slog.Logger
}

func (c *Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

func (c *Config) linger() time.Duration {
	if c.Linger == 0 {
		return 20 * time.Second
	}
	return c.Linger
}

func (c *Config) handshakeTimeout() time.Duration {
	if c.HandshakeTimeout <= 0 {
		return 12 * time.Second
	}
	return c.HandshakeTimeout
}

// check returns the suite of the mode Resume, nil for PSK, or what is wrong.
func (c *Config) check() (*suite, error) {
	if (c.PSK == nil) == (c.Resume == nil) {
		return nil, errors.New("dtls: exactly one of PSK and Resume must be set")
	}
	if c.MTU <= 0 && c.BaseMTU <= 0 {
		return nil, errors.New("dtls: neither MTU nor BaseMTU is set")
	}
	if c.PSK != nil {
		return nil, c.PSK.check()
	}
	return c.Resume.check()
}

func (p *PSK) check() error {
	if len(p.Key) == 0 {
		return errors.New("dtls: the pre-shared key is empty")
	}
	if len(p.suites()) == 0 {
		return fmt.Errorf("dtls: none of the cipher suites %q is implemented", p.CipherSuites)
	}
	return checkID("X-DTLS-App-ID", p.AppID)
}

// suites returns the suites that may be used.
func (p *PSK) suites() []suite {
	var list []suite
	for _, s := range suites() {
		if s.psk && (p.CipherSuites == nil || slices.Contains(p.CipherSuites, s.name)) {
			list = append(list, s)
		}
	}
	return list
}

func (r *Resume) check() (*suite, error) {
	if err := checkID("X-DTLS-Session-ID", r.SessionID); err != nil {
		return nil, err
	}
	return suiteByName(r.CipherSuite, r.DTLS12)
}

func checkID(header string, id []byte) error {
	if len(id) < 1 || len(id) > maxID {
		return fmt.Errorf("%w: the gateway's %s has %d bytes, but 1 to %d are allowed", transport.ErrProtocol, header, len(id), maxID)
	}
	return nil
}

// outerOverhead is what the IP and UDP headers in front of a datagram to addr cost, in bytes.
func outerOverhead(addr net.Addr) int {
	const udp = 8
	if a, ok := addr.(*net.UDPAddr); ok && a.IP.To4() == nil {
		return 40 + udp
	}
	return 20 + udp
}
