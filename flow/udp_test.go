package flow

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/quic"
)

func TestUDP(t *testing.T) {
	checkLeaks(t)
	w := newWorld(t, Config{Decider: viaTunnel, UDPIdle: 300 * time.Millisecond})
	for _, to := range []string{"198.51.100.7:7", "[2001:db8::7]:7"} {
		c := w.mustDial("udp", to)
		for _, size := range []int{1, 1200, 9000} { // the last one in fragments
			sent := make([]byte, size)
			rand.Read(sent)
			if _, err := c.Write(sent); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 10000)
			if n, err := c.Read(got); err != nil || !bytes.Equal(got[:n], sent) {
				t.Fatalf("%s: %d bytes of %d, %v", to, n, size, err)
			}
		}
	}
	if n := w.in.Stats().Flows; n != 2 {
		t.Errorf("%d flows", n)
	}
	eventually(t, "idle flows end", func() bool { return w.in.Stats().Flows == 0 })
}

func TestUDPTruth(t *testing.T) {
	for _, tt := range []struct {
		name string
		v    Verdict
		port string
		want error // of reading; a program of the netstack learns only of refused ports
	}{
		{"refused", Verdict{Allow: true, Way: Tunnel}, "1002", syscall.ECONNREFUSED},
		{"not allowed", Verdict{Way: Tunnel}, "7", nil},
		{"nowhere", Verdict{Allow: true}, "7", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var icmp atomic.Int32
			w := openWorld(t)
			_, b := pipe(t, w, &icmp)
			w.intercept(Config{Decider: always(tt.v)}, b)
			for _, host := range []string{"198.51.100.7:", "[2001:db8::7]:"} {
				icmp.Store(0)
				c := w.mustDial("udp", host+tt.port)
				c.Write([]byte("?"))
				if tt.want != nil {
					if _, err := c.Read(make([]byte, 1)); !errors.Is(err, tt.want) {
						t.Errorf("%s: %v", host, err)
					}
				}
				eventually(t, "the program is told", func() bool { return icmp.Load() > 0 })
			}
		})
	}
}

// TestUDPSurvives checks that an error about one datagram does not end the flow.
func TestUDPSurvives(t *testing.T) {
	w := newWorld(t, Config{Decider: viaTunnel})
	c := w.mustDial("udp", "198.51.100.7:1002")
	for range 4 {
		c.Write([]byte("?"))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatal(err)
		}
	}
	if s := w.in.Stats(); s.UDP != 1 {
		t.Errorf("counted %+v", s)
	}
}

// TestQUIC has a real QUIC client talk to a real server, by its name, and carry some data.
func TestQUIC(t *testing.T) {
	for _, tt := range []struct {
		name  string
		first Verdict
		then  Verdict
		ok    bool
	}{
		{"by name", Verdict{Provisional: true}, Verdict{Allow: true, Way: Tunnel}, true},
		{"on another way", Verdict{Allow: true, Way: Direct, Provisional: true}, Verdict{Allow: true, Way: Tunnel}, true},
		{"without asking", Verdict{Allow: true, Way: Tunnel}, Verdict{}, true},
		{"blocked by name", Verdict{Allow: true, Way: Tunnel, Provisional: true}, Verdict{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &script{first: tt.first, byName: map[string]Verdict{"media.corp.example": tt.then}}
			w := newWorld(t, Config{Decider: s})
			// The server is at an address of its own, on the machine at the end of the tunnel.
			if err := w.tunnel.far.SetAddresses(prefixes("198.51.100.7")); err != nil {
				t.Fatal(err)
			}
			listen := func(pc net.PacketConn, err error, cfg *quic.Config) *quic.Endpoint {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				e, err := quic.NewEndpoint(pc, cfg)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
					defer cancel()
					e.Close(ctx)
				})
				return e
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			pc, err := w.tunnel.far.ListenPacket("udp", "198.51.100.7:443")
			server := listen(pc, err, &quic.Config{TLSConfig: serverTLS()})
			go func() {
				c, err := server.Accept(ctx)
				if err != nil {
					return
				}
				s, err := c.AcceptStream(ctx)
				if err != nil {
					return
				}
				io.Copy(s, s)
				s.Close()
			}()
			pc, err = w.programs.ListenPacket("udp", "10.0.0.5:0")
			client := listen(pc, err, nil)
			if !tt.ok {
				short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
				defer cancel()
				if _, err := client.Dial(short, "udp", "198.51.100.7:443", &quic.Config{TLSConfig: clientTLS("media.corp.example")}); err == nil {
					t.Error("it connects")
				}
				return
			}
			c, err := client.Dial(ctx, "udp", "198.51.100.7:443", &quic.Config{TLSConfig: clientTLS("media.corp.example")})
			if err != nil {
				t.Fatal(err)
			}
			stream, err := c.NewStream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			data := make([]byte, 300_000)
			rand.Read(data)
			go func() {
				stream.Write(data)
				stream.CloseWrite()
			}()
			if got, err := io.ReadAll(stream); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if n, f := s.last(); tt.first.Provisional && (n != 2 || f.Name != "media.corp.example" || f.NameFrom != FromQUIC) {
				t.Errorf("asked %d times, %+v", n, f)
			}
		})
	}
}

// Datagrams that are no QUIC go on at once, though the filter would like to know a name.
func TestUDPWithoutName(t *testing.T) {
	s := &script{first: Verdict{Allow: true, Way: Tunnel, Provisional: true}, byName: map[string]Verdict{"": {Allow: true, Way: Tunnel}}}
	w := newWorld(t, Config{Decider: s, HelloTime: time.Hour})
	if got := w.ask(w.mustDial("udp", "198.51.100.7:7"), "DTLS or so"); got != "DTLS or so" {
		t.Errorf("%q", got)
	}
}

func TestPing(t *testing.T) {
	var way atomic.Int32
	w := openWorld(t)
	_, b := pipe(t, w, nil)
	w.intercept(Config{
		Decider: DeciderFunc(func(_ context.Context, f *Flow) (Verdict, error) {
			if f.Network != "ping" || !f.Final {
				t.Errorf("asked about %+v", f)
			}
			return Verdict{Allow: !strings.HasSuffix(f.Destination.Addr().String(), "66"), Way: Direct}, nil
		}),
		Ping: func(ctx context.Context, w Way, to netip.Addr, payload []byte) error {
			way.Store(int32(w))
			switch to.As16()[15] {
			case 1:
				return nil
			case 2:
				return &net.OpError{Op: "ping", Err: syscall.ENETUNREACH}
			}
			<-ctx.Done()
			return ctx.Err()
		},
	}, b)
	for to, want := range map[string]error{
		"198.51.100.1": nil, "2001:db8::1": nil, "198.51.100.2": syscall.ENETUNREACH, "2001:db8::2": syscall.ENETUNREACH,
		"198.51.100.3": context.DeadlineExceeded, "2001:db8::66": syscall.EHOSTUNREACH, "198.51.100.66": syscall.EHOSTUNREACH,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := w.programs.Ping(ctx, netip.MustParseAddr(to))
		cancel()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", to, err, want)
		}
	}
	if Way(way.Load()) != Direct {
		t.Errorf("way %v", Way(way.Load()))
	}
}
