package network

import (
	"errors"
	"fmt"
	"time"

	"culvert.example/vpn/policy/network/portal"
	"culvert.example/vpn/policy/network/selection"
	"culvert.example/vpn/policy/network/trusted"
)

// A Kind is what an [Event] tells.
type Kind uint8

const (
	// Tick tells only that time has passed.
	Tick Kind = iota
	// Start begins, with Event.Links if they are known. Before it only the firewall is set.
	Start
	// Stop ends the tunnel and the automatisms. The firewall stays as the state demands.
	Stop
	// Reconfigured brings another Config, in Event.Config. One that is not valid is refused.
	Reconfigured
	// NetworkChanged brings what the interfaces say about DNS now, those of the tunnel left out, in Event.Links.
	NetworkChanged
	// Suspend tells that the machine is falling asleep, Resume that it was asleep for Event.Asleep.
	Suspend
	Resume
	// Logon tells that Event.User has logged on, with Event.Remote over a network, or, of one who was, that the sessions of users
	// have changed. Logoff tells that the last session of that user has ended.
	Logon
	Logoff
	// UserConnect is the command of a person to connect to Event.Host, a name or server; "" leaves the choice to the Manager.
	UserConnect
	// UserDisconnect, UserPause and UserResume are commands too, and UserPortal the one to open another window for a captive
	// portal.
	UserDisconnect
	UserPause
	UserResume
	UserPortal
	// Redirected tells that the gateway of attempt Event.Run sends on to Event.Server. An error says that it must not be followed.
	Redirected
	// TunnelUp tells that attempt Event.Run has succeeded. Event.Exempt says that the gateway lifts Always-On for this user
	// (X-CSTP-Disable-Always-On-VPN).
	TunnelUp
	// TunnelDown tells that attempt Event.Run has failed, or that the tunnel that came of it has ended, for Event.Reason.
	TunnelDown
	// Asked, Looked and Measured bring the answers to AskTrusted, AskPortal and Measure with the number Event.Run.
	Asked
	Looked
	Measured
	// FirewallFailed tells that SetFirewall could not be done. It will be demanded again.
	FirewallFailed

	kinds = iota
)

// A Reason says why a tunnel ended, did not come about, or is ended.
type Reason string

const (
	// Unreachable: nobody answered, or the connection was lost for too long.
	Unreachable Reason = "unreachable"
	// Untrusted: the gateway's certificate is not accepted.
	Untrusted Reason = "gateway not trusted"
	// Refused: the gateway gives no tunnel now.
	Refused Reason = "refused"
	// LoginFailed: the credentials were not accepted, or nobody gave any.
	LoginFailed Reason = "login failed"
	// SessionTimeout: the session was too old.
	SessionTimeout Reason = "session timeout"
	// IdleTimeout: nothing was sent for too long.
	IdleTimeout Reason = "idle timeout"
	// ByGateway: the gateway ended the session for another reason.
	ByGateway Reason = "ended by the gateway"
	// LogonRules: the rules about users do not permit it.
	LogonRules Reason = "logon rules"
	// ByUser: a person said so.
	ByUser Reason = "ended by the user"
	// ByPolicy: the network is trusted.
	ByPolicy Reason = "trusted network"
	// BehindPortal: a captive portal lies before the gateway.
	BehindPortal Reason = "captive portal"
	// ByLogoff: its user has logged off, or another one has logged on since.
	ByLogoff Reason = "logoff"
	// BySuspend: the machine has fallen asleep.
	BySuspend Reason = "suspend"
	// ByStop: the client ends, or is disabled.
	ByStop Reason = "stop"
	// ByChange: another gateway takes its place.
	ByChange Reason = "another gateway"
)

// An Event is something that has happened. Which fields count depends on the Kind.
type Event struct {
	Kind    Kind
	Run     uint64
	Links   []trusted.Link
	Asleep  time.Duration
	User    string
	Remote  bool
	Host    string
	Server  string
	Exempt  bool
	Reason  Reason
	Err     string
	Answers trusted.Answers
	Report  portal.Report
	Samples []selection.Sample
	Config  *Config
}

// A Do is what an [Action] demands.
type Do uint8

const (
	// Connect demands a tunnel to Action.Server, as attempt Action.Run. TunnelUp or TunnelDown must follow, unless a Disconnect comes before.
	Connect Do = iota
	// Disconnect demands that the tunnel, or the attempt, be ended, for Action.Reason. Nothing is expected in return.
	Disconnect
	// Pause demands that the tunnel be taken down and the session kept. ResumeTunnel takes it up again, as attempt Action.Run.
	Pause
	ResumeTunnel
	// SetFirewall demands that the firewall be as Action.Firewall says.
	SetFirewall
	// OpenPortal demands that the closed firewall let a person get to a captive portal for Action.For, and not longer whatever
	// happens to this process. ClosePortal ends that at once.
	OpenPortal
	ClosePortal
	// AskTrusted demands that the servers of Action.Rules be asked outside of the tunnel, AskPortal that the gateways of
	// Action.Servers be, and Measure that the round trip to those be measured.
	AskTrusted
	AskPortal
	Measure
	// Save demands that Action.Cache be kept for the next start.
	Save
	// Notify demands that a person be told Action.Notice.
	Notify
)

// String returns a name such as connect.
func (d Do) String() string {
	return [...]string{"connect", "disconnect", "pause", "resume", "firewall", "open portal", "close portal", "ask trusted", "ask portal", "measure", "save", "notify"}[min(d, Notify)]
}

// An Action is something to be done. Actions are to be done in their order. Which fields count depends on Do.
type Action struct {
	Do       Do
	Run      uint64
	Server   string
	Host     string
	Reason   Reason
	Firewall Firewall
	For      time.Duration
	Rules    trusted.Rules
	Servers  []string
	Cache    selection.Cache
	Notice   Notice
}

// A Notice is something that a person should know.
type Notice struct {
	// Kind names it for programs: portal, portal-blocked, portal-clean, portal-expired, failed, ended.
	Kind string `json:"kind"`
	// Text says it.
	Text string `json:"text"`
	// URL is the page of a captive portal, if it is known. It comes from a stranger.
	URL string `json:"url,omitempty"`
	// Browser says that it is to be opened in the browser of the system.
	Browser bool `json:"browser,omitempty"`
}

// ErrNotAllowed is what a [NotAllowedError] matches.
var ErrNotAllowed = errors.New("not allowed by policy")

// A NotAllowedError says that a person may not do what they wanted.
type NotAllowedError struct {
	// What they wanted, such as "disconnect".
	What string
	// Setting is the name of the setting that forbids it, Value its value, and Document where it stands, which may be "".
	Setting, Value, Document string
}

// Error implements error.
func (e *NotAllowedError) Error() string {
	return fmt.Sprintf("%s: %s is %s in %s", e.What, e.Setting, e.Value, e.document())
}

func (e *NotAllowedError) document() string {
	if e.Document == "" {
		return "the profile"
	}
	return "the profile " + e.Document
}

// Is reports whether target is ErrNotAllowed.
func (e *NotAllowedError) Is(target error) bool { return target == ErrNotAllowed }
