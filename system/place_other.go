//go:build !linux

package system

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// A place is where sockets and interfaces are made. On this system there is one only.
type place struct {
	path, name string
	home       bool
}

func here() (*place, error) {
	return nil, fmt.Errorf("system: %w: only Linux can be changed by this program", errors.ErrUnsupported)
}

func named(name string) (*place, error) {
	return nil, fmt.Errorf("system: Namespace: %w: only Linux has network namespaces", errors.ErrUnsupported)
}

// NamespaceName fails: only Linux has network namespaces.
func NamespaceName(namespace string) (string, error) {
	_, err := named(namespace)
	return "", err
}

func (p *place) is(o *place) bool        { return p == o }
func (p *place) close()                  {}
func (p *place) file() *os.File          { return nil }
func (p *place) do(f func() error) error { return f() }

func (p *place) dial(ctx context.Context, network, address string, control func(network, address string, c syscall.RawConn) error) (net.Conn, error) {
	d := net.Dialer{Control: control}
	return d.DialContext(ctx, network, address)
}

func (p *place) index(name string) (int, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return 0, err
	}
	return i.Index, nil
}

func (p *place) loopback() error { return nil }

func (p *place) peers() []netip.Addr { return nil }

func mark(syscall.RawConn, uint32) error { return errors.ErrUnsupported }
func bind(syscall.RawConn, string) error { return errors.ErrUnsupported }
func probe() error                       { return errors.ErrUnsupported }
