package system

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/flow"
	"culvert.example/vpn/flow/health"
	"culvert.example/vpn/host"
	"culvert.example/vpn/split"
)

var _ vpn.System = (*System)(nil)

// A System makes this machine use tunnels, one after the other. It is given to them as [vpn.Config.System]. Its methods may
// be called from several goroutines.
type System struct{}

// Open undoes what a dead process has left behind, takes the journal's lock, and checks that the machine can be changed. With
// a [KillSwitch] it is in force when Open returns. Otherwise nothing is changed before there is a tunnel. The context
// bounds only the opening. The caller closes the System.
//
// Errors match [ErrConfig], [ErrNoTUN], [ErrNotPermitted], [ErrBusy], errors.ErrUnsupported on systems other than
// Linux, or others of the package host.
func Open(ctx context.Context, cfg Config) (*System, error) { return nil, errors.ErrUnsupported }

// Attach implements [vpn.System]: it opens the network interface, and sets addresses, routes, resolver and firewall as the lease
// and the Config say.
func (s *System) Attach(ctx context.Context, link vpn.SystemLink) (vpn.SystemDevice, error) {
	return nil, errors.ErrUnsupported
}

// DialContext implements [vpn.System]. It also serves other programs that have to get past the tunnel, such as to an
// HTTP proxy in front of the gateway. Names are asked for outside of the tunnel.
func (s *System) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

// Control marks a socket as one of the tunnel itself, before it connects to address, and lets it through the kill
// switch. It fits net.Dialer.Control and net.ListenConfig.Control, for sockets in the namespace of the thread that called Open.
func (s *System) Control(network, address string, c syscall.RawConn) error {
	return errors.ErrUnsupported
}

// Status returns a snapshot.
func (s *System) Status() Status { return Status{} }

// Explain tells where a destination lies and by which rule: in the tunnel, outside, or nowhere. Host is a name or an address.
func (s *System) Explain(host string) (split.Verdict, error) { return split.Verdict{}, errors.ErrUnsupported }

// Flows returns the flows on the flow path, the oldest first.
func (s *System) Flows() []flow.Info { return nil }

// Confirm confirms that packets take the path want, and that this is in order. Errors match health.ErrNotConfirmed,
// or [ErrNoFlowPath] if there is no tunnel.
func (s *System) Confirm(want health.Path) error { return errors.ErrUnsupported }

// Revert goes back to the flow path after it was left, and waits until packets take it. Errors match [ErrNoFlowPath],
// flow.ErrNoRevert or health.ErrNotConfirmed, or are that of ctx.
func (s *System) Revert(ctx context.Context) error { return errors.ErrUnsupported }

// Failover leaves the flow path for the packet path. The error matches [ErrNoFlowPath] if there is none.
func (s *System) Failover() error { return errors.ErrUnsupported }

// Lift lifts the kill switch until the next tunnel. Errors match [ErrNoKillSwitch] or [ErrLocked].
func (s *System) Lift(ctx context.Context) error { return errors.ErrUnsupported }

// OpenPortalWindow lets connections to web servers, and questions to the machine's own DNS servers, through the kill switch
// for d, at most an hour, so that a person can log in at a captive portal. The kernel closes the window. A d of zero closes it
// now. The error matches [ErrNoKillSwitch] if there is none.
func (s *System) OpenPortalWindow(ctx context.Context, d time.Duration) error { return errors.ErrUnsupported }

// Close undoes all changes of the machine, except that a locked kill switch stays. Tunnels that use the System fail. It returns
// what could not be undone; that stays in the journal.
func (s *System) Close() error { return errors.ErrUnsupported }

// Repair undoes what a dead process has left behind. Of the Config it needs only Journal, Namespace and DNS as they were then;
// a KillSwitch that is Locked stays in force. Errors match [ErrBusy] if the process is alive, or others of the package host.
func Repair(ctx context.Context, cfg Config) (host.Report, error) {
	return host.Report{}, errors.ErrUnsupported
}
