package netns

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// offloadsOff makes an interface of the host send whole frames: none larger than its MTU, all with their checksums.
func (h *Host) offloadsOff(dev string) {
	h.tb.Helper()
	h.Do(func() {
		if err := offloadsOff(dev); err != nil {
			h.tb.Fatalf("netns: switching the offloads of %s off: %v", dev, err)
		}
	})
	// Some kernels leave the segmentation of UDP switched on. This limit is for any kind.
	h.IP("link", "set", dev, "gso_max_segs", "1")
}

func offloadsOff(dev string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, command := range []uint32{
		unix.ETHTOOL_STXCSUM, unix.ETHTOOL_SRXCSUM, unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_SGRO,
	} {
		if err := ethtool(fd, dev, command, 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("ethtool command %#x: %w", command, err)
		}
	}
	return nil
}

// ethtool sets a value of an interface.
func ethtool(fd int, dev string, command, value uint32) error {
	arg := [2]uint32{command, value} // struct ethtool_value
	// This is a struct ifreq, whose second half is a union of 24 bytes.
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}{data: unsafe.Pointer(&arg)}
	copy(req.name[:unix.IFNAMSIZ-1], dev)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}
