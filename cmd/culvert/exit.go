package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/proxy"
	"culvert.example/vpn/system"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/trust"
)

// An exitCode is the exit status of the command.
type exitCode int

// The meanings are in exitHelp. They are part of the interface: scripts rely on them.
const (
	exitOK          exitCode = 0
	exitFailed      exitCode = 1
	exitUsage       exitCode = 2
	exitLogin       exitCode = 3
	exitUntrusted   exitCode = 4
	exitUnreachable exitCode = 5
	exitEnded       exitCode = 6
	exitPrompt      exitCode = 7
	exitProtocol    exitCode = 8
	exitInterrupted exitCode = 130
)

const exitHelp = `Exit status:
  0    success; also a service that SIGTERM has stopped
  1    any other failure
  2    the command line or the configuration file is wrong
  3    the gateway did not accept the credentials
  4    the gateway is not trusted
  5    the gateway cannot be reached
  6    the session has expired, or the gateway has refused or ended it
  7    the gateway asks for something that nobody answered (see --non-inter)
  8    the peer is no gateway that this command can speak with
  130  interrupted`

// A usageError is a mistake in the command line or the configuration file.
type usageError struct {
	err  error
	hint string // what to do instead, or empty
}

// Error implements error.
func (e *usageError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *usageError) Unwrap() error { return e.err }

// usagef makes a usageError.
func usagef(format string, args ...any) error { return &usageError{err: fmt.Errorf(format, args...)} }

// asUsage makes a usageError of an error that is none.
func asUsage(err error) error {
	if usage := (*usageError)(nil); errors.As(err, &usage) {
		return err
	}
	return &usageError{err: err}
}

// A refusedError is a login that the gateway has refused with a password from standard input.
type refusedError struct{ *login.RejectedError }

// Error implements error.
func (e *refusedError) Error() string {
	return fmt.Sprintf("the gateway refused the user name or the password, which was read from standard input: %s says %.400q", e.Gateway, e.Said)
}

// Unwrap returns the cause.
func (e *refusedError) Unwrap() error { return e.RejectedError }

// codeOf returns the exit status for an error.
func codeOf(err error) exitCode {
	var usage *usageError
	var dns *net.DNSError
	var told *toldError
	switch {
	case errors.As(err, &told) && told.Exit != exitOK:
		return told.Exit
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, vpn.ErrLogin):
		return exitLogin
	case errors.Is(err, vpn.ErrUntrusted):
		return exitUntrusted
	case errors.Is(err, vpn.ErrPrompt):
		return exitPrompt
	case errors.Is(err, vpn.ErrExpired), errors.Is(err, vpn.ErrAddressChanged), errors.Is(err, vpn.ErrRefused), errors.Is(err, vpn.ErrDisconnected):
		return exitEnded
	case errors.Is(err, vpn.ErrProtocol), errors.Is(err, vpn.ErrUnsupported):
		return exitProtocol
	case errors.Is(err, vpn.ErrUnreachable), errors.Is(err, context.DeadlineExceeded), errors.As(err, &dns), dialFailed(err):
		return exitUnreachable
	}
	return exitFailed
}

