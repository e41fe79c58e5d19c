// Culvert is an AnyConnect-compatible VPN client, with root or without, and a gateway for such clients.
//
//	culvert demo                    shows a tunnel at work, gateway and client in one process
//	culvert proxy GATEWAY           carries SOCKS5 and HTTP proxy clients through a gateway, without root
//	sudo culvert connect GATEWAY    has the whole machine use a tunnel, with routes, DNS and a kill switch
//	culvert connect --authenticate  logs in and prints what openconnect needs to go on
//	culvert status                  tells how the tunnel of this machine is
//	culvert disconnect              ends it and undoes all that was changed
//	culvert repair                  undoes what a crash has left
//	culvert pause, resume, portal   steer a tunnel that follows the network
//	culvert data-path               confirms, leaves or takes again the flow path
//	culvert serve                   is a gateway
//	culvert sessions                lists who is connected to it
//
// The flags of the client bear the names that openconnect gives them. Every flag can be a key of a TOML file too
// (--config). Secrets come from standard input, files or the terminal, never from the command line.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"culvert.example/vpn/transport/login/terminal"
)

func main() {
	// A signal that comes while a command cleans up kills it, since signal.Notify is undone by then.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, stop := context.WithCancelCause(context.Background())
	go func() {
		sig := <-signals
		signal.Stop(signals)
		stop(&interrupted{sig})
	}()
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv)
	os.Exit(int(code))
}

// run runs the command line args and returns the exit status. It is main without the process around it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, getenv func(string) string) exitCode {
	a := &app{in: stdin, out: stdout, err: stderr, getenv: getenv, args: args, flush: func() {}}
	root := a.command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	defer func() { a.flush() }()
	err := root.ExecuteContext(ctx)
	if err != nil && !a.started {
		// Nothing has run yet, so cobra did not understand the command line.
		err = asUsage(err)
	}
	if sig := (*interrupted)(nil); errors.As(context.Cause(ctx), &sig) && (err == nil || errors.Is(err, context.Canceled)) {
		if err == nil && sig.signal == syscall.SIGTERM {
			return exitOK // a service that was told to stop has stopped as it should
		}
		return exitInterrupted
	}
	if err == nil {
		return exitOK
	}
	if errors.Is(err, terminal.ErrInterrupted) {
		fmt.Fprintln(stderr) // the prompt stands on the last line
		return exitInterrupted
	}
	if told := (*exitError)(nil); errors.As(err, &told) {
		return told.code // somebody else has said why
	}
	code := codeOf(err)
	a.reporter().fail(err, code)
	return code
}

// interrupted is the cause of a context that ended because of a signal.
type interrupted struct{ signal os.Signal }

// Error implements error.
func (i *interrupted) Error() string { return i.signal.String() }
