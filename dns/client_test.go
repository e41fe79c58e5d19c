package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	wire "github.com/miekg/dns"

	"culvert.example/vpn/internal/leak"
)

// A network is DNS servers by their addresses. A server returns the messages that it sends back for a query, perhaps none.
type network struct {
	servers map[string]func(network string, q *wire.Msg) []*wire.Msg

	mu  sync.Mutex
	log []string // network and server of each dial
	ids []uint16
}

func (n *network) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	n.log = append(n.log, network+" "+addr)
	n.mu.Unlock()
	server := n.servers[addr]
	if server == nil {
		return nil, errors.New("connection refused")
	}
	// A pipe keeps the boundaries of messages, as UDP does.
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		for {
			var b []byte
			var err error
			if network == "tcp" {
				b, err = readFramed(far)
			} else {
				b = make([]byte, 4096)
				var size int
				size, err = far.Read(b)
				b = b[:size]
			}
			if err != nil {
				return
			}
			m := new(wire.Msg)
			if m.Unpack(b) != nil {
				return
			}
			n.mu.Lock()
			n.ids = append(n.ids, m.Id)
			n.mu.Unlock()
			for _, r := range server(network, m) {
				b, err := r.Pack()
				if err != nil {
					return
				}
				if network == "tcp" {
					err = writeFramed(far, b)
				} else {
					_, err = far.Write(b)
				}
				if err != nil {
					return
				}
			}
		}
	}()
	return near, nil
}

func (n *network) dials() string { return strings.Join(n.log, ", ") }

// good answers every question with 192.0.2.1.
func good(_ string, q *wire.Msg) []*wire.Msg {
	r := new(wire.Msg).SetReply(q)
	rr, _ := wire.NewRR(q.Question[0].Name + " 60 IN A 192.0.2.1")
	r.Answer = []wire.RR{rr}
	return []*wire.Msg{r}
}

func silent(string, *wire.Msg) []*wire.Msg { return nil }

func fails(code int) func(string, *wire.Msg) []*wire.Msg {
	return func(_ string, q *wire.Msg) []*wire.Msg { return []*wire.Msg{new(wire.Msg).SetRcode(q, code)} }
}

// cut answers over UDP that the answer is too long.
func cut(_ string, q *wire.Msg) []*wire.Msg {
	r := new(wire.Msg).SetReply(q)
	r.Truncated = true
	return []*wire.Msg{r}
}

// forgeries come before the good answer.
func forgeries(network string, q *wire.Msg) []*wire.Msg {
	bad := good(network, q)[0]
	bad.Answer[0].(*wire.A).A = net.IPv4(6, 6, 6, 6)
	id, name, kind, notAnswer := bad.Copy(), bad.Copy(), bad.Copy(), bad.Copy()
	id.Id++
	name.Question[0].Name = "evil.example."
	kind.Question[0].Qtype = wire.TypeAAAA
	notAnswer.Response = false
	none := bad.Copy()
	none.Question = nil
	return append([]*wire.Msg{id, name, kind, notAnswer, none}, good(network, q)...)
}

func mixedCase(network string, q *wire.Msg) []*wire.Msg {
	r := good(network, q)[0]
	r.Question[0].Name = "A.eXample."
	return []*wire.Msg{r}
}

