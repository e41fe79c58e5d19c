package host

import "errors"

var (
	// ErrNotPermitted reports that this process may not configure the network: on Linux it lacks CAP_NET_ADMIN.
	ErrNotPermitted = errors.New("not permitted to configure the network")

	// ErrNoDevice reports that there is no network interface of that name.
	ErrNoDevice = errors.New("no such network interface")

	// ErrNoIPv6 reports that the Settings have an IPv6 address or prefix in the tunnel, but IPv6 is disabled.
	ErrNoIPv6 = errors.New("IPv6 is disabled on this machine")

	// ErrBusy reports that another process has the journal open and so is changing the machine.
	ErrBusy = errors.New("another process is changing this machine")

	// ErrConflict reports that something of another program is where ours should go: routes in our routing table, or an
	// address of the lease on another interface.
	ErrConflict = errors.New("conflict with another program")

	// ErrCapture reports a lease that would take the gateway's own address away from it.
	ErrCapture = errors.New("the lease captures the address of the gateway")

	// ErrSettings reports Settings that make no sense.
	ErrSettings = errors.New("invalid settings")

	// ErrJournal reports a journal that cannot be trusted or understood.
	ErrJournal = errors.New("bad journal")

	// ErrNamespace reports a journal of another network namespace, which still exists: its changes have to be undone from
	// inside it.
	ErrNamespace = errors.New("the journal belongs to another network namespace")

	// ErrNoPart reports that the journal or the Settings have something for a Part that the program did not provide.
	ErrNoPart = errors.New("no such part")

	// ErrClosed reports the use of a Machine or Network after Close.
	ErrClosed = errors.New("closed")

	// ErrNoExit reports that no interface has a route to a destination.
	ErrNoExit = errors.New("no interface leads to the destination")
)
