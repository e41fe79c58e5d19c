package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// Numbers of RFC 1928 and RFC 1929.
const (
	socksVersion    = 5
	passwordVersion = 1

	socksNone     = 0x00
	socksPassword = 0x02
	socksNothing  = 0xff

	socksConnect = 1

	socksIPv4 = 1
	socksName = 3
	socksIPv6 = 4
)

// socks makes a connection through a SOCKS5 proxy. All reads are exact, so nothing that belongs to the gateway is
// taken from the connection.
func (d *Dialer) socks(ctx context.Context, network string, to target) (net.Conn, error) {
	conn, err := d.open(ctx, network)
	if err != nil {
		return nil, err
	}
	release := guard(ctx, conn)
	err = d.greet(conn)
	if err == nil {
		err = socksRequest(conn, to)
	}
	if late := release(); late != nil {
		err = late
	}
	if err != nil {
		conn.Close()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: it has closed the connection instead of answering", ErrProtocol)
		}
		return nil, err
	}
	return conn, nil
}

// greet agrees with the proxy on a method (RFC 1928, section 3) and shows the password if that is it (RFC 1929).
func (d *Dialer) greet(conn io.ReadWriter) error {
	hello := []byte{socksVersion, 1, socksNone}
	if d.Proxy.User != "" {
		hello = []byte{socksVersion, 2, socksNone, socksPassword}
	}
	if _, err := conn.Write(hello); err != nil {
		return err
	}
	var answer [2]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if answer[0] != socksVersion {
		return fmt.Errorf("%w: it does not speak SOCKS 5", ErrProtocol)
	}
	switch method := answer[1]; {
	case method == socksNone:
		return nil
	case method == socksPassword && d.Proxy.User != "":
	case method == socksNothing && d.Proxy.User == "":
		return fmt.Errorf("%w: it lets nobody in without a user and password: give them as socks5://USER:PASSWORD@%s", ErrCredentials, d.Proxy.address())
	case method == socksNothing:
		return fmt.Errorf("%w: it takes neither a password nor anybody without one", ErrUnsupported)
	default:
		return fmt.Errorf("%w: it has chosen the method %d, which it was not offered", ErrProtocol, method)
	}
	message := append([]byte{passwordVersion, byte(len(d.Proxy.User))}, d.Proxy.User...)
	message = append(append(message, byte(len(d.Proxy.Password))), d.Proxy.Password.Reveal()...)
	if _, err := conn.Write(message); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	// Some proxies answer with the version of SOCKS.
	if answer[0] != passwordVersion && answer[0] != socksVersion {
		return fmt.Errorf("%w: its answer to the password is none", ErrProtocol)
	}
	if answer[1] != 0 {
		return ErrCredentials
	}
	return nil
}

// socksRequest asks for a connection (RFC 1928, sections 4 to 6).
func socksRequest(conn io.ReadWriter, to target) error {
	request := []byte{socksVersion, socksConnect, 0}
	switch {
	case to.addr.Is4() || to.addr.Is4In6():
		a := to.addr.As4()
		request = append(append(request, socksIPv4), a[:]...)
	case to.addr.Is6():
		a := to.addr.As16()
		request = append(append(request, socksIPv6), a[:]...)
	default:
		request = append(append(request, socksName, byte(len(to.host))), to.host...)
	}
	if _, err := conn.Write(binary.BigEndian.AppendUint16(request, to.port)); err != nil {
		return err
	}
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return err
	}
	if head[0] != socksVersion {
		return fmt.Errorf("%w: it does not speak SOCKS 5", ErrProtocol)
	}
	// A proxy that refuses may leave out what comes after the code.
	if head[1] != 0 {
		return ReplyError(head[1])
	}
	var bound [255 + 2]byte
	size := 0
	switch head[3] {
	case socksIPv4:
		size = 4
	case socksIPv6:
		size = 16
	case socksName:
		if _, err := io.ReadFull(conn, bound[:1]); err != nil {
			return err
		}
		size = int(bound[0])
	default:
		return fmt.Errorf("%w: the address in its answer is of the unknown type %d", ErrProtocol, head[3])
	}
	_, err := io.ReadFull(conn, bound[:size+2])
	return err
}
