// Package proxysettings gives the programs of a desktop the web proxy that a gateway wants them to use while a tunnel is up, and
// puts back what was there before.
//
//	config, err := proxysettings.New(lease.Proxy.Method, lease.Proxy.Server, lease.Proxy.PACURL, lease.Proxy.Exceptions, lease.Proxy.Lockdown)
//	...
//	sessions, err := proxysettings.Sessions()
//	...
//	d := proxysettings.Open(proxysettings.Options{Session: sessions[0]})
//	err = d.Apply(ctx, config, journal.Append)
//
// On Linux the settings are those of GNOME and of the desktops that share them: org.gnome.system.proxy, which browsers and
// GLib programs obey. They are in the dconf database of the user. It is read from its file, since dconf-service has no
// method that reads, and only the file tells a key that the user has set from one that has its default: the program gsettings
// cannot, and could not put an unset key back. It is written by dconf-service on the user's session bus, which is what makes
// running programs notice. A process of root works on the session of another user with that user's identity.
//
// For macOS and Windows there are [MacPlan] and [WindowsPlan], which only say what to run.
//
// # Lockdown
//
// A gateway may want the user not to change the proxy during the session. A user can always change a database of their own,
// so that needs one of the administrator's, with locks. It is used where the administrator has made room for it, once, by the line
//
//	system-db:culvert
//
// in /etc/dconf/profile/user; then the settings are locked for all users of the machine while the tunnel is up, if the process may
// write /etc/dconf/db/culvert. Otherwise [Desktop.Status] says that lockdown is not applicable, and why. Keys that the
// administrator has locked by other means stay as the administrator has set them.
//
// # Undoing
//
// Before each change Apply hands the caller a record of what it takes to undo it. [Desktop.Undo] with that record works in any
// process, any number of times, whether or not the change was made. What somebody else has changed since is left, with ErrChanged.
package proxysettings

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// The kinds of errors, for errors.Is. With each of them from Apply the settings are as they were.
var (
	// ErrInvalid means that a Config, a database or an undo record cannot be used as it is. The error names the field.
	ErrInvalid = errors.New("proxysettings: invalid")
	// ErrUnavailable means that there is no session bus or no dconf-service on it. Undo is to be tried again when the
	// user has logged in.
	ErrUnavailable = errors.New("proxysettings: the settings of the desktop cannot be reached")
	// ErrPermission means that the process may not act for that user.
	ErrPermission = errors.New("proxysettings: not permitted")
	// ErrLocked means that the administrator of the machine has locked the proxy settings, which therefore stay.
	ErrLocked = errors.New("proxysettings: locked by the administrator of this machine")
	// ErrChanged means that somebody else has changed the settings since, so that they were left as they are.
	ErrChanged = errors.New("proxysettings: changed by somebody else since, and left as they are")
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}

// A Method says how programs find their proxy.
type Method int

const (
	// NoModify leaves the settings as they are.
	NoModify Method = iota
	// None is no proxy.
	None
	// Auto is a PAC file: the one that is named, or else one that programs discover.
	Auto
	// Manual is the proxies that are named.
	Manual
)

// String returns the word that gateways have for it.
func (m Method) String() string {
	switch m {
	case NoModify:
		return "no-modify"
	case None:
		return "no-proxy"
	case Auto:
		return "auto"
	case Manual:
		return "use-server"
	}
	return fmt.Sprintf("Method(%d)", int(m))
}

// A Config says what the settings shall be. Make it with [New].
type Config struct {
	Method Method
	// PAC is the URL of a PAC file, for Auto.
	PAC string
	// HTTP, HTTPS and SOCKS are proxies as host:port, for Manual. Those that are empty are not used.
	HTTP, HTTPS, SOCKS string
	// Exceptions are names, *.domains, addresses and prefixes that are reached without the proxy, for Manual.
	Exceptions []string
	// Short says that names without a dot are exceptions too.
	Short bool
	// Lockdown says that the user must not change the settings.
	Lockdown bool
}

