// Package hello finds the name of the server in the first bytes of a flow.
//
// A TLS client says whom it wants to talk to in its first message, the ClientHello (RFC 8446 section 4.1.2), in clear text: the
// server name indication of RFC 6066 section 3. Over TCP the message begins the stream; over QUIC it is in the first datagrams,
// under a key that everybody can compute (RFC 9001 section 5.2). [TLS] and [QUIC] read it from there, and [HTTP] from the Host field of an
// HTTP/1 request, which is in clear text as well.
//
// The name is a claim of the client and nothing more. With Encrypted Client Hello it is that of the provider in front of the
// server, and a client may leave it out.
//
// The parsers take in at most [MaxSize] bytes, whatever the client sends, and work on bytes alone: they know no connection and no
// clock.
package hello

import "strings"

// MaxSize is how many bytes of a ClientHello are looked at. Those of today have 300 to 2000 bytes, with keys against quantum
// computers up to 5000.
const MaxSize = 16 << 10

// A State says what the bytes so far are.
type State uint8

const (
	// More: they may be the beginning of a ClientHello, of which more is needed.
	More State = iota
	// Done: they hold a whole ClientHello, or as much of one as is looked at. It may be without a name.
	Done
	// Other: they are something else.
	Other
)

// String returns more, done or other.
func (s State) String() string {
	switch s {
	case Done:
		return "done"
	case Other:
		return "other"
	}
	return "more"
}

const (
	recordHandshake   = 22
	handshakeHello    = 1
	extensionName     = 0
	nameHost          = 0
	recordHeader      = 5
	handshakeHeader   = 4
	maxRecord         = 1<<14 + 256
	versionAndRandom  = 2 + 32
	maxName, maxLabel = 253, 63
)

// TLS looks at the first bytes of a TCP connection, all that have come so far. With Done, name is that of the server in lower case
// without a final dot, or empty if the client names none or something that is no name.
func TLS(b []byte) (name string, s State) {
	// The message may be spread over several records, which somebody does on purpose; most often it is in one.
	var message []byte
	for first := true; ; first = false {
		n := 0
		if len(b) >= recordHeader {
			n = int(b[3])<<8 | int(b[4])
		}
		if !plausible(b) || len(b) >= recordHeader && (n == 0 || n > maxRecord) {
			return broken(message)
		}
		if n == 0 {
			return read(message, false)
		}
		body := b[recordHeader:min(len(b), recordHeader+n)]
		if first {
			message = body
		} else {
			message = append(message[:len(message):len(message)], body...)
		}
		if size, ok := messageSize(message); !ok {
			return "", Other
		} else if size >= 0 && len(message) >= size {
			return read(message[:size], true)
		}
		if len(body) < n || len(message) >= MaxSize {
			return read(message, false)
		}
		b = b[recordHeader+n:]
	}
}

// broken returns what is to be said of a message that is followed by something else before its end: the name may stand before that.
func broken(message []byte) (string, State) {
	if name, found, _ := serverName(message); found {
		return name, Done
	}
	return "", Other
}

// plausible reports whether b may begin a record of the handshake.
func plausible(b []byte) bool {
	return (len(b) < 1 || b[0] == recordHandshake) && (len(b) < 2 || b[1] == 3) && (len(b) < 3 || b[2] <= 4)
}

// messageSize returns the size of the handshake message that m begins, -1 if that cannot be known yet, or false if it is no
// ClientHello.
func messageSize(m []byte) (int, bool) {
	if len(m) > 0 && m[0] != handshakeHello {
		return 0, false
	}
	if len(m) < handshakeHeader {
		return -1, true
	}
	return handshakeHeader + int(m[1])<<16 + int(m[2])<<8 + int(m[3]), true
}

// read finds the name in m, the beginning of a ClientHello or all of it.
func read(m []byte, whole bool) (string, State) {
	switch name, found, ok := serverName(m); {
	case found:
		return name, Done
	case !ok && whole:
		return "", Other // it contradicts itself
	case whole, len(m) >= MaxSize:
		return "", Done
	}
	return "", More
}

// serverName goes through the handshake message m until it ends or the name is found. It reports ok=false if m ends in the middle of
// a field, as it does when it is not all there.
func serverName(m []byte) (name string, found, ok bool) {
	r := reader{m}
	r.skip(handshakeHeader + versionAndRandom)
	r.skip(r.length(1)) // session id
	r.skip(r.length(2)) // cipher suites
	r.skip(r.length(1)) // compression methods
	if r.b != nil && len(r.b) == 0 {
		return "", false, true // without extensions
	}
	r.skip(2) // the length of all of them, which that of the message says as well
	for len(r.b) > 0 {
		kind := r.length(2)
		body := r.take(r.length(2))
		if r.b == nil {
			break
		}
		if kind == extensionName {
			return hostName(body), true, true
		}
	}
	return "", false, r.b != nil
}

// hostName returns the name in the body of the extension (RFC 6066 section 3), or "".
func hostName(body []byte) string {
	r := reader{body}
	r.skip(2)
	for len(r.b) > 0 {
		kind := r.length(1)
		name := r.take(r.length(2))
		if r.b != nil && kind == nameHost {
			return canonical(name)
		}
	}
	return ""
}

// canonical returns name in lower case and without a final dot, or "" if it is none that a host can have: the letters, digits, hyphens
// and underscores of DNS, in labels. An address is no name either.
func canonical(name []byte) string {
	if n := len(name); n > 0 && name[n-1] == '.' {
		name = name[:n-1]
	}
	if len(name) == 0 || len(name) > maxName {
		return ""
	}
	var b strings.Builder
	b.Grow(len(name))
	label, letter := 0, false
	for _, c := range name {
		switch {
		case c == '.':
			if label == 0 {
				return ""
			}
			label, letter = 0, false
			b.WriteByte(c)
			continue
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
			letter = true
		case 'a' <= c && c <= 'z', c == '-', c == '_':
			letter = true
		case '0' <= c && c <= '9':
		default:
			return ""
		}
		if label++; label > maxLabel {
			return ""
		}
		b.WriteByte(c)
	}
	// No top-level domain consists of digits, but every IPv4 address ends in some.
	if label == 0 || !letter {
		return ""
	}
	return b.String()
}

// A reader takes fields from the front of b, which becomes nil when there is less than they need.
type reader struct{ b []byte }

func (r *reader) take(n int) []byte {
	if r.b == nil || n < 0 || n > len(r.b) {
		r.b = nil
		return nil
	}
	f := r.b[:n]
	r.b = r.b[n:]
	return f
}

func (r *reader) skip(n int) { r.take(n) }

// length takes a number of n bytes, or returns -1.
func (r *reader) length(n int) int {
	f := r.take(n)
	if r.b == nil {
		return -1
	}
	v := 0
	for _, c := range f {
		v = v<<8 | int(c)
	}
	return v
}
