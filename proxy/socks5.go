package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"
)

const socks5Version = 5

// Methods (RFC 1928 section 3) and the version of the negotiation of RFC 1929.
const (
	methodNone         = 0x00
	methodPassword     = 0x02
	methodUnacceptable = 0xff

	passwordVersion = 1
)

// Commands (RFC 1928 section 4).
const (
	cmdConnect   = 1
	cmdBind      = 2
	cmdAssociate = 3
)

// Address types (RFC 1928 section 5).
const (
	atypIPv4   = 1
	atypDomain = 3
	atypIPv6   = 4
)

// Replies (RFC 1928 section 6).
const (
	repSucceeded = iota
	repFailed
	repNotAllowed
	repNetUnreachable
	repHostUnreachable
	repRefused
	repTTLExpired
	repCommand
	repAddressType
)

var (
	errAddressType = errors.New("SOCKS5 address type is neither IPv4, IPv6 nor domain name")
	errName        = errors.New("destination name is empty or has characters that no name has")
	errPort        = errors.New("destination port is 0")
)

// socks5 serves a client whose version byte has been read. All reads are exact, so that nothing is left in a buffer when
// the connection is handed to relay.
func (s *Server) socks5(c *client) error {
	if err := s.socks5Login(c.Conn); err != nil {
		return err
	}
	cmd, dst, err := readRequest(c.Conn)
	if err != nil {
		switch {
		case errors.Is(err, errAddressType):
			reply(c.Conn, repAddressType, nil)
		case errors.Is(err, errName), errors.Is(err, errPort):
			reply(c.Conn, repFailed, nil)
		}
		return err
	}
	switch cmd {
	case cmdConnect:
		if dst.port == 0 {
			reply(c.Conn, repFailed, nil)
			return errPort
		}
		c.SetDeadline(time.Time{})
		t, err := s.dial(s.ctx, "tcp", dst.String())
		if err != nil {
			return errors.Join(err, reply(c.Conn, reasonOf(err).socks5(), nil))
		}
		c.SetWriteDeadline(time.Now().Add(s.HandshakeTimeout))
		if err := reply(c.Conn, repSucceeded, t.LocalAddr()); err != nil {
			t.Close()
			return err
		}
		c.SetDeadline(time.Time{})
		return s.relay(c.Conn, t)
	case cmdAssociate:
		return s.associate(c, dst)
	default:
		reply(c.Conn, repCommand, nil)
		return fmt.Errorf("SOCKS5 command %d is not supported", cmd)
	}
}

// socks5Login agrees on a method and checks the password if there is one to check.
func (s *Server) socks5Login(c net.Conn) error {
	methods, err := readMethods(c)
	if err != nil {
		return err
	}
	var none, password bool
	for _, m := range methods {
		none = none || m == methodNone
		password = password || m == methodPassword
	}
	switch {
	case none && s.Auth == nil:
		_, err := c.Write([]byte{socks5Version, methodNone})
		return err
	case !password:
		c.Write([]byte{socks5Version, methodUnacceptable})
		return errors.New("SOCKS5 client offers no acceptable method of authentication")
	}
	// Without Auth this still accepts a client that insists on sending a password.
	if _, err := c.Write([]byte{socks5Version, methodPassword}); err != nil {
		return err
	}
	user, pass, err := readPassword(c)
	if err != nil {
		return err
	}
	if !s.allowed(user, pass) {
		c.Write([]byte{passwordVersion, 1})
		return errors.New("SOCKS5 user name or password is wrong")
	}
	_, err = c.Write([]byte{passwordVersion, 0})
	return err
}

// readMethods reads the rest of the first message, behind the version.
func readMethods(r io.Reader) ([]byte, error) {
	var buf [255]byte
	if _, err := io.ReadFull(r, buf[:1]); err != nil {
		return nil, err
	}
	methods := buf[:buf[0]]
	_, err := io.ReadFull(r, methods)
	return methods, err
}

// readPassword reads the message of RFC 1929.
func readPassword(r io.Reader) (user, password string, err error) {
	var buf [255]byte
	if _, err := io.ReadFull(r, buf[:1]); err != nil {
		return "", "", err
	}
	if buf[0] != passwordVersion {
		return "", "", fmt.Errorf("SOCKS5 password message of version %d, not %d", buf[0], passwordVersion)
	}
	for _, s := range []*string{&user, &password} {
		if _, err := io.ReadFull(r, buf[:1]); err != nil {
			return "", "", err
		}
		b := buf[:buf[0]]
		if _, err := io.ReadFull(r, b); err != nil {
			return "", "", err
		}
		*s = string(b)
	}
	return user, password, nil
}

