package dns

import (
	"fmt"

	wire "github.com/miekg/dns"
)

// padBlock is what the length of an encrypted query is a multiple of, so that it tells nothing about the name (RFC 8467
// section 4.1).
const padBlock = 128

// padded returns the query under another id and padded (RFC 7830), with an OPT record if it had none.
func padded(query []byte, id uint16) ([]byte, error) {
	m := new(wire.Msg)
	if err := m.Unpack(query); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMessage, err)
	}
	m.Id = id
	opt := m.IsEdns0()
	if opt == nil {
		opt = m.SetEdns0(udpSize, false).IsEdns0()
	}
	var keep []wire.EDNS0
	for _, o := range opt.Option {
		if o.Option() != wire.EDNS0PADDING {
			keep = append(keep, o)
		}
	}
	padding := new(wire.EDNS0_PADDING)
	opt.Option = append(keep, padding)
	b, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMessage, err)
	}
	if over := len(b) % padBlock; over > 0 && len(b)+padBlock-over <= maxMessage {
		padding.Padding = make([]byte, padBlock-over)
		if b, err = m.Pack(); err != nil {
			return nil, fmt.Errorf("%w: %v", ErrMessage, err)
		}
	}
	return b, nil
}
