package upstream

import (
	"fmt"
	"net"
	"strings"
)

// A Mode is what a profile says about the proxy on the way to the gateway: its element ProxySettings.
type Mode string

const (
	// Native is the proxy of the machine: that of the environment or of the desktop. It is the default.
	Native Mode = "Native"
	// Ignore is no proxy, whatever the machine says.
	Ignore Mode = "IgnoreProxy"
	// Override is the proxy that the profile names.
	Override Mode = "Override"
)

// Sources are all that have a say in which proxy leads to a gateway. The zero Sources means none.
type Sources struct {
	// Gateway is where to connect to, as host:port.
	Gateway string

	// Explicit is the address of a proxy that the user has named, and None says that the user wants none; not both.
	Explicit string
	None     bool

	// Mode is ProxySettings of the profile; empty means Native. Public is its child PublicProxyServerAddress. Locked and
	// PublicLocked say that the user must not choose otherwise (UserControllable="false" of either element).
	Mode                 Mode
	Public               string
	Locked, PublicLocked bool

	// NoLocal forbids a proxy on this machine: AllowLocalProxyConnections="false" of the profile. Set it in the Dialer too, since
	// a name may lead here.
	NoLocal bool

	// Getenv reads the environment: https_proxy, all_proxy and no_proxy, in lower or upper case. Nil means that there is none.
	Getenv func(name string) string

	// Desktop is what the desktop's settings say. The environment comes before it.
	Desktop Desktop
}

// A Desktop is what the settings of a desktop say about proxies. The zero Desktop says nothing.
type Desktop struct {
	// Name is what the settings are called, for people.
	Name string
	// HTTPS and SOCKS are proxies as host:port, or empty. The first is for connections to https, by CONNECT.
	HTTPS, SOCKS string
	// Except are names, addresses and prefixes that are reached without a proxy, in the form that no_proxy has.
	Except []string
	// Automatic says that a PAC file decides, whose address is PAC, or which is to be discovered.
	Automatic bool
	PAC       string
}

// A Choice says how to reach the gateway.
type Choice struct {
	// Proxy is nil for a direct connection.
	Proxy *Proxy
	// Reason names the source that has decided, for a person to read. It holds no password.
	Reason string
}

// String says which way and why.
func (c Choice) String() string {
	if c.Proxy == nil {
		return "direct: " + c.Reason
	}
	return c.Proxy.String() + ": " + c.Reason
}

// Choose decides which proxy leads to the gateway, or none:
//
//   - The user's word counts, unless the profile says IgnoreProxy or Override and does not let the user choose.
//   - Then the profile's, if it says IgnoreProxy or Override.
//   - Then, with Native: https_proxy, all_proxy, and the desktop, in this order. What no_proxy or the desktop excepts is reached
//     directly, and so are gateways on this machine.
//
// Errors match [ErrAddress] for an address that is none, [ErrLocked], [ErrLocal], or [ErrPAC] where only a PAC file could
// tell. They name the setting and hold no password.
func Choose(s Sources) (Choice, error) {
	choice, err := s.choose()
	if err != nil {
		return Choice{}, fmt.Errorf("proxy: %w", err)
	}
	if choice.Proxy != nil && s.NoLocal && choice.Proxy.Local() {
		return Choice{}, fmt.Errorf("proxy %s (%s): %w", choice.Proxy, choice.Reason, ErrLocal)
	}
	return choice, nil
}

func (s *Sources) choose() (Choice, error) {
	host, port, err := net.SplitHostPort(s.Gateway)
	if err != nil {
		return Choice{}, fmt.Errorf("%w: the gateway is not host:port", ErrAddress)
	}
	switch s.Mode {
	case "", Native, Ignore, Override:
	default:
		return Choice{}, fmt.Errorf("%w: ProxySettings is none of Native, IgnoreProxy and Override", ErrAddress)
	}
	if s.Explicit != "" && s.None {
		return Choice{}, fmt.Errorf("%w: a proxy is named, and none is wanted", ErrAddress)
	}
	if s.Explicit != "" {
		return s.explicit()
	}
	if s.None {
		if s.Mode == Override && s.Locked {
			return Choice{}, fmt.Errorf("%w: ProxySettings of the profile is Override, so there must be a proxy", ErrLocked)
		}
		return Choice{Reason: "the user wants none"}, nil
	}
	switch s.Mode {
	case Ignore:
		return Choice{Reason: "ProxySettings of the profile is IgnoreProxy"}, nil
	case Override:
		if s.Public == "" {
			return Choice{}, fmt.Errorf("%w: ProxySettings of the profile is Override, but PublicProxyServerAddress is empty: name the proxy", ErrAddress)
		}
		return chosen("PublicProxyServerAddress", s.Public, "ProxySettings of the profile is Override")
	}
	return s.native(host, port)
}

