package stack

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A refused peer learns why.
func TestRefuse(t *testing.T) {
	reasons := []struct {
		why  Reason
		want syscall.Errno
	}{
		{PortUnreachable, syscall.ECONNREFUSED}, {HostUnreachable, syscall.EHOSTUNREACH},
		{NetUnreachable, syscall.ENETUNREACH}, {Prohibited, syscall.EHOSTUNREACH},
	}
	client, gw := gateway(t, Config{
		AcceptTCP: func(_ context.Context, r *TCPRequest) {
			r.Unreachable(reasons[r.Destination.Port()-1].why)
			r.Unreachable(HostUnreachable) // which is too late
			r.Ignore()
		},
		AcceptUDP: func(_ context.Context, r *UDPRequest) { r.Unreachable(reasons[r.Destination.Port()-1].why) },
	})
	for i, tt := range reasons {
		for _, host := range []string{"198.51.100.7", "2001:db8::7"} {
			to := net.JoinHostPort(host, string(rune('1'+i)))
			start := time.Now()
			_, err := client.DialContext(soon(t), "tcp", to)
			wantOp(t, err, tt.want, false)
			if d := time.Since(start); d > 8*time.Second {
				t.Errorf("%s: it took %v", to, d)
			}
		}
	}
	// Of UDP, only a refused port is something that the netstack tells a program.
	for _, to := range []string{"198.51.100.7:1", "[2001:db8::7]:1"} {
		c, err := client.DialContext(soon(t), "udp", to)
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("?"))
		c.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = c.Read(make([]byte, 1))
		wantOp(t, err, syscall.ECONNREFUSED, false)
		c.Close()
	}
	if n := gw.Stats().Flows; n != 0 {
		t.Errorf("%d flows are left", n)
	}
}

func TestIgnore(t *testing.T) {
	client, gw := gateway(t, Config{
		AcceptTCP: func(_ context.Context, r *TCPRequest) { r.Ignore(); r.Reject() },
		AcceptUDP: func(_ context.Context, r *UDPRequest) { r.Ignore(); r.Reject() },
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := client.DialContext(ctx, "tcp", "198.51.100.7:80"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("connecting: %v", err)
	}
	c, err := client.DialContext(soon(t), "udp", "198.51.100.7:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("?"))
	c.SetDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, errTimeout) {
		t.Errorf("reading: %v", err)
	}
	if n := gw.Stats().Flows; n != 0 {
		t.Errorf("%d flows are left", n)
	}
}

// An accepted flow can still be told that what it sent did not arrive, and waiting for it needs no buffer.
func TestUnreachableLater(t *testing.T) {
	var waited atomic.Int32
	client, _ := gateway(t, Config{UDPIdle: 300 * time.Millisecond, AcceptUDP: func(_ context.Context, r *UDPRequest) {
		c, err := r.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		w := c.(interface{ WaitRead() error })
		for {
			if err := w.WaitRead(); err != nil {
				t.Errorf("WaitRead: %v", err)
				return
			}
			waited.Add(1)
			if _, err := c.Read(make([]byte, 100)); err != nil {
				if err != io.EOF {
					t.Errorf("Read: %v", err)
				}
				return
			}
			r.Unreachable(PortUnreachable)
		}
	}})
	c, err := client.DialContext(soon(t), "udp", "198.51.100.7:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		c.Write([]byte("?"))
		c.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = c.Read(make([]byte, 1))
		wantOp(t, err, syscall.ECONNREFUSED, false)
	}
	for end := time.Now().Add(20 * time.Second); waited.Load() < 4; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the flow does not end, after %d datagrams", waited.Load())
		}
	}
}

func TestWaitReadDeadline(t *testing.T) {
	client, _ := gateway(t, Config{AcceptUDP: func(context.Context, *UDPRequest) {}})
	c, err := client.DialContext(soon(t), "udp", "198.51.100.7:80")
	if err != nil {
		t.Fatal(err)
	}
	w := c.(interface{ WaitRead() error })
	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if err := w.WaitRead(); !errors.Is(err, errTimeout) {
		t.Errorf("WaitRead: %v", err)
	}
	c.SetReadDeadline(time.Time{})
	time.AfterFunc(20*time.Millisecond, func() { c.Close() })
	if err := w.WaitRead(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("WaitRead: %v", err)
	}
}