// Bounds on what a gateway may say.
const (
	maxServer     = 1024
	maxURL        = 2048
	maxExceptions = 512
)

// New makes a Config of what a gateway says in X-CSTP-MSIE-Proxy-Method, -Server, -PAC-URL, -Exception and -Lockdown. Without a
// method, a PAC file or server that is named is to be used. Nothing of it is trusted: errors match [ErrInvalid] and name the header.
//
// Lockdown also holds where the gateway names a proxy of its own, whatever it says about lockdown itself: otherwise the user
// could go around it.
func New(method, server, pac string, exceptions []string, lockdown bool) (Config, error) {
	c := Config{Lockdown: lockdown}
	word := strings.ToLower(strings.NewReplacer("_", "-", " ", "-").Replace(strings.TrimSpace(method)))
	switch word {
	case "no-modify":
		return c, nil
	case "no-proxy", "none", "direct":
		c.Method = None
	case "auto-detect", "auto", "wpad":
		c.Method = Auto
	case "use-pac-url", "pac":
		if pac == "" {
			return c, invalid("X-CSTP-MSIE-Proxy-Method is %s, but there is no X-CSTP-MSIE-Proxy-PAC-URL", word)
		}
		c.Method = Auto
	case "use-server", "manual":
		if server == "" {
			return c, invalid("X-CSTP-MSIE-Proxy-Method is %s, but there is no X-CSTP-MSIE-Proxy-Server", word)
		}
		c.Method = Manual
	case "":
		switch {
		case pac != "":
			c.Method = Auto
		case server != "":
			c.Method = Manual
		}
	default:
		return c, invalid("X-CSTP-MSIE-Proxy-Method: %.32q is none of no-modify, no-proxy, auto-detect, use-server and use-pac-url", word)
	}
	switch {
	case c.Method == Auto && pac != "" && word != "auto-detect" && word != "wpad":
		if err := checkPAC(pac); err != nil {
			return c, invalid("X-CSTP-MSIE-Proxy-PAC-URL: %w", err)
		}
		c.PAC, c.Lockdown = pac, true
	case c.Method == Manual:
		if err := c.servers(server); err != nil {
			return c, invalid("X-CSTP-MSIE-Proxy-Server: %w", err)
		}
		if err := c.except(exceptions); err != nil {
			return c, invalid("X-CSTP-MSIE-Proxy-Exception: %w", err)
		}
		c.Lockdown = true
	}
	return c, nil
}

func checkPAC(text string) error {
	if len(text) > maxURL {
		return fmt.Errorf("longer than %d bytes", maxURL)
	}
	for i := range len(text) {
		if text[i] <= ' ' || text[i] >= 0x7f || strings.IndexByte("\"'`<>\\^{|}", text[i]) >= 0 {
			return fmt.Errorf("the character %q, which is in no URL", rune(text[i]))
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil {
		return errors.New("not an URL with a host and without a user")
	}
	// A file of this machine is none of the gateway's business.
	if s := strings.ToLower(u.Scheme); s != "http" && s != "https" {
		return fmt.Errorf("the scheme %.16q is neither http nor https", s)
	}
	return checkName(u.Hostname())
}

// servers takes HOST:PORT for all protocols, or PROTOCOL=HOST:PORT for some, separated by semicolons, as Windows has it.
func (c *Config) servers(text string) error {
	if len(text) > maxServer {
		return fmt.Errorf("longer than %d bytes", maxServer)
	}
	for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ';' || r == ' ' }) {
		protocol, server, ok := strings.Cut(part, "=")
		if !ok {
			protocol, server = "", part
		}
		server = strings.TrimSuffix(strings.TrimPrefix(server, "http://"), "/")
		host, port, err := net.SplitHostPort(server)
		if err != nil {
			// ASA takes a server without a port, which is that of http then.
			host, port = strings.Trim(server, "[]"), "80"
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("the port %.16q is not a number between 1 and 65535", port)
		}
		if err := checkName(host); err != nil {
			return err
		}
		server = net.JoinHostPort(host, port)
		switch strings.ToLower(protocol) {
		case "":
			c.HTTP, c.HTTPS = server, server
		case "http":
			c.HTTP = server
		case "https":
			c.HTTPS = server
		case "socks":
			c.SOCKS = server
		case "ftp", "gopher":
			// Browsers have left these.
		default:
			return fmt.Errorf("the protocol %.16q is none of http, https, ftp and socks", protocol)
		}
	}
	if c.HTTP == "" && c.HTTPS == "" && c.SOCKS == "" {
		return errors.New("it names no server")
	}
	return nil
}

