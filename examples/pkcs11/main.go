//go:build cgo

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"

	"github.com/ThalesGroup/crypto11"

	"culvert.example/vpn"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
)

func main() {
	module := flag.String("module", "", "the PKCS #11 `file` of the token's maker")
	token := flag.String("token", "", "the `label` of the token")
	server := flag.String("gateway", "", "`URL` of the gateway")
	user := flag.String("user", "", "user `name`, if the certificate is not enough")
	pin := flag.String("pin", "", "pin-sha256:... of the gateway's key, if no authority vouches for it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	cfg := &vpn.Config{Login: login.Fixed{Username: *user, Password: transport.Secret(os.Getenv("VPN_PASSWORD"))}}
	if *pin != "" {
		cfg.Pins = []string{*pin}
	}
	keys := &crypto11.Config{Path: *module, TokenLabel: *token, Pin: os.Getenv("VPN_PIN")}
	if err := run(ctx, keys, *server, flag.Arg(0), cfg, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "pkcs11:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, keys *crypto11.Config, server, url string, cfg *vpn.Config, out io.Writer) error {
	opened, err := crypto11.Configure(keys)
	if err != nil {
		return err
	}
	defer opened.Close()
	// Package tls takes the first of them that is from an authority that the gateway has named.
	pairs, err := opened.FindAllPairedCertificates()
	if err != nil {
		return err
	}
	if len(pairs) == 0 {
		return errors.New("the token holds no certificate with a private key")
	}
	cfg.TLS = &tls.Config{Certificates: pairs}

	tunnel, err := vpn.Dial(ctx, server, cfg)
	if err != nil {
		return err
	}
	defer tunnel.Close()
	transport := &http.Transport{DialContext: tunnel.DialContext}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(out, res.Body)
	return err
}
