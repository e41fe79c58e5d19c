package tun

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/packet"
)

func TestDrops(t *testing.T) {
	leak.Check(t)
	h := netns.New(t).Host("a")
	d := open(t, h, Config{MTU: 1400})
	l, err := h.ListenPacket("udp", "0.0.0.0:9")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	good := packet4(far4, near4, 9, []byte("good"))
	write := func(packets ...[]byte) (int, error) {
		b := packet.NewBatch(len(packets), packet.MaxSize)
		for i, p := range packets {
			b[i].Set(p)
		}
		return d.WriteBatch(b)
	}
	if n, err := write(good, good); n != 2 || err != nil {
		t.Errorf("before it is up, WriteBatch = %d, %v", n, err)
	}
	up(h, d, near4+"/24")
	broken := append([]byte{}, good...)
	broken[3]++ // longer than it is
	wrong := append([]byte{}, good...)
	wrong[30] ^= 1
	in := [][]byte{
		good, nil, {0}, []byte("not an IP packet, though long enough"), broken, good,
		packet4("127.0.0.1", near4, 9, []byte("martian")), packet4(far4, "127.0.0.1", 9, []byte("martian")),
		append(good[:len(good):len(good)], 1, 2, 3), wrong, good,
	}
	if n, err := write(in...); n != len(in) || err != nil {
		t.Errorf("WriteBatch = %d, %v", n, err)
	}
	large := packet4(far4, near4, 9, make([]byte, 1400))
	if n, err := write(good, large, good); n != 1 || !errors.Is(err, packet.ErrTooBig) {
		t.Errorf("WriteBatch of a packet larger than the MTU = %d, %v", n, err)
	}
	buf := make([]byte, 2000)
	l.SetReadDeadline(time.Now().Add(5 * time.Second))
	for i := range 5 {
		if n, _, err := l.ReadFrom(buf); err != nil || string(buf[:n]) != "good" {
			t.Fatalf("datagram %d is %q, %v", i, buf[:n], err)
		}
	}
	s := d.Stats()
	if s.WriteMalformed != 4 || s.WriteMartian != 2 || s.WriteTooBig != 1 || s.WriteDown != 2 || s.WriteRefused != 0 || s.WrittenPackets != 6 {
		t.Errorf("counted %+v", s)
	}
	if d.Stats().ReadMalformed != 0 {
		t.Errorf("counted %+v", s)
	}
}

// TestReadTooBig checks that a reader with small Bufs loses what does not fit, and nothing else.
func TestReadTooBig(t *testing.T) {
	h := netns.New(t).Host("a")
	d := open(t, h, Config{MTU: 1400})
	up(h, d, near4+"/24")
	c, err := h.DialContext(t.Context(), "udp", far4+":9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, size := range []int{10, 1000, 20} {
		c.Write(make([]byte, size))
	}
	b := packet.NewBatch(1, 576)
	for _, size := range []int{38, 48} {
		for {
			n, err := d.ReadBatch(b)
			if n != 1 || err != nil {
				t.Fatalf("ReadBatch = %d, %v", n, err)
			}
			if p := b[0].Bytes(); p[0]>>4 == 4 && p[9] == 17 {
				break // and not what the kernel of its own accord asks of its neighbours
			}
		}
		if b[0].Len() != size {
			t.Errorf("a packet of %d bytes, want %d", b[0].Len(), size)
		}
	}
	if d.Stats().ReadTooBig != 1 {
		t.Errorf("counted %+v", d.Stats())
	}
	if _, err := d.ReadBatch(nil); !errors.Is(err, io.ErrShortBuffer) {
		t.Errorf("ReadBatch into nothing: %v", err)
	}
}

func TestClose(t *testing.T) {
	leak.Check(t)
	d := open(t, netns.New(t).Host("a"), Config{})
	result := make(chan error)
	go func() {
		_, err := d.ReadBatch(packet.NewBatch(1, 1500))
		result <- err
	}()
	time.Sleep(20 * time.Millisecond)
	for range 2 {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	select {
	case err := <-result:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadBatch returned %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("ReadBatch goes on after Close")
	}
	b := packet.NewBatch(1, 100)
	b[0].Set(packet4(far4, near4, 9, nil))
	if n, err := d.WriteBatch(b); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("WriteBatch = %d, %v", n, err)
	}
	if n, err := d.ReadBatch(b); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadBatch = %d, %v", n, err)
	}
	if err := d.SetMTU(1300); !errors.Is(err, net.ErrClosed) {
		t.Errorf("SetMTU: %v", err)
	}
	if d.Name() != "" || d.MTU() != 1500 {
		t.Errorf("name %q, MTU %d", d.Name(), d.MTU())
	}
}

