package dtls

import "encoding/binary"

const (
	handshakeHeader = 12
	clientHello     = 1

	// extAppID is the extension that may hold the identifier in place of the session id.
	extAppID = 0xbb92
)

// A hello is what the first fragment of a ClientHello says, which comes before anything is known about its sender.
type hello struct {
	id     []byte // 1 to 32 bytes
	random []byte // 32 bytes
}

// parseHello returns what the ClientHello says that a datagram begins with. It reports false for anything else, and for a
// ClientHello that no session can be found for: one whose random is zero (GnuTLS 3.6.3 to 3.6.13 send such) or that has no identifier.
func parseHello(d []byte) (h hello, ok bool) {
	r, _, ok := parseRecord(d)
	if !ok || r.typ != typeHandshake || r.epoch != 0 {
		return hello{}, false
	}
	b := r.raw[recordHeader:]
	if len(b) < handshakeHeader || b[0] != clientHello || uint24(b[6:]) != 0 {
		return hello{}, false
	}
	total, fragment := uint24(b[1:]), uint24(b[9:])
	b = b[handshakeHeader:]
	if fragment > total || fragment > len(b) {
		return hello{}, false
	}
	b = b[:fragment]
	const fixed = 2 + 32 + 1
	if len(b) < fixed || b[0] != 0xfe || b[1] != 0xfd && b[1] != 0xff {
		return hello{}, false
	}
	h.random = b[2:34]
	zero := byte(0)
	for _, x := range h.random {
		zero |= x
	}
	n := int(b[34])
	b = b[fixed:]
	if zero == 0 || n > maxID || n > len(b) {
		return hello{}, false
	}
	if n > 0 {
		h.id = b[:n]
		return h, true
	}
	h.id = appID(b)
	return h, h.id != nil
}

// appID returns the identifier from the extension for it, given what follows the session id in a ClientHello, or nil.
func appID(b []byte) []byte {
	if len(b) < 1 || len(b) < 1+int(b[0])+2 {
		return nil
	}
	b = b[1+int(b[0]):] // cookie
	if n := 2 + int(binary.BigEndian.Uint16(b)); len(b) < n+1 {
		return nil
	} else {
		b = b[n:] // cipher suites
	}
	if n := 1 + int(b[0]); len(b) < n+2 {
		return nil
	} else {
		b = b[n:] // compression methods
	}
	if n := 2 + int(binary.BigEndian.Uint16(b)); len(b) < n {
		return nil
	} else {
		b = b[2:n]
	}
	for len(b) >= 4 {
		typ, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if b = b[4:]; len(b) < n {
			return nil
		}
		if typ == extAppID {
			if n < 2 || n-1 > maxID || int(b[0]) != n-1 {
				return nil
			}
			return b[1:n]
		}
		b = b[n:]
	}
	return nil
}

func uint24(b []byte) int { return int(b[0])<<16 | int(b[1])<<8 | int(b[2]) }
