package vpn

import (
	"context"
	"errors"
	"fmt"

	"culvert.example/vpn/split"
	"culvert.example/vpn/stack"
	"culvert.example/vpn/transport"
)

// openStack makes a network stack inside the program, and the rules by which connections take it.
func (t *Tunnel) openStack(lease *transport.Lease) error {
	var err error
	if t.router = t.cfg.Split; t.router == nil {
		if t.router, err = split.New(splitConfig(lease)); err != nil {
			return fmt.Errorf("split rules of the gateway: %w: %w", transport.ErrProtocol, err)
		}
	}
	t.stack, err = stack.New(stack.Config{Addresses: lease.Addresses, MTU: t.session.MTU(), Logger: t.logger})
	if err != nil {
		return err
	}
	t.device = t.stack.Link()
	return nil
}

// openDevice has the caller make the device.
func (t *Tunnel) openDevice(lease *transport.Lease) error {
	device, err := t.cfg.Device(lease)
	if err != nil {
		return fmt.Errorf("device: %w", err)
	}
	if device == nil {
		return errors.New("Config.Device made no device")
	}
	t.device = device
	t.mtu = device.MTU()
	t.setMTU(t.session.MTU())
	return nil
}

// openSystem has the machine use the tunnel.
func (t *Tunnel) openSystem(ctx context.Context, lease *transport.Lease) error {
	link := SystemLink{Lease: lease, MTU: t.session.MTU(), NetworkChanged: t.NetworkChanged}
	if _, ok := t.session.(roamer); ok && t.cfg.Dial == nil && t.cfg.DialUDP == nil {
		link.Roam = t.Roam
	}
	device, err := t.cfg.System.Attach(ctx, link)
	if err != nil {
		return err
	}
	t.device, t.system = device, device
	t.mtu = t.session.MTU()
	return nil
}

func (t *Tunnel) closeDevice() {
	if t.stack != nil {
		t.stack.Close()
		return
	}
	if err := t.device.Close(); err != nil {
		t.logger.Warn("cannot close the device", "err", err)
	}
}

// setMTU tells the stack or the device the size of the largest packet.
func (t *Tunnel) setMTU(mtu int) {
	if t.stack != nil {
		t.stack.SetMTU(mtu)
		return
	}
	if mtu == t.mtu {
		return
	}
	t.mtu = mtu
	d, ok := t.device.(interface{ SetMTU(mtu int) error })
	if !ok {
		return // packets that are too large are answered by ICMP
	}
	if err := d.SetMTU(mtu); err != nil {
		t.logger.Warn("cannot set the MTU of the device", "mtu", mtu, "err", err)
	}
}
