package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/stack/tun"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
)

// A tunnelRole is what the roles with a tunnel share.
type tunnelRole struct {
	tunnel *vpn.Tunnel
	path   string // the one that shall carry the traffic
	began  time.Time
}

// dial opens the tunnel.
func (r *tunnelRole) dial(ctx context.Context, req request, device func(*transport.Lease) (packet.Conn, error)) (err error) {
	r.path = "dtls"
	if req.NoDTLS {
		r.path = "tls"
	}
	r.began = time.Now()
	r.tunnel, err = vpn.Dial(ctx, req.Server, &vpn.Config{
		Login: login.Fixed{Username: user, Password: password}, Pins: []string{req.Pin}, NoDTLS: req.NoDTLS, Device: device,
	})
	return err
}

// A pathReply says how a tunnel is carried.
type pathReply struct {
	Path, Cipher string
	MTU          int
	Dialed       time.Time // when vpn.Dial was called
}

// settled waits until the tunnel is on its path.
func (r *tunnelRole) settled(ctx context.Context) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		st := r.tunnel.Status()
		if st.Path == r.path {
			reply := pathReply{Path: st.Path, MTU: st.MTU, Dialed: r.began}
			for _, p := range st.Paths {
				if p.Name == st.Path {
					reply.Cipher = p.Detail
				}
			}
			return reply, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the tunnel is not on %s but on %q", r.path, st.Path)
		case <-r.tunnel.Done():
			return nil, r.tunnel.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (r *tunnelRole) serve(ctx context.Context, req request) (any, error) {
	if req.Op == "settled" {
		return r.settled(ctx)
	}
	return nil, errNoOp
}

func (r *tunnelRole) close() {
	if r.tunnel != nil {
		r.tunnel.Close()
	}
}

// A forwardRole is a Go program that carries connections from local ports through a tunnel.
type forwardRole struct {
	tunnelRole
	listeners []net.Listener
}

func (r *forwardRole) begin(ctx context.Context, req request) (any, error) {
	var targets []string
	for _, f := range req.Forwards {
		port, target, _ := strings.Cut(f, ":")
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			return nil, err
		}
		r.listeners, targets = append(r.listeners, l), append(targets, target)
	}
	if err := r.dial(ctx, req, nil); err != nil {
		return nil, err
	}
	for i, l := range r.listeners {
		go acceptAll(l, func(c net.Conn) { r.forward(ctx, c, targets[i]) })
	}
	return nil, nil
}

// forward joins a local connection with one to the target.
func (r *forwardRole) forward(ctx context.Context, local net.Conn, target string) {
	defer local.Close()
	remote, err := r.tunnel.DialContext(ctx, "tcp", target)
	if err != nil {
		return
	}
	defer remote.Close()
	var both sync.WaitGroup
	both.Go(func() { carry(remote, local) })
	both.Go(func() { carry(local, remote) })
	both.Wait()
}

// carry copies until the end, and passes the end on.
func carry(dst, src net.Conn) {
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		src.Close()
		return
	}
	if w, ok := dst.(interface{ CloseWrite() error }); ok {
		w.CloseWrite()
	}
}

func (r *forwardRole) close() {
	for _, l := range r.listeners {
		l.Close()
	}
	r.tunnelRole.close()
}

// A tunRole carries a tunnel to a network interface, whose addresses and routes it sets.
type tunRole struct{ tunnelRole }

func (r *tunRole) begin(ctx context.Context, req request) (any, error) {
	return nil, r.dial(ctx, req, func(lease *transport.Lease) (packet.Conn, error) {
		device, err := tun.Open(tun.Config{MTU: lease.MTU})
		if err != nil {
			return nil, err
		}
		var addresses []string
		for _, p := range lease.Addresses {
			if p.Addr().Is4() {
				addresses = append(addresses, netip.PrefixFrom(p.Addr(), 32).String())
			}
		}
		if err := setUpTUN(device.Name(), addresses, req.Routes); err != nil {
			device.Close()
			return nil, err
		}
		return device, nil
	})
}

// An embeddedRole is a program that uses the tunnel itself.
type embeddedRole struct {
	tunnelRole
	generator
}

func (r *embeddedRole) begin(ctx context.Context, req request) (any, error) {
	if err := r.tunnelRole.dial(ctx, req, nil); err != nil {
		return nil, err
	}
	return nil, r.generator.begin(ctx, req, r.tunnel.DialContext)
}

func (r *embeddedRole) serve(ctx context.Context, req request) (any, error) {
	if req.Op == "settled" {
		return r.settled(ctx)
	}
	return r.generator.serve(ctx, req)
}

func (r *embeddedRole) close() {
	r.generator.stop()
	r.tunnelRole.close()
}

// begin waits for the first byte.
func (g *generator) begin(ctx context.Context, req request, dial dialFunc) (err error) {
	g.dial, g.meter = dial, newMeter()
	if g.target, err = netip.ParseAddr(req.Target); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	return takeByte(ctx, dial, netip.AddrPortFrom(g.target, firstPort).String())
}

// A visitorRole sends requests over HTTP from a host.
type visitorRole struct{}

func (visitorRole) begin(context.Context, request) (any, error) { return nil, nil }

func (visitorRole) serve(ctx context.Context, req request) (any, error) {
	if req.Op == "http" {
		return measureLatency(ctx, new(net.Dialer).DialContext, req.Target, req.Time)
	}
	return nil, errNoOp
}

func (visitorRole) close() {}