func TestDownAndDeleted(t *testing.T) {
	h := netns.New(t).Host("a")
	d := open(t, h, Config{Name: "gone0"})
	up(h, d, near4+"/24")
	b := packet.NewBatch(1, 100)
	b[0].Set(packet4(far4, near4, 9, nil))
	for _, state := range []struct {
		set  string
		want error
	}{{"up", nil}, {"down", ErrDown}, {"up", nil}} {
		h.IP("link", "set", "gone0", state.set)
		if n, err := d.WriteBatch(b); !errors.Is(err, state.want) || (n == 1) != (err == nil) {
			t.Errorf("while it is %s, WriteBatch = %d, %v", state.set, n, err)
		}
	}
	result := make(chan error)
	go func() {
		for {
			if _, err := d.ReadBatch(packet.NewBatch(1, 1500)); err != nil {
				result <- err
				return
			}
		}
	}()
	time.Sleep(20 * time.Millisecond)
	h.IP("link", "delete", "gone0")
	select {
	case err := <-result:
		if !errors.Is(err, ErrDeleted) {
			t.Errorf("ReadBatch returned %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("ReadBatch goes on")
	}
	if n, err := d.ReadBatch(packet.NewBatch(1, 1500)); n != 0 || !errors.Is(err, ErrDeleted) {
		t.Errorf("ReadBatch = %d, %v", n, err)
	}
	if n, err := d.WriteBatch(b); n != 0 || !errors.Is(err, ErrDeleted) {
		t.Errorf("WriteBatch = %d, %v", n, err)
	}
	if err := d.SetMTU(1400); !errors.Is(err, ErrDeleted) {
		t.Errorf("SetMTU: %v", err)
	}
}

func TestNameAndMTU(t *testing.T) {
	h := netns.New(t).Host("a")
	d := open(t, h, Config{Name: "vpn%d", MTU: 1300})
	if d.Name() != "vpn0" || d.MTU() != 1300 {
		t.Errorf("name %q, MTU %d", d.Name(), d.MTU())
	}
	if err := d.SetMTU(1390); err != nil || d.MTU() != 1390 {
		t.Errorf("SetMTU: %v, MTU %d", err, d.MTU())
	}
	h.IP("link", "set", "vpn0", "name", "other", "mtu", "9000", "up")
	if d.Name() != "other" || d.MTU() != 9000 {
		t.Errorf("name %q, MTU %d", d.Name(), d.MTU())
	}
	for _, mtu := range []int{-1, 0, 575, 65536} {
		if err := d.SetMTU(mtu); err == nil {
			t.Errorf("SetMTU(%d) succeeded", mtu)
		}
	}
	h.Do(func() {
		for _, cfg := range []Config{{MTU: 100}, {MTU: 70000}, {Name: "a name that is too long"}, {Name: "a/b"}, {Name: "other"}, {Name: "lo"}} {
			if d, err := Open(cfg); err == nil {
				d.Close()
				t.Errorf("Open(%+v) succeeded", cfg)
			}
		}
		if _, err := Open(Config{Name: "other"}); !errors.Is(err, syscall.EBUSY) {
			t.Errorf("Open of a name in use: %v", err)
		}
	})
}

// TestLimitIsRaised writes a packet that fits only since somebody else has raised the MTU.
func TestLimitIsRaised(t *testing.T) {
	h := netns.New(t).Host("a")
	d := open(t, h, Config{MTU: 1300})
	up(h, d, near4+"/24")
	h.IP("link", "set", d.Name(), "mtu", "1500")
	b := packet.NewBatch(1, 1500)
	b[0].Set(packet4(far4, near4, 9, make([]byte, 1400)))
	if n, err := d.WriteBatch(b); n != 1 || err != nil {
		t.Errorf("WriteBatch = %d, %v", n, err)
	}
}

func TestFile(t *testing.T) {
	h := netns.New(t).Host("a")
	attach := func(flags uint16) *os.File {
		var fd int
		var err error
		ifr, _ := unix.NewIfreq("")
		ifr.SetUint16(flags)
		h.Do(func() {
			if fd, err = unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
				err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), "tun")
	}
	for _, tt := range []struct {
		flags  uint16
		ok     bool
		offers bool
	}{
		{unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR, true, true},
		{unix.IFF_TUN | unix.IFF_NO_PI, true, false},
		{unix.IFF_TAP | unix.IFF_NO_PI, false, false},
	} {
		f := attach(tt.flags)
		var d *Device
		var err error
		h.Do(func() { d, err = Open(Config{File: f, MTU: 1400}) })
		if (err == nil) != tt.ok {
			t.Errorf("flags %#x: %v", tt.flags, err)
		}
		if f.Close() == nil {
			t.Errorf("flags %#x: the file is still open", tt.flags)
		}
		if err != nil {
			continue
		}
		if d.joins != tt.offers || d.MTU() != 1400 {
			t.Errorf("flags %#x: offloads %v, MTU %d", tt.flags, d.joins, d.MTU())
		}
		d.Close()
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := Open(Config{File: r}); err == nil {
		t.Error("a pipe was taken for a device")
	}
}

// onOwnThread runs f on a thread that ends with it, so that it may spoil what belongs to the thread.
func onOwnThread(f func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread()
		f()
	})
	wg.Wait()
}

func TestNotPermitted(t *testing.T) {
	h := netns.New(t).Host("a")
	d := open(t, h, Config{})
	onOwnThread(func() {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capset(&header, &data[0]); err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{
			"Open":   func() error { _, err := Open(Config{}); return err }(),
			"SetMTU": d.SetMTU(1400),
		} {
			if !errors.Is(err, ErrNotPermitted) || !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
				t.Errorf("%s without rights: %v", what, err)
			}
		}
	})
}

