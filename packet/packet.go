// Package packet carries IP packets, many at a time.
//
// A [Batch] of [Buf]s stays whole from a device or a network stack to the system call that sends it, and back. The
// ownership rule is that of io.Reader: the caller owns the Batch before, during and after a call, and an
// implementation retains neither a Buf nor a slice of one past it. There are no reference counts and no channels of packets.
//
// [Copy] is the pump between a [Reader] and a [Writer]. A Reader may spare it work: a [Forwarder] delivers by itself, from the
// goroutine that has received the packets, and a [Waiter] says when there is something to read, so that who waits need
// not own a Batch.
package packet

import "errors"

const (
	// Headroom is the number of bytes that stand free in front of each packet in a [Buf]. A [Writer] may put its
	// framing there. It is enough for a DTLS 1.2 record header with explicit nonce and type byte (22 bytes), for a
	// CSTP frame inside a TLS record (13 bytes) and for a virtio network header (12 bytes).
	Headroom = 32

	// MaxSize is the largest IP packet, in bytes.
	MaxSize = 65535

	// MinMTU4 and MinMTU6 are the smallest MTUs, in bytes, that IPv4 (RFC 791 section 3.2, the size every host accepts) and
	// IPv6 (RFC 8200 section 5) may run over here.
	MinMTU4, MinMTU6 = 576, 1280
)

// ErrTooBig reports a packet that is larger than the MTU of the Writer it was given to.
var ErrTooBig = errors.New("packet larger than the MTU")

// A Buf is memory for one IP packet, with [Headroom] bytes free in front of it. The zero Buf has no room; make one
// with [NewBuf]. A Buf may be copied and exchanged with another like any value; both copies then share memory.
type Buf struct {
	mem []byte
	n   int
}

// NewBuf returns an empty Buf with room for a packet of up to size bytes.
func NewBuf(size int) Buf { return Buf{mem: make([]byte, Headroom+size)} }

// Bytes returns the packet. It is valid until the Buf changes.
func (b *Buf) Bytes() []byte { return b.mem[Headroom : Headroom+b.n] }

// Len returns the length of the packet in bytes.
func (b *Buf) Len() int { return b.n }

// Size returns how many bytes the largest packet may have that fits.
func (b *Buf) Size() int {
	if len(b.mem) < Headroom {
		return 0
	}
	return len(b.mem) - Headroom
}

// SetLen says that the first n bytes of Space are the packet now. It panics if n is negative or more than Size.
func (b *Buf) SetLen(n int) {
	if n < 0 || n > b.Size() {
		panic("packet: Buf.SetLen out of range")
	}
	b.n = n
}

// Space returns all the memory that a packet may use, from its first byte on, whatever its present length.
func (b *Buf) Space() []byte {
	if len(b.mem) < Headroom {
		return nil
	}
	return b.mem[Headroom:]
}

// WithHeadroom returns the packet with n bytes of headroom in front of it, 0 <= n <= [Headroom].
func (b *Buf) WithHeadroom(n int) []byte { return b.mem[Headroom-n : Headroom+b.n] }

// SpaceWithHeadroom returns all the memory from n bytes in front of the packet on, 0 <= n <= [Headroom], for a Reader that
// receives a packet with its framing in one piece.
func (b *Buf) SpaceWithHeadroom(n int) []byte { return b.mem[Headroom-n:] }

// Set copies p into the Buf. It reports false, and leaves the Buf as it was, if p is larger than Size.
func (b *Buf) Set(p []byte) bool {
	if len(p) > b.Size() {
		return false
	}
	b.n = copy(b.mem[Headroom:], p)
	return true
}

// A Batch is packets in the order in which they travel.
type Batch []Buf

// NewBatch returns n empty Bufs with room for packets of up to size bytes each, in one piece of memory.
func NewBatch(n, size int) Batch {
	each := Headroom + size
	mem := make([]byte, n*each)
	b := make(Batch, n)
	for i := range b {
		b[i].mem = mem[i*each : (i+1)*each : (i+1)*each]
	}
	return b
}

// A Reader is a source of packets.
type Reader interface {
	// ReadBatch waits for at least one packet, fills b from the front without waiting for more, and returns how many
	// Bufs it filled. It returns 0 only with a non-nil error. It may exchange the memory of a Buf for other memory of at
	// least the same Size. A packet that does not fit its Buf is dropped.
	ReadBatch(b Batch) (n int, err error)
}

// A Writer is a destination of packets.
type Writer interface {
	// WriteBatch sends the packets of b in order, and waits while there is no room for them. It returns fewer than len(b)
	// only with a non-nil error, one matching [ErrTooBig] if b[n] is larger than the MTU. It may use the headroom of the Bufs.
	// Afterwards they are the caller's again, but what is in those of b[:n] is undefined: WriteBatch may have changed the
	// packets and exchanged the Bufs. The packets from b[n] on are as they were. Whoever needs a packet once more
	// keeps a copy, unless the Writer says that it leaves all of them as they were.
	WriteBatch(b Batch) (n int, err error)
}

// A Conn carries packets both ways. One goroutine may read while another writes. Close unblocks both, after which they
// return an error that matches net.ErrClosed.
type Conn interface {
	Reader
	Writer

	// MTU returns the size in bytes of the largest packet that WriteBatch takes now. It may change while the Conn lives.
	MTU() int

	Close() error
}

// A Filter drops packets from a Batch in place and returns those that may go on, in order, as a prefix of b.
// It may exchange Bufs within b, so that none is lost.
type Filter interface{ Filter(b Batch) Batch }
