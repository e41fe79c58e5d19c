package vpn_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/stack"
	"culvert.example/vpn/transport"
)

// A host is what a device belongs to: it takes the packets of the tunnel and makes such as go there.
type host struct {
	packet.Conn // the device
	far         packet.Conn
	stack       *stack.Stack
	pumps       sync.WaitGroup

	mu     sync.Mutex
	mtu    int
	set    []int // what SetMTU was given
	refuse error // what SetMTU returns
	closed int
}

// newHost returns a host whose device carries packets of up to mtu bytes.
func newHost(t *testing.T, lease *transport.Lease, mtu int) *host {
	t.Helper()
	near, far := packet.Pipe(2000, 256)
	h := &host{Conn: near, far: far, mtu: mtu}
	var err error
	if h.stack, err = stack.New(stack.Config{Addresses: lease.Addresses, MTU: mtu}); err != nil {
		t.Fatal(err)
	}
	h.pumps.Go(func() { packet.Copy(far, h.stack.Link(), 2000, 64) })
	h.pumps.Go(func() { packet.Copy(h.stack.Link(), far, 2000, 64) })
	t.Cleanup(func() {
		far.Close()
		h.stack.Close()
		h.pumps.Wait()
	})
	return h
}

func (h *host) MTU() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mtu
}

func (h *host) SetMTU(mtu int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.set = append(h.set, mtu)
	if h.refuse != nil {
		return h.refuse
	}
	h.mtu = mtu
	h.stack.SetMTU(mtu)
	return nil
}

func (h *host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed++
	return h.Conn.Close()
}

// told returns what SetMTU was given.
func (h *host) told() []int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.set)
}

// withDevice has the tunnel use a device of the host that *h becomes.
func withDevice(t *testing.T, h **host, mtu int) func(*vpn.Config) {
	return func(c *vpn.Config) {
		c.Device = func(lease *transport.Lease) (packet.Conn, error) {
			if *h != nil {
				t.Error("a second device")
			}
			*h = newHost(t, lease, mtu)
			return *h, nil
		}
	}
}

