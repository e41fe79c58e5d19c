package gateway_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"culvert.example/vpn/gateway"
)

// A gateway for the users of a file, that leads to one network and serves a page of its own inside the tunnel.
func Example() {
	cert, pin, err := gateway.SelfSigned("vpn.example.com", "127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("openconnect --servercert", pin, "https://vpn.example.com")

	users, err := gateway.LoadUsers("users.htpasswd")
	if err != nil {
		log.Fatal(err)
	}
	srv, err := gateway.New(gateway.Config{
		TLS:   &tls.Config{Certificates: []tls.Certificate{cert}},
		Auth:  gateway.Passwords(users),
		Pools: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/24"), netip.MustParsePrefix("fd20::/64")},
		Network: gateway.Network{
			Routes: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/24"), netip.MustParsePrefix("192.168.7.0/24")},
			DNS:    []netip.Addr{netip.MustParseAddr("192.168.7.53")},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()

	inside, err := srv.Listen("tcp", ":80")
	if err != nil {
		log.Fatal(err)
	}
	go http.Serve(inside, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "You are in.")
	}))

	ln, err := net.Listen("tcp", ":443")
	if err != nil {
		log.Fatal(err)
	}
	udp, err := net.ListenUDP("udp", &net.UDPAddr{Port: 443})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(srv.Serve(ln, udp))
}

// Users come from the files that htpasswd and ocpasswd write.
func ExampleUsers() {
	users, err := gateway.ReadUsers(strings.NewReader(`
# name:hash, or name:groups:hash
alice:staff,admin:$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5
`))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(users.Verify(context.Background(), "alice", "Hello world!"))
	fmt.Println(users.Verify(context.Background(), "alice", "hello"))
	fmt.Println(users.Groups("alice"))
	// Output:
	// <nil>
	// login refused: wrong user name or password
	// [staff admin]
}
