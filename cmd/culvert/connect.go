package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"culvert.example/vpn"
	"culvert.example/vpn/transport/trust"
)

func (a *app) connect() *cobra.Command {
	var authenticate, cookieOnly bool
	cmd := &cobra.Command{
		Use:   "connect (--authenticate | --cookieonly) [flags] GATEWAY",
		Short: "Log in to a gateway and print the session, for openconnect or another culvert to use",
		Long: `Connect logs in and prints what it takes to open the tunnel, to standard output, in the shape of openconnect:

  --authenticate  COOKIE, HOST, CONNECT_URL, FINGERPRINT and RESOLVE as assignments for a shell
  --cookieonly    the cookie alone

The session lives until a tunnel uses and ends it, or until the gateway forgets it. For traffic without root see "culvert proxy".

` + exitHelp,
		Example: `  eval "$(culvert connect --authenticate -u alice vpn.example.com)"
  printf '%s\n' "$COOKIE" | sudo openconnect --cookie-on-stdin --servercert "$FINGERPRINT" --resolve "$RESOLVE" "$CONNECT_URL"
  culvert connect --cookieonly vpn.example.com | culvert proxy --cookie-on-stdin vpn.example.com`,
		Args: gatewayArg,
	}
	c := a.addClientFlags(cmd)
	f := cmd.Flags()
	f.BoolVar(&authenticate, "authenticate", false, "log in and print COOKIE, HOST, CONNECT_URL, FINGERPRINT and RESOLVE")
	f.BoolVar(&cookieOnly, "cookieonly", false, "log in and print the cookie")
	for _, name := range []string{"cookie", "cookie-on-stdin", "no-dtls", "mtu", "force-dpd", "reconnect-timeout", "pid-file"} {
		f.Lookup(name).Hidden = true // they concern the tunnel, and are accepted so that one file may serve all commands
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if authenticate == cookieOnly {
			return &usageError{
				err: errors.New("connect needs one of --authenticate, which prints all that openconnect needs to go on, and --cookieonly, which prints the cookie alone"),
				hint: "It makes no network device. For traffic without one and without root use\n" +
					"    culvert proxy GATEWAY",
			}
		}
		if c.cookie != "" || c.cookieStdin {
			return usagef("connect logs in to get a cookie; with one already there use: culvert proxy --cookie-on-stdin GATEWAY")
		}
		return a.runConnect(cmd.Context(), c, args, cookieOnly)
	}
	return cmd
}

func (a *app) runConnect(ctx context.Context, c *clientFlags, args []string, cookieOnly bool) error {
	server, err := c.target(args)
	if err != nil {
		return err
	}
	cfg, _, err := c.vpnConfig(ctx, a)
	if err != nil {
		return err
	}
	a.reporter().say(event{Event: "tunnel", State: "connecting", Gateway: server}, "to %s", oneLine(server))
	ticket, err := vpn.Authenticate(ctx, server, cfg)
	if err != nil {
		return err
	}
	for _, text := range []string{oneLine(ticket.Banner), oneLine(ticket.Message)} {
		if text != "" {
			a.reporter().say(event{Event: "message", Message: text}, "the gateway says: %s", text)
		}
	}
	if cookieOnly {
		_, err = fmt.Fprintln(a.out, cookieOf(ticket))
		return err
	}
	return printTicket(a.out, ticket)
}

// printTicket prints a ticket as openconnect --authenticate does: an assignment on each line, quoted for a shell.
func printTicket(w io.Writer, t *vpn.Ticket) error {
	name, port, err := net.SplitHostPort(t.Host)
	if err != nil {
		name, port = t.Host, "443"
	}
	// HOST is the very machine of a cluster that knows the session, so an address where there is one.
	host, resolve := bracket(name), ""
	if t.Addr.IsValid() {
		ip := t.Addr.Addr().Unmap().String()
		host, resolve = bracket(ip), name+":"+ip
	}
	at := url.URL{Scheme: "https", Host: bracket(name), Path: "/"}
	if port != "443" {
		at.Host = net.JoinHostPort(name, port)
	}
	if t.URL != nil {
		at.Path, at.RawPath = "/"+strings.TrimPrefix(t.URL.Path, "/"), t.URL.RawPath
	}
	pin := ""
	if t.Certificate != nil {
		pin = trust.PinOf(t.Certificate)
	}
	_, err = fmt.Fprintf(w, "COOKIE=%s\nHOST=%s\nCONNECT_URL=%s\nFINGERPRINT=%s\nRESOLVE=%s\n", quote(cookieOf(t)), quote(host), quote(at.String()), quote(pin), quote(resolve))
	return err
}

// cookieOf returns the cookie with its name, as openconnect since version 9 prints it and wants it back.
func cookieOf(t *vpn.Ticket) string { return "webvpn=" + t.Cookie.Reveal() }

// bracket puts an IPv6 address into brackets.
func bracket(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// quote quotes a string for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
