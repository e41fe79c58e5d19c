package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// HeaderLen is the length in bytes of the header in front of each frame on the TLS channel.
	HeaderLen = 8

	// MaxPayload is the largest payload in bytes that may be sent in one frame. A frame has to fit one TLS record, since
	// most peers take a record for a frame. The format itself allows 65535.
	MaxPayload = 16384 - HeaderLen
)

// ErrFrame reports bytes that are no frame header. The stream is out of step then, and cannot be read any further.
var ErrFrame = errors.New("wire: not a frame header")

// A Type says what a frame carries. On the TLS channel it is a byte of the frame header; on the DTLS channel it is the
// first byte of each datagram, and all of its header.
type Type byte

// The types of frames. Receivers ignore others.
const (
	Data        Type = 0 // one IP packet
	DPDRequest  Type = 3 // are you there? the answer repeats the payload
	DPDResponse Type = 4 // I am; many peers leave the payload out
	Disconnect  Type = 5 // a Reason and a text, or nothing at all
	Keepalive   Type = 7 // nothing; keeps state in middleboxes, and is not answered
	Compressed  Type = 8 // one IP packet, compressed as was agreed
	Terminate   Type = 9 // the gateway has ended the session, and its cookie is worth nothing any more
)

// String returns the name of the type.
func (t Type) String() string {
	switch t {
	case Data:
		return "DATA"
	case DPDRequest:
		return "DPD-REQ"
	case DPDResponse:
		return "DPD-RESP"
	case Disconnect:
		return "DISCONNECT"
	case Keepalive:
		return "KEEPALIVE"
	case Compressed:
		return "COMPRESSED"
	case Terminate:
		return "TERMINATE"
	}
	return "type " + strconv.Itoa(int(t))
}

// PutHeader writes the header of a frame with n bytes of payload into the first HeaderLen bytes of b, 0 <= n <= 65535.
func PutHeader(b []byte, t Type, n int) {
	_ = b[HeaderLen-1]
	b[0], b[1], b[2], b[3] = 'S', 'T', 'F', 1
	binary.BigEndian.PutUint16(b[4:], uint16(n))
	b[6], b[7] = byte(t), 0
}

// ParseHeader returns the type and the length in bytes of the payload of the frame that b begins with. It needs the first
// HeaderLen bytes of it. An error matches ErrFrame.
func ParseHeader(b []byte) (Type, int, error) {
	if len(b) < HeaderLen {
		return 0, 0, fmt.Errorf("%w: only %d bytes", ErrFrame, len(b))
	}
	if b[0] != 'S' || b[1] != 'T' || b[2] != 'F' || b[3] != 1 || b[7] != 0 {
		return 0, 0, fmt.Errorf("%w: % x", ErrFrame, b[:HeaderLen])
	}
	return Type(b[6]), int(binary.BigEndian.Uint16(b[4:])), nil
}

// A Reason is the first byte of the payload of a Disconnect frame. It tells whether the session lives on.
type Reason byte

// The reasons that are known. NoReason stands for a frame without payload, which is what ocserv sends.
const (
	NoReason       Reason = 0
	ReasonError    Reason = 0x70 // a local error; the session is over
	ReasonReplaced Reason = 0x91 // the client will be back, such as after a change of networks; the session is kept
	ReasonUser     Reason = 0xb0 // the user wants it so; the session is over
	ReasonPause    Reason = 0xd1 // the machine is about to sleep; the session is kept
)

// String returns the name of the reason.
func (r Reason) String() string {
	switch r {
	case NoReason:
		return "no reason"
	case ReasonError:
		return "error"
	case ReasonReplaced:
		return "reconnect"
	case ReasonUser:
		return "user"
	case ReasonPause:
		return "pause"
	}
	return fmt.Sprintf("reason 0x%02x", byte(r))
}

// Final reports whether the session is over for good: its cookie is not good for another connection.
func (r Reason) Final() bool { return r == ReasonUser || r == ReasonError }

// maxDisconnectText bounds the text of a Disconnect frame in both directions, in bytes.
const maxDisconnectText = 1024

// AppendDisconnect appends the payload of a Disconnect frame to b. The text is cut to 1024 bytes, and an empty one becomes
// the name of the reason: at least one gateway crashes without.
func AppendDisconnect(b []byte, r Reason, text string) []byte {
	text = printable(text, maxDisconnectText)
	if text == "" {
		text = r.String()
	}
	b = append(b, byte(r))
	return append(b, text...)
}

// ParseDisconnect returns what the payload of a Disconnect frame says. The text is free of control characters and not longer
// than 1024 bytes.
func ParseDisconnect(p []byte) (Reason, string) {
	if len(p) == 0 {
		return NoReason, ""
	}
	text := p[1:]
	if len(text) > 4*maxDisconnectText {
		text = text[:4*maxDisconnectText]
	}
	return Reason(p[0]), printable(string(text), maxDisconnectText)
}

// printable returns s without control characters and what is no UTF-8, so that no peer plays with a terminal or a log, with
// runs of them and of spaces made one space, and cut to max bytes.
func printable(s string, max int) string {
	var b strings.Builder
	space := false
	for _, r := range s {
		if r == ' ' || r < ' ' || r == utf8.RuneError || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			space = b.Len() > 0
			continue
		}
		n := utf8.RuneLen(r)
		if space {
			n++
		}
		if b.Len()+n > max {
			break
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	return b.String()
}
