package gatewaytest_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"culvert.example/vpn/gateway/gatewaytest"
)

// TestHoleAppears has an upload and a download going on when large datagrams begin to vanish. Each is always heard by the
// acknowledgements of the other, so that no silence tells of it.
func TestHoleAppears(t *testing.T) {
	t.Parallel()
	gw := gatewaytest.New(t)
	ln, err := gw.Listen("tcp", net.JoinHostPort(gw.Web.Addr().String(), "9"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer ln.Close()
	over, end := context.WithCancel(context.Background())
	defer end()
	var up, down progress
	wg.Go(func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		context.AfterFunc(over, func() { c.Close() })
		up.follow(c)
	})
	tun := dial(t, gw, nil)
	defer tun.Close()
	eventually(t, "DTLS is up", 10*time.Second, func() bool { return tun.Status().Path == "dtls" })
	out, err := tun.DialContext(context.Background(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	wg.Go(func() {
		b := make([]byte, 64<<10)
		for {
			if _, err := out.Write(b); err != nil {
				return
			}
		}
	})
	in, err := tun.DialContext(context.Background(), "tcp", gw.Web.String())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	fmt.Fprintf(in, "GET /bytes?n=1000000000000 HTTP/1.0\r\n\r\n")
	wg.Go(func() { down.follow(in) })

	time.Sleep(500 * time.Millisecond)
	gw.SetHole(1350)
	time.Sleep(6 * time.Second)
	now := time.Now()
	t.Logf("an upload stood still for %v, a download for %v", up.pause(now), down.pause(now))
	for what, p := range map[string]*progress{"upload": &up, "download": &down} {
		if d := p.pause(now); d > 5*time.Second {
			t.Errorf("the %s stood still for %v", what, d)
		}
	}
}

// progress notes the longest pause of a transfer.
type progress struct{ last, longest atomic.Int64 }

func (p *progress) follow(r io.Reader) {
	b := make([]byte, 64<<10)
	for {
		_, err := r.Read(b)
		now := time.Now()
		p.longest.Store(int64(p.pause(now)))
		p.last.Store(now.UnixNano())
		if err != nil {
			return
		}
	}
}

// pause returns the longest pause until now.
func (p *progress) pause(now time.Time) time.Duration {
	last := p.last.Load()
	if last == 0 {
		last = now.UnixNano()
	}
	return max(time.Duration(p.longest.Load()), time.Duration(now.UnixNano()-last))
}
