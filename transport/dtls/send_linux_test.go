package dtls

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport/wire"
)

// cut returns the datagrams that a message stands for, and whether it stands for several.
func cut(m *mmsghdr) (datagrams [][]byte, long bool) {
	all := unsafe.Slice(m.hdr.Iov.Base, m.hdr.Iov.Len)
	size := len(all)
	if m.hdr.Controllen > 0 {
		h := (*unix.Cmsghdr)(unsafe.Pointer(m.hdr.Control))
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_SEGMENT {
			size = int(*(*uint16)(unsafe.Add(unsafe.Pointer(m.hdr.Control), unix.CmsgLen(0))))
		}
	}
	for d := range slices.Chunk(all, size) {
		datagrams = append(datagrams, slices.Clone(d))
	}
	return datagrams, len(datagrams) > 1
}

// A faulty is a system that refuses messages. It keeps the datagrams that it takes.
type faulty struct {
	// judge says what becomes of a message: 0, or an error.
	judge func(long bool) syscall.Errno
	// most is how many messages it takes in one call, 0 for all.
	most int

	mu    sync.Mutex
	taken [][]byte
	due   syscall.Errno
}

// call is sendmmsg(2): an error is told only if it is about the first message, or else by the next call.
func (f *faulty) call(_ uintptr, msgs []mmsghdr) (int, syscall.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range msgs {
		if i > 0 && i == f.most {
			return i, 0
		}
		datagrams, long := cut(&msgs[i])
		e := f.due
		if f.due = 0; e == 0 {
			e = f.judge(long)
		}
		if e != 0 && i > 0 {
			f.due = e
			return i, 0
		}
		if e != 0 {
			return 0, e
		}
		f.taken = append(f.taken, datagrams...)
	}
	return len(msgs), 0
}

// seldom has every n-th message fail with e.
func seldom(n int, e syscall.Errno) func(bool) syscall.Errno {
	i := 0
	return func(bool) syscall.Errno {
		if i++; i%n == 0 {
			return e
		}
		return 0
	}
}

func socketOver(t *testing.T, f *faulty) *udpSocket {
	t.Helper()
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	s, err := newUDPSocket(pc, 8)
	if err != nil {
		t.Fatal(err)
	}
	s.gso.Store(true)
	s.call = f.call
	return s
}

// filled returns a burst of n records of a few sizes. Each begins with its index.
func filled(n int) *burst {
	b := newBurst(burstRecords, burstBytes)
	for i := range n {
		size := 1000
		if i%11 == 10 {
			size = 40 + i
		}
		binary.BigEndian.PutUint32(b.room(size), uint32(i))
		b.added(size)
	}
	return b
}

