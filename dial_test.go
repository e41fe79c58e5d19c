package vpn_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/policy"
	"culvert.example/vpn/split"
)

// echoRequest returns an ICMP echo request to addr with some data.
func echoRequest(addr netip.Addr) []byte {
	kind := byte(8)
	if addr.Is6() {
		kind = 128
	}
	return append([]byte{kind, 0, 0, 0, 0, 0, 0, 5}, "something that comes back"...)
}

// exchange sends a datagram until it comes back: any of them may be lost. Of an ICMP message only the data comes back as it was.
func exchange(t *testing.T, conn net.Conn, message []byte) {
	t.Helper()
	b := make([]byte, 2048)
	for range 50 {
		if _, err := conn.Write(message); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := conn.Read(b)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			continue
		}
		if err != nil || n < 8 || !bytes.Equal(b[8:n], message[8:]) {
			t.Fatalf("read %q, %v, want %q", b[:n], err, message)
		}
		return
	}
	t.Fatalf("no answer from %v in 10 s", conn.RemoteAddr())
}

// TestDialContext connects in every way to what the gateway serves inside the tunnel.
func TestDialContext(t *testing.T) {
	run(t, func(t *testing.T, m mode) {
		gw, tun := m.open(t)
		v4, v6 := gw.Web.Addr().String(), gw.Web6.Addr().String()
		for _, tt := range []struct {
			network, host string
			family        int
		}{
			{"tcp", v4, 4}, {"tcp", v6, 6}, {"tcp4", v4, 4}, {"tcp6", v6, 6}, {"tcp", "::ffff:" + v4, 4},
			{"tcp", gatewaytest.WebName, 4}, {"tcp4", gatewaytest.WebName, 4}, {"tcp6", gatewaytest.WebName, 6},
			{"tcp", gatewaytest.WebName + ".", 4}, {"tcp", "www", 4}, {"tcp6", gatewaytest.Alias, 6},
			{"udp", v4, 4}, {"udp", v6, 6}, {"udp4", gatewaytest.WebName, 4}, {"udp6", gatewaytest.WebName, 6},
			{"ping", v4, 4}, {"ping", v6, 6}, {"ping4", gatewaytest.WebName, 4}, {"ping6", gatewaytest.WebName, 6},
		} {
			address, want := net.JoinHostPort(tt.host, "7"), gw.Web.Addr()
			if tt.family == 6 {
				want = gw.Web6.Addr()
			}
			if tt.network[0] == 'p' {
				address = tt.host
			}
			conn, err := tun.DialContext(timeout(t, 10*time.Second), tt.network, address)
			if err != nil {
				t.Errorf("%s %s: %v", tt.network, address, err)
				continue
			}
			host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
			if err != nil {
				host = conn.RemoteAddr().String()
			}
			if host != want.String() {
				t.Errorf("%s %s: connected to %v, want %v", tt.network, address, conn.RemoteAddr(), want)
			}
			switch tt.network[0] {
			case 't':
				transfer(t, conn, 10_000)
			case 'u':
				exchange(t, conn, []byte("a datagram"))
			case 'p':
				exchange(t, conn, echoRequest(want))
			}
			conn.Close()
		}
	})
}

// TestPing measures the way through the tunnel.
func TestPing(t *testing.T) {
	run(t, func(t *testing.T, m mode) {
		gw, tun := m.open(t)
		for _, host := range []string{gw.Web.Addr().String(), gw.Web6.Addr().String(), gatewaytest.WebName} {
			eventually(t, 10*time.Second, "an answer from "+host, func() bool {
				rtt, err := tun.Ping(timeout(t, time.Second), host)
				if err == nil && (rtt <= 0 || rtt > time.Second) {
					t.Errorf("%s: %v", host, rtt)
				}
				return err == nil
			})
		}
	})
}

