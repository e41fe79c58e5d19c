package cstp

import (
	"github.com/pierrec/lz4/v4"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport/wire"
)

// minCompress is the size in bytes of the smallest packet that is worth the attempt.
const minCompress = 40

// A codec compresses and decompresses single packets. One goroutine may do the one while another does the other.
type codec struct {
	lzs     bool
	lz4     lz4.Compressor
	encoded []byte // by compress: LZS before its length is known
	input   []byte // by decompress: the payload, if it lies where the packet goes
}

// newCodec returns nil for a name that is not known, and for none.
func newCodec(name string) *codec {
	switch name {
	case wire.LZ4:
		return new(codec)
	case wire.LZS:
		return &codec{lzs: true}
	}
	return nil
}

// compress puts the compressed packet into dst and returns its length, or 0 if it is not smaller.
func (c *codec) compress(dst, p []byte) int {
	if c.lzs {
		c.encoded = wire.LZSCompress(c.encoded[:0], p)
		if len(c.encoded) >= len(p) {
			return 0
		}
		return copy(dst, c.encoded)
	}
	n, err := c.lz4.CompressBlock(p, dst[:len(p)-1])
	if err != nil {
		return 0
	}
	return n
}

// decompress makes what payload is the compression of the packet of b. It reports false if there is none or it does not fit.
func (c *codec) decompress(b *packet.Buf, payload []byte) bool {
	space := b.Space()
	if len(payload) == 0 || len(space) == 0 {
		return false
	}
	if &payload[0] == &space[0] {
		c.input = append(c.input[:0], payload...)
		payload = c.input
	}
	n := 0
	if c.lzs {
		out, err := wire.LZSDecompress(space[:0], payload, len(space))
		if err != nil {
			return false
		}
		n = len(out)
	} else {
		var err error
		if n, err = lz4.UncompressBlock(payload, space); err != nil {
			return false
		}
	}
	if n == 0 {
		return false
	}
	b.SetLen(n)
	return true
}
