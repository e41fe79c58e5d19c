package tun

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/packet"
)

// BenchmarkDevice carries streams of kernel TCP between two hosts through a device at each end, which this process joins.
// It compares this package with golang.zx2c4.com/wireguard/tun, which is given Bufs of 64 KiB, as it needs them to join
// what is written. "cpu-s/GB" is the processor time of it all, with that of the sockets at both ends.
func BenchmarkDevice(b *testing.B) {
	for _, streams := range []int{1, 8} {
		for _, kind := range []struct {
			name string
			join func(tb testing.TB, near, far *netns.Host)
		}{
			{"kind=ours", func(tb testing.TB, near, far *netns.Host) { joinOurs(tb, near, far, Config{MTU: 1400}) }},
			{"kind=wireguard", joinWireguard},
			{"kind=2queues", joinQueues},
			{"kind=plain", func(tb testing.TB, near, far *netns.Host) {
				joinOurs(tb, near, far, Config{MTU: 1400, NoOffload: true})
			}},
		} {
			b.Run(fmt.Sprintf("streams=%d/%s", streams, kind.name), func(b *testing.B) {
				lab := netns.New(b)
				near, far := lab.Host("a"), lab.Host("b")
				kind.join(b, near, far)
				stream(b, near, far, streams)
			})
		}
	}
}

const benchBatch, benchSize = 128, 1500

func joinOurs(tb testing.TB, near, far *netns.Host, cfg Config) {
	a, b := open(tb, near, cfg), open(tb, far, cfg)
	up(near, a, near4+"/24")
	up(far, b, far4+"/24")
	var copies sync.WaitGroup
	copies.Go(func() { packet.Copy(b, a, benchSize, benchBatch) })
	copies.Go(func() { packet.Copy(a, b, benchSize, benchBatch) })
	tb.Cleanup(func() {
		a.Close()
		b.Close()
		copies.Wait()
	})
}

// joinQueues joins two devices with two queues each, every one with goroutines of its own.
func joinQueues(tb testing.TB, near, far *netns.Host) {
	queues := func(h *netns.Host, addr string) (ds [2]*Device) {
		for i := range ds {
			h.Do(func() {
				fd, err := unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
				if err != nil {
					tb.Fatal(err)
				}
				ifr, _ := unix.NewIfreq("queues0")
				ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE)
				if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
					tb.Fatal(err)
				}
				if ds[i], err = Open(Config{File: os.NewFile(uintptr(fd), clonePath), MTU: 1400}); err != nil {
					tb.Fatal(err)
				}
			})
		}
		up(h, ds[0], addr+"/24")
		return ds
	}
	as, bs := queues(near, near4), queues(far, far4)
	var copies sync.WaitGroup
	for i := range as {
		copies.Go(func() { packet.Copy(bs[i], as[i], benchSize, benchBatch) })
		copies.Go(func() { packet.Copy(as[i], bs[i], benchSize, benchBatch) })
	}
	tb.Cleanup(func() {
		for i := range as {
			as[i].Close()
			bs[i].Close()
		}
		copies.Wait()
	})
}

func joinWireguard(tb testing.TB, near, far *netns.Host) {
	a, b := openWireguard(tb, near, near4), openWireguard(tb, far, far4)
	var copies sync.WaitGroup
	copies.Go(func() { copyWireguard(b, a) })
	copies.Go(func() { copyWireguard(a, b) })
	tb.Cleanup(func() {
		a.Close()
		b.Close()
		copies.Wait()
	})
}

func copyWireguard(dst, src wgtun.Device) {
	const offset = packet.Headroom
	bufs, out, sizes := make([][]byte, benchBatch), make([][]byte, 0, benchBatch), make([]int, benchBatch)
	for i := range bufs {
		bufs[i] = make([]byte, offset+packet.MaxSize)
	}
	for {
		n, err := src.Read(bufs, sizes, offset)
		if err != nil && n == 0 {
			return
		}
		out = out[:0]
		for i := range n {
			out = append(out, bufs[i][:offset+sizes[i]])
		}
		dst.Write(out, offset)
	}
}

// stream sends b.N times 64 KiB from near to far.
func stream(b *testing.B, near, far *netns.Host, streams int) {
	const chunk = 64 << 10
	l, err := far.Listen("tcp", far4+":7")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
	defer cancel()
	var sinks, sources sync.WaitGroup
	var conns []net.Conn
	for range streams {
		c, err := near.DialContext(ctx, "tcp", far4+":7")
		if err != nil {
			b.Fatal(err)
		}
		conns = append(conns, c)
		s, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		sinks.Go(func() {
			defer s.Close()
			buf := make([]byte, 256<<10)
			for {
				if _, err := s.Read(buf); err != nil {
					if err != io.EOF {
						b.Error(err)
					}
					return
				}
			}
		})
	}
	b.SetBytes(chunk)
	before := cpu()
	b.ResetTimer()
	for i, c := range conns {
		n := b.N / streams
		if i == 0 {
			n += b.N % streams
		}
		sources.Go(func() {
			defer c.(*net.TCPConn).CloseWrite()
			data := make([]byte, chunk)
			for range n {
				if _, err := c.Write(data); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	sources.Wait()
	sinks.Wait()
	b.StopTimer()
	b.ReportMetric((cpu()-before).Seconds()/(float64(b.N)*chunk/1e9), "cpu-s/GB")
	for _, c := range conns {
		c.Close()
	}
}

// cpu returns the processor time that this process has taken.
func cpu() time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		panic(os.NewSyscallError("getrusage", err))
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
