package gateway

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestListenAnyPort has one free port at all addresses of the gateway.
func TestListenAnyPort(t *testing.T) {
	l := newLab(t, nil)
	c := l.tunnel(l.cookie("alice"))
	for _, address := range []string{":0", ":"} {
		ln, err := l.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		port := ln.Addr().(*net.TCPAddr).Port
		go func() {
			for {
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				io.WriteString(nc, "hello")
				nc.Close()
			}
		}()
		for _, host := range []string{"10.20.0.1", "fd20::1"} {
			nc, err := c.stack.DialContext(testContext(t), "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
			if err != nil {
				t.Errorf("port %d of %s: %v", port, host, err)
				continue
			}
			if b, err := io.ReadAll(nc); string(b) != "hello" {
				t.Errorf("port %d of %s says %q, %v", port, host, b, err)
			}
			nc.Close()
		}
		if err := ln.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

// TestListenPortTaken takes ports that are in use at one of the addresses.
func TestListenPortTaken(t *testing.T) {
	l := newLab(t, nil)
	taken, err := l.Listen("tcp", "[fd20::1]:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if _, err := l.Listen("tcp", ":8080"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a port that is taken: %v", err)
	}
	// Nothing is left of it at the other address.
	free, err := l.Listen("tcp", "10.20.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()

	addrs := []string{"10.20.0.1:0", "[fd20::1]:0"}
	for _, tt := range []struct {
		name   string
		tries  int // that come upon a port which is taken
		failed bool
	}{
		{"at first", 3, false},
		{"always", 1000, true},
	} {
		tries, open := 0, 0
		each, err := listenEach(func(address string) (net.Listener, error) {
			at := netip.MustParseAddrPort(address)
			if at.Addr().Is4() {
				if at.Port() != 0 {
					t.Errorf("%s: the first address is asked for port %d", tt.name, at.Port())
				}
				tries++
				at = netip.AddrPortFrom(at.Addr(), uint16(40000+tries))
			} else if tries <= tt.tries {
				return nil, &net.OpError{Op: "listen", Err: syscall.EADDRINUSE}
			}
			open++
			return &closeCounter{addr: net.TCPAddrFromAddrPort(at), open: &open}, nil
		}, addrs)
		if tt.failed {
			if !errors.Is(err, syscall.EADDRINUSE) || tries > 100 || open != 0 {
				t.Errorf("%s: %v after %d tries, %d listeners are left", tt.name, err, tries, open)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var ports []int
		for _, one := range each {
			ports = append(ports, one.Addr().(*net.TCPAddr).Port)
		}
		if want := 40000 + tt.tries + 1; !slices.Equal(ports, []int{want, want}) || open != 2 {
			t.Errorf("%s: ports %v, %d listeners", tt.name, ports, open)
		}
	}
}

type closeCounter struct {
	net.Listener
	addr net.Addr
	open *int
}

func (l *closeCounter) Addr() net.Addr { return l.addr }
func (l *closeCounter) Close() error   { *l.open--; return nil }

// TestListenEnds has Accept return when the listener or the gateway is closed, however many addresses there are.
func TestListenEnds(t *testing.T) {
	for _, address := range []string{"10.20.0.1:80", ":80"} {
		for _, how := range []string{"the listener", "the gateway"} {
			t.Run(address+" "+how, func(t *testing.T) {
				l := newLab(t, nil)
				ln, err := l.Listen("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				const many = 3
				ended := make(chan error, many)
				var waiting sync.WaitGroup
				for range many {
					waiting.Add(1)
					go func() {
						waiting.Done()
						_, err := ln.Accept()
						ended <- err
					}()
				}
				waiting.Wait()
				if how == "the listener" {
					err = ln.Close()
				} else {
					err = l.Server.Close()
				}
				if err != nil {
					t.Errorf("Close: %v", err)
				}
				for range many {
					select {
					case err := <-ended:
						if !errors.Is(err, net.ErrClosed) {
							t.Errorf("Accept: %v", err)
						}
					case <-time.After(10 * time.Second):
						t.Fatal("Accept hangs")
					}
				}
				if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
					t.Errorf("Accept once more: %v", err)
				}
				ln.Close() // it may come late
			})
		}
	}
}
