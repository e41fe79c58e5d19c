package main

import "net"

// sameUser returns l without connections of others than root and the user of this process.
func sameUser(l net.Listener) net.Listener { return &userListener{l} }

type userListener struct{ net.Listener }

// Accept implements net.Listener.
func (l *userListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || trustedPeer(c) {
			return c, err
		}
		c.Close()
	}
}
