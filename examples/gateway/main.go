// Command gateway is a VPN gateway in a page of Go. It takes the user alice with the password pass, gives out addresses from
// 10.20.0.0/24 and fd00:20::/64, forwards what clients send to the networks of the machine it runs on, and needs no root.
// Any AnyConnect-compatible client can connect to it:
//
//	go run ./examples/gateway
//	echo pass | openconnect --user alice --passwd-on-stdin --servercert pin-sha256:... https://127.0.0.1:8443
//
// The command culvert serve is this with every option.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"time"

	"culvert.example/vpn/gateway"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8443", "address, for TCP and UDP")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *listen, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "gateway:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen string, out io.Writer) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	defer l.Close()
	at := l.Addr().(*net.TCPAddr)
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port})
	if err != nil {
		return err
	}
	defer udp.Close()
	cert, pin, err := gateway.SelfSigned("localhost", at.IP.String())
	if err != nil {
		return err
	}
	server, err := gateway.New(gateway.Config{
		TLS: &tls.Config{Certificates: []tls.Certificate{cert}},
		Auth: gateway.Passwords(gateway.VerifierFunc(func(_ context.Context, user, password string) error {
			if user != "alice" || password != "pass" {
				return errors.New("unknown user or wrong password")
			}
			return nil
		})),
		Pools: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/24"), netip.MustParsePrefix("fd00:20::/64")},
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "https://%s %s\n", at, pin)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l, udp) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	goodbye, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err = server.Shutdown(goodbye)
	<-served
	return err
}