// TestFaultsOfSystem has the system refuse messages in all the ways it may. What leaves is in order and leaves once, what does not is
// counted, and only what cannot pass ends the batch.
func TestFaultsOfSystem(t *testing.T) {
	const n = 60
	broken := func(e syscall.Errno) func(bool) syscall.Errno {
		return func(long bool) syscall.Errno {
			if long {
				return e
			}
			return 0
		}
	}
	after := func(n int, then func(bool) syscall.Errno) func(bool) syscall.Errno {
		return func(long bool) syscall.Errno {
			if n--; n >= 0 {
				return 0
			}
			return then(long)
		}
	}
	always := func(e syscall.Errno) func(bool) syscall.Errno { return func(bool) syscall.Errno { return e } }
	for _, test := range []struct {
		name     string
		judge    func(long bool) syscall.Errno
		most     int
		lossy    bool  // some are lost
		want     error // of send
		segments bool  // afterwards
	}{
		{name: "none", judge: always(0), segments: true},
		{name: "few at a time", judge: always(0), most: 2, segments: true},
		{name: "no offload, EIO", judge: broken(unix.EIO)},
		{name: "no offload, EINVAL", judge: broken(unix.EINVAL)},
		{name: "offload fails in the middle", judge: after(3, broken(unix.EIO)), most: 2},
		{name: "segments too large", judge: broken(unix.EMSGSIZE), segments: true},
		{name: "no memory at times", judge: seldom(3, unix.ENOBUFS), lossy: true, segments: true},
		{name: "never any memory", judge: always(unix.ENOBUFS), lossy: true, segments: true},
		{name: "forbidden at times", judge: seldom(4, unix.EPERM), lossy: true, segments: true},
		{name: "nobody listened once", judge: seldom(5, unix.ECONNREFUSED), segments: true},
		{name: "nobody listens", judge: always(unix.ECONNREFUSED), lossy: true, segments: true},
		{name: "the device fails", judge: always(unix.EIO), lossy: true, segments: true},
		{name: "no offload, no memory at times", judge: func() func(bool) syscall.Errno {
			s := seldom(3, unix.ENOBUFS)
			return func(long bool) syscall.Errno {
				if long {
					return unix.EIO
				}
				return s(long)
			}
		}(), lossy: true},
		{name: "too large from the third message on", judge: after(2, always(unix.EMSGSIZE)), want: errTooBig, segments: true},
		{name: "dead from the third message on", judge: after(2, always(unix.EBADF)), want: unix.EBADF, segments: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := &faulty{judge: test.judge, most: test.most}
			s := socketOver(t, f)
			b := filled(n)
			done, err := s.send(b, nil, true)
			if !errors.Is(err, test.want) || test.want == nil && done != n || test.want != nil && (done == 0 || done >= n) {
				t.Errorf("send = %d, %v, want error %v", done, err, test.want)
			}
			if done != len(f.taken)+b.lost || (b.lost > 0) != test.lossy {
				t.Errorf("of %d records %d left and %d count as lost", done, len(f.taken), b.lost)
			}
			if s.segments() != test.segments {
				t.Errorf("segments() = %v afterwards", s.segments())
			}
			inOrder(t, b, f.taken)
		})
	}
}

// inOrder checks that the datagrams are records of b, in order and each once.
func inOrder(t *testing.T, b *burst, taken [][]byte) {
	t.Helper()
	last := -1
	for _, d := range taken {
		i := int(binary.BigEndian.Uint32(d))
		if i <= last || i >= b.count || !slices.Equal(d, b.record(i)) {
			t.Fatalf("record %d of %d bytes came after record %d, or is not what was sent", i, len(d), last)
		}
		last = i
	}
}

// TestFaultsAtRandom mixes the faults.
func TestFaultsAtRandom(t *testing.T) {
	errs := []syscall.Errno{0, 0, 0, 0, unix.ENOBUFS, unix.EIO, unix.EINVAL, unix.ECONNREFUSED, unix.EMSGSIZE, unix.EPERM, unix.ENOMEM}
	f := &faulty{}
	s := socketOver(t, f)
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		s.gso.Store(r.IntN(4) > 0)
		some := errs[:4+r.IntN(len(errs)-3)]
		f.judge = func(long bool) syscall.Errno { return some[r.IntN(len(some))] }
		f.most, f.taken = r.IntN(4), nil
		b := filled(1 + r.IntN(burstRecords))
		done, err := s.send(b, nil, true)
		if err == nil && done != b.count || err != nil && done >= b.count || done != len(f.taken)+b.lost {
			t.Fatalf("seed %d: send = %d, %v; %d of %d records left and %d count as lost", seed, done, err, len(f.taken), b.count, b.lost)
		}
		inOrder(t, b, f.taken)
	}
}

