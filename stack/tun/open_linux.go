package tun

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/packet"
)

const clonePath = "/dev/net/tun"

// offloadSets are the offloads to ask for, from the best to none. Segmentation of UDP came with Linux 6.2.
var offloadSets = [...]int{
	unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN | unix.TUN_F_USO4 | unix.TUN_F_USO6,
	unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN,
	unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6,
	0,
}

// Open opens a device in the network namespace of the calling thread. The caller closes it, which deletes the
// interface unless it is persistent. Errors match [ErrNoDriver], [ErrNotPermitted] or an error of the system, such as
// syscall.EBUSY for a name that is in use.
func Open(cfg Config) (*Device, error) {
	if cfg.MTU != 0 && (cfg.MTU < packet.MinMTU4 || cfg.MTU > packet.MaxSize) {
		closeFile(cfg.File)
		return nil, fmt.Errorf("tun: MTU %d is not between %d and %d", cfg.MTU, packet.MinMTU4, packet.MaxSize)
	}
	fd, err := descriptor(cfg)
	if err != nil {
		return nil, fmt.Errorf("tun: %w", err)
	}
	d, err := newDevice(fd, cfg)
	if err != nil {
		return nil, fmt.Errorf("tun: %w", err)
	}
	return d, nil
}

func closeFile(f *os.File) {
	if f != nil {
		f.Close()
	}
}

// descriptor returns a descriptor that is attached to an interface.
func descriptor(cfg Config) (int, error) {
	if cfg.File != nil {
		defer cfg.File.Close()
		raw, err := cfg.File.SyscallConn()
		if err != nil {
			return -1, err
		}
		fd := -1
		if e := raw.Control(func(f uintptr) { fd, err = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 0) }); e != nil {
			return -1, e
		}
		return fd, err
	}
	fd, err := unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, explain("opening "+clonePath, err)
	}
	name := cfg.Name
	if name == "" {
		name = "tun%d"
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("interface name %q is longer than %d bytes or not a name", name, unix.IFNAMSIZ-1)
	}
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if !cfg.NoOffload {
		flags |= unix.IFF_VNET_HDR
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		return -1, explain(fmt.Sprintf("making the interface %q", name), err)
	}
	return fd, nil
}

// explain says what to do about an error of the system.
func explain(doing string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%s: %w: load the kernel module (modprobe tun), or give the container %s (docker: --device %s): %w",
			doing, ErrNoDriver, clonePath, clonePath, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w: run as root or with CAP_NET_ADMIN (docker: --cap-add NET_ADMIN), or pass an open descriptor: %w",
			doing, ErrNotPermitted, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