// except takes the exceptions, in the form that Windows has: names, *.domain, 10.* and <local>.
func (c *Config) except(list []string) error {
	if len(list) > maxExceptions {
		return fmt.Errorf("more than %d entries", maxExceptions)
	}
	for _, e := range list {
		e = strings.ToLower(strings.TrimSpace(e))
		if e == "" {
			continue
		}
		if e == "<local>" {
			c.Short = true
			continue
		}
		e = strings.TrimPrefix(strings.TrimPrefix(e, "http://"), "https://")
		if p, ok := wildcardPrefix(e); ok {
			c.Exceptions = append(c.Exceptions, p.String())
			continue
		}
		if p, err := netip.ParsePrefix(e); err == nil {
			c.Exceptions = append(c.Exceptions, p.Masked().String())
			continue
		}
		bare := strings.TrimPrefix(strings.TrimPrefix(e, "*"), ".")
		if err := checkName(strings.Trim(bare, "[]")); err != nil {
			return err
		}
		if bare != e {
			e = "*." + bare
		}
		if !slices.Contains(c.Exceptions, e) {
			c.Exceptions = append(c.Exceptions, e)
		}
	}
	return nil
}

// wildcardPrefix takes 10.* and 192.168.*.* for the prefixes that they are.
func wildcardPrefix(s string) (netip.Prefix, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Prefix{}, false
	}
	var a [4]byte
	n := 0
	for n < len(parts) && parts[n] != "*" {
		b, err := strconv.ParseUint(parts[n], 10, 8)
		if err != nil {
			return netip.Prefix{}, false
		}
		a[n] = byte(b)
		n++
	}
	if n == 0 || n == len(parts) || slices.ContainsFunc(parts[n:], func(p string) bool { return p != "*" }) {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(netip.AddrFrom4(a), 8*n), true
}

// checkName refuses what is neither a name of a host nor an address.
func checkName(host string) error {
	if a, err := netip.ParseAddr(host); err == nil && a.Zone() == "" {
		return nil
	}
	if host == "" || len(host) > 253 || host[0] == '-' {
		return fmt.Errorf("%.64q is no name of a host", host)
	}
	for i := range len(host) {
		c := host[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return fmt.Errorf("%.64q is no name of a host", host)
		}
	}
	return nil
}

// check looks at a Config that New may not have made.
func (c Config) check() error {
	switch c.Method {
	case NoModify, None:
	case Auto:
		if c.PAC != "" {
			if err := checkPAC(c.PAC); err != nil {
				return invalid("PAC: %w", err)
			}
		}
	case Manual:
		if c.HTTP == "" && c.HTTPS == "" && c.SOCKS == "" {
			return invalid("Manual names no proxy")
		}
		for _, s := range []string{c.HTTP, c.HTTPS, c.SOCKS} {
			if s == "" {
				continue
			}
			var other Config
			if err := other.servers(s); err != nil || other.HTTP != s {
				return invalid("%.64q is not host:port", s)
			}
		}
		var other Config
		if err := other.except(c.Exceptions); err != nil || !slices.Equal(other.Exceptions, c.Exceptions) || other.Short {
			return invalid("Exceptions: want names, *.domains, addresses and prefixes, each once")
		}
	default:
		return invalid("Method: %v", c.Method)
	}
	return nil
}

// hostPort takes apart what check has looked at.
func hostPort(s string) (string, int) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0
	}
	n, _ := strconv.Atoi(port)
	return host, n
}