// TestFullSocket sends to a reader that is slower, through a socket that has little room: packets wait, control frames do not.
func TestFullSocket(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socketpair")
		ends[i], err = net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer ends[i].Close()
	}
	raw, err := ends[0].(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	s := &udpSocket{raw: raw, burst: 1, call: sendmmsg}
	var lost, n int
	for lost == 0 && n < 1000 {
		b := filled(burstRecords)
		done, err := s.send(b, nil, false)
		if err != nil || done != burstRecords {
			t.Fatalf("send = %d, %v", done, err)
		}
		n += burstRecords
		lost += b.lost
	}
	if lost == 0 {
		t.Fatal("the socket never was full")
	}
	waiting := n - lost
	b := filled(burstRecords)
	sent := make(chan error, 1)
	go func() {
		_, err := s.send(b, nil, true)
		sent <- err
	}()
	select {
	case err := <-sent:
		t.Fatalf("send = %v with a socket that is full", err)
	case <-time.After(20 * time.Millisecond):
	}
	ends[1].SetReadDeadline(time.Now().Add(20 * time.Second))
	var got [][]byte
	for i := range waiting + burstRecords {
		d := make([]byte, 2000)
		n, err := ends[1].Read(d)
		if err != nil {
			t.Fatal(err)
		}
		if i >= waiting {
			got = append(got, d[:n])
		}
	}
	if err := <-sent; err != nil || b.lost > 0 {
		t.Errorf("send = %v, and %d records are lost", err, b.lost)
	}
	inOrder(t, b, got)
}

// TestFaultsOfChannel has many goroutines send through a channel whose system refuses much: it lives, counts what is lost, and
// never uses a number twice.
func TestFaultsOfChannel(t *testing.T) {
	client, server := quietPair(t)
	pump := pumpFrom(server)
	sock := client.out.(connectedUDP).sock
	was := client.Stats()
	if !was.Segmented {
		t.Fatal("the kernel does not cut messages")
	}
	seen := map[uint64]bool{}
	refuse := seldom(5, unix.ENOBUFS)
	f := &faulty{judge: func(long bool) syscall.Errno {
		if long {
			return unix.EIO
		}
		return refuse(long)
	}}
	client.writeMu.Lock()
	client.controlMu.Lock()
	sock.call = f.call
	client.controlMu.Unlock()
	client.writeMu.Unlock()

	b := numbered(0, 9, 500) // too small to make the channel look whether large ones arrive
	b[4] = packet.NewBuf(testMTU + 100)
	b[4].SetLen(testMTU + 1)
	var work sync.WaitGroup
	for i := range 6 {
		work.Go(func() {
			for range 20 {
				if i%3 == 2 {
					client.control(wire.Keepalive, nil)
					continue
				}
				if n, err := client.WriteBatch(b); n != 4 || !errors.Is(err, packet.ErrTooBig) {
					t.Errorf("WriteBatch = %d, %v, want 4 and ErrTooBig", n, err)
				}
				if n, err := client.WriteBatch(b[5:]); n != 4 || err != nil {
					t.Errorf("WriteBatch = %d, %v after a packet that was too big", n, err)
				}
			}
		})
	}
	work.Wait()
	for _, d := range f.taken {
		r, _, ok := parseRecord(d)
		if !ok || seen[r.sequence] {
			t.Fatalf("number %d was used twice", r.sequence)
		}
		seen[r.sequence] = true
	}
	is := client.Stats()
	const records = 4*20*8 + 2*20
	if lost := is.Unsent - was.Unsent; lost == 0 || int(lost)+len(f.taken) != records {
		t.Errorf("%d records left and %d count as unsent, of %d", len(f.taken), lost, records)
	}
	if sent := is.PacketsSent - was.PacketsSent; sent == 0 || is.BytesSent-was.BytesSent != 500*sent {
		t.Errorf("%d packets of 500 bytes count as %d bytes", sent, is.BytesSent-was.BytesSent)
	}
	if is.Segmented || client.Err() != nil {
		t.Errorf("Segmented = %v, Err = %v", is.Segmented, client.Err())
	}
	sock.call = sendmmsg
	whole := numbered(100, 9, 500)
	send(t, client, whole)
	sameBatch(t, pump.wait(t, len(whole)), whole)
}
