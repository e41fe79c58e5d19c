package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"culvert.example/vpn/gateway"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/stack/tun"
)

// An insideRole is the servers behind a gateway: HTTP, and single bytes.
type insideRole struct{ sinkServer }

func (r *insideRole) begin(_ context.Context, req request) (any, error) {
	addr, err := netip.ParseAddr(req.Listen)
	if err != nil {
		return nil, err
	}
	return nil, r.listen(addr, net.Listen)
}

// The user that every gateway here knows.
const user, password = "alice", "pass"

// A gatewayRole is our gateway. With TUN the clients' packets go to the kernel through a device; else its own stack answers them.
type gatewayRole struct {
	sinkServer
	server *gateway.Server
}

// gatewayReply is what gatewayRole says.
type gatewayReply struct {
	Pin   string
	Inner string // the gateway's own address in the tunnel
}

func (r *gatewayRole) begin(_ context.Context, req request) (any, error) {
	listen, err := netip.ParseAddrPort(req.Listen)
	if err != nil {
		return nil, err
	}
	cert, pin, err := gateway.SelfSigned(listen.Addr().String())
	if err != nil {
		return nil, err
	}
	pool := netip.MustParsePrefix("192.168.77.0/24")
	cfg := gateway.Config{
		TLS: &tls.Config{Certificates: []tls.Certificate{cert}},
		Auth: gateway.Passwords(gateway.VerifierFunc(func(_ context.Context, u, p string) error {
			if u != user || p != password {
				return errors.New("unknown user or wrong password")
			}
			return nil
		})),
		Pools:   []netip.Prefix{pool},
		Network: gateway.Network{Routes: []netip.Prefix{netip.MustParsePrefix("172.31.0.0/16"), pool}},
	}
	if req.TUN {
		device, err := tun.Open(tun.Config{})
		if err != nil {
			return nil, err
		}
		if err := setUpTUN(device.Name(), []string{pool.Addr().Next().String() + "/24"}, nil); err != nil {
			device.Close()
			return nil, err
		}
		cfg.Device = packet.Conn(device)
	}
	if r.server, err = gateway.New(cfg); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", req.Listen)
	if err != nil {
		return nil, err
	}
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(listen))
	if err != nil {
		return nil, err
	}
	go r.server.Serve(ln, udp)
	inner := pool.Addr().Next()
	if !req.TUN {
		if err := r.listen(inner, r.server.Listen); err != nil {
			return nil, err
		}
	}
	return gatewayReply{Pin: pin, Inner: inner.String()}, nil
}

func (r *gatewayRole) close() {
	r.sinkServer.close()
	if r.server != nil {
		r.server.Close()
	}
}

// setUpTUN gives a device its addresses and routes and switches it on.
func setUpTUN(dev string, addresses, routes []string) error {
	for _, a := range addresses {
		if err := runIP("address", "add", a, "dev", dev); err != nil {
			return err
		}
	}
	if err := runIP("link", "set", dev, "up"); err != nil {
		return err
	}
	for _, d := range routes {
		if err := runIP("route", "add", d, "dev", dev); err != nil {
			return fmt.Errorf("a route to %s: %w", d, err)
		}
	}
	return nil
}
