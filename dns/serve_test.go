package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"culvert.example/vpn/internal/leak"
	wire "github.com/miekg/dns"
)

// A running is a Server on a UDP and a TCP socket with the same number.
type running struct {
	*Server
	addr string
	udp  net.PacketConn
	done []chan error // one for each socket
}

// serve starts s on the loopback interface. Wrap may hide what kind of socket it is.
func serve(t testing.TB, s *Server, wrap func(net.PacketConn) net.PacketConn) *running {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if wrap != nil {
		udp = wrap(udp)
	}
	r := &running{Server: s, addr: tcp.Addr().String(), udp: udp, done: []chan error{make(chan error, 1), make(chan error, 1)}}
	open := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.open)
	}
	before := open()
	go func() { r.done[0] <- s.ServePacket(udp) }()
	go func() { r.done[1] <- s.Serve(tcp) }()
	for open() < before+2 {
		time.Sleep(time.Millisecond)
	}
	t.Cleanup(func() {
		s.Close()
		for _, d := range r.done {
			select {
			case err := <-d:
				if err != nil {
					t.Errorf("a socket ended with %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Error("a socket is still served after Close")
			}
		}
	})
	return r
}

func (r *running) dial(t testing.TB, network string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, r.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// ask sends a query over UDP and returns the answer, or nil if there is none for a while.
func (r *running) ask(t testing.TB, query []byte) *wire.Msg {
	t.Helper()
	c := r.dial(t, "udp")
	if _, err := c.Write(query); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 65535)
	c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	n, err := c.Read(buf)
	if err != nil {
		return nil
	}
	m := new(wire.Msg)
	if err := m.Unpack(buf[:n]); err != nil {
		t.Fatalf("%v: %x", err, buf[:n])
	}
	return m
}

func manyRecords(n int) []string {
	var lines []string
	for i := range n {
		lines = append(lines, fmt.Sprintf("many.example. 60 IN A 192.0.2.%d", i))
	}
	return append(lines, "a.example. 60 IN A 192.0.2.1")
}

func testServer(t testing.TB, up Exchanger, change func(*ServerConfig)) *Server {
	cfg := ServerConfig{Rules: Rules{Zones: []Zone{{Suffixes: []string{"."}, Way: Tunnel, Upstreams: []Exchanger{up}}}}}
	if change != nil {
		change(&cfg)
	}
	return newServer(t, cfg)
}

// onlyPackets hides that a socket is a net.UDPConn, as that of a stack is none.
type onlyPackets struct{ net.PacketConn }

// TestSockets asks over UDP and TCP, from the cache and not, with the Client of this package, which follows truncation.
func TestSockets(t *testing.T) {
	for name, wrap := range map[string]func(net.PacketConn) net.PacketConn{
		"udp": nil, "any": func(c net.PacketConn) net.PacketConn { return onlyPackets{c} },
	} {
		t.Run(name, func(t *testing.T) {
			leak.Check(t)
			r := serve(t, testServer(t, newAuthority(t, "example.", manyRecords(100)...), nil), wrap)
			c := &Resolver{Exchanger: &Client{Servers: []netip.AddrPort{netip.MustParseAddrPort(r.addr)}, MixCase: true}}
			for range 3 {
				for host, want := range map[string]int{"a.example": 1, "many.example": 100} {
					addrs, err := c.LookupNetIP(t.Context(), "ip4", host)
					if err != nil || len(addrs) != want {
						t.Errorf("%s: %d addresses, %v", host, len(addrs), err)
					}
				}
			}
			if st := r.Stats(); st.Truncated != 3 || st.Misses != 2 || st.Malformed != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestManyClients asks at once from many sockets, while rules change and answers are forgotten.
func TestManyClients(t *testing.T) {
	leak.Check(t)
	up := newAuthority(t, "example.", manyRecords(3)...)
	r := serve(t, testServer(t, up, nil), nil)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			network := []string{"udp", "tcp"}[g%2]
			c := &Client{Servers: []netip.AddrPort{netip.MustParseAddrPort(r.addr)}}
			for i := range 50 {
				query, _ := newQuery(fmt.Sprintf("x%d.example.", i%20), wire.TypeA)
				if i%3 == 0 {
					query, _ = newQuery("many.example.", wire.TypeA)
				}
				q, _ := parseQuery(query)
				answer, err := c.roundTrip(t.Context(), network, c.Servers[0], q, query, 5*time.Second)
				if err != nil {
					t.Error(err)
					return
				}
				if code := rcode(answer); code != wire.RcodeNameError && i%3 != 0 || code != wire.RcodeSuccess && i%3 == 0 {
					t.Errorf("%s: code %d", q.name, code)
				}
			}
		})
	}
	for range 20 {
		time.Sleep(5 * time.Millisecond)
		r.Flush()
		r.Stats()
	}
	wg.Wait()
}

func TestHostilePackets(t *testing.T) {
	r := serve(t, testServer(t, newAuthority(t, "example.", manyRecords(1)...), nil), nil)
	good := packed(t, nil, nil)
	for _, b := range [][]byte{
		{}, {0}, good[:11], packed(t, func(m *wire.Msg) { m.Response = true }, nil),
	} {
		if m := r.ask(t, b); m != nil {
			t.Errorf("%x is answered: %v", b, m)
		}
	}
	for name, tt := range map[string]struct {
		query []byte
		code  int
	}{
		"huge":          {append(slices.Clone(good), make([]byte, 20000)...), wire.RcodeFormatError},
		"just too huge": {append(slices.Clone(good), make([]byte, maxQuery+1-len(good))...), wire.RcodeFormatError},
		"just not":      {append(slices.Clone(good), make([]byte, maxQuery-len(good))...), wire.RcodeSuccess},
		"loop":          {packed(t, nil, func(b []byte) []byte { b[12], b[13] = 0xc0, 12; return b }), wire.RcodeFormatError},
		"version":       {packed(t, edns(3, 1232), nil), wire.RcodeBadVers},
		"transfer":      {packed(t, func(m *wire.Msg) { m.Question[0].Qtype = wire.TypeAXFR }, nil), wire.RcodeRefused},
		"good":          {good, wire.RcodeSuccess},
	} {
		m := r.ask(t, tt.query)
		if m == nil || m.Rcode != tt.code || m.Id != 0x1234 {
			t.Errorf("%s: %v", name, m)
		}
	}
	if st := r.Stats(); st.Malformed != 7 || st.Refused != 2 || st.Panics != 0 {
		t.Errorf("%+v", st)
	}
}

func TestHostileStreams(t *testing.T) {
	leak.Check(t)
	r := serve(t, testServer(t, newAuthority(t, "example.", manyRecords(1)...), nil), nil)
	for name, b := range map[string][]byte{
		"short":    {0, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
		"zero":     {0, 0},
		"too long": {0xff, 0xff, 1, 2, 3},
	} {
		c := r.dial(t, "tcp")
		c.Write(b)
		if n, err := c.Read(make([]byte, 100)); n != 0 || err == nil || isTimeout(err) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
	// Half a query, and the end of the other side.
	c := r.dial(t, "tcp")
	c.Write([]byte{0, 40, 1, 2, 3})
	c.(*net.TCPConn).CloseWrite()
	if _, err := c.Read(make([]byte, 100)); err != io.EOF && !strings.Contains(fmt.Sprint(err), "reset") {
		t.Errorf("half a query: %v", err)
	}
	// A malformed message within its bounds is answered, and the stream goes on.
	c = r.dial(t, "tcp")
	writeFramed(c, packed(t, nil, func(b []byte) []byte { b[5] = 7; return b }))
	writeFramed(c, packed(t, nil, nil))
	for _, want := range []int{wire.RcodeFormatError, wire.RcodeSuccess} {
		answer, err := readFramed(c)
		if err != nil || rcode(answer) != want {
			t.Errorf("%v, code %x", err, answer)
		}
	}
}

// TestPipelining: a slow question does not hold up those behind it, and a client that has said all it wants still gets all
// answers.
func TestPipelining(t *testing.T) {
	leak.Check(t)
	slow := make(chan struct{})
	up := exchanger(func(ctx context.Context, q *wire.Msg) (*wire.Msg, error) {
		if q.Question[0].Name == "slow.example." {
			select {
			case <-slow:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		m := new(wire.Msg).SetReply(q)
		m.Answer = []wire.RR{addressRecord(q.Question[0].Name, netip.MustParseAddr("192.0.2.1"))}
		return m, nil
	})
	r := serve(t, testServer(t, up, nil), nil)
	c := r.dial(t, "tcp")
	var all []byte
	for i, name := range []string{"slow.example.", "a.example.", "b.example.", "a.example."} {
		q := new(wire.Msg).SetQuestion(name, wire.TypeA)
		q.Id = uint16(i)
		b, _ := q.Pack()
		all = append(binary.BigEndian.AppendUint16(all, uint16(len(b))), b...)
	}
	// In pieces, to see that they are put together.
	for i := 0; i < len(all); i += 7 {
		c.Write(all[i:min(i+7, len(all))])
	}
	c.(*net.TCPConn).CloseWrite()
	got := map[uint16]string{}
	for i := range 4 {
		if i == 3 {
			if _, early := got[0]; early {
				t.Error("the slow answer came first")
			}
			close(slow)
		}
		b, err := readFramed(c)
		if err != nil {
			t.Fatal(err)
		}
		var m wire.Msg
		if err := m.Unpack(b); err != nil {
			t.Fatal(err)
		}
		got[m.Id] = m.Question[0].Name
	}
	if want := "map[0:slow.example. 1:a.example. 2:b.example. 3:a.example.]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	if _, err := readFramed(c); err != io.EOF {
		t.Errorf("after the last answer: %v", err)
	}
}

func TestMaxConns(t *testing.T) {
	r := serve(t, testServer(t, newAuthority(t, "example.", manyRecords(1)...), func(cfg *ServerConfig) { cfg.MaxConns = 2 }), nil)
	ask := func(c net.Conn) error {
		writeFramed(c, packed(t, nil, nil))
		_, err := readFramed(c)
		return err
	}
	first, second := r.dial(t, "tcp"), r.dial(t, "tcp")
	if err := errors.Join(ask(first), ask(second)); err != nil {
		t.Fatal(err)
	}
	if err := ask(r.dial(t, "tcp")); err == nil || isTimeout(err) {
		t.Errorf("the third: %v", err)
	}
	if st := r.Stats(); st.Conns != 2 || st.ConnsFull != 1 {
		t.Errorf("%+v", st)
	}
	first.Close()
	for range 100 {
		if r.Stats().Conns < 2 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := ask(r.dial(t, "tcp")); err != nil {
		t.Errorf("after one has gone: %v", err)
	}
}

// TestOverload: questions above the limit fail at once.
func TestOverload(t *testing.T) {
	leak.Check(t)
	g := gate{newZone(t), make(chan struct{})}
	r := serve(t, testServer(t, g, func(cfg *ServerConfig) { cfg.MaxQuestions = 3 }), nil)
	c := r.dial(t, "udp")
	for i := range 5 {
		q := new(wire.Msg).SetQuestion(fmt.Sprintf("x%d.example.", i), wire.TypeA)
		q.Id = uint16(i)
		b, _ := q.Pack()
		c.Write(b)
	}
	codes := map[int]int{}
	buf := make([]byte, 1000)
	for i := range 5 {
		if i == 2 {
			if st := r.Stats(); st.Active != 3 || st.Overload != 2 {
				t.Errorf("%+v", st)
			}
			close(g.open)
		}
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		codes[rcode(buf[:n])]++
	}
	if codes[wire.RcodeServerFailure] != 2 || codes[wire.RcodeNameError] != 3 {
		t.Errorf("%v", codes)
	}
}

func TestShutdown(t *testing.T) {
	leak.Check(t)
	g := gate{newAuthority(t, "example.", manyRecords(1)...), make(chan struct{})}
	s := testServer(t, g, nil)
	r := serve(t, s, nil)
	udp, tcp, idle := r.dial(t, "udp"), r.dial(t, "tcp"), r.dial(t, "tcp")
	udp.Write(packed(t, nil, nil))
	writeFramed(tcp, packed(t, nil, nil))
	for s.Stats().Active < 2 || s.Stats().Conns < 2 {
		time.Sleep(time.Millisecond)
	}
	done := make(chan error)
	go func() { done <- s.Shutdown(t.Context()) }()
	// The connection that asks nothing ends at once; the others get their answers.
	if _, err := idle.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("idle: %v", err)
	}
	select {
	case err := <-done:
		t.Fatalf("Shutdown did not wait: %v", err)
	default:
	}
	close(g.open)
	buf := make([]byte, 1000)
	if n, err := udp.Read(buf); err != nil || rcode(buf[:n]) != wire.RcodeSuccess {
		t.Errorf("UDP: %v", err)
	}
	if answer, err := readFramed(tcp); err != nil || rcode(answer) != wire.RcodeSuccess {
		t.Errorf("TCP: %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	// Nothing is served after that, and what is handed over is closed.
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ServePacket(pc); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ServePacket: %v", err)
	}
	if _, err := pc.WriteTo([]byte{1}, pc.LocalAddr()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the socket is open: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
	near, far := net.Pipe()
	defer far.Close()
	if err := s.ServeConn("tcp", near); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ServeConn: %v", err)
	}
}

func TestShutdownGivesUp(t *testing.T) {
	leak.Check(t)
	g := gate{newZone(t), make(chan struct{})}
	s := testServer(t, g, nil)
	r := serve(t, s, nil)
	r.dial(t, "udp").Write(packed(t, nil, nil))
	for s.Stats().Active < 1 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 3*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

// TestClosedSocket: a socket that somebody else closes ends with an error, and the others go on.
func TestClosedSocket(t *testing.T) {
	s := testServer(t, newAuthority(t, "example.", manyRecords(1)...), nil)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.ServePacket(pc) }()
	time.Sleep(10 * time.Millisecond)
	pc.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), pc.LocalAddr().String()) {
		t.Errorf("%v", err)
	}
	if m := serve(t, s, nil).ask(t, packed(t, nil, nil)); m == nil || m.Rcode != wire.RcodeSuccess {
		t.Errorf("%v", m)
	}
}

func TestServeConn(t *testing.T) {
	leak.Check(t)
	s := testServer(t, newAuthority(t, "example.", manyRecords(100)...), nil)
	for _, network := range []string{"udp4", "tcp6"} {
		// A pipe keeps the boundaries of messages.
		near, far := net.Pipe()
		done := make(chan error)
		go func() { done <- s.ServeConn(network, far) }()
		near.SetDeadline(time.Now().Add(5 * time.Second))
		for range 2 {
			q, _ := new(wire.Msg).SetQuestion("many.example.", wire.TypeA).Pack()
			var answer []byte
			var err error
			if network == "tcp6" {
				writeFramed(near, q)
				answer, err = readFramed(near)
			} else {
				near.Write(q)
				answer = make([]byte, 5000)
				var n int
				n, err = near.Read(answer)
				answer = answer[:n]
			}
			if err != nil {
				t.Fatal(err)
			}
			if truncated(answer) != (network == "udp4") {
				t.Errorf("%s: truncated is %v", network, truncated(answer))
			}
		}
		near.Close()
		if err := <-done; err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s: %v", network, err)
		}
	}
	near, far := net.Pipe()
	defer near.Close()
	if err := s.ServeConn("unix", far); err == nil {
		t.Error("a network that does not exist")
	}
}

// A faulty socket panics once, on one of the goroutines that read from it.
type faulty struct {
	net.PacketConn
	once sync.Once
}

func (f *faulty) ReadFrom(b []byte) (int, net.Addr, error) {
	f.once.Do(func() { panic("socket") })
	return f.PacketConn.ReadFrom(b)
}

func TestPanicOfSocket(t *testing.T) {
	leak.Check(t)
	s := testServer(t, newZone(t), nil)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.ServePacket(&faulty{PacketConn: pc}) }()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "panic: socket") || s.Stats().Panics != 1 {
			t.Errorf("%v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the socket is still served")
	}
}

// TestFlowsAreBounded: flows that say nothing cannot pile up.
func TestFlowsAreBounded(t *testing.T) {
	leak.Check(t)
	s := testServer(t, newZone(t), func(cfg *ServerConfig) { cfg.MaxQuestions = 2 })
	var wg sync.WaitGroup
	for range 2 {
		near, far := net.Pipe()
		defer near.Close()
		wg.Go(func() { s.ServeConn("udp", far) })
	}
	for s.Stats().Flows < 2 {
		time.Sleep(time.Millisecond)
	}
	near, far := net.Pipe()
	if err := s.ServeConn("udp", far); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("%v", err)
	}
	if _, err := near.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection is open: %v", err)
	}
	s.Close()
	wg.Wait()
	if st := s.Stats(); st.Flows != 0 || st.ConnsFull != 1 {
		t.Errorf("%+v", st)
	}
}
