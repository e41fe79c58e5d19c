// Command socks serves a SOCKS5 and HTTP proxy whose connections leave through a tunnel, until it is interrupted. The gateway
// is inside the program, and so is the page that only the tunnel leads to:
//
//	go run ./examples/socks &
//	curl --socks5-hostname 127.0.0.1:1080 http://www.culvert.test/
//
// The command culvert proxy is this with every option.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/proxy"
	"culvert.example/vpn/transport/login"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:1080", "address of the proxy")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *listen, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "socks:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen string, out io.Writer) error {
	gw, err := gatewaytest.Start(gatewaytest.Options{})
	if err != nil {
		return err
	}
	defer gw.Close()
	tunnel, err := vpn.Dial(ctx, gw.URL, &vpn.Config{
		Login: login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password},
		Pins:  []string{gw.Pin},
	})
	if err != nil {
		return err
	}
	defer tunnel.Close()

	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := &proxy.Server{Dial: tunnel.DialContext}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	fmt.Fprintf(out, "try: curl --socks5-hostname %s http://%s/\n", l.Addr(), gatewaytest.WebName)
	select {
	case err := <-served:
		return err
	case <-tunnel.Done():
		err = tunnel.Err()
	case <-ctx.Done():
	}
	server.Close()
	<-served
	return err
}
