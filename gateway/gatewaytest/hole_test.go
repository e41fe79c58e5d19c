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
	eventually(t, "DTLS is up", 20*time.Second, func() bool { return tun.Status().Path == "dtls" })
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
	// Both ends have found out what gets through, so that their packets are of that size and go by DTLS again. TLS has another
	// way, on which TCP would take them for lost when small ones overtake them.
	eventually(t, "the download goes by DTLS again", 45*time.Second, func() bool {
		came, byTLS := down.bytes.Load(), gw.Counters().TCPOut
		time.Sleep(300 * time.Millisecond)
		came, byTLS = down.bytes.Load()-came, gw.Counters().TCPOut-byTLS
		return came > 64<<10 && byTLS < came/4
	})
	for what, p := range map[string]*progress{"upload": &up, "download": &down} {
		eventually(t, "the "+what+" goes on", 15*time.Second, func() bool { return p.silence(time.Now()) < time.Second })
		t.Logf("the %s stood still for %v", what, time.Duration(p.longest.Load()))
	}
}

// progress notes how much has come of a transfer, and its longest pause.
type progress struct{ last, longest, bytes atomic.Int64 }

func (p *progress) follow(r io.Reader) {
	b := make([]byte, 64<<10)
	for {
		n, err := r.Read(b)
		p.bytes.Add(int64(n))
		now := time.Now()
		p.longest.Store(max(p.longest.Load(), int64(p.silence(now))))
		p.last.Store(now.UnixNano())
		if err != nil {
			return
		}
	}
}

// silence returns how long ago something came, or 0 if nothing has come yet.
func (p *progress) silence(now time.Time) time.Duration {
	last := p.last.Load()
	if last == 0 {
		return 0
	}
	return time.Duration(now.UnixNano() - last)
}
