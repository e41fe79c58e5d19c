package dns

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