func TestNoDriver(t *testing.T) {
	netns.New(t) // for its judgement of what this test may do
	onOwnThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Error(err)
			return
		}
		if err := errors.Join(
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("none", "/dev/net", "tmpfs", 0, ""),
		); err != nil {
			t.Error(err)
			return
		}
		if _, err := Open(Config{}); !errors.Is(err, ErrNoDriver) || !strings.Contains(err.Error(), "modprobe tun") {
			t.Errorf("Open without a driver: %v", err)
		}
	})
}

func TestNoAllocations(t *testing.T) {
	h := netns.New(t).Host("a")
	d := open(t, h, Config{MTU: 1400})
	up(h, d, near4+"/24")
	out := packet.NewBatch(64, 1400)
	for i := range out {
		out[i].Set(packet4(far4, near4, 9, make([]byte, 1000)))
	}
	if n := testing.AllocsPerRun(100, func() { d.WriteBatch(out) }); n != 0 {
		t.Errorf("%v allocations for each batch that is written", n)
	}
	c, err := h.DialContext(t.Context(), "udp", far4+":9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in, payload := packet.NewBatch(8, 1400), make([]byte, 1000)
	if n := testing.AllocsPerRun(100, func() {
		for range 8 {
			c.Write(payload)
		}
		for n := 0; n < 8; {
			k, err := d.ReadBatch(in)
			if err != nil {
				t.Fatal(err)
			}
			n += k
		}
	}); n != 0 {
		t.Errorf("%v allocations for each batch that is read", n)
	}
}

// FuzzTake gives the reader what no kernel would.
func FuzzTake(f *testing.F) {
	header := func(h virtioHeader, p []byte) []byte {
		b := make([]byte, vnetLen, vnetLen+len(p))
		h.encode(b)
		return append(b, p...)
	}
	p := packet4(far4, near4, 9, make([]byte, 300))
	f.Add(header(virtioHeader{}, p))
	f.Add(header(virtioHeader{flags: 1, sumStart: 20, sumFrom: 6}, p))
	f.Add(header(virtioHeader{flags: 1, gso: unix.VIRTIO_NET_HDR_GSO_UDP_L4, header: 28, segment: 100, sumStart: 20, sumFrom: 6}, p))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > vnetLen+packet.MaxSize {
			return
		}
		d := &Device{vnet: true}
		d.reader.init(d)
		d.reader.batch = packet.NewBatch(2, 400)
		d.reader.take(in)
		for rounds := 0; ; rounds++ {
			for i := range d.reader.batch[:d.reader.n] {
				if n := d.reader.batch[i].Len(); n < 20 || n > 400 {
					t.Fatalf("a packet of %d bytes", n)
				}
			}
			if !d.reader.cut.Active() {
				break
			}
			if rounds > packet.MaxSize {
				t.Fatal("cutting does not end")
			}
			d.reader.n = 0
			d.reader.cutMore()
		}
	})
}