// dialFailed reports whether a connection to the gateway did not come about.
func dialFailed(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// hint returns what to do about an error, or "".
func hint(err error) string {
	var usage *usageError
	var untrusted *trust.Error
	var dns *net.DNSError
	var absent *notRunningError
	var closed *closedSocketError
	var denied *rootOnlyError
	var portal *portalError
	var unlisted *unlistedError
	switch {
	case errors.As(err, &usage):
		if usage.hint == "" {
			return "Run the command with --help for what it takes."
		}
		return usage.hint
	case errors.As(err, &portal):
		return "Log in to this network with a browser" + orNothing(": ", portal.url) + "\nThen run the command again."
	case errors.As(err, &denied):
		return "Only root can undo changes of this machine: " + denied.asRoot
	case errors.As(err, &untrusted) && untrusted.Certificate != nil:
		return "Make sure, by another way than this network, that the gateway has this key. If it has, trust it with\n" +
			"    --servercert " + trust.PinOf(untrusted.Certificate) + "\n" +
			"If the certificate comes from a private authority, give that authority's certificate with --cafile FILE."
	case errors.Is(err, vpn.ErrLogin):
		return "Check the user name, the password and --authgroup. Mind that gateways lock accounts after a few wrong passwords."
	case errors.Is(err, vpn.ErrPrompt):
		return "Give the answer with --user, --passwd-on-stdin, --authgroup, --token-mode or --form-entry FORM:OPT=VALUE,\n" +
			"or run the command at a terminal without --non-inter."
	case errors.Is(err, vpn.ErrExpired):
		return "Log in again: a cookie ends with its session."
	case errors.Is(err, vpn.ErrAddressChanged):
		return "Connections through the tunnel cannot live on with another address. Start the command again."
	case errors.Is(err, vpn.ErrUnsupported), errors.Is(err, vpn.ErrProtocol):
		return "Check the address of the gateway, with a browser for example. Some gateways answer only to a --useragent that they know."
	case errors.Is(err, system.ErrNotPermitted):
		return "Routes, DNS and the firewall of this machine are changed by root, or with CAP_NET_ADMIN: try it with sudo. Nothing was changed.\n" +
			"For traffic without root use\n    culvert proxy GATEWAY"
	case errors.Is(err, system.ErrNoTUN):
		return "Nothing was changed. Load the driver with \"modprobe tun\"; give a container the device /dev/net/tun.\n" +
			"For traffic without it use\n    culvert proxy GATEWAY"
	case errors.Is(err, system.ErrBusy):
		return "See it with \"culvert status\", end it with \"culvert disconnect\". Nothing was changed."
	case errors.Is(err, system.ErrLocked):
		return "The policy of this machine keeps the kill switch closed until there is a tunnel: culvert connect GATEWAY"
	case errors.Is(err, errors.ErrUnsupported) && runtime.GOOS != "linux":
		return "A machine can use a tunnel only on Linux. For traffic through a proxy use\n    culvert proxy GATEWAY"
	case errors.As(err, &absent):
		switch {
		case absent.left:
			return "Undo them with: sudo culvert repair"
		case absent.unknown:
			return "Ask as root: " + absent.asRoot
		}
		return ""
	case errors.As(err, &closed):
		return "Ask as root: " + closed.asRoot
	case errors.As(err, &unlisted):
		return "There is no VPN profile on this machine, so that " + oneLine(unlisted.name) + " was taken for a host. Profiles are looked for in\n    " +
			strings.Join(unlisted.places, "\n    ")
	case errors.As(err, &dns):
		return "Check the name of the gateway, or give its address with --resolve HOST:IP."
	case errors.Is(err, syscall.ECONNREFUSED) && dialFailed(err):
		return "Nothing listens there. Check the host name and the port."
	case errors.Is(err, syscall.EADDRINUSE):
		return "Another program listens there. Choose another port."
	case errors.Is(err, os.ErrPermission) && errors.Is(err, syscall.EACCES):
		return "This user may not do that. Ports below 1024 and files of others need more rights."
	}
	return ""
}

// notCanceled turns the errors by which services say that they were stopped into nil.
func notCanceled(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, net.ErrClosed) || errors.Is(err, gateway.ErrServerClosed) || errors.Is(err, proxy.ErrServerClosed) {
		return nil
	}
	return err
}

// oneLine makes text of others fit for a terminal: on one line, without control characters, and not endless.
func oneLine(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			b.WriteByte(' ')
		case r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0:
			b.WriteRune('\uFFFD')
		default:
			b.WriteRune(r)
		}
		if b.Len() > 2000 {
			b.WriteString("...")
			break
		}
	}
	return strings.TrimSpace(b.String())
}