// explicit takes the proxy that the user has named.
func (s *Sources) explicit() (Choice, error) {
	choice, err := chosen("the proxy named by the user", s.Explicit, "named by the user")
	if err != nil {
		return choice, err
	}
	switch {
	case s.Mode == Ignore && s.Locked:
		return Choice{}, fmt.Errorf("%w: ProxySettings of the profile is IgnoreProxy, so there must be no proxy", ErrLocked)
	case s.Mode == Override && s.Locked && s.PublicLocked:
		// The same proxy may be named again, with the user and password that a profile cannot have.
		public, err := Parse(s.Public)
		if err != nil {
			return Choice{}, fmt.Errorf("PublicProxyServerAddress of the profile: %w", err)
		}
		if !strings.EqualFold(public.Host, choice.Proxy.Host) || public.Port != choice.Proxy.Port || public.Scheme != choice.Proxy.Scheme {
			return Choice{}, fmt.Errorf("%w: PublicProxyServerAddress of the profile is %s", ErrLocked, public)
		}
	}
	return choice, nil
}

// native takes the proxy of the machine.
func (s *Sources) native(host, port string) (Choice, error) {
	if loopback(host) {
		return Choice{Reason: "the gateway is on this machine"}, nil
	}
	getenv := s.Getenv
	if getenv == nil {
		getenv = func(string) string { return "" }
	}
	for _, name := range []string{"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"} {
		text := getenv(name)
		if text == "" {
			continue
		}
		for _, no := range []string{"no_proxy", "NO_PROXY"} {
			if list := getenv(no); list != "" {
				if rule, ok := excepted(host, port, split(list)); ok {
					return Choice{Reason: fmt.Sprintf("%s excepts the gateway (%s)", no, printable(rule, 80))}, nil
				}
				break // as curl does, the second is not looked at
			}
		}
		return chosen(name, text, name+" of the environment")
	}
	d := s.Desktop
	name := d.Name
	if name == "" {
		name = "the desktop"
	}
	if !d.Automatic && d.HTTPS == "" && d.SOCKS == "" {
		return Choice{Reason: "nothing names a proxy"}, nil
	}
	if rule, ok := excepted(host, port, d.Except); ok {
		return Choice{Reason: fmt.Sprintf("%s excepts the gateway (%s)", name, printable(rule, 80))}, nil
	}
	switch {
	case d.Automatic && d.PAC != "":
		return Choice{}, fmt.Errorf("the settings of %s name the PAC file %s: %w", name, printable(withoutUser(d.PAC), 200), ErrPAC)
	case d.Automatic:
		return Choice{}, fmt.Errorf("the settings of %s want a PAC file to be discovered: %w", name, ErrPAC)
	case d.HTTPS != "":
		return chosen("the settings of "+name, d.HTTPS, "the settings of "+name)
	}
	return chosen("the settings of "+name, "socks5://"+d.SOCKS, "the settings of "+name)
}

// withoutUser takes the user and password out of a URL.
func withoutUser(u string) string {
	scheme, rest, ok := strings.Cut(u, "://")
	if !ok {
		return u
	}
	authority := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority = rest[:i]
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		rest = rest[i+1:]
	}
	return scheme + "://" + rest
}

func chosen(where, text, reason string) (Choice, error) {
	p, err := Parse(text)
	if err != nil {
		return Choice{}, fmt.Errorf("%s: %w", where, err)
	}
	return Choice{Proxy: p, Reason: reason}, nil
}
