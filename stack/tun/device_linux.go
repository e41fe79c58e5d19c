package tun

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/packet"
)

// A Device is an open TUN device. Its methods may be called from any goroutine; one may read while another writes.
type Device struct {
	file    *os.File
	raw     syscall.RawConn
	control *os.File // a socket in the namespace of the device, for what is asked of the interface by name
	vnet    bool
	joins   bool // the kernel takes TCP segments in one piece
	uso     bool // and trains of UDP datagrams
	mtu     atomic.Int32
	wasUp   atomic.Bool
	stats   counters

	closed    atomic.Bool
	closeOnce sync.Once
	closeErr  error

	readMu  sync.Mutex
	reader  reader
	writeMu sync.Mutex
	writer  writer
}

var _ packet.Conn = (*Device)(nil)

// newDevice takes over fd.
func newDevice(fd int, cfg Config) (_ *Device, err error) {
	d := new(Device)
	defer func() {
		if err != nil {
			unix.Close(fd)
			if d.control != nil {
				d.control.Close()
			}
		}
	}()
	ifr, _ := unix.NewIfreq("")
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
		return nil, fmt.Errorf("the descriptor is not that of a TUN device: %w", err)
	}
	flags := ifr.Uint16()
	// IFF_NO_PI cannot be asked for: its bit means IFF_NOFILTER here.
	if flags&unix.IFF_TUN == 0 {
		return nil, errors.New("the descriptor is not that of a TUN device (IFF_TUN)")
	}
	if d.vnet = flags&unix.IFF_VNET_HDR != 0; d.vnet {
		if err := d.negotiate(fd, cfg.NoOffload); err != nil {
			return nil, err
		}
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		socket, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("opening a socket to configure the interface: %w", err)
	}
	d.control = os.NewFile(uintptr(socket), "control socket")
	if cfg.MTU != 0 {
		if err := d.setMTU(ifr.Name(), cfg.MTU); err != nil {
			return nil, err
		}
	}
	mtu, err := d.askMTU(ifr.Name())
	if err != nil {
		return nil, fmt.Errorf("asking for the MTU of %s, which must be in this network namespace: %w", ifr.Name(), err)
	}
	d.mtu.Store(int32(mtu))
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), clonePath)
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	d.file, d.raw = file, raw
	d.reader.init(d)
	d.writer.init(d)
	return d, nil
}

// negotiate asks for as many offloads as the kernel has.
func (d *Device) negotiate(fd int, none bool) error {
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetLen); err != nil {
		return fmt.Errorf("setting the length of the virtio header: %w", err)
	}
	var err error
	for _, set := range offloadSets {
		if none && set != 0 {
			continue
		}
		if err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, set); err == nil {
			d.joins = set != 0
			d.uso = set&unix.TUN_F_USO4 != 0
			return nil
		}
	}
	return fmt.Errorf("switching offloads off: %w", err)
}

// Name returns the name of the interface. It changes when the interface is renamed.
func (d *Device) Name() string {
	ifr, _ := unix.NewIfreq("")
	var err error
	if e := d.raw.Control(func(fd uintptr) { err = unix.IoctlIfreq(int(fd), unix.TUNGETIFF, ifr) }); e != nil || err != nil {
		return ""
	}
	return ifr.Name()
}

// MTU returns the MTU of the interface in bytes. It asks the kernel.
func (d *Device) MTU() int {
	if name := d.Name(); name != "" {
		if mtu, err := d.askMTU(name); err == nil {
			d.mtu.Store(int32(mtu))
		}
	}
	return int(d.mtu.Load())
}

// SetMTU changes the MTU of the interface, which may be from 576 to 65535 bytes. The kernel switches IPv6 off on an
// interface whose MTU is less than 1280.
func (d *Device) SetMTU(mtu int) error {
	if mtu < packet.MinMTU4 || mtu > packet.MaxSize {
		return fmt.Errorf("tun: MTU %d is not between %d and %d", mtu, packet.MinMTU4, packet.MaxSize)
	}
	name := d.Name()
	if name == "" {
		return fmt.Errorf("tun: setting the MTU: %w", d.gone())
	}
	if err := d.setMTU(name, mtu); err != nil {
		return fmt.Errorf("tun: %w", err)
	}
	d.mtu.Store(int32(mtu))
	return nil
}

// gone returns why nothing can be asked of the interface.
func (d *Device) gone() error {
	if d.closed.Load() {
		return net.ErrClosed
	}
	return ErrDeleted
}

// askMTU returns the MTU of the interface of that name.
func (d *Device) askMTU(name string) (int, error) {
	ifr, err := d.ask(unix.SIOCGIFMTU, name, 0)
	if err != nil {
		return 0, err
	}
	return int(ifr.Uint32()), nil
}

func (d *Device) setMTU(name string, mtu int) error {
	if _, err := d.ask(unix.SIOCSIFMTU, name, uint32(mtu)); err != nil {
		if errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("there is no interface %s in this network namespace: %w", name, err)
		}
		return explain(fmt.Sprintf("setting the MTU of %s to %d", name, mtu), err)
	}
	return nil
}

// isUp reports whether the interface is switched on, as far as it can be told.
func (d *Device) isUp() bool {
	ifr, err := d.ask(unix.SIOCGIFFLAGS, d.Name(), 0)
	return err == nil && ifr.Uint16()&unix.IFF_UP != 0
}

// ask makes a request that concerns the interface of that name.
func (d *Device) ask(request uint, name string, value uint32) (*unix.Ifreq, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	ifr.SetUint32(value)
	raw, err := d.control.SyscallConn()
	if err != nil {
		return nil, err
	}
	if e := raw.Control(func(fd uintptr) { err = unix.IoctlIfreq(int(fd), request, ifr) }); e != nil {
		return nil, net.ErrClosed
	}
	return ifr, err
}

// Close implements packet.Conn. The interface vanishes unless it is persistent.
func (d *Device) Close() error {
	d.closeOnce.Do(func() {
		d.closed.Store(true)
		d.closeErr = d.file.Close()
		d.control.Close()
	})
	return d.closeErr
}

// Stats returns what has passed so far.
func (d *Device) Stats() Stats { return d.stats.stats() }
