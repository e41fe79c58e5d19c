package script

// A Reason is why a script is started: the variable "reason".
type Reason string

// The reasons, in the order in which they occur.
const (
	// PreInit comes before the network interface is made.
	PreInit Reason = "pre-init"
	// Connect comes when the tunnel is up and the interface is there.
	Connect Reason = "connect"
	// AttemptReconnect comes before the gateway is dialed again, so that a script can clear the way to it.
	AttemptReconnect Reason = "attempt-reconnect"
	// Reconnect comes when that succeeded.
	Reconnect Reason = "reconnect"
	// Disconnect comes at the end, while the interface is still there.
	Disconnect Reason = "disconnect"
)

func (r Reason) valid() bool {
	switch r {
	case PreInit, Connect, AttemptReconnect, Reconnect, Disconnect:
		return true
	}
	return false
}
