package vpn_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/policy"
	"culvert.example/vpn/transport/login"
)

// open starts a gateway inside the program, opens a tunnel to it with the configuration that change has changed, and
// returns both with what closes them. Programs have a gateway elsewhere; see ExampleDial.
func open(change func(*vpn.Config)) (*gatewaytest.Gateway, *vpn.Tunnel, func()) {
	gw, err := gatewaytest.Start(gatewaytest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	cfg := settings(gw, change)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	tunnel, err := vpn.Dial(ctx, gw.URL, cfg)
	if err != nil {
		log.Fatal(err)
	}
	return gw, tunnel, func() {
		tunnel.Close()
		gw.Close()
	}
}

// A tunnel and a page through it, with the client that every Go programmer knows.
func ExampleDial() {
	gw, err := gatewaytest.Start(gatewaytest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer gw.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	tunnel, err := vpn.Dial(ctx, gw.URL, &vpn.Config{ // such as https://vpn.example.com/staff
		Login: login.Fixed{Username: "alice", Password: "pass"},
		Pins:  []string{gw.Pin}, // not needed where the certificate is from a known authority
	})
	if err != nil {
		log.Fatal(err)
	}
	defer tunnel.Close()

	client := &http.Client{Transport: &http.Transport{DialContext: tunnel.DialContext}}
	defer client.CloseIdleConnections()
	res, err := client.Get("http://www.culvert.test/")
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	io.Copy(os.Stdout, res.Body)
	// Output: Hello from the other side of the tunnel.
}

// What a gateway refuses is an error of a kind.
func ExampleDial_errors() {
	gw, err := gatewaytest.Start(gatewaytest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer gw.Close()

	_, err = vpn.Dial(context.Background(), gw.URL, &vpn.Config{
		Login: login.Fixed{Username: "alice", Password: "wrong"},
		Pins:  []string{gw.Pin},
	})
	switch {
	case errors.Is(err, vpn.ErrLogin):
		fmt.Println("the gateway does not know this name and password")
	case errors.Is(err, vpn.ErrUntrusted):
		fmt.Println("that is not the gateway we know")
	}
	// Output: the gateway does not know this name and password
}

// The session can be started in one process and used in another, which then needs no password.
func ExampleAuthenticate() {
	gw, err := gatewaytest.Start(gatewaytest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer gw.Close()

	ctx := context.Background()
	ticket, err := vpn.Authenticate(ctx, gw.URL, &vpn.Config{
		Login: login.Fixed{Username: "alice", Password: "pass"},
		Pins:  []string{gw.Pin},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the cookie prints as", ticket.Cookie)

	tunnel, err := vpn.Dial(ctx, ticket.URL.String(), &vpn.Config{Cookie: ticket.Cookie, Pins: []string{gw.Pin}})
	if err != nil {
		log.Fatal(err)
	}
	defer tunnel.Close()
	fmt.Println(tunnel.Status().State)
	// Output:
	// the cookie prints as REDACTED
	// connected
}

// TCP, UDP and ICMP, by name or address.
func ExampleTunnel_DialContext() {
	gw, tunnel, done := open(nil)
	defer done()

	ctx := context.Background()
	conn, err := tunnel.DialContext(ctx, "udp", net.JoinHostPort(gatewaytest.WebName, "7"))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "comes back")
	b := make([]byte, 100)
	n, err := conn.Read(b)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", b[:n])

	_, err = tunnel.DialContext(ctx, "tcp", netip.AddrPortFrom(gw.Web.Addr(), 81).String())
	fmt.Println(strings.Contains(err.Error(), "connection refused"))
	// Output:
	// comes back
	// true
}

// The private network reaches what the program serves.
func ExampleTunnel_Listen() {
	gw, tunnel, done := open(nil)
	defer done()

	ln, err := tunnel.Listen("tcp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "Hello, network.") }))

	// A host of the private network.
	address := netip.AddrPortFrom(tunnel.Status().Addresses[0].Addr(), 8080)
	conn, err := gw.DialContext(context.Background(), "tcp", address.String())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	io.Copy(os.Stdout, res.Body)
	// Output: Hello, network.
}

// Names of the private network are asked for there, others as ever.
func ExampleTunnel_Resolver() {
	_, tunnel, done := open(nil)
	defer done()

	addrs, err := tunnel.Resolver().LookupNetIP(context.Background(), "ip4", "www.culvert.test")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(addrs)
	// Output: [10.211.0.1]
}

// A program that shows what its tunnel does.
func ExampleTunnel_Watch() {
	_, tunnel, done := open(nil)
	defer done()

	time.AfterFunc(100*time.Millisecond, func() { tunnel.Close() })
	last := vpn.Closed
	tunnel.Watch(context.Background(), func(s vpn.Status) {
		if s.State != last {
			fmt.Println(s.State)
			last = s.State
		}
	})
	// Output:
	// connected
	// closed
}

// Which way a host would be reached, and why.
func ExampleTunnel_Explain() {
	_, tunnel, done := open(nil)
	defer done()

	for _, host := range []string{"www.culvert.test", "192.0.2.1"} {
		e, err := tunnel.Explain(context.Background(), host)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%v\n\n", e)
	}
	// Output:
	// www.culvert.test is resolved by tunnel (suffix culvert.test); policy: allowed=true (everything is allowed)
	// 10.211.0.1: tunnel (DNS server 10.211.0.1/32)
	// fd21:c01:7e57::1: tunnel (DNS server fd21:c01:7e57::1/128)
	//
	// 192.0.2.1; policy: allowed=true (everything is allowed)
	// 192.0.2.1: direct (not included)
}

// What goes through the tunnel can be looked at with Wireshark.
func ExampleTunnel_Capture() {
	gw, tunnel, done := open(nil)
	defer done()

	file, err := os.CreateTemp("", "*.pcapng")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	stop, err := tunnel.Capture(file)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := tunnel.Ping(context.Background(), gw.Web.Addr().String()); err != nil {
		log.Fatal(err)
	}
	if err := stop(); err != nil {
		log.Fatal(err)
	}
	b, err := os.ReadFile(file.Name())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("% x\n", b[:4])
	// Output: 0a 0d 0d 0a
}

// A program that lets nobody but itself decide where it connects to.
func ExampleConfig_policy() {
	_, tunnel, done := open(func(c *vpn.Config) {
		c.Policy = policy.DeciderFunc(func(_ context.Context, f policy.Flow) (policy.Decision, error) {
			if f.Network == "tcp" && f.Port == 80 && strings.HasSuffix(f.Host, ".culvert.test") {
				return policy.Decision{Allow: true, Reason: "a web server of ours"}, nil
			}
			return policy.Decision{Reason: "only web servers of ours are allowed"}, nil
		})
	})
	defer done()

	for _, address := range []string{"www.culvert.test:80", "www.culvert.test:7"} {
		conn, err := tunnel.DialContext(context.Background(), "tcp", address)
		if err != nil {
			fmt.Println(errors.Is(err, vpn.ErrDenied), errors.Unwrap(err))
			continue
		}
		fmt.Println("connected to", conn.RemoteAddr())
		conn.Close()
	}
	// Output:
	// connected to 10.211.0.1:80
	// true denied by policy: only web servers of ours are allowed
}

// A tunnel inside of a tunnel, for a gateway that only the first one leads to.
func ExampleConfig_nested() {
	second, err := gatewaytest.Start(gatewaytest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer second.Close()
	// The first gateway leads to the second at 192.0.2.1.
	first, err := gatewaytest.Start(gatewaytest.Options{Config: func(c *gateway.Config) {
		c.Network.Routes = append(c.Network.Routes, netip.MustParsePrefix("192.0.2.1/32"))
		c.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, second.Addr.String())
		}
	}})
	if err != nil {
		log.Fatal(err)
	}
	defer first.Close()

	ctx := context.Background()
	outer, err := vpn.Dial(ctx, first.URL, settings(first))
	if err != nil {
		log.Fatal(err)
	}
	defer outer.Close()
	inner, err := vpn.Dial(ctx, "https://192.0.2.1", settings(second, func(c *vpn.Config) { c.Dial = outer.DialContext }))
	if err != nil {
		log.Fatal(err)
	}
	defer inner.Close()
	fmt.Println(inner.Status().State, "over", inner.Status().Path)
	// Output: connected over tls
}
