package logins

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// A Kind says how a session came about.
type Kind string

const (
	// TTY is a text console or a terminal line.
	TTY Kind = "tty"
	// X11 and Wayland are desktops of Linux.
	X11     Kind = "x11"
	Wayland Kind = "wayland"
	// Console is the desktop of Windows or macOS.
	Console Kind = "console"
	// SSH is a remote shell.
	SSH Kind = "ssh"
	// RDP is a remote desktop, by whatever protocol.
	RDP Kind = "rdp"
	// Other is anything else.
	Other Kind = "other"
)

// A Class says what a session is for.
type Class string

const (
	// User is the session of somebody who has logged on.
	User Class = "user"
	// Greeter asks who wants to log on, and LockScreen for the password of somebody who has.
	Greeter    Class = "greeter"
	LockScreen Class = "lock-screen"
	// Background is work without anybody, such as a cron job or a service manager.
	Background Class = "background"
)

// NoUID is the number of a user whose number is not known, as on Windows.
const NoUID = ^uint32(0)

// A Session is somebody, or something, logged on to this machine. Sessions can be compared by ==.
type Session struct {
	// ID is what the system calls the session.
	ID string
	// User is the name of the user, with the domain and a backslash before it on Windows; UID is the number, or NoUID.
	User string
	UID  uint32
	// Kind is how it came about and Class what for.
	Kind  Kind
	Class Class
	// Remote says that it came over a network. RemoteHost is what the system says about from where, which may be empty, a name,
	// or an address; RemoteAddr is the address, if it is known.
	Remote     bool
	RemoteHost string
	RemoteAddr netip.Addr
	// Active says that it is the one in front at its seat, Locked that it asks for a password.
	Active, Locked bool
	// Detached says that nobody is connected to it, though its user has not logged off.
	Detached bool
	// Closing says that its user has left while processes of it go on.
	Closing bool
	// Since is when it began, or the zero time.
	Since time.Time
	// Leader is the process that leads it, or 0.
	Leader int
	// Service is what let the user in, such as sshd, if that is known.
	Service string
}

// Account is what tells users apart: the number where it is known, else the name.
func (s Session) Account() string { return account(s.UID, s.User) }

func account(uid uint32, name string) string {
	switch {
	case uid != NoUID:
		return "uid " + strconv.FormatUint(uint64(uid), 10)
	case name != "":
		return "user " + name
	}
	return ""
}

const (
	// maxSessions bounds how many sessions are read: more are an error, since to leave some out would be to deny that they exist.
	maxSessions = 4096
	// maxText bounds the bytes of a name.
	maxText = 256
)

// clean makes a name of what somebody sent: valid, short, and without control characters.
func clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return utf8.RuneError
		}
		return r
	}, s)
}

// address returns the address that a text is, if it is one.
func address(s string) netip.Addr {
	s = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "["), "]")
	a, err := netip.ParseAddr(s)
	if err != nil || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a.Unmap()
}

// moment returns the time of so many microseconds after 1970, or the zero time if that is none.
func moment(micros int64) time.Time {
	const latest = 253402300800_000000 // the year 10000
	if micros <= 0 || micros >= latest {
		return time.Time{}
	}
	return time.UnixMicro(micros)
}
