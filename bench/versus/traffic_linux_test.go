package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestGenerator carries traffic over the loopback interface, and both ends count it.
func TestGenerator(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	server := new(sinkServer)
	ports := make(map[string]string) // by the port asked for
	err := server.listen(loopback, func(network, address string) (net.Listener, error) {
		l, err := net.Listen(network, "127.0.0.1:0")
		if err == nil {
			ports[address] = l.Addr().String()
		}
		return l, err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.close()
	g := &generator{target: loopback, meter: newMeter()}
	g.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, ports[address])
	}
	if err := takeByte(ctx, g.dial, netip.AddrPortFrom(loopback, firstPort).String()); err != nil {
		t.Error(err)
	}
	if _, err := g.serve(ctx, request{Op: "load", Up: 2, Down: 1}); err != nil {
		t.Fatal(err)
	}
	for g.meter.tally().Bytes < 10*chunk || server.meter.tally().Bytes < 10*chunk {
		if ctx.Err() != nil {
			t.Fatalf("down %+v, up %+v", g.meter.tally(), server.meter.tally())
		}
		time.Sleep(time.Millisecond)
	}
	g.stop()
	n := g.meter.tally().Bytes
	if l, err := measureLatency(ctx, g.dial, netip.AddrPortFrom(loopback, httpPort).String(), 50*time.Millisecond); err != nil || l.Requests < 1 || l.P50 > l.P99 {
		t.Errorf("%+v, %v", l, err)
	}
	if got := g.meter.tally().Bytes; got != n {
		t.Error("traffic goes on after the end")
	}
}

// TestTakeByteNeedsByte does not take a connection that ends for a byte.
func TestTakeByteNeedsByte(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go acceptAll(l, func(c net.Conn) { c.Close() })
	if err := takeByte(t.Context(), new(net.Dialer).DialContext, l.Addr().String()); err == nil || err != io.EOF && !isReset(err) {
		t.Errorf("error %v", err)
	}
}

func isReset(err error) bool {
	var ne *net.OpError
	return errors.As(err, &ne)
}