// A target is a destination as the client named it: an IP address, or a name.
type target struct {
	addr netip.Addr // the zero Addr if there is a name
	name string
	port uint16
}

// String returns host:port.
func (t target) String() string {
	host := t.name
	if t.addr.IsValid() {
		host = t.addr.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(t.port)))
}

// readRequest reads a SOCKS5 request.
func readRequest(r io.Reader) (cmd byte, dst target, err error) {
	var buf [3 + 2 + 255 + 2]byte
	// The first bytes tell the length of the address: version, command, reserved, type, and one byte of any address.
	if _, err := io.ReadFull(r, buf[:5]); err != nil {
		return 0, target{}, err
	}
	if buf[0] != socks5Version {
		return 0, target{}, fmt.Errorf("SOCKS5 request has version %d", buf[0])
	}
	n, err := addressLen(buf[3:5])
	if err != nil {
		return buf[1], target{}, err
	}
	if _, err := io.ReadFull(r, buf[5:3+n]); err != nil {
		return 0, target{}, err
	}
	dst, _, err = parseAddress(buf[3 : 3+n])
	return buf[1], dst, err
}

// addressLen returns how many bytes an address has from its type to its port, from its first two bytes.
func addressLen(b []byte) (int, error) {
	switch b[0] {
	case atypIPv4:
		return 1 + 4 + 2, nil
	case atypIPv6:
		return 1 + 16 + 2, nil
	case atypDomain:
		return 1 + 1 + int(b[1]) + 2, nil
	}
	return 0, errAddressType
}

// parseAddress parses type, address and port, and returns the rest of b.
func parseAddress(b []byte) (t target, rest []byte, err error) {
	if len(b) < 2 {
		return target{}, nil, io.ErrUnexpectedEOF
	}
	n, err := addressLen(b)
	if err != nil {
		return target{}, nil, err
	}
	if len(b) < n {
		return target{}, nil, io.ErrUnexpectedEOF
	}
	t.port = binary.BigEndian.Uint16(b[n-2:])
	switch b[0] {
	case atypDomain:
		t.name = string(b[2 : n-2])
		// Clients that have no notion of the types send literals as names.
		if addr, ok := parseAddr(t.name); ok {
			t.addr, t.name = addr, ""
		} else if !validName(t.name) {
			return target{}, nil, errName
		}
	default:
		addr, _ := netip.AddrFromSlice(b[1 : n-2])
		t.addr = addr.Unmap()
	}
	return t, b[n:], nil
}

// parseAddr parses an IP address. Zones mean nothing on the far side, so an address with one is none.
func parseAddr(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	return addr.Unmap(), err == nil && addr.Zone() == ""
}

// validName reports whether a name can be handed to Dial without being taken for anything else. It is not the place to
// judge whether the name is one of a host.
func validName(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ', c == 0x7f, c == ':', c == '[', c == ']', c == '/', c == '%', c == '@', c == '\\':
			return false
		}
	}
	return true
}

// appendAddress appends type, address and port. An address that is no IP address becomes 0.0.0.0:0, which clients take for
// "not told".
func appendAddress(b []byte, a net.Addr) []byte {
	ap := addrPort(a)
	addr := ap.Addr().Unmap()
	if !addr.IsValid() {
		addr = netip.IPv4Unspecified()
	}
	if addr.Is4() {
		b = append(b, atypIPv4)
	} else {
		b = append(b, atypIPv6)
	}
	b = append(b, addr.AsSlice()...)
	return binary.BigEndian.AppendUint16(b, ap.Port())
}

// addrPort returns the address and port of a, or the zero AddrPort if it has none.
func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case nil:
		return netip.AddrPort{}
	case *net.TCPAddr:
		return a.AddrPort()
	case *net.UDPAddr:
		return a.AddrPort()
	}
	ap, _ := netip.ParseAddrPort(a.String())
	return ap
}

// reply writes a SOCKS5 reply.
func reply(w io.Writer, rep byte, bound net.Addr) error {
	_, err := w.Write(appendAddress([]byte{socks5Version, rep, 0}, bound))
	return err
}
