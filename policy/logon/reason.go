package logon

import (
	"errors"
	"strings"
)

// The kinds of reasons, to be asked for by errors.Is.
var (
	// ErrRemoteUser: who asks is logged on remotely, and only local users may bring the tunnel up.
	ErrRemoteUser = errors.New("VPN establishment capability for a remote user is disabled; a VPN connection will not be established")
	// ErrTooManyLogons: more users are logged on than may be.
	ErrTooManyLogons = errors.New("too many users are logged on")
	// ErrRemoteLogon: somebody is logged on remotely, and nobody may be.
	ErrRemoteLogon = errors.New("a user is logged on remotely, and none may be")
	// ErrCutOff: the routes of the tunnel would cut off, or have cut off, the remote user who asked for it.
	ErrCutOff = errors.New("the routes of the tunnel cut off the remote user who asks for it")
	// ErrOriginUnknown: nobody can say whether the routes of the tunnel cut off the remote user who asks for it.
	ErrOriginUnknown = errors.New("it is not known from where the remote user is logged on who asks for the tunnel, so its routes might cut that user off")
	// ErrLeftTooSoon: the remote user who asked for the tunnel left the session before the 90 seconds were over.
	ErrLeftTooSoon = errors.New("the remote session that brought the tunnel up was left in its first 90 seconds")
	// ErrLoggedOff: the user of the tunnel logged off.
	ErrLoggedOff = errors.New("the user of the tunnel has logged off")
	// ErrOtherUser: somebody else logged on after the user of the tunnel had logged off.
	ErrOtherUser = errors.New("another user has logged on after the user of the tunnel had logged off")
	// ErrSessionsUnknown: who is logged on could not be found out.
	ErrSessionsUnknown = errors.New("it cannot be found out who is logged on")
	// ErrDeviceLock: the device does not lock itself as it must.
	ErrDeviceLock = errors.New("the device does not lock itself as it must")
	// ErrSetting: a setting has a value that does not exist.
	ErrSetting = errors.New("the value does not exist")
)

// A Reason says why a tunnel may not come up or had to end. It is an error that matches its Kind.
type Reason struct {
	// Kind is one of the errors of this package.
	Kind error
	// Setting is the element of the profile that says so, or an attribute behind a slash; Value is its value. Document is
	// where it stands, if the rules say that.
	Setting, Value, Document string
	// Sessions are those because of which, at most eight.
	Sessions []Session
	// Detail says what else is worth knowing: the limit, the fix. Cause is an error behind this one.
	Detail string
	Cause  error
}

// maxShown bounds the sessions of a reason.
const maxShown = 8

// Error names the setting, its value, its document, the sessions because of which, and what to do.
func (r *Reason) Error() string {
	var b strings.Builder
	b.WriteString(r.Setting + "=" + show(r.Value))
	if r.Document != "" {
		b.WriteString(" in " + r.Document)
	}
	b.WriteString(": " + r.Kind.Error())
	for i, s := range r.Sessions {
		if i == 0 {
			b.WriteString(": ")
		} else {
			b.WriteString(", ")
		}
		b.WriteString(s.String())
	}
	if r.Cause != nil {
		b.WriteString(": " + r.Cause.Error())
	}
	if r.Detail != "" {
		b.WriteString("; " + r.Detail)
	}
	return b.String()
}

// Unwrap returns the kind, and the cause if there is one.
func (r *Reason) Unwrap() []error {
	if r.Cause == nil {
		return []error{r.Kind}
	}
	return []error{r.Kind, r.Cause}
}

func shown(sessions ...Session) []Session {
	return sessions[:min(len(sessions), maxShown):min(len(sessions), maxShown)]
}
