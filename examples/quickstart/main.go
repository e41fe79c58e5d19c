// Command quickstart starts a gateway inside the program, opens a tunnel to it, and fetches a page that only the tunnel leads
// to, with the http.Client that every Go programmer knows.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/transport/login"
)

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

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

	client := &http.Client{Transport: &http.Transport{DialContext: tunnel.DialContext}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+gatewaytest.WebName+"/", nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(out, res.Body); err != nil {
		return err
	}
	s := tunnel.Status()
	_, err = fmt.Fprintf(out, "path: %s, address: %s, gateway: %s\n", s.Path, s.Addresses[0].Addr(), s.Gateway)
	return err
}
