// Package tun carries IP packets to and from the kernel through a TUN device, a network interface whose cable is this
// process.
//
//	dev, err := tun.Open(tun.Config{Name: "vpn0", MTU: 1400})
//	...
//	// ip address add 10.0.0.5/32 dev vpn0; ip link set vpn0 up
//	go packet.Copy(tunnel, dev, 1500, 128)
//	go packet.Copy(dev, tunnel, 1500, 128)
//
// A [Device] is a [packet.Conn]. Addresses, routes and switching the interface on are left to whoever configures the
// machine.
//
// On Linux the kernel hands over TCP segments and trains of UDP datagrams of up to 64 KiB in one piece, without
// checksums, and takes them likewise; the costs of a system call and of the kernel's protocol layers are paid once for
// dozens of packets. ReadBatch cuts such a piece into the Bufs of the caller. WriteBatch finds packets that follow each
// other, verifies their checksums, and hands them over with one system call that gathers them where they lie. Where the
// kernel refuses any of it, packets go one by one.
package tun

import (
	"errors"
	"os"
	"sync/atomic"
)

var (
	// ErrNoDriver reports that the machine has no TUN driver, or does not let this process see it.
	ErrNoDriver = errors.New("no TUN driver")

	// ErrNotPermitted reports that this process may not make or change network interfaces.
	ErrNotPermitted = errors.New("not permitted to configure network interfaces")

	// ErrDown reports that the interface was taken down. WriteBatch works again once it is up.
	ErrDown = errors.New("network interface is down")

	// ErrDeleted reports that the interface was deleted.
	ErrDeleted = errors.New("network interface was deleted")
)

// Config says which device to open. The zero Config opens a new one with a name and an MTU of the kernel's choice.
type Config struct {
	// Name is the name of the interface, at most 15 bytes. The kernel replaces "%d" by a number that is free. Empty means
	// "tun%d". If there is a persistent device of that name, it is opened.
	Name string

	// MTU is the size in bytes of the largest packet, from 576 to 65535. Zero leaves it as it is.
	MTU int

	// File is a descriptor of /dev/net/tun that is attached to an interface already, for example by a helper with more
	// rights than this process. It must be without packet information (IFF_NO_PI); with IFF_VNET_HDR there are offloads.
	// Open takes it over, and closes it even if it fails; it must run in the network namespace of the interface. Linux only;
	// Name is ignored.
	File *os.File

	// NoOffload makes the kernel pass every packet by itself.
	NoOffload bool
}

// Stats count what has passed a [Device] since it was opened.
type Stats struct {
	// ReadPackets and ReadBytes came from the kernel, WrittenPackets and WrittenBytes went to it, packets after cutting and
	// before joining.
	ReadPackets, ReadBytes, WrittenPackets, WrittenBytes uint64

	// Reads and Writes are the system calls that carried them.
	Reads, Writes uint64

	// ReadMalformed are what the kernel handed over and could not be understood, among it large segments; ReadTooBig are packets
	// that did not fit the Buf of the reader. Both were dropped.
	ReadMalformed, ReadTooBig uint64

	// WriteMalformed are packets that are empty, not IP, or cut short, WriteMartian packets from or to a loopback address,
	// WriteTooBig packets larger than the MTU, WriteRefused those that the kernel did not take, and WriteDown those that
	// came before the interface was switched on. All were dropped.
	WriteMalformed, WriteMartian, WriteTooBig, WriteRefused, WriteDown uint64
}

// counters are the source of Stats.
type counters struct {
	readPackets, readBytes, writtenPackets, writtenBytes               atomic.Uint64
	reads, writes                                                      atomic.Uint64
	readMalformed, readTooBig                                          atomic.Uint64
	writeMalformed, writeMartian, writeTooBig, writeRefused, writeDown atomic.Uint64
}

func (c *counters) stats() Stats {
	return Stats{
		ReadPackets: c.readPackets.Load(), ReadBytes: c.readBytes.Load(),
		WrittenPackets: c.writtenPackets.Load(), WrittenBytes: c.writtenBytes.Load(),
		Reads: c.reads.Load(), Writes: c.writes.Load(),
		ReadMalformed: c.readMalformed.Load(), ReadTooBig: c.readTooBig.Load(),
		WriteMalformed: c.writeMalformed.Load(), WriteMartian: c.writeMartian.Load(), WriteTooBig: c.writeTooBig.Load(),
		WriteRefused: c.writeRefused.Load(), WriteDown: c.writeDown.Load(),
	}
}
