package split

import "net/netip"

// MaxPrefixes and MaxNames bound what a [Config] may hold in all its lists together: prefixes and addresses, and domain
// suffixes. A Config with more is refused, because a list of that length is a mistake or an attack.
const (
	MaxPrefixes = 1 << 18
	MaxNames    = 1 << 15
)

// Rules are lists of destinations that somebody wants inside or outside of the tunnel.
type Rules struct {
	// Include are the destinations that belong to the tunnel, Exclude those that stay outside of it. Prefixes need not be
	// masked. The mark for local networks (see [IsLocalLAN]) is no destination and means nothing here.
	Include, Exclude []netip.Prefix

	// DynamicInclude and DynamicExclude are domain suffixes whose names lie inside or outside of the tunnel whatever their
	// addresses are. They match whole labels: corp.example is a suffix of itself and of git.corp.example, not of
	// evilcorp.example. A leading "*." or "." means nothing. Other than ASCII letters are written as in DNS (xn--...).
	DynamicInclude, DynamicExclude []string
}

// Config is what a [Table] is made from: the part of a lease that says where destinations lie, and what the user says of
// them. The zero Config has no tunnel, and sends nothing anywhere.
type Config struct {
	// Addresses are the inner addresses with their on-link prefix. A family without one cannot use the tunnel. Where
	// Include names networks, the on-link prefixes belong to the tunnel too.
	Addresses []netip.Prefix

	// Include are the destinations that belong to the tunnel. A family without any belongs to it as a whole.
	Include []netip.Prefix

	// Exclude are the destinations that stay outside of the tunnel. The mark for local networks (see [IsLocalLAN]) means
	// nothing here: who finds it fills in LocalLAN.
	Exclude []netip.Prefix

	// OnLinkFirst keeps the on-link prefixes of Addresses in the tunnel whatever Exclude says of destinations within them, as
	// Cisco's client does. Otherwise a longer prefix of Exclude takes its destinations out, as with openconnect.
	OnLinkFirst bool

	// LocalLAN are the networks that the machine is directly connected to, if they are to stay outside of the tunnel.
	// Which networks those are is the word of whoever runs the network here, such as a stranger's access point, who may
	// claim the addresses of any service to have its traffic sent past the tunnel. So only networks of addresses that are
	// not public count, unless PublicLAN is set.
	LocalLAN []netip.Prefix

	// PublicLAN lets networks of public addresses in LocalLAN stay outside of the tunnel, too.
	PublicLAN bool

	// DNS are the servers that are asked through the tunnel; they are reached through it whatever Include and Exclude say.
	DNS []netip.Addr

	// Gateway are the outer addresses of the gateway, which are never reached through the tunnel that they carry.
	Gateway []netip.Addr

	// DynamicInclude and DynamicExclude are the gateway's domain suffixes, as in [Rules].
	DynamicInclude, DynamicExclude []string

	// Bypass lets a family without an inner address out directly; otherwise its packets go nowhere.
	Bypass bool

	// User are the user's own rules. They narrow or widen what the gateway says: whatever one of them covers is the user's,
	// even where the gateway has a longer prefix or suffix. To take only one network from a gateway that wants everything,
	// the user excludes 0.0.0.0/0 and ::/0 and includes the network. Whether a user may have rules is not decided here.
	User Rules
}

// IsLocalLAN reports whether p is the mark by which a list of excludes means the networks that the client is directly
// connected to: 0.0.0.0/255.255.255.255, or ::/128 for IPv6.
func IsLocalLAN(p netip.Prefix) bool {
	return p.IsSingleIP() && p.Addr().Unmap().IsUnspecified()
}

// size returns how many prefixes and addresses, and how many domain suffixes, are in all lists of cfg.
func (cfg *Config) size() (prefixes, names int) {
	for _, list := range [...][]netip.Prefix{cfg.Addresses, cfg.Include, cfg.Exclude, cfg.LocalLAN, cfg.User.Include, cfg.User.Exclude} {
		prefixes += len(list)
	}
	for _, list := range [...][]string{cfg.DynamicInclude, cfg.DynamicExclude, cfg.User.DynamicInclude, cfg.User.DynamicExclude} {
		names += len(list)
	}
	return prefixes + len(cfg.DNS) + len(cfg.Gateway), names
}

// public reports whether p has an address that may be somebody's on the Internet. It leaves out what RFC 6890 and its
// companions set aside for private, shared and link-local use, and for tests and documentation.
func public(p netip.Prefix) bool {
	bits := 0 // of the block that the first address of p is in
	if a := p.Addr(); a.Is4() {
		switch b := a.As4(); {
		case b[0] == 10:
			bits = 8
		case b[0] == 172 && b[1]&0xf0 == 16:
			bits = 12
		case b[0] == 192 && b[1] == 168, b[0] == 169 && b[1] == 254:
			bits = 16
		case b[0] == 100 && b[1]&0xc0 == 64:
			bits = 10
		case b[0] == 198 && b[1]&0xfe == 18:
			bits = 15
		case b[0] == 192 && b[1] == 0 && b[2] == 2, b[0] == 198 && b[1] == 51 && b[2] == 100, b[0] == 203 && b[1] == 0 && b[2] == 113:
			bits = 24
		}
	} else {
		switch b := a.As16(); {
		case b[0]&0xfe == 0xfc:
			bits = 7
		case b[0] == 0xfe && b[1]&0xc0 == 0x80:
			bits = 10
		case b[0] == 0x20 && b[1] == 0x01 && b[2] == 0x0d && b[3] == 0xb8:
			bits = 32
		}
	}
	return bits == 0 || p.Bits() < bits
}

// internal reports whether a belongs to a private network, so that it means another machine inside of the tunnel than outside.
func internal(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLinkLocalUnicast() || a.Is4() && a.As4()[0] == 100 && a.As4()[1]&0xc0 == 64
}
