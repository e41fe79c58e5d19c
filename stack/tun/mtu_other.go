//go:build !linux && !darwin

package tun

import (
	"errors"

	wgtun "golang.zx2c4.com/wireguard/tun"
)

// defaultName is the name of a device that was given none.
const defaultName = "tun0"

func setMTU(dev wgtun.Device, mtu int) error {
	d, ok := dev.(interface{ ForceMTU(mtu int) })
	if !ok {
		return errors.ErrUnsupported
	}
	d.ForceMTU(mtu)
	return nil
}