func TestClient(t *testing.T) {
	type server = func(string, *wire.Msg) []*wire.Msg
	const one, two = "192.0.2.53:53", "[2001:db8::53]:53"
	tests := []struct {
		name    string
		servers map[string]server
		code    int // of the answer, or -1 if there is none
		dials   string
		took    time.Duration
	}{
		{"plain", map[string]server{one: good}, 0, "udp " + one, 0},
		{"refused", map[string]server{two: good}, 0, "udp " + one + ", udp " + two, 0},
		{"silent", map[string]server{one: silent, two: good}, 0, "udp " + one + ", udp " + two, time.Second},
		{"servfail", map[string]server{one: fails(wire.RcodeServerFailure), two: good}, 0, "udp " + one + ", udp " + two, 0},
		{"refuses", map[string]server{one: fails(wire.RcodeRefused), two: good}, 0, "udp " + one + ", udp " + two, 0},
		{"not found", map[string]server{one: fails(wire.RcodeNameError), two: good}, wire.RcodeNameError, "udp " + one, 0},
		{
			"all servfail",
			map[string]server{one: fails(wire.RcodeServerFailure), two: fails(wire.RcodeServerFailure)},
			wire.RcodeServerFailure, "udp " + one + ", udp " + two, 0,
		},
		{"servfail and silence", map[string]server{one: fails(wire.RcodeServerFailure), two: silent}, wire.RcodeServerFailure, "udp " + one + ", udp " + two, time.Second},
		{
			"none", map[string]server{}, -1,
			strings.Join(slices.Repeat([]string{"udp " + one, "udp " + two}, 3), ", "), 0,
		},
		{
			"all silent", map[string]server{one: silent, two: silent}, -1,
			strings.Join(slices.Repeat([]string{"udp " + one, "udp " + two}, 3), ", "), 14 * time.Second,
		},
		{"forged", map[string]server{one: forgeries}, 0, "udp " + one, 0},
		{"case", map[string]server{one: mixedCase}, 0, "udp " + one, 0},
		{
			"truncated", map[string]server{one: func(n string, q *wire.Msg) []*wire.Msg {
				if n == "udp" {
					return cut(n, q)
				}
				return good(n, q)
			}}, 0, "udp " + one + ", tcp " + one, 0,
		},
		{
			"truncated without TCP", map[string]server{one: func(n string, q *wire.Msg) []*wire.Msg {
				if n == "udp" {
					return cut(n, q)
				}
				return nil
			}, two: good}, 0, "udp " + one + ", tcp " + one + ", udp " + two, time.Second,
		},
		{
			"nonsense over TCP", map[string]server{one: func(n string, q *wire.Msg) []*wire.Msg {
				if n == "udp" {
					return cut(n, q)
				}
				return forgeries(n, q)
			}, two: good}, 0, "udp " + one + ", tcp " + one + ", udp " + two, 0,
		},
		{
			"old server", map[string]server{one: func(n string, q *wire.Msg) []*wire.Msg {
				if q.IsEdns0() != nil {
					return fails(wire.RcodeFormatError)(n, q)
				}
				return good(n, q)
			}}, 0, "udp " + one + ", udp " + one, 0,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{servers: tt.servers}
				c := &Client{Servers: []netip.AddrPort{netip.MustParseAddrPort(one), netip.MustParseAddrPort(two)}, Dial: n.dial}
				query, err := newQuery("a.example.", wire.TypeA)
				if err != nil {
					t.Fatal(err)
				}
				sent := slices.Clone(query)
				start := time.Now()
				answer, err := c.Exchange(t.Context(), query)
				if took := time.Since(start); took != tt.took {
					t.Errorf("it took %v, want %v", took, tt.took)
				}
				if !slices.Equal(query, sent) {
					t.Error("the query was changed")
				}
				if got := n.dials(); got != tt.dials {
					t.Errorf("dialled %s\nwant %s", got, tt.dials)
				}
				if tt.code < 0 {
					if err == nil || !strings.Contains(err.Error(), "a.example") || !strings.Contains(err.Error(), two) {
						t.Errorf("the error is %v", err)
					}
					if want := tt.took > 0; errors.Is(err, os.ErrDeadlineExceeded) != want {
						t.Errorf("the error says timeout: %v, want %v: %v", !want, want, err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				var m wire.Msg
				if err := m.Unpack(answer); err != nil {
					t.Fatal(err)
				}
				if answer[0] != query[0] || answer[1] != query[1] {
					t.Errorf("the answer has id %x, the query %x", answer[:2], query[:2])
				}
				if m.Rcode != tt.code {
					t.Errorf("the code is %d, want %d", m.Rcode, tt.code)
				}
				if m.Rcode == 0 && (len(m.Answer) != 1 || !strings.Contains(m.Answer[0].String(), "192.0.2.1")) {
					t.Errorf("the answer is %v", m.Answer)
				}
			})
		})
	}
}

func TestClientIDs(t *testing.T) {
	n := &network{servers: map[string]func(string, *wire.Msg) []*wire.Msg{"192.0.2.53:53": good}}
	c := &Client{Servers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}, Dial: n.dial}
	query, _ := newQuery("a.example.", wire.TypeA)
	for range 20 {
		if _, err := c.Exchange(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(n.ids)
	if got := len(slices.Compact(n.ids)); got < 15 {
		t.Errorf("20 queries went out under %d ids", got)
	}
}

func TestClientCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]func(string, *wire.Msg) []*wire.Msg{"192.0.2.53:53": silent}}
		c := &Client{Servers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}, Dial: n.dial}
		query, _ := newQuery("a.example.", wire.TypeA)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(1500*time.Millisecond, cancel)
		start := time.Now()
		_, err := c.Exchange(ctx, query)
		if took := time.Since(start); !errors.Is(err, context.Canceled) || took != 1500*time.Millisecond {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

func TestClientRefusesNonsense(t *testing.T) {
	c := &Client{Servers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}, Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("nonsense was sent")
		return nil, errDown
	}}
	good, _ := newQuery("a.example.", wire.TypeA)
	answer := slices.Clone(good)
	answer[2] |= 0x80
	two := slices.Clone(good)
	two[5] = 2
	for name, query := range map[string][]byte{
		"nothing": nil, "short": good[:11], "no question": good[:12], "half a question": good[:20], "an answer": answer,
		"two questions": two, "huge": make([]byte, maxMessage+1),
	} {
		if _, err := c.Exchange(t.Context(), query); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := new(Client).Exchange(t.Context(), good); !errors.Is(err, ErrNoServer) {
		t.Errorf("without servers: %v", err)
	}
}

// TestClientSockets asks a real server on the loopback interface, with the default dialer.
func TestClientSockets(t *testing.T) {
	leak.Check(t)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	handler := wire.HandlerFunc(func(w wire.ResponseWriter, q *wire.Msg) {
		r := new(wire.Msg).SetReply(q)
		for i := range 100 {
			r.Answer = append(r.Answer, &wire.A{Hdr: recordHeader(q.Question[0].Name, wire.TypeA), A: net.IPv4(192, 0, 2, byte(i))})
		}
		if w.LocalAddr().Network() == "udp" {
			r.Truncate(udpSize)
		}
		w.WriteMsg(r)
	})
	for _, s := range []*wire.Server{{Listener: tcp, Handler: handler}, {PacketConn: udp, Handler: handler}} {
		started, done := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(done)
			s.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() {
			s.Shutdown()
			<-done
		})
	}
	r := &Resolver{Exchanger: &Client{Servers: []netip.AddrPort{netip.MustParseAddrPort(tcp.Addr().String())}}}
	addrs, err := r.LookupNetIP(t.Context(), "ip4", "many.example")
	if err != nil || len(addrs) != 100 {
		t.Errorf("%d addresses, %v", len(addrs), err)
	}
}
