package cstp

import (
	"fmt"
	"io"
	"sync"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/wire"
)

// maxFrame is the length in bytes of the largest frame that the format allows.
const maxFrame = wire.HeaderLen + 65535

// A chunk is memory for what came and is not dealt with yet.
type chunk [maxFrame]byte

// chunks is shared by all Conns of the process, since most of them are idle at any moment.
var chunks = sync.Pool{New: func() any { return new(chunk) }}

// An inbox makes frames of a stream.
//
// Most peers send one frame in each record, and TLS gives out one record for each Read. So a Read straight into the memory of a
// packet, with the header in its headroom, mostly is one frame in its place. What it is too much or too little goes to rest, from which
// frames are copied until it is empty again.
type inbox struct {
	mem  *chunk
	rest []byte // of mem, or nil
	from int    // rest[from:] is yet to be read

	// head[:ahead] was read by peek, when there was no rest.
	head  [wire.HeaderLen]byte
	ahead int
}

// stash puts p behind what is there.
func (in *inbox) stash(p []byte) {
	if in.mem == nil {
		in.mem = chunks.Get().(*chunk)
		in.rest = in.mem[:0]
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

// release gives the memory of an empty rest back.
func (in *inbox) release() {
	if in.mem != nil && in.from == len(in.rest) {
		chunks.Put(in.mem)
		in.mem, in.rest, in.from = nil, nil, 0
	}
}

// peek waits until the header of the next frame is there, and returns its type. It holds no memory for what comes meanwhile.
func (in *inbox) peek(r io.Reader, s *socket) (wire.Type, error) {
	s.nowait = false
	for {
		have := in.rest[in.from:]
		if len(have) == 0 {
			in.release()
			have = in.head[:in.ahead]
		}
		if len(have) >= wire.HeaderLen {
			t, _, err := parseHeader(have)
			return t, err
		}
		var err error
		if in.mem == nil {
			var n int
			if n, err = r.Read(in.head[in.ahead:]); n > 0 {
				in.ahead += n
				continue
			}
		} else if err = in.more(r); err == nil {
			continue
		}
		return 0, unexpected(err, len(have))
	}
}

// more reads into the rest, which holds less than a frame and so has room.
func (in *inbox) more(r io.Reader) error {
	in.stash(nil)
	n, err := r.Read(in.rest[len(in.rest):cap(in.rest)])
	if in.rest = in.rest[:len(in.rest)+n]; n > 0 {
		return nil
	}
	return err
}

// unexpected returns err, or io.ErrUnexpectedEOF if the stream has ended within a frame.
func unexpected(err error, have int) error {
	if err == io.EOF && have > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// next returns the next frame. Its payload is valid until the next call, and lies in the Space of b or elsewhere; the
// memory of b may be overwritten in any case. If it may not wait and there is no whole frame, the error is errWait.
func (in *inbox) next(r io.Reader, s *socket, b *packet.Buf, wait bool) (wire.Type, []byte, error) {
	s.nowait = !wait
	if in.ahead == wire.HeaderLen {
		// A frame that ends here must not wait for another.
		if t, size, err := parseHeader(in.head[:]); size == 0 || err != nil {
			in.ahead = 0
			return t, nil, err
		}
	}
	for {
		have := in.rest[in.from:]
		if len(have) == 0 && b.Size() > 0 {
			mem := b.SpaceWithHeadroom(wire.HeaderLen)
			copy(mem, in.head[:in.ahead])
			n, err := r.Read(mem[in.ahead:])
			if n == 0 && err != nil {
				return 0, nil, unexpected(err, in.ahead)
			}
			mem = mem[:in.ahead+n]
			in.ahead = 0
			if len(mem) >= wire.HeaderLen {
				t, size, err := parseHeader(mem)
				if err != nil {
					return 0, nil, err
				}
				if end := wire.HeaderLen + size; end <= len(mem) {
					if end < len(mem) {
						in.stash(mem[end:])
					}
					return t, mem[wire.HeaderLen:end], nil
				}
			}
			in.stash(mem)
			continue
		}
		if in.ahead > 0 {
			in.stash(in.head[:in.ahead])
			in.ahead = 0
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
		if err := in.more(r); err != nil {
			return 0, nil, unexpected(err, len(in.rest))
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
