// Package pcapng writes IP packets to a capture file in the pcapng format, which Wireshark and tcpdump read.
//
// The file has one section with one interface of link type RAW: each packet begins with its IPv4 or IPv6 header. Times are
// in nanoseconds, and each packet says in which direction it went.
package pcapng

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"time"
)

// A Dir is the direction of a packet, as seen from the machine that captures.
type Dir uint8

const (
	// In is a packet that was received.
	In Dir = 1
	// Out is a packet that was sent.
	Out Dir = 2
)

// MaxPacket is the size in bytes of the largest packet that a Writer takes.
const MaxPacket = 1 << 18

// ErrTooBig reports a packet larger than [MaxPacket].
var ErrTooBig = errors.New("pcapng: packet too big")

// Block types, option codes and magic numbers of the format (draft-ietf-opsawg-pcapng section 4).
const (
	blockSection   = 0x0A0D0D0A
	blockInterface = 1
	blockPacket    = 6

	byteOrderMagic = 0x1A2B3C4D
	linkTypeRaw    = 101

	optEnd       = 0
	optFlags     = 2 // in a packet block
	optTimeScale = 9 // in an interface block
)

// A Writer writes packets to a capture. Its methods may be called from several goroutines; each packet is one Write.
type Writer struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte
	err error
}

// NewWriter returns a Writer to w, to which it has written the head of the file. If that fails, so does every WritePacket.
// The caller keeps w, and closes or flushes it when the capture is over.
func NewWriter(w io.Writer) *Writer {
	p := &Writer{w: w, buf: make([]byte, 0, 2048)}
	_, p.err = w.Write(appendHead(p.buf))
	return p
}

func appendHead(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, blockSection)
	b = le.AppendUint32(b, 28)
	b = le.AppendUint32(b, byteOrderMagic)
	b = le.AppendUint16(b, 1) // version 1.0
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, 1<<64-1) // the length of the section is not known
	b = le.AppendUint32(b, 28)

	b = le.AppendUint32(b, blockInterface)
	b = le.AppendUint32(b, 32)
	b = le.AppendUint16(b, linkTypeRaw)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, 0) // no limit to the length of a packet
	b = le.AppendUint16(b, optTimeScale)
	b = le.AppendUint16(b, 1)
	b = append(b, 9, 0, 0, 0) // 10^-9 seconds, padded
	b = le.AppendUint32(b, optEnd)
	return le.AppendUint32(b, 32)
}

// WritePacket writes one packet that was sent or received at t. It keeps no part of pkt. After an error of the underlying
// writer it returns that error for ever, since the file may end in the middle of a packet.
func (w *Writer) WritePacket(t time.Time, dir Dir, pkt []byte) error {
	if len(pkt) > MaxPacket {
		return ErrTooBig
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	w.buf = appendPacket(w.buf[:0], uint64(t.UnixNano()), dir, pkt)
	_, w.err = w.w.Write(w.buf)
	return w.err
}

// Err returns the error of the underlying writer that ended the capture, or nil.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func appendPacket(b []byte, nano uint64, dir Dir, pkt []byte) []byte {
	le := binary.LittleEndian
	pad := -len(pkt) & 3
	total := uint32(28 + len(pkt) + pad + 8 + 4 + 4)
	b = le.AppendUint32(b, blockPacket)
	b = le.AppendUint32(b, total)
	b = le.AppendUint32(b, 0) // the only interface
	b = le.AppendUint32(b, uint32(nano>>32))
	b = le.AppendUint32(b, uint32(nano))
	b = le.AppendUint32(b, uint32(len(pkt)))
	b = le.AppendUint32(b, uint32(len(pkt)))
	b = append(b, pkt...)
	b = append(b, 0, 0, 0)[:len(b)+pad]
	b = le.AppendUint16(b, optFlags)
	b = le.AppendUint16(b, 4)
	b = le.AppendUint32(b, uint32(dir&3))
	b = le.AppendUint32(b, optEnd)
	return le.AppendUint32(b, total)
}
