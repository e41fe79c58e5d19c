package cstp

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync"

	"culvert.example/vpn/transport"
)

// ExportKey returns length bytes of keying material for the given label and no context (RFC 5705, RFC 8446 section 7.5).
// The handshake must be complete, and the Link not closed.
//
// Package crypto/tls refuses this for TLS 1.2 without extended master secret (RFC 7627), since such a master secret may be shared
// between two connections that a man in the middle makes. Many gateways have no other, and the key that they want made is used
// only beside the tunnel whose gateway was authenticated by its certificate on this very connection. So it is computed here then.
// An error matches [transport.ErrUnsupported]; it means to do without.
func (l *Link) ExportKey(label string, length int) ([]byte, error) {
	st := l.ConnectionState()
	if !st.HandshakeComplete {
		return nil, fmt.Errorf("cstp: no key before the handshake: %w", transport.ErrUnsupported)
	}
	if key, err := st.ExportKeyingMaterial(label, nil, length); err == nil {
		l.keys.wipe()
		return key, nil
	}
	key, err := l.exportByHand(&st, label, length)
	if err != nil {
		return nil, fmt.Errorf("cstp: no key from this TLS connection (%s, %s): %w: %w", tls.VersionName(st.Version),
			tls.CipherSuiteName(st.CipherSuite), err, transport.ErrUnsupported)
	}
	return key, nil
}

// exportByHand is the exporter of TLS 1.2, whether or not there is an extended master secret.
func (l *Link) exportByHand(st *tls.ConnectionState, label string, length int) ([]byte, error) {
	if st.Version != tls.VersionTLS12 {
		return nil, fmt.Errorf("its version has no usable exporter")
	}
	clientRandom, master, ok := l.keys.get()
	if !ok {
		return nil, fmt.Errorf("its master secret is not known")
	}
	defer clear(master)
	serverRandom, ok := l.sock.serverRandom()
	if !ok {
		return nil, fmt.Errorf("its server hello was not seen")
	}
	newHash := sha256.New
	if strings.HasSuffix(tls.CipherSuiteName(st.CipherSuite), "_SHA384") {
		newHash = sha512.New384
	}
	return prf(newHash, master, label, append(clientRandom, serverRandom...), length), nil
}

// prf is the pseudorandom function of TLS 1.2 (RFC 5246 section 5).
func prf(newHash func() hash.Hash, secret []byte, label string, seed []byte, length int) []byte {
	seed = append([]byte(label), seed...)
	sum := func(parts ...[]byte) []byte {
		h := hmac.New(newHash, secret)
		for _, p := range parts {
			h.Write(p)
		}
		return h.Sum(nil)
	}
	var out []byte
	for a := sum(seed); len(out) < length; a = sum(a) {
		out = append(out, sum(a, seed)...)
	}
	return out[:length]
}

// A keyLog takes the master secret of a TLS 1.2 connection from what package crypto/tls gives to a tls.Config.KeyLogWriter, and
// passes everything on.
type keyLog struct {
	next io.Writer

	mu     sync.Mutex
	wiped  bool
	random []byte // of the client, 32 bytes
	master []byte // 48 bytes
}

// Write implements io.Writer. Each call has one line in the key log format of NSS.
func (k *keyLog) Write(p []byte) (int, error) {
	if f := bytes.Fields(p); len(f) == 3 && string(f[0]) == "CLIENT_RANDOM" {
		random, master := make([]byte, 32), make([]byte, 48)
		if hex.DecodedLen(len(f[1])) == len(random) && hex.DecodedLen(len(f[2])) == len(master) {
			_, err1 := hex.Decode(random, f[1])
			_, err2 := hex.Decode(master, f[2])
			if err1 == nil && err2 == nil {
				k.mu.Lock()
				if !k.wiped {
					k.random, k.master = random, master
				}
				k.mu.Unlock()
			}
		}
	}
	if k.next != nil {
		return k.next.Write(p)
	}
	return len(p), nil
}

// get returns copies.
func (k *keyLog) get() (random, master []byte, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return bytes.Clone(k.random), bytes.Clone(k.master), k.master != nil
}

func (k *keyLog) wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.master)
	k.master, k.random, k.wiped = nil, nil, true
}

// A hello keeps the first bytes that a server sends, in which its random number stands in the clear.
type hello struct {
	mu   sync.Mutex
	head [128]byte
	n    int
	full bool // read and written by the goroutine that passes the bytes only
}

// see takes note of bytes that the server sent.
func (h *hello) see(p []byte) {
	if h.full || len(p) == 0 {
		return
	}
	h.mu.Lock()
	h.n += copy(h.head[h.n:], p)
	h.full = h.n == len(h.head)
	h.mu.Unlock()
}

// serverRandom returns the random number of the server hello.
func (s *socket) serverRandom() ([]byte, bool) {
	const (
		alert, handshake, serverHello = 21, 22, 2
		recordHeader                  = 5
		random                        = recordHeader + 4 + 2 // behind the handshake header and the version
	)
	s.hello.mu.Lock()
	defer s.hello.mu.Unlock()
	p := s.hello.head[:s.hello.n]
	for len(p) >= recordHeader && p[0] == alert {
		// Some servers warn that they do not know the server name, and go on.
		n := recordHeader + int(p[3])<<8 + int(p[4])
		p = p[min(n, len(p)):]
	}
	if len(p) < random+32 || p[0] != handshake || p[recordHeader] != serverHello {
		return nil, false
	}
	return bytes.Clone(p[random : random+32]), true
}
