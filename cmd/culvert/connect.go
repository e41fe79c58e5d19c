package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"culvert.example/vpn"
	"culvert.example/vpn/split"
	"culvert.example/vpn/transport/trust"
)

func (a *app) connect() *cobra.Command {
	var authenticate, cookieOnly bool
	cmd := &cobra.Command{
		Use:   "connect [flags] GATEWAY",
		Short: "Connect to a gateway and have this machine use the tunnel, or only log in",
		Long: `Connect makes a network interface that leads through the gateway, and sets addresses, routes and DNS of this machine as the
gateway and the flags say. It needs root (CAP_NET_ADMIN) and Linux. Every change is recorded before it is made, and undone
at the end; what a crash leaves is undone by "culvert repair" or the next connect.

SIGINT and SIGTERM log out, undo everything and end the command. SIGHUP does the same without logging out, so that the session can
be used again with --cookie. SIGUSR1 prints the state, SIGUSR2 checks the paths to the gateway at once. With --background the command returns once the tunnel is up, which then lives in another process.

With --always-on nothing leaves the machine but through the tunnel. Without a tunnel, "closed" keeps it so until "culvert disconnect", or
"culvert repair" after a crash, and "open" lifts it. "locked" is "closed" that only root lifts, by "culvert repair" or by connecting without it.

--filter is for the flow path (--data-path). The first rule that a flow matches decides, or else the default, which is to allow:

` + filterExample + `
A rule has a name, an action (allow, block, or log, which leaves the decision to the next) and conditions, all of which must be
met: users, programs (a path, or a directory with a final slash), names (with all below; "*.a.example" is all below alone) or prefixes,
ports, protocols (tcp, udp, icmp) and direction (out, in). With note = true it logs too; with confirmed = true names count only if
DNS has said so. log_default = true logs what no rule decides. Try it with "culvert policy explain --filter FILE HOST:PORT".

If a profile has EnableScripting, the scripts OnConnect and OnDisconnect run: of the files in /etc/culvert/script, or else in the
script directory of the Cisco client, the first whose name begins so. They have the rights of the user who has started the command,
or who sits at the machine, never those of root, and get the environment of vpnc-script. If the gateway names a web proxy, the
desktops of users who are logged in have it until the end.

With one of these it only logs in, without root, and prints what it takes to open the tunnel, in the shape of openconnect:

  --authenticate  COOKIE, HOST, CONNECT_URL, FINGERPRINT and RESOLVE as assignments for a shell
  --cookieonly    the cookie alone

That session lives until a tunnel uses and ends it, or until the gateway forgets it. For traffic without root see "culvert proxy".

GATEWAY may be the name of an entry of a VPN profile, --profile or one in the usual places. Its address, group, backup servers and
settings count then. If there are entries, the name of a host needs a dot, or https:// in front. Without GATEWAY it is the entry that was used last or
else the first one, or with EnableAutomaticServerSelection the one that answers fastest. The local policy counts whenever there is one. See
"culvert policy explain" and "culvert profile effective".

` + exitHelp,
		Example: `  sudo culvert connect -u alice vpn.example.com
  sudo culvert connect --include 10.20.0.0/16 --include corp.example --exclude 10.20.99.0/24 vpn.example.com
  sudo culvert connect --always-on closed --local-lan vpn.example.com
  eval "$(culvert connect --authenticate -u alice vpn.example.com)"
  printf '%s\n' "$COOKIE" | sudo culvert connect --cookie-on-stdin --servercert "$FINGERPRINT" --resolve "$RESOLVE" "$CONNECT_URL"
  culvert connect --cookieonly vpn.example.com | culvert proxy --cookie-on-stdin vpn.example.com`,
		Args: gatewayArg, ValidArgsFunction: a.completeGateway,
	}
	c := a.addClientFlags(cmd)
	m := addMachineFlags(cmd)
	f := cmd.Flags()
	c.documents.add(f)
	f.BoolVar(&authenticate, "authenticate", false, "log in and print COOKIE, HOST, CONNECT_URL, FINGERPRINT and RESOLVE")
	f.BoolVar(&cookieOnly, "cookieonly", false, "log in and print the cookie")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if authenticate && cookieOnly {
			return usagef("connect takes only one of --authenticate, which prints all that another program needs to go on, and --cookieonly, which prints the cookie alone")
		}
		if !authenticate && !cookieOnly {
			return a.runMachine(cmd.Context(), c, m, args)
		}
		for _, name := range onlyMachine {
			// In a file they may stand for the next command.
			if f.Changed(name) && !a.fromFile(name) {
				return usagef("--%s is about this machine, which --authenticate and --cookieonly leave alone", name)
			}
		}
		if c.cookie != "" || c.cookieStdin {
			return usagef("--authenticate and --cookieonly log in to get a cookie; with one already there leave them out, or use: culvert proxy --cookie-on-stdin GATEWAY")
		}
		return a.runConnect(cmd.Context(), c, args, cookieOnly)
	}
	return cmd
}

func (a *app) runConnect(ctx context.Context, c *clientFlags, args []string, cookieOnly bool) error {
	if err := c.govern(a, args, false); err != nil {
		return err
	}
	server, err := c.target(args)
	if err != nil {
		return err
	}
	c.remind(a)
	if err := newDoorkeeper(c.plan, split.Rules{}, nil).admit(ctx); err != nil {
		return err
	}
	if _, _, err := c.vpnConfig(ctx, a); err != nil {
		return err
	}
	var ticket *vpn.Ticket
	if err := c.each(ctx, a, server, func(server string, cfg *vpn.Config) (err error) {
		ticket, err = vpn.Authenticate(ctx, server, cfg)
		return err
	}); err != nil {
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
