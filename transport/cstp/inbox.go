package cstp

import (
	"fmt"
	"io"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/wire"
)

// maxFrame is the length in bytes of the largest frame that the format allows.
const maxFrame = wire.HeaderLen + 65535

// An inbox makes frames of a stream.
//
// Most peers send one frame in each record, and TLS gives out one record for each Read. So a Read straight into the memory of a
// packet, with the header in its headroom, mostly is one frame in its place. What it is too much or too little goes to rest, from which
// frames are copied until it is empty again.
type inbox struct {
	rest []byte // of capacity maxFrame, or nil
	from int    // rest[from:] is yet to be read
}

// stash puts p behind what is there.
func (in *inbox) stash(p []byte) {
	if in.rest == nil {
		in.rest = make([]byte, 0, maxFrame)
	}
	in.compact()
	in.rest = append(in.rest, p...)
}

func (in *inbox) compact() {
	if in.from > 0 {
		n := copy(in.rest, in.rest[in.from:])
		in.rest, in.from = in.rest[:n], 0
	}
}

// next returns the next frame. Its payload is valid until the next call, and lies in the Space of b or elsewhere; the
// memory of b may be overwritten in any case. If it may not wait and there is no whole frame, the error is errWait.
func (in *inbox) next(r io.Reader, s *socket, b *packet.Buf, wait bool) (wire.Type, []byte, error) {
	s.nowait = !wait
	for {
		have := in.rest[in.from:]
		if len(have) == 0 && b.Size() > 0 {
			mem := b.SpaceWithHeadroom(wire.HeaderLen)
			n, err := r.Read(mem)
			if n == 0 && err != nil {
				return 0, nil, err
			}
			mem = mem[:n]
			if n >= wire.HeaderLen {
				t, size, err := parseHeader(mem)
				if err != nil {
					return 0, nil, err
				}
				if end := wire.HeaderLen + size; end <= n {
					if end < n {
						in.stash(mem[end:])
					}
					return t, mem[wire.HeaderLen:end], nil
				}
			}
			in.stash(mem)
			continue
		}
		if len(have) >= wire.HeaderLen {
			t, size, err := parseHeader(have)
			if err != nil {
				return 0, nil, err
			}
			if end := wire.HeaderLen + size; end <= len(have) {
				in.from += end
				return t, have[wire.HeaderLen:end], nil
			}
		}
		// There is less than a frame, so there is room for more.
		in.stash(nil)
		n, err := r.Read(in.rest[len(in.rest):cap(in.rest)])
		if in.rest = in.rest[:len(in.rest)+n]; n == 0 && err != nil {
			if err == io.EOF && len(in.rest) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
	}
}

// parseHeader is wire.ParseHeader with an error of its kind.
func parseHeader(p []byte) (wire.Type, int, error) {
	t, size, err := wire.ParseHeader(p)
	if err != nil {
		return 0, 0, fmt.Errorf("the peer sent something other than frames: %w: %w", err, transport.ErrProtocol)
	}
	return t, size, nil
}
