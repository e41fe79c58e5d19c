//go:build !linux && !darwin && !windows

package dtls

import (
	"errors"
	"net"
	"syscall"
)

// tune gives the socket room for the datagrams of a moment. How to set DF is not known here: the path may fragment.
func tune(conn *net.UDPConn) error {
	conn.SetReadBuffer(socketBuffer)
	conn.SetWriteBuffer(socketBuffer)
	return nil
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

func isMessageSize(err error) bool { return errors.Is(err, syscall.EMSGSIZE) }

func isTransient(err error) bool { return errors.Is(err, syscall.ENOBUFS) }
