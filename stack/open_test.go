package stack

import (
	"io"
	"testing"
	"time"
)

// TestTCPOpen counts a connection for as long as closing the stack could cut something off.
func TestTCPOpen(t *testing.T) {
	alice, bob := pair(t, 1400)
	want := func(when string, n uint64) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for alice.Stats().TCPOpen != n {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d connections are open, want %d", when, alice.Stats().TCPOpen, n)
			}
			time.Sleep(time.Millisecond)
		}
	}
	still := func(when string, n uint64) {
		t.Helper()
		time.Sleep(50 * time.Millisecond) // packets and timers of the stack come to rest
		if got := alice.Stats().TCPOpen; got != n {
			t.Errorf("%s: %d connections are open, want %d", when, got, n)
		}
	}
	want("at first", 0)
	l, err := alice.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	still("listening", 0)

	c, s := connect(t, alice, bob, bob4)
	want("connected", 1)
	c.(interface{ CloseWrite() error }).CloseWrite()
	io.Copy(io.Discard, s)
	still("the question is ended, the answer is not", 1)
	s.Close()
	want("both are ended", 0)
	c.Close()

	c, s = connect(t, alice, bob, bob4)
	s.(interface{ CloseWrite() error }).CloseWrite()
	io.Copy(io.Discard, c)
	still("the peer has ended, we have not", 1)
	c.Close()
	want("we have too", 0)
	s.Close()

	// More than the windows hold, so that the end has to wait behind it.
	c, s = connect(t, alice, bob, bob4)
	chunk := make([]byte, 1<<20)
	for {
		c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err := c.Write(chunk); err != nil {
			break
		}
	}
	c.Close()
	still("closed with data under way", 1)
	io.Copy(io.Discard, s)
	s.Close()
	want("delivered", 0)

	c, s = connect(t, alice, bob, bob4)
	s.(interface{ SetLinger(int) error }).SetLinger(0)
	s.Close()
	want("reset", 0)
	c.Close()
}
