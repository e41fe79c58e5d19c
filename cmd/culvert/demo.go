package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/transport/login"
)

// demoLimit bounds the whole demo, a single wait in it, and one request.
const (
	demoLimit    = time.Minute
	demoWait     = 20 * time.Second
	demoDeadline = 15 * time.Second
)

func (a *app) demo() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show a tunnel at work, gateway and client in one process",
		Long: `Demo starts a gateway on the loopback interface and a client of it, in one process and without root. It fetches a page
through the tunnel over DTLS, cuts UDP, fetches it over TLS, and says what it did.

` + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runDemo(cmd.Context()) },
	}
}

func (a *app) runDemo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, demoLimit)
	defer cancel()
	say := func(format string, args ...any) { fmt.Fprintf(a.out, format+"\n", args...) }
	if a.quiet || a.json {
		say = func(string, ...any) {}
	}
	say("1. Starting a gateway on the loopback interface. It knows the user %s.", gatewaytest.User)
	gw, err := gatewaytest.Start(gatewaytest.Options{})
	if err != nil {
		return err
	}
	defer gw.Close()
	say("   %s with the certificate %s", gw.URL, gw.Pin)

	say("2. Connecting to it, without root and without a network device.")
	t, err := vpn.Dial(ctx, gw.URL, &vpn.Config{
		Login:  login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password},
		TLS:    &tls.Config{RootCAs: gw.Pool},
		Logger: a.reporter().logger(a.verbose),
	})
	if err != nil {
		return err
	}
	defer t.Close()
	if a.json {
		states := tell(a.reporter(), t)
		defer states.stop(t)
	}
	client := &http.Client{Timeout: demoDeadline, Transport: &http.Transport{DialContext: t.DialContext}}
	defer client.CloseIdleConnections()
	fetch := func() error {
		page := "http://" + gatewaytest.WebName + "/"
		begin := time.Now()
		text, err := get(ctx, client, page)
		if err != nil {
			return err
		}
		say("   %s says %q (over %s, after %v)", page, strings.TrimSpace(text), pathName(t.Status().Path), time.Since(begin).Round(time.Millisecond))
		return nil
	}
	if err := waitPath(ctx, t, "dtls"); err != nil {
		return err
	}
	say("   Connected: address %s, MTU %d.", join(addrs(t.Status().Addresses)), t.Status().MTU)
	say("3. Fetching a page from inside, over DTLS.")
	if err := fetch(); err != nil {
		return err
	}

	say("4. Cutting UDP, as a firewall would, and fetching the page again on the same connection.")
	begin := time.Now()
	gw.CutUDP(true)
	if err := fetch(); err != nil {
		return err
	}
	if err := waitPath(ctx, t, "tls"); err != nil {
		return err
	}
	say("   It arrived over TLS; data stood still for at most %v.", time.Since(begin).Round(10*time.Millisecond))
	say("5. Once more over TLS.")
	if err := fetch(); err != nil {
		return err
	}
	say("6. Logging out.")
	if err := t.Close(); err != nil {
		return err
	}
	say("Done. Next: culvert serve --help, culvert proxy --help")
	return nil
}

// get fetches a small page.
func get(ctx context.Context, c *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return string(b), err
}

// waitPath waits until the tunnel sends over a path.
func waitPath(ctx context.Context, t *vpn.Tunnel, path string) error {
	ctx, cancel := context.WithTimeout(ctx, demoWait)
	defer cancel()
	there := errors.New("there")
	ctx, arrived := context.WithCancelCause(ctx)
	var last vpn.Status
	t.Watch(ctx, func(s vpn.Status) {
		if last = s; s.Path == path {
			arrived(there)
		}
	})
	if !errors.Is(context.Cause(ctx), there) {
		return fmt.Errorf("the tunnel did not come to %s within %v: it is %s over %s%s", pathName(path), demoWait, last.State, pathName(last.Path), because(last))
	}
	return nil
}
