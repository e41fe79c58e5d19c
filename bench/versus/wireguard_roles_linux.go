package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

// A wireguardTunRole is wireguard-go with a network interface, as its own command runs it.
type wireguardTunRole struct{ device *device.Device }

func (r *wireguardTunRole) begin(_ context.Context, req request) (any, error) {
	const name = "wg0"
	t, err := tun.CreateTUN(name, device.DefaultMTU)
	if err != nil {
		return nil, err
	}
	if r.device, err = startWireguard(t, req.Wireguard); err != nil {
		return nil, err
	}
	return nil, setUpTUN(name, req.Addresses, req.Routes)
}

func (r *wireguardTunRole) serve(context.Context, request) (any, error) { return nil, errNoOp }

func (r *wireguardTunRole) close() {
	if r.device != nil {
		r.device.Close()
	}
}

// A wireguardStackRole is a program that uses wireguard-go and its netstack itself: as a server if it has no target, else as a client.
type wireguardStackRole struct {
	device *device.Device
	sinkServer
	generator
}

func (r *wireguardStackRole) begin(ctx context.Context, req request) (any, error) {
	var addrs []netip.Addr
	for _, s := range req.Addresses {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, p.Addr())
	}
	t, stack, err := netstack.CreateNetTUN(addrs, nil, device.DefaultMTU)
	if err != nil {
		return nil, err
	}
	if r.device, err = startWireguard(t, req.Wireguard); err != nil {
		return nil, err
	}
	if req.Target == "" {
		return nil, r.listen(addrs[0], func(_, address string) (net.Listener, error) {
			return stack.ListenTCPAddrPort(netip.MustParseAddrPort(address))
		})
	}
	return nil, r.generator.begin(ctx, req, stack.DialContext)
}

func (r *wireguardStackRole) serve(ctx context.Context, req request) (any, error) {
	if r.generator.meter == nil {
		return r.sinkServer.serve(ctx, req)
	}
	return r.generator.serve(ctx, req)
}

func (r *wireguardStackRole) close() {
	r.generator.stop()
	r.sinkServer.close()
	if r.device != nil {
		r.device.Close()
	}
}

// startWireguard runs WireGuard with the text of its configuration protocol.
func startWireguard(t tun.Device, config string) (*device.Device, error) {
	d := device.NewDevice(t, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, "wireguard: "))
	if err := d.IpcSet(config); err != nil {
		d.Close()
		return nil, err
	}
	if err := d.Up(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// A wireguardKey is a pair of keys, in the form that the configuration protocol takes.
type wireguardKey struct{ private, public string }

func newWireguardKey() (wireguardKey, error) {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return wireguardKey{}, err
	}
	return wireguardKey{hex.EncodeToString(k.Bytes()), hex.EncodeToString(k.PublicKey().Bytes())}, nil
}

// wireguardConfig returns what one end needs to know: its key and port (0 for any), and of the other end the key, the inner addresses
// and, if it is to be called, the outer address.
func wireguardConfig(own wireguardKey, port int, peer, allowed, endpoint string) string {
	s := fmt.Sprintf("private_key=%s\nlisten_port=%d\npublic_key=%s\n", own.private, port, peer)
	if endpoint != "" {
		s += "endpoint=" + endpoint + "\n"
	}
	return s + "allowed_ip=" + allowed + "\n"
}
