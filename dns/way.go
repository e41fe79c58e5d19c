package dns

import "fmt"

// A Way is where the questions for a [Zone] go. The zero Way is Nowhere, so that a zone whose way was forgotten tells
// its names to nobody.
type Way uint8

const (
	// Nowhere: nobody is asked. The names of the zone do not exist.
	Nowhere Way = iota
	// Direct: servers outside of the tunnel are asked.
	Direct
	// Tunnel: servers inside of the tunnel are asked. The names of the zone are told to nobody else.
	Tunnel
)

// String returns nowhere, direct or tunnel.
func (w Way) String() string {
	switch w {
	case Direct:
		return "direct"
	case Tunnel:
		return "tunnel"
	}
	return "nowhere"
}

// MarshalText implements encoding.TextMarshaler.
func (w Way) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (w *Way) UnmarshalText(b []byte) error {
	for _, v := range [...]Way{Nowhere, Direct, Tunnel} {
		if string(b) == v.String() {
			*w = v
			return nil
		}
	}
	return fmt.Errorf("dns: way %.40q: want nowhere, direct or tunnel", b)
}
