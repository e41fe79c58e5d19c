// Command http fetches a page through a tunnel, like curl, and tells on standard error which way it went.
//
//	go run ./examples/http -gateway https://vpn.example.com -user alice https://intranet.corp.example/
//
// The password is read from the environment variable VPN_PASSWORD, so that it does not show in the list of processes. Without
// a gateway the program starts one of its own and fetches the page behind it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
)

func main() {
	server := flag.String("gateway", "", "URL of the gateway; empty starts one inside the program")
	user := flag.String("user", "", "user name")
	pin := flag.String("pin", "", "pin-sha256:... of the gateway's key, if no authority vouches for it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	cfg := &vpn.Config{Login: login.Fixed{Username: *user, Password: transport.Secret(os.Getenv("VPN_PASSWORD"))}}
	if *pin != "" {
		cfg.Pins = []string{*pin}
	}
	if err := run(ctx, *server, flag.Arg(0), cfg, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "http:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, server, url string, cfg *vpn.Config, out, info io.Writer) error {
	if server == "" {
		gw, err := gatewaytest.Start(gatewaytest.Options{})
		if err != nil {
			return err
		}
		defer gw.Close()
		server, url = gw.URL, "http://"+gatewaytest.WebName+"/"
		cfg = &vpn.Config{
			Login: login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password},
			Pins:  []string{gw.Pin},
		}
	}
	tunnel, err := vpn.Dial(ctx, server, cfg)
	if err != nil {
		return err
	}
	defer tunnel.Close()

	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return err
	}
	// Explain tells what DialContext will do with the host.
	why, err := tunnel.Explain(ctx, req.URL.Hostname())
	if err != nil {
		return err
	}
	fmt.Fprintln(info, why)

	transport := &http.Transport{DialContext: tunnel.DialContext}
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(out, res.Body)
	return err
}
