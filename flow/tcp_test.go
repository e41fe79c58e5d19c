package flow

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestTCP(t *testing.T) {
	checkLeaks(t)
	w := newWorld(t, Config{Decider: DeciderFunc(func(_ context.Context, f *Flow) (Verdict, error) {
		way := Tunnel
		if f.Destination.Addr() == netip.MustParseAddr("198.51.100.9") {
			way = Direct
		}
		return Verdict{Allow: true, Way: way}, nil
	})})
	for to, want := range map[string]string{"198.51.100.7": "tunnel", "198.51.100.9": "direct", "[2001:db8::7]": "tunnel"} {
		if got := w.ask(w.mustDial("tcp", to+":7"), "hello"); got != "hello" {
			t.Errorf("%s: %q", to, got)
		}
		// The end of one direction is passed on and the other goes on.
		c := w.mustDial("tcp", to+":1006")
		io.WriteString(c, "all of it")
		c.(interface{ CloseWrite() error }).CloseWrite()
		if got, err := io.ReadAll(c); err != nil || string(got) != want+":all of it" {
			t.Errorf("%s: %q, %v", to, got, err)
		}
		c.Close()
	}
	s := w.in.Stats()
	if s.TCP != 6 || s.Allowed != 6 || s.Tunneled != 4 || s.Direct != 2 || s.Refused != 0 {
		t.Errorf("counted %+v", s)
	}
	eventually(t, "flows of closed connections end", func() bool { return w.in.Stats().Flows <= 3 })
}

// Programs learn what became of their connections.
func TestTCPTruth(t *testing.T) {
	for _, tt := range []struct {
		name string
		v    Verdict
		port string
		want error
	}{
		{"refused", Verdict{Allow: true, Way: Tunnel}, "1002", syscall.ECONNREFUSED},
		{"no host", Verdict{Allow: true, Way: Direct}, "1003", syscall.EHOSTUNREACH},
		{"no network", Verdict{Allow: true, Way: Tunnel}, "1004", syscall.ENETUNREACH},
		{"nowhere", Verdict{Allow: true}, "7", syscall.ENETUNREACH},
		{"not allowed", Verdict{Way: Tunnel}, "7", syscall.ECONNREFUSED},
		{"nobody answers", Verdict{Allow: true, Way: Tunnel}, "1005", context.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, Config{Decider: always(tt.v)})
			for _, host := range []string{"198.51.100.7:", "[2001:db8::7]:"} {
				wait := 5 * time.Second
				if tt.want == context.DeadlineExceeded {
					wait = 300 * time.Millisecond
				}
				ctx, cancel := context.WithTimeout(t.Context(), wait)
				c, err := w.programs.DialContext(ctx, "tcp", host+tt.port)
				cancel()
				if err == nil {
					c.Close()
				}
				if !errors.Is(err, tt.want) {
					t.Errorf("%s%s: %v, want %v", host, tt.port, err, tt.want)
				}
			}
		})
	}
}

// Resets are passed on in both directions.
func TestTCPReset(t *testing.T) {
	w := newWorld(t, Config{Decider: viaTunnel})
	c := w.mustDial("tcp", "198.51.100.7:1001")
	c.Write([]byte("x"))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	c = w.mustDial("tcp", "198.51.100.7:9")
	c.Write([]byte("12345"))
	eventually(t, "the bytes come", func() bool { return w.in.Flows()[len(w.in.Flows())-1].Sent == 5 })
	reset(c)
	eventually(t, "the other end is reset", func() bool { return strings.Contains(w.tunnel.said(), "reset") })
	eventually(t, "the flows end", func() bool { return w.in.Stats().Flows == 0 })
}

// A lot of data goes both ways at once, unharmed.
func TestTCPBulk(t *testing.T) {
	w := newWorld(t, Config{Decider: viaTunnel})
	data := make([]byte, 8<<20)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(data)
	c := w.mustDial("tcp", "198.51.100.7:7")
	c.SetDeadline(time.Now().Add(20 * time.Second))
	var wg sync.WaitGroup
	wg.Go(func() {
		c.Write(data)
		c.(interface{ CloseWrite() error }).CloseWrite()
	})
	h := sha256.New()
	n, err := io.Copy(h, c)
	wg.Wait()
	if want := sha256.Sum256(data); err != nil || n != int64(len(data)) || !bytes.Equal(h.Sum(nil), want[:]) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// A script is a Decider that looks at names.
type script struct {
	first  Verdict
	byName map[string]Verdict // what is said with Final

	mu    sync.Mutex
	asked []Flow
}

func (s *script) Decide(_ context.Context, f *Flow) (Verdict, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, *f)
	if !f.Final {
		return s.first, nil
	}
	return s.byName[f.Name], nil
}

func (s *script) last() (n int, f Flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked), s.asked[len(s.asked)-1]
}