// TestPingOtherAddress pings a name whose first address cannot be reached through the tunnel.
func TestPingOtherAddress(t *testing.T) {
	leak.Check(t)
	zone := newZone(map[string][]string{
		"both.example":    {"10.211.0.1", "fd21:c01:7e57::1"},
		"outside.example": {"192.0.2.80", "192.0.2.81", "fd21:c01:7e57::1"},
		"nowhere.example": {"192.0.2.80", "2001:db8::80"},
	})
	only6 := func(c *gateway.Config) {
		c.Pools = c.Pools[1:]
		c.Network.Routes, c.Network.DNS = c.Network.Routes[1:], c.Network.DNS[1:]
	}
	for _, tt := range []struct {
		name   string
		config func(*gateway.Config)
		split  split.Router
	}{
		{"both families", nil, nil},
		{"only IPv6", only6, nil},
		{"only IPv6, rules of its own", only6, router{"both.example": split.Tunnel, "fd21:c01:7e57::1": split.Tunnel}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gw := gatewaytest.New(t, gatewaytest.Options{Config: tt.config})
			tun := dial(t, gw.URL, settings(gw, func(c *vpn.Config) { c.Resolver, c.Split = zone, tt.split }))
			for _, name := range []string{"both.example", "outside.example"} {
				if conn, err := tun.DialContext(timeout(t, 10*time.Second), "ping", name); err != nil {
					t.Errorf("DialContext: %v", err)
				} else {
					conn.Close()
				}
				if rtt, err := tun.Ping(timeout(t, 10*time.Second), name); err != nil || rtt <= 0 {
					t.Errorf("%s: %v, %v", name, rtt, err)
				}
			}
			_, err := tun.Ping(timeout(t, 10*time.Second), "nowhere.example")
			checkError(t, "ping", gw.URL, "nowhere.example", err)
			if !errors.Is(err, vpn.ErrNoRoute) || !strings.Contains(err.Error(), "192.0.2.80") || !strings.Contains(err.Error(), "2001:db8::80") {
				t.Errorf("nowhere: %v", err)
			}
		})
	}
}

// TestDialErrors dials what cannot be reached.
func TestDialErrors(t *testing.T) {
	leak.Check(t)
	gw, tun := simple(t)
	v4, v6 := gw.Web.Addr().String(), gw.Web6.Addr().String()
	for _, tt := range []struct {
		network, address string
		want             error  // nil: any
		text             string // part of the error
	}{
		{"tcp", v4 + ":1", syscall.ECONNREFUSED, "refused"},
		{"tcp", "[" + v6 + "]:1", syscall.ECONNREFUSED, "refused"},
		{"tcp", gatewaytest.WebName + ":1", syscall.ECONNREFUSED, "refused"},
		{"tcp", v4, nil, "missing port"},
		{"tcp", ":80", nil, "missing host"},
		{"tcp", v4 + ":nothing", nil, "port"},
		{"tcp", v4 + ":70000", nil, "port"},
		{"tcp6", v4 + ":80", nil, "not an IPv6 address"},
		{"udp4", "[" + v6 + "]:80", nil, "not an IPv4 address"},
		{"ping", "", nil, "missing host"},
		{"", v4 + ":80", net.UnknownNetworkError(""), ""},
		{"tcp46", v4 + ":80", net.UnknownNetworkError("tcp46"), "tcp46"},
		{"tcp44", v4 + ":80", net.UnknownNetworkError("tcp44"), "tcp44"},
		{"unix", "/tmp/x", net.UnknownNetworkError("unix"), "unix"},
		{"ip4:icmp", v4, net.UnknownNetworkError("ip4:icmp"), "ip4:icmp"},
		{"tcp", "nobody." + gatewaytest.Zone + ":80", nil, "no such host"},
		{"tcp", "a..b:80", nil, ""},
		{"tcp", "fe80::1%eth0", nil, ""},
	} {
		start := time.Now()
		conn, err := tun.DialContext(timeout(t, 10*time.Second), tt.network, tt.address)
		if err == nil {
			t.Errorf("%s %s: a connection to %v", tt.network, tt.address, conn.RemoteAddr())
			conn.Close()
			continue
		}
		checkError(t, "dial", gw.URL, tt.address, err)
		if tt.want != nil && !errors.Is(err, tt.want) || !bytes.Contains([]byte(err.Error()), []byte(tt.text)) {
			t.Errorf("%s %s: %v, want %v with %q", tt.network, tt.address, err, tt.want, tt.text)
		}
		if d := time.Since(start); d > 8*time.Second {
			t.Errorf("%s %s: took %v", tt.network, tt.address, d)
		}
	}
}

