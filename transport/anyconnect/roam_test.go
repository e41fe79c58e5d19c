package anyconnect_test

import (
	"context"
	"errors"
	"net"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/anyconnect"
	"culvert.example/vpn/transport/failover"
)

// A network is a source address on the loopback interface, over which connections are counted and can be refused.
type network struct {
	source   string
	tcp, udp atomic.Int32
	down     atomic.Bool
}

func (n *network) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if n.down.Load() {
		return nil, errors.New("this network is gone")
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(n.source)}}
	count := &n.tcp
	if network[0] == 'u' {
		d.LocalAddr, count = &net.UDPAddr{IP: net.ParseIP(n.source)}, &n.udp
	}
	conn, err := d.DialContext(ctx, network, address)
	if err == nil {
		count.Add(1)
	}
	return conn, err
}

func onDTLS(st failover.State) bool { return st.Active == anyconnect.DTLS }
func onTLS(st failover.State) bool  { return st.Active == anyconnect.TLS }

// TestRoam moves a session there and back.
func TestRoam(t *testing.T) {
	leak.Check(t)
	gw := gatewaytest.New(t)
	s := open(t, dialer(gw))
	reaches(t, s, 5*time.Second, "DTLS is open", onDTLS)
	wifi := &network{source: "127.0.0.7"}
	if err := s.Roam(t.Context(), wifi.dial, wifi.dial); err != nil {
		t.Fatal(err)
	}
	if st := s.State(); st.Active == "" || st.Replaced != 1 || wifi.tcp.Load() != 1 {
		t.Errorf("%d connections, %+v", wifi.tcp.Load(), st)
	}
	reaches(t, s, 5*time.Second, "DTLS is open over the other network", func(st failover.State) bool { return onDTLS(st) && wifi.udp.Load() == 1 })
	// Without UDP there.
	if err := s.Roam(t.Context(), wifi.dial, nil); err != nil {
		t.Fatal(err)
	}
	reaches(t, s, 5*time.Second, "TLS is in use", onTLS)
	time.Sleep(100 * time.Millisecond)
	if st := s.State(); !onTLS(st) || wifi.udp.Load() != 1 {
		t.Errorf("%d sockets for UDP, %+v", wifi.udp.Load(), st)
	}
	// Home.
	if err := s.Roam(t.Context(), nil, nil); err != nil {
		t.Fatal(err)
	}
	reaches(t, s, 5*time.Second, "DTLS is open at home", onDTLS)
	if st := s.State(); st.Replaced != 3 || wifi.tcp.Load() != 2 {
		t.Errorf("%d connections, %+v", wifi.tcp.Load(), st)
	}
	if list := gw.Sessions(); len(list) != 1 || list[0].Connects != 4 {
		t.Errorf("sessions: %+v", list)
	}
	s.Close()
	if err := s.Roam(t.Context(), nil, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestRoamNowhere moves a session to networks where something else answers, or nothing. It stays where it is.
func TestRoamNowhere(t *testing.T) {
	leak.Check(t)
	gw := gatewaytest.New(t)
	d := dialer(gw)
	prompter := &counting{}
	d.Prompter = prompter
	other := gatewaytest.New(t)
	d.TLS.RootCAs.AddCert(other.Certificate)
	portal := httptest.NewTLSServer(nil)
	defer portal.Close()
	plain := httptest.NewServer(nil)
	defer plain.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	s := open(t, d)
	reaches(t, s, 5*time.Second, "DTLS is open", onDTLS)
	before := s.State()
	for name, tt := range map[string]struct {
		address string
		want    error
	}{
		"captive portal":           {portal.Listener.Addr().String(), transport.ErrUntrusted},
		"captive portal, no TLS":   {plain.Listener.Addr().String(), transport.ErrProtocol},
		"nothing answers":          {silent.Addr().String(), transport.ErrUnreachable},
		"nobody there":             {gone.Addr().String(), transport.ErrUnreachable},
		"a gateway, but not ours":  {other.Addr.String(), transport.ErrExpired},
		"a dial function, but nil": {"", transport.ErrUnreachable},
	} {
		to := func(ctx context.Context, network, _ string) (net.Conn, error) {
			if tt.address == "" {
				return nil, errors.New("no such interface")
			}
			return new(net.Dialer).DialContext(ctx, network, tt.address)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		if err := s.Roam(ctx, to, to); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		cancel()
		st := s.State()
		if !errors.Is(st.Kept, tt.want) && st.Kept == nil {
			t.Errorf("%s: the state does not say so: %+v", name, st)
		}
	}
	time.Sleep(2 * time.Second) // the old connections have been checked
	st := s.State()
	for i, p := range st.Paths {
		if b := before.Paths[i]; p.Opens != b.Opens || p.Failures != b.Failures || !p.Open {
			t.Errorf("%+v, was %+v", p, b)
		}
	}
	if s.Err() != nil || st.Replaced != 0 || prompter.asked.Load() != 2 && prompter.asked.Load() != 1 {
		t.Errorf("error %v, the Prompter was asked %d times, %+v", s.Err(), prompter.asked.Load(), st)
	}
}

// TestRoamWhileDown finds the session a way when it has none.
func TestRoamWhileDown(t *testing.T) {
	leak.Check(t)
	gw := gatewaytest.New(t)
	d := dialer(gw)
	wifi, wire := &network{source: "127.0.0.7"}, &network{source: "127.0.0.8"}
	d.Dial, d.DialUDP = wifi.dial, wifi.dial
	s := open(t, d)
	wifi.down.Store(true)
	gw.CutUDP(true)
	gw.ResetTCP()
	reaches(t, s, 10*time.Second, "all paths are down", func(st failover.State) bool { return st.Active == "" })
	gw.CutUDP(false)
	if err := s.Roam(t.Context(), wire.dial, wire.dial); err != nil {
		t.Fatal(err)
	}
	reaches(t, s, 5*time.Second, "DTLS is open over the other network", func(st failover.State) bool { return onDTLS(st) && wire.udp.Load() > 0 })
	// That one goes too, and the one of the Dialer is back.
	wifi.down.Store(false)
	wire.down.Store(true)
	n := wifi.tcp.Load()
	gw.ResetTCP()
	reaches(t, s, 10*time.Second, "the way of the Dialer is found", func(st failover.State) bool { return onDTLS(st) && wifi.tcp.Load() > n })
	if n := len(gw.Sessions()); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

// TestRoamSuperseded changes its mind: the network of the last call counts.
func TestRoamSuperseded(t *testing.T) {
	leak.Check(t)
	gw := gatewaytest.New(t)
	s := open(t, dialer(gw))
	asked := make(chan struct{}, 1)
	hang := func(ctx context.Context, _, _ string) (net.Conn, error) {
		asked <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	first := make(chan error, 1)
	go func() { first <- s.Roam(t.Context(), hang, nil) }()
	<-asked
	wire := &network{source: "127.0.0.8"}
	if err := s.Roam(t.Context(), wire.dial, wire.dial); err != nil {
		t.Error(err)
	}
	if err := <-first; !errors.Is(err, anyconnect.ErrSuperseded) {
		t.Errorf("the first call: %v", err)
	}
	// Many at once: each either moves or gives way, and the session lives on.
	results := make(chan error)
	for range 8 {
		go func() { results <- s.Roam(t.Context(), wire.dial, wire.dial) }()
		s.NetworkChanged()
	}
	moved := 0
	for range 8 {
		switch err := <-results; {
		case err == nil:
			moved++
		case !errors.Is(err, anyconnect.ErrSuperseded):
			t.Error(err)
		}
	}
	if moved == 0 {
		t.Error("nobody has moved")
	}
	reaches(t, s, 5*time.Second, "DTLS is open", onDTLS)
	go func() { results <- s.Roam(t.Context(), hang, nil) }()
	<-asked
	s.Close()
	if err := <-results; err == nil {
		t.Error("moved after Close")
	}
	if n := len(gw.Sessions()); n > 1 {
		t.Errorf("%d sessions", n)
	}
}

// TestRoamDuringHandshake moves while DTLS is being opened, which is of no use over the old network.
func TestRoamDuringHandshake(t *testing.T) {
	leak.Check(t)
	gw := gatewaytest.New(t)
	s := open(t, dialer(gw))
	reaches(t, s, 5*time.Second, "DTLS is open", onDTLS)
	gw.CutUDP(true)
	s.NetworkChanged()
	reaches(t, s, 5*time.Second, "DTLS is dead", onTLS)
	time.Sleep(100 * time.Millisecond) // the next attempt begins
	gw.CutUDP(false)
	wire := &network{source: "127.0.0.8"}
	if err := s.Roam(t.Context(), wire.dial, wire.dial); err != nil {
		t.Fatal(err)
	}
	reaches(t, s, time.Second, "DTLS is open over the other network", func(st failover.State) bool { return onDTLS(st) && wire.udp.Load() > 0 })
}