// TestNames has programs speak TLS, in every combination of what is allowed before and after the name is known.
func TestNames(t *testing.T) {
	checkLeaks(t)
	allow := func(w Way) Verdict { return Verdict{Allow: true, Way: w, Provisional: true} }
	for _, tt := range []struct {
		name  string
		first Verdict
		then  Verdict
		want  string // what the server says, or part of the error
	}{
		{"allowed", allow(Direct), allow(Direct), "direct: www.corp.example"},
		{"moved into the tunnel", allow(Direct), allow(Tunnel), "tunnel: www.corp.example"},
		{"moved out of the tunnel", allow(Tunnel), allow(Direct), "direct: www.corp.example"},
		{"blocked by name", allow(Tunnel), Verdict{}, "connection reset"},
		{"moved nowhere", allow(Tunnel), allow(Nowhere), "connection reset"},
		{"allowed by name", Verdict{Provisional: true}, allow(Tunnel), "tunnel: www.corp.example"},
		{"nowhere without a name", Verdict{Allow: true, Provisional: true}, allow(Tunnel), "tunnel: www.corp.example"},
		{"blocked in any case", Verdict{Provisional: true}, Verdict{}, "connection reset"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &script{first: tt.first, byName: map[string]Verdict{"www.corp.example": tt.then}}
			confirm := func(name string, a netip.Addr) bool { return name == "www.corp.example" && a.Is4() }
			w := newWorld(t, Config{Decider: s, Confirm: confirm})
			c := tls.Client(w.mustDial("tcp", "198.51.100.7:443"), clientTLS("WWW.corp.example"))
			got, err := io.ReadAll(c)
			if answer := string(got); err != nil && !strings.Contains(err.Error(), tt.want) || err == nil && answer != tt.want {
				t.Errorf("%q, %v, want %q", got, err, tt.want)
			}
			if n, f := s.last(); n != 2 || f.Name != "www.corp.example" || f.NameFrom != FromTLS || !f.Confirmed || !f.Final {
				t.Errorf("asked %d times, %+v", n, f)
			}
			if !tt.then.Allow && w.tunnel.said()+w.direct.said() != "[][]" {
				t.Errorf("the destination heard %s and %s", w.tunnel.said(), w.direct.said())
			}
		})
	}
}

// A server that speaks first is not kept waiting for a name, nor is a program that speaks something else.
func TestServerFirst(t *testing.T) {
	s := &script{first: Verdict{Allow: true, Way: Tunnel, Provisional: true}, byName: map[string]Verdict{"": {Allow: true, Way: Tunnel}}}
	w := newWorld(t, Config{Decider: s, HelloTime: time.Hour})
	start := time.Now()
	c := w.mustDial("tcp", "198.51.100.7:25")
	b := make([]byte, 100)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "220 tunnel\r\n" {
		t.Fatalf("%q, %v", b[:n], err)
	}
	if got := w.ask(c, "EHLO x\r\n"); got != "EHLO x\r\n" {
		t.Errorf("%q", got)
	}
	// A program that finishes without a word.
	c = w.mustDial("tcp", "198.51.100.7:1006")
	c.(interface{ CloseWrite() error }).CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "tunnel:" {
		t.Errorf("%q, %v", got, err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("it took %v", d)
	}
}

// A ClientHello that never ends is held back for a limited time.
func TestHelloTime(t *testing.T) {
	s := &script{first: Verdict{Allow: true, Way: Tunnel, Provisional: true}, byName: map[string]Verdict{"": {Allow: true, Way: Tunnel}}}
	w := newWorld(t, Config{Decider: s, HelloTime: 100 * time.Millisecond})
	c := w.mustDial("tcp", "198.51.100.7:7")
	if got := w.ask(c, "\x16\x03\x01\x10\x00\x01"); got != "\x16\x03\x01\x10\x00\x01" {
		t.Errorf("%q", got)
	}
	s2 := &script{first: Verdict{Provisional: true}}
	w2 := newWorld(t, Config{Decider: s2, HelloTime: 100 * time.Millisecond})
	c = w2.mustDial("tcp", "198.51.100.7:7") // and says nothing
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
}

func TestLimits(t *testing.T) {
	w := newWorld(t, Config{Decider: viaTunnel, MaxFlows: 3})
	for range 3 {
		w.ask(w.mustDial("tcp", "198.51.100.7:7"), "x")
	}
	if _, err := w.dial("tcp", "198.51.100.7:7"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the fourth: %v", err)
	}
	if s := w.in.Stats(); s.Limited != 1 || s.Flows != 3 {
		t.Errorf("counted %+v", s)
	}
	if got := w.in.Flows(); len(got) != 3 || got[0].Flow.Network != "tcp" || got[0].Sent != 1 || got[0].Received != 1 || got[0].Verdict.Way != Tunnel {
		t.Errorf("%+v", got)
	}
}

// Close tells the programs.
func TestClose(t *testing.T) {
	checkLeaks(t)
	w := newWorld(t, Config{Decider: viaTunnel})
	c := w.mustDial("tcp", "198.51.100.7:7")
	w.ask(c, "x")
	go w.in.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	w.in.Close()
	if n := w.in.Stats().Flows; n != 0 {
		t.Errorf("%d flows are left", n)
	}
	if f := w.failures(); f != nil {
		t.Error(f)
	}
}
