package tun

import (
	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

// defaultName makes the kernel choose a number.
const defaultName = "utun"

func setMTU(dev wgtun.Device, mtu int) error {
	name, err := dev.Name()
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req := unix.IfreqMTU{MTU: int32(mtu)}
	copy(req.Name[:], name)
	return unix.IoctlSetIfreqMTU(fd, &req)
}
