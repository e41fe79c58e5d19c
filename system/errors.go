package system

import (
	"errors"
	"fmt"

	"culvert.example/vpn/host"
	"culvert.example/vpn/stack/tun"
)

// Errors of this package, for errors.Is. With each of them from [Open] the machine is as it was.
var (
	// ErrConfig reports a Config that makes no sense. The error names the field.
	ErrConfig = errors.New("system: invalid configuration")
	// ErrNoTUN reports that the machine has no TUN driver, or does not let this process see it.
	ErrNoTUN = tun.ErrNoDriver
	// ErrDeleted reports that another program has deleted the network interface of a tunnel, which then ends.
	ErrDeleted = tun.ErrDeleted
	// ErrNotPermitted reports that this process may not configure the network: on Linux it lacks CAP_NET_ADMIN.
	ErrNotPermitted = host.ErrNotPermitted
	// ErrBusy reports that another instance is changing this machine.
	ErrBusy = host.ErrBusy
	// ErrNoIPv6 reports that IPv6 is disabled and something needs it.
	ErrNoIPv6 = host.ErrNoIPv6
	// ErrCapture reports a lease that would take the gateway's own address away from it.
	ErrCapture = host.ErrCapture
	// ErrConflict reports that something of another program is where ours should go.
	ErrConflict = host.ErrConflict
	// ErrAttached reports that the System has a tunnel already.
	ErrAttached = errors.New("system: there is a tunnel already")
	// ErrLocked reports that policy does not let the user lift the kill switch.
	ErrLocked = errors.New("system: the kill switch may not be lifted by the user")
	// ErrNoKillSwitch reports that there is no kill switch for what was asked.
	ErrNoKillSwitch = errors.New("system: there is no kill switch")
	// ErrNoFlowPath reports a command about the flow path where there is none.
	ErrNoFlowPath = errors.New("system: this tunnel has no flow path")
	// ErrClosed reports the use of a System after Close.
	ErrClosed = errors.New("system: closed")
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...))
}
