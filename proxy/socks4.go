package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
)

const socks4Version = 4

// Replies of SOCKS4.
const (
	granted4  = 90
	rejected4 = 91
)

// socks4 serves a client of SOCKS4 or 4a whose version byte has been read. The protocol has no password, so where one is
// needed nobody gets in by it.
func (s *Server) socks4(c *client) error {
	dst, err := readRequest4(c.Conn)
	if err == nil && s.Auth != nil {
		err = errors.New("SOCKS4 client cannot send the password that is needed")
	}
	if err != nil {
		reply4(c.Conn, rejected4)
		return err
	}
	c.SetDeadline(time.Time{})
	t, err := s.dial(s.ctx, "tcp", dst.String())
	if err != nil {
		return errors.Join(err, reply4(c.Conn, rejected4))
	}
	if err := reply4(c.Conn, granted4); err != nil {
		t.Close()
		return err
	}
	return s.relay(c.Conn, t)
}

// readRequest4 reads a request behind its version byte.
func readRequest4(r io.Reader) (dst target, err error) {
	var buf [7]byte
	if _, err := io.ReadFull(r, buf[:]); err != nil {
		return target{}, err
	}
	if buf[0] != cmdConnect {
		return target{}, fmt.Errorf("SOCKS4 command %d is not supported", buf[0])
	}
	dst.port = binary.BigEndian.Uint16(buf[1:])
	dst.addr = netip.AddrFrom4([4]byte(buf[3:]))
	if _, err := readString4(r); err != nil { // the user's name, which nothing vouches for
		return target{}, err
	}
	// 0.0.0.x, with x not 0, says that a name follows (SOCKS4a).
	if a := dst.addr.As4(); a[0] == 0 && a[1] == 0 && a[2] == 0 && a[3] != 0 {
		dst.addr = netip.Addr{}
		if dst.name, err = readString4(r); err != nil {
			return target{}, err
		}
		if addr, ok := parseAddr(dst.name); ok {
			dst.addr, dst.name = addr, ""
		} else if !validName(dst.name) {
			return target{}, errName
		}
	}
	if dst.port == 0 {
		return target{}, errPort
	}
	return dst, nil
}

// readString4 reads a string that ends with a zero byte, byte by byte so as not to read what comes behind it.
func readString4(r io.Reader) (string, error) {
	var s []byte
	for one := make([]byte, 1); ; s = append(s, one[0]) {
		if _, err := io.ReadFull(r, one); err != nil {
			return "", err
		}
		if one[0] == 0 {
			return string(s), nil
		}
		if len(s) == 255 {
			return "", errors.New("SOCKS4 string of more than 255 bytes")
		}
	}
}

func reply4(w io.Writer, code byte) error {
	_, err := w.Write([]byte{0, code, 0, 0, 0, 0, 0, 0})
	return err
}