// deaf is an address that belongs to the tunnel and never answers.
const deaf = "198.18.0.1"

// simpleDeaf is simple with a gateway that leads to deaf.
func simpleDeaf(t *testing.T, changes ...func(*vpn.Config)) (*gatewaytest.Gateway, *vpn.Tunnel) {
	t.Helper()
	gw := gatewaytest.New(t, gatewaytest.Options{Config: func(c *gateway.Config) {
		c.Network.Routes = append(c.Network.Routes, netip.MustParsePrefix("198.18.0.0/15"))
		c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}})
	return gw, dial(t, gw.URL, settings(gw, changes...))
}

// TestDialContextEnds gives up where nobody answers.
func TestDialContextEnds(t *testing.T) {
	leak.Check(t)
	_, tun := simpleDeaf(t, func(c *vpn.Config) { c.Resolver = silence{} })
	for _, address := range []string{deaf + ":1", "name.example:1"} {
		for _, network := range []string{"tcp", "ping"} {
			if network == "ping" {
				address, _, _ = net.SplitHostPort(address)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			start := time.Now()
			var err error
			if network == "ping" {
				_, err = tun.Ping(ctx, address)
			} else {
				_, err = tun.DialContext(ctx, network, address)
			}
			cancel()
			var ne net.Error
			if !errors.As(err, &ne) || !ne.Timeout() || time.Since(start) > 8*time.Second {
				t.Errorf("%s %s: %v after %v, want a time-out", network, address, err, time.Since(start))
			}
		}
	}
}

// silence is a resolver that never answers.
type silence struct{}

func (silence) Exchange(ctx context.Context, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestHappyEyeballs connects although the first address of a name does not answer.
func TestHappyEyeballs(t *testing.T) {
	leak.Check(t)
	zone := newZone(map[string][]string{
		"half.example": {deaf, "fd21:c01:7e57::1"},
		"deaf.example": {deaf, "198.18.0.2"},
	})
	gw, tun := simpleDeaf(t, func(c *vpn.Config) { c.Resolver = zone })
	if got := gw.Web6.Addr().String(); got != "fd21:c01:7e57::1" {
		t.Fatalf("the gateway is at %s", got)
	}
	start := time.Now()
	conn, err := tun.DialContext(timeout(t, 10*time.Second), "tcp", "half.example:7")
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > 8*time.Second {
		t.Errorf("it took %v", d)
	}
	transfer(t, conn, 1000)
	if _, err := tun.DialContext(timeout(t, 600*time.Millisecond), "tcp", "deaf.example:7"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody answers: %v", err)
	}
}

// TestPolicy asks before each flow.
func TestPolicy(t *testing.T) {
	leak.Check(t)
	var mu sync.Mutex
	var flows []policy.Flow
	failure := errors.New("the policy server is down")
	gw, tun := simple(t, func(c *vpn.Config) {
		c.Policy = policy.DeciderFunc(func(_ context.Context, f policy.Flow) (policy.Decision, error) {
			mu.Lock()
			defer mu.Unlock()
			flows = append(flows, f)
			switch f.Port {
			case 7:
				return policy.Decision{Allow: true, Reason: "echo is harmless"}, nil
			case 80:
				return policy.Decision{Allow: true}, failure
			case 0:
				return policy.Decision{Allow: f.Host == gatewaytest.WebName, Reason: "only the web server is pinged"}, nil
			}
			return policy.Decision{Reason: "nothing but echo"}, nil
		})
	})
	ctx := timeout(t, 20*time.Second)
	host := gw.Web.Addr()
	conn, err := tun.DialContext(ctx, "tcp", net.JoinHostPort(gatewaytest.WebName, "7"))
	if err != nil {
		t.Fatal(err)
	}
	transfer(t, conn, 1000)
	for _, tt := range []struct {
		network, address string
		want             error
		text             string
	}{
		{"tcp", netip.AddrPortFrom(host, 22).String(), vpn.ErrDenied, "nothing but echo"},
		{"udp4", netip.AddrPortFrom(host, 53).String(), vpn.ErrDenied, "nothing but echo"},
		// The name is not even asked for.
		{"tcp", "nobody.example:22", vpn.ErrDenied, "nothing but echo"},
		{"tcp", netip.AddrPortFrom(host, 80).String(), failure, ""},
		{"ping", host.String(), vpn.ErrDenied, "only the web server"},
	} {
		_, err := tun.DialContext(ctx, tt.network, tt.address)
		checkError(t, "dial", gw.URL, tt.address, err)
		if !errors.Is(err, tt.want) || !bytes.Contains([]byte(err.Error()), []byte(tt.text)) {
			t.Errorf("%s %s: %v, want %v with %q", tt.network, tt.address, err, tt.want, tt.text)
		}
	}
	if _, err := tun.Ping(ctx, host.String()); !errors.Is(err, vpn.ErrDenied) {
		t.Errorf("Ping: %v, want ErrDenied", err)
	}
	if _, err := tun.Ping(ctx, gatewaytest.WebName); err != nil {
		t.Errorf("Ping of the web server: %v", err)
	}
	e, err := tun.Explain(ctx, host.String())
	if err != nil || e.Allowed || e.Reason != "nothing but echo" {
		t.Errorf("Explain: %+v, %v", e, err)
	}
	mu.Lock()
	defer mu.Unlock()
	want := []policy.Flow{
		{Network: "tcp", Host: gatewaytest.WebName, Port: 7},
		{Network: "tcp", Host: host.String(), Port: 22, Addr: host},
		{Network: "udp", Host: host.String(), Port: 53, Addr: host},
		{Network: "tcp", Host: "nobody.example", Port: 22},
		{Network: "tcp", Host: host.String(), Port: 80, Addr: host},
		{Network: "ping", Host: host.String(), Addr: host},
		{Network: "ping", Host: host.String(), Addr: host},
		{Network: "ping", Host: gatewaytest.WebName},
		{Network: "tcp", Host: host.String(), Port: 443, Addr: host},
	}
	if !slices.Equal(flows, want) {
		t.Errorf("the policy was asked for\n%v, want\n%v", flows, want)
	}
	if machine.wasAsked("nobody.example") {
		t.Error("a name was asked for that the policy denies")
	}
}

// A router sends hosts and addresses the ways that it lists.
type router map[string]split.Way

func (r router) Route(host string, addr netip.Addr) split.Way {
	if way, ok := r[host]; ok {
		return way
	}
	return r[addr.String()]
}

// TestSplit takes the ways of another router than the gateway's.
func TestSplit(t *testing.T) {
	leak.Check(t)
	outside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	go func() {
		for {
			c, err := outside.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "outside")
			c.Close()
		}
	}()
	var mu sync.Mutex
	var direct []string
	gw, tun := simple(t, func(c *vpn.Config) {
		c.Split = router{"198.51.100.1": split.Direct, "straight.example": split.Direct, "10.211.0.1": split.Tunnel}
		c.Resolver = newZone(map[string][]string{"straight.example": {"198.51.100.2"}, "lost.example": {"198.51.100.3"}})
		c.Direct = func(ctx context.Context, network, address string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			direct = append(direct, network+" "+address)
			return new(net.Dialer).DialContext(ctx, network, outside.Addr().String())
		}
	})
	ctx := timeout(t, 20*time.Second)
	for _, address := range []string{"198.51.100.1:80", "straight.example:443"} {
		conn, err := tun.DialContext(ctx, "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(conn); err != nil || string(b) != "outside" {
			t.Errorf("%s: read %q, %v", address, b, err)
		}
		conn.Close()
	}
	if want := []string{"tcp 198.51.100.1:80", "tcp 198.51.100.2:443"}; !slices.Equal(direct, want) {
		t.Errorf("dialed directly: %q, want %q", direct, want)
	}
	conn, err := tun.DialContext(ctx, "tcp", gw.Echo.String())
	if err != nil {
		t.Fatal(err)
	}
	transfer(t, conn, 1000)
	for _, address := range []string{"198.51.100.3:80", "lost.example:80"} {
		_, err := tun.DialContext(ctx, "tcp", address)
		checkError(t, "dial", gw.URL, address, err)
		if !errors.Is(err, vpn.ErrNoRoute) {
			t.Errorf("%s: %v, want ErrNoRoute", address, err)
		}
	}
	for _, host := range []string{"198.51.100.1", "198.51.100.3", "straight.example"} {
		if _, err := tun.DialContext(ctx, "ping", host); !errors.Is(err, vpn.ErrNoRoute) {
			t.Errorf("ping connection to %s: %v, want ErrNoRoute", host, err)
		}
		_, err := tun.Ping(ctx, host)
		checkError(t, "ping", gw.URL, host, err)
		if !errors.Is(err, vpn.ErrNoRoute) {
			t.Errorf("Ping of %s: %v, want ErrNoRoute", host, err)
		}
	}
}

// TestExplain tells what would happen, and why.
func TestExplain(t *testing.T) {
	leak.Check(t)
	gw := gatewaytest.New(t, gatewaytest.Options{NoIPv6: true, Config: func(c *gateway.Config) {
		c.Network.NoRoutes = []netip.Prefix{netip.MustParsePrefix("10.211.0.128/25")}
		c.Network.DynamicExclude = []string{"cdn.culvert.test"}
	}})
	zone := newZone(map[string][]string{"files.cdn.culvert.test": {"10.211.0.7"}, "v6.example": {"2001:db8::1"}})
	tun := dial(t, gw.URL, settings(gw))
	own := dial(t, gw.URL, settings(gw, func(c *vpn.Config) {
		c.Resolver, c.Split = zone, router{"files.cdn.culvert.test": split.Tunnel}
		c.Policy = policy.DeciderFunc(func(context.Context, policy.Flow) (policy.Decision, error) {
			return policy.Decision{Reason: "on holiday"}, nil
		})
	}))
	gatewayHost := gw.Addr.Addr().String()
	for _, tt := range []struct {
		tun  *vpn.Tunnel
		host string
		want string
	}{
		{tun, "10.211.0.1", "10.211.0.1; policy: allowed=true (everything is allowed)\n10.211.0.1: tunnel (DNS server 10.211.0.1/32)"},
		{tun, "10.211.0.2", "10.211.0.2; policy: allowed=true (everything is allowed)\n10.211.0.2: tunnel (include 10.211.0.0/24)"},
		{tun, "10.211.0.200", "10.211.0.200; policy: allowed=true (everything is allowed)\n10.211.0.200: direct (exclude 10.211.0.128/25)"},
		{tun, "192.0.2.1", "192.0.2.1; policy: allowed=true (everything is allowed)\n192.0.2.1: direct (not included)"},
		{tun, "2001:db8::1", "2001:db8::1; policy: allowed=true (everything is allowed)\n2001:db8::1: nowhere (the tunnel has no IPv6 address)"},
		{tun, gatewayHost, gatewayHost + "; policy: allowed=true (everything is allowed)\n" + gatewayHost + ": direct (address of the gateway)"},
		{tun, gatewaytest.WebName, "www.culvert.test is resolved by tunnel (suffix culvert.test); policy: allowed=true (everything is allowed)\n" +
			"10.211.0.1: tunnel (DNS server 10.211.0.1/32)"},
		{tun, "plain.machine.example", "plain.machine.example is resolved by machine; policy: allowed=true (everything is allowed)\n" +
			"192.0.2.80: direct (not included)"},
		{own, "files.cdn.culvert.test", "files.cdn.culvert.test is resolved by the configured resolver; policy: allowed=false (on holiday)\n" +
			"10.211.0.7: tunnel (the configured router)"},
	} {
		e, err := tt.tun.Explain(timeout(t, 10*time.Second), tt.host)
		if err != nil || e.String() != tt.want || e.Host != tt.host {
			t.Errorf("Explain(%s) = %v\n%s\nwant\n%s", tt.host, err, e, tt.want)
		}
	}
	for _, host := range []string{"", "nobody." + gatewaytest.Zone, "a b"} {
		e, err := tun.Explain(timeout(t, 10*time.Second), host)
		if err == nil {
			t.Errorf("Explain(%q) = %v", host, e)
			continue
		}
		checkError(t, "explain", gw.URL, host, err)
	}
	if n := len(gw.Sessions()); n != 2 {
		t.Errorf("%d sessions", n)
	}
}
