package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/packet"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/login/terminal"
)

func main() {
	// This program starts itself inside of the namespaces.
	if len(os.Args) > 1 && os.Args[1] == insideWord {
		fail(inside(os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == visitWord {
		fail(visit(os.Args[2], os.Args[3:], os.Stdout))
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(max(exit.ExitCode(), 1))
	}
	fail(err)
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "rootless:", err)
		os.Exit(1)
	}
}

// run opens the tunnel and runs the command behind it.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("rootless", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() {
		fmt.Fprintf(out, `usage: rootless [flags] [-- command [argument ...]]

It runs the command in a network of its own, in which there is nothing but the tunnel.

Without -gateway the tunnel leads to a gateway inside this program, behind which there is the page http://%s/, and without
a command it shows that. Another one can look at it too:

  rootless -- curl http://%[1]s/

`, gatewaytest.WebName)
		flags.PrintDefaults()
	}
	server := flags.String("gateway", "", "the `address` of the gateway: host, host:port or https://host/group")
	user := flags.String("user", "", "log in as the user `name`")
	pin := flags.String("servercert", "", "the `pin` of the gateway, such as pin-sha256:..., instead of authorities; \"culvert serve\" prints its own")
	if err := flags.Parse(args); err != nil {
		return err
	}
	command := flags.Args()
	cfg := &vpn.Config{Login: login.Chain(login.Fixed{Username: *user}, terminal.New(os.Stdin, os.Stderr))}
	if *pin != "" {
		cfg.Pins = []string{*pin}
	}
	if *server == "" {
		gw, err := gatewaytest.Start(gatewaytest.Options{})
		if err != nil {
			return err
		}
		defer gw.Close()
		*server = gw.URL
		cfg.Login = login.Fixed{Username: gatewaytest.User, Password: gatewaytest.Password}
		cfg.Pins = []string{gw.Pin}
		if len(command) == 0 {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			command = []string{self, visitWord, "http://" + gatewaytest.WebName + "/", gw.Addr.String()}
		}
	}
	if len(command) == 0 {
		return errors.New("say which command to run, behind --")
	}

	var space *namespace
	cfg.Device = func(lease *transport.Lease) (packet.Conn, error) {
		var err error
		space, err = openNamespace(lease, command, out)
		if err != nil {
			return nil, err
		}
		return space.device, nil
	}
	tunnel, err := vpn.Dial(ctx, *server, cfg)
	if err != nil {
		if space != nil {
			space.close()
		}
		return err
	}
	defer tunnel.Close()
	defer space.close()
	// The packets flow from here on, so that the command may begin.
	if err := space.start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- space.wait() }()
	select {
	case err := <-ended:
		return err
	case <-tunnel.Done():
		err = tunnel.Err()
	case <-ctx.Done():
		err = ctx.Err()
	}
	space.close()
	<-ended
	return err
}
