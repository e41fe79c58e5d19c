package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// forward forwards a loopback port to address until the test ends, and returns the port's address.
func forward(t *testing.T, s *Server, address string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Forward(l, address) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; !errors.Is(err, ErrServerClosed) {
			t.Errorf("Forward returned %v", err)
		}
	})
	return l.Addr().String()
}

// TestForward has a server that speaks first, and a client that says what would be SOCKS to Serve and then no more.
func TestForward(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.WriteString(c, "220 hello\r\n")
				said, _ := io.ReadAll(c)
				fmt.Fprintf(c, "you said %x", said)
			}()
		}
	}()
	w := &world{names: map[string]string{"db.corp.example:5432": l.Addr().String()}}
	// A forward leads to one place only, so it needs no password.
	s := &Server{Dial: w.dial, Auth: Password("ann", "secret")}
	addr := forward(t, s, "db.corp.example:5432")
	for range 2 {
		c := connect(t, addr)
		expect(t, c, []byte("220 hello\r\n"))
		c.Write([]byte{5, 1, 0})
		c.CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != "you said 050100" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if w.last() != "tcp db.corp.example:5432" {
		t.Errorf("Dial was asked for %q", w.last())
	}
	// It goes on beside Serve, and after a failure.
	page := web(t)
	c := connect(t, start(t, s))
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", page.URL)
	expect(t, c, []byte("HTTP/1.1 407"))
	w.mu.Lock()
	w.err = syscall.ECONNREFUSED
	w.mu.Unlock()
	// The reset may come as early as the connection does.
	refused, err := net.Dial("tcp", addr)
	if err == nil {
		defer refused.Close()
		_, err = refused.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a client of a destination that refuses got %v, want a reset", err)
	}
	w.mu.Lock()
	w.err = nil
	w.mu.Unlock()
	expect(t, connect(t, addr), []byte("220 hello\r\n"))
}

// A pipeListener accepts the ends of pipes.
type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	c, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l pipeListener) Close() error { return nil }

func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// TestForwardOrder opens connections one after the other, whose destination must see them in this order although
// dialing takes now more time, now less.
func TestForwardOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const clients = 40
		arrived := make(chan net.Conn, clients)
		var dials int
		s := &Server{Dial: func(context.Context, string, string) (net.Conn, error) {
			if dials++; dials%3 == 1 {
				time.Sleep(dialApart * 2 / 3)
			}
			a, b := net.Pipe()
			arrived <- b
			return a, nil
		}}
		l := make(pipeListener)
		go s.Forward(l, "host:1")
		for i := range clients {
			a, b := net.Pipe()
			defer a.Close()
			l <- b
			go a.Write([]byte{byte(i)})
		}
		for i := range clients {
			c := <-arrived
			expect(t, c, []byte{byte(i)})
			c.Close()
		}
		close(l)
		s.Close()
	})
}

// TestForwardSlow has a destination that takes long to dial, which keeps nobody else waiting for as long.
func TestForwardSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const clients = 5
		begin := time.Now()
		dials := make(chan time.Duration, clients)
		s := &Server{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			dials <- time.Since(begin)
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		l := make(pipeListener)
		go s.Forward(l, "host:1")
		for range clients {
			a, b := net.Pipe()
			defer a.Close()
			l <- b
		}
		for i := range clients {
			if d := <-dials; d != time.Duration(i)*dialApart {
				t.Errorf("client %d was dialed for after %v", i, d)
			}
		}
		close(l)
		s.Close()
	})
}

// TestForwardClose closes the server while a destination is being dialed.
func TestForwardClose(t *testing.T) {
	dialing := make(chan struct{})
	s := &Server{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		close(dialing)
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	c := connect(t, forward(t, s, "[2001:db8::1]:80"))
	<-dialing
	begin := time.Now()
	s.Close()
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("Close took %v", d)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the client was served")
	}
}

func TestForwardAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Dial: (&world{}).dial}
	defer s.Close()
	if err := s.Forward(l, "nowhere"); err == nil || errors.Is(err, ErrServerClosed) {
		t.Errorf("Forward to no port: %v", err)
	}
	if c, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		if err == nil {
			c.Close()
		}
		t.Errorf("the listener is open: %v", err)
	}
}