// TestDevice carries the connections of another host in all modes, and looks at what is counted and captured of them.
func TestDevice(t *testing.T) {
	run(t, func(t *testing.T, m mode) {
		var h *host
		gw, tun := m.open(t, withDevice(t, &h, 1500))
		var file discard
		stop, err := tun.Capture(&file)
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range []netip.AddrPort{gw.Echo, netip.AddrPortFrom(gw.Web6.Addr(), gw.Echo.Port())} {
			conn, err := h.stack.DialContext(timeout(t, 10*time.Second), "tcp", addr.String())
			if err != nil {
				t.Fatal(err)
			}
			transfer(t, conn, 1<<20)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		s := tun.Status()
		if c := s.Counters; c.SentBytes < 2<<20 || c.ReceivedBytes < 2<<20 || int64(c.SentBytes+c.ReceivedBytes) > int64(file) || c.Dropped != 0 {
			t.Errorf("%+v, and the capture has %d bytes", c, file)
		}
		eventually(t, 20*time.Second, "the device has the MTU of the tunnel", func() bool { return h.MTU() == tun.Status().MTU })
		tun.NetworkChanged()
		tun.Close()
		if h.closed != 1 {
			t.Errorf("the device was closed %d times", h.closed)
		}
	})
}

// discard counts what is written to it.
type discard int64

func (d *discard) Write(b []byte) (int, error) {
	*d += discard(len(b))
	return len(b), nil
}

// TestDeviceGates has packets with addresses of others come from the device.
func TestDeviceGates(t *testing.T) {
	leak.Check(t)
	var h *host
	_, tun := simple(t, withDevice(t, &h, 1500))
	b := packet.NewBatch(2, 1500)
	for i := range b {
		b[i].SetLen(40)
		clear(b[i].Bytes())
		b[i].Bytes()[0], b[i].Bytes()[3] = 0x45, 40
		copy(b[i].Bytes()[12:], []byte{192, 0, 2, 1, 192, 0, 2, 2})
	}
	before := tun.Status().Counters
	if _, err := h.far.WriteBatch(b); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the packets are dropped", func() bool { return tun.Status().Counters.Dropped >= before.Dropped+2 })
}

// TestDeviceMTU makes the way to the gateway narrower.
func TestDeviceMTU(t *testing.T) {
	leak.Check(t)
	var h *host
	gw, tun := simple(t, withDevice(t, &h, 1500))
	over(t, tun, "dtls", 10*time.Second)
	wide := tun.Status().MTU
	conn, err := h.stack.DialContext(timeout(t, 10*time.Second), "tcp", gw.Echo.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	gw.SetHole(1300)
	transfer(t, conn, 1<<20)
	eventually(t, 20*time.Second, "the MTU is told", func() bool {
		mtu := tun.Status().MTU
		set := h.told()
		return mtu != wide && set[len(set)-1] == mtu || tun.Status().Path == "tls" && h.MTU() == mtu
	})
	if set := h.told(); len(slices.Compact(slices.Clone(set))) != len(set) {
		t.Errorf("the same MTU was told twice in a row: %v", set)
	}
}

// TestDeviceThatRefusesItsMTU goes on with it.
func TestDeviceThatRefusesItsMTU(t *testing.T) {
	leak.Check(t)
	var h *host
	gw, _ := simple(t, onlyTLS, func(c *vpn.Config) {
		c.Device = func(lease *transport.Lease) (packet.Conn, error) {
			h = newHost(t, lease, 2000)
			h.refuse = errors.New("not now")
			return h, nil
		}
	})
	conn, err := h.stack.DialContext(timeout(t, 10*time.Second), "tcp", gw.Echo.String())
	if err != nil {
		t.Fatal(err)
	}
	transfer(t, conn, 1<<20) // what is too large for the tunnel is answered by ICMP
}

// TestNoStack asks a tunnel with a device for what needs a stack.
func TestNoStack(t *testing.T) {
	leak.Check(t)
	var h *host
	gw, tun := simple(t, withDevice(t, &h, 1500))
	ctx := timeout(t, 10*time.Second)
	host := gatewaytest.WebName
	_, dialErr := tun.DialContext(ctx, "tcp", gw.Echo.String())
	_, nameErr := tun.DialContext(ctx, "udp", host+":80")
	_, listenErr := tun.Listen("tcp", ":80")
	_, packetErr := tun.ListenPacket("udp", ":80")
	_, pingErr := tun.Ping(ctx, gw.Echo.Addr().String())
	_, explainErr := tun.Explain(ctx, host)
	for _, tt := range []struct {
		op, path string
		err      error
	}{
		{"dial", gw.Echo.String(), dialErr}, {"dial", host + ":80", nameErr}, {"listen", ":80", listenErr},
		{"listen", ":80", packetErr}, {"ping", gw.Echo.Addr().String(), pingErr}, {"explain", host, explainErr},
	} {
		checkError(t, tt.op, gw.URL, tt.path, tt.err)
		if !errors.Is(tt.err, vpn.ErrNoStack) {
			t.Errorf("%s %s: %v", tt.op, tt.path, tt.err)
		}
	}
	if addrs, err := tun.Resolver().LookupHost(ctx, host); err == nil {
		t.Errorf("a name of the private network was resolved outside of it: %v", addrs)
	}
	if err := tun.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if !errors.Is(tun.Err(), net.ErrClosed) {
		t.Errorf("Err = %v", tun.Err())
	}
	if _, err := tun.DialContext(ctx, "tcp", gw.Echo.String()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("DialContext after Shutdown: %v", err)
	}
}

// TestDeviceErrors has the device fail at the beginning and later.
func TestDeviceErrors(t *testing.T) {
	leak.Check(t)
	gw := gatewaytest.New(t)
	for _, made := range []error{io.ErrUnexpectedEOF, nil} {
		cfg := settings(gw, onlyTLS, func(c *vpn.Config) {
			c.Device = func(*transport.Lease) (packet.Conn, error) { return nil, made }
		})
		tun, err := vpn.Dial(timeout(t, 10*time.Second), gw.URL, cfg)
		if err == nil {
			tun.Close()
		}
		checkError(t, "dial", gw.URL, "", err)
		if made != nil && !errors.Is(err, made) {
			t.Errorf("%v, want %v", err, made)
		}
	}
	var h *host
	tun := dial(t, gw.URL, settings(gw, onlyTLS, withDevice(t, &h, 1500)))
	h.far.Close()
	if err := ended(t, tun, 10*time.Second); err == nil {
		t.Error("the tunnel ended without a reason")
	}
	if h.closed != 1 {
		t.Errorf("the device was closed %d times", h.closed)
	}
}
