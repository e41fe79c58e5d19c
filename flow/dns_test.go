package flow

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// query returns a question for the address of a name.
func query(id uint16, name string) []byte {
	q := binary.BigEndian.AppendUint16(nil, id)
	q = append(q, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	for label := range strings.SplitSeq(name, ".") {
		q = append(append(q, byte(len(label))), label...)
	}
	return append(q, 0, 0, 1, 0, 1)
}

// reply returns the answer of the proxies of these tests: the question, as a response.
func reply(q []byte) []byte {
	a := bytes.Clone(q)
	a[2] |= 0x80
	return a
}

// exchange sends a question and returns the answer.
func exchange(t *testing.T, c net.Conn, q []byte) []byte {
	t.Helper()
	tcp := c.LocalAddr().Network() == "tcp"
	if tcp {
		q = append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)
	}
	if _, err := c.Write(q); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 65536)
	if !tcp {
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return b[:n]
	}
	if _, err := io.ReadFull(c, b[:2]); err != nil {
		t.Fatal(err)
	}
	b = b[:binary.BigEndian.Uint16(b)]
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDNS(t *testing.T) {
	checkLeaks(t)
	w := newWorld(t, Config{
		Decider: DeciderFunc(func(_ context.Context, f *Flow) (Verdict, error) {
			if !f.Final {
				t.Errorf("asked about %+v", f)
			}
			return Verdict{Allow: !strings.HasPrefix(f.Destination.String(), "203.0.113."), Way: Direct}, nil
		}),
		DNS: func(_ context.Context, f *Flow, q []byte) ([]byte, error) {
			switch {
			case bytes.Contains(q, []byte("broken")):
				return nil, errors.New("no server answers")
			case bytes.Contains(q, []byte("nothing")):
				return nil, nil
			}
			return append(reply(q), f.Network+f.Destination.Addr().String()...), nil
		},
	})
	for _, network := range []string{"udp", "tcp"} {
		for _, to := range []string{"198.51.100.53", "2001:db8::53"} {
			c := w.mustDial(network, net.JoinHostPort(to, "53"))
			for i := range 3 {
				q := query(uint16(i), "www.corp.example")
				if got, want := exchange(t, c, q), append(reply(q), network+to...); !bytes.Equal(got, want) {
					t.Errorf("%s %s: %q", network, to, got)
				}
			}
			q := query(9, "broken.example")
			want := reply(q)
			want[3] = 0x82
			if got := exchange(t, c, q); !bytes.Equal(got, want) {
				t.Errorf("%s %s: %x, want %x", network, to, got, want)
			}
		}
	}
	// What is no question has no answer, and keeps nobody from asking.
	c := w.mustDial("udp", "198.51.100.53:53")
	c.Write([]byte("short"))
	c.Write(reply(query(1, "loop.example")))
	c.Write(query(1, "nothing.example"))
	if got := exchange(t, c, query(2, "a.example")); got[1] != 2 {
		t.Errorf("%x", got)
	}
	if _, err := w.dial("tcp", "203.0.113.1:53"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a program that may not ask: %v", err)
	}
	eventually(t, "all questions are counted", func() bool { return w.in.Stats().Queries == 18 })
	if s := w.in.Stats(); s.QueriesFailed != 4 || s.QueriesDropped != 0 {
		t.Errorf("counted %+v", s)
	}
}

// Questions of one connection do not wait for each other.
func TestDNSPipelining(t *testing.T) {
	release := make(chan struct{})
	w := newWorld(t, Config{Decider: viaTunnel, DNS: func(ctx context.Context, _ *Flow, q []byte) ([]byte, error) {
		if bytes.Contains(q, []byte("slow")) {
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		return reply(q), nil
	}})
	c := w.mustDial("tcp", "198.51.100.53:53")
	q := query(1, "slow.example")
	c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...))
	if got := exchange(t, c, query(2, "fast.example")); got[1] != 2 {
		t.Errorf("%x", got)
	}
	close(release)
	b := make([]byte, 4)
	if _, err := io.ReadFull(c, b); err != nil || b[3] != 1 {
		t.Errorf("%x, %v", b, err)
	}
}

// Too many questions are dropped, and each has its time.
func TestDNSLimits(t *testing.T) {
	var working, most, asked atomic.Int32
	w := newWorld(t, Config{Decider: viaTunnel, MaxQueries: 2, QueryTime: 200 * time.Millisecond, DNS: func(ctx context.Context, _ *Flow, q []byte) ([]byte, error) {
		asked.Add(1)
		if n := working.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-ctx.Done()
		working.Add(-1)
		return nil, ctx.Err()
	}})
	c := w.mustDial("udp", "198.51.100.53:53")
	for i := range 5 {
		c.Write(query(uint16(i), "a.example"))
	}
	b := make([]byte, 512)
	for range 2 {
		if _, err := c.Read(b); err != nil || b[3]&15 != 2 {
			t.Errorf("%x, %v", b[:12], err)
		}
	}
	// The last ones may have come when the first were done, on a busy machine.
	if s := w.in.Stats(); s.QueriesDropped == 0 || s.QueriesDropped+uint64(asked.Load()) != 5 || most.Load() != 2 {
		t.Errorf("%d asked, %d at a time, counted %+v", asked.Load(), most.Load(), s)
	}
}

func TestServerFailure(t *testing.T) {
	q := query(7, "a.example")
	for _, tt := range []struct {
		in   []byte
		want int // length
	}{
		{q, len(q)}, {append(bytes.Clone(q), 1, 2, 3), len(q)}, {q[:len(q)-1], 12}, {q[:12], 12}, {q[:14], 12},
		{append(bytes.Clone(q[:12]), 0xc0, 12, 0, 1, 0, 1), 12}, {append(bytes.Clone(q[:12]), make([]byte, 5)...), 17},
	} {
		before := bytes.Clone(tt.in)
		got := serverFailure(tt.in)
		if len(got) != tt.want || got[0] != 0 || got[1] != 7 || got[2] != 0x81 || got[3] != 0x82 {
			t.Errorf("%x: %x", tt.in, got)
		}
		if !bytes.Equal(before, tt.in) {
			t.Error("the question was changed")
		}
	}
}

func FuzzServerFailure(f *testing.F) {
	f.Add(query(7, "a.example"))
	f.Fuzz(func(t *testing.T, q []byte) {
		if len(q) < dnsHeader {
			return
		}
		if got := serverFailure(q); len(got) < dnsHeader || len(got) > len(q) {
			t.Errorf("%x", got)
		}
	})
}
