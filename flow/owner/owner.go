// Package owner finds the program and the user that a flow of this machine belongs to.
//
// On Linux the kernel is asked for the socket with the flow's addresses and ports (sock_diag, see sock_diag(7)), which tells the user
// and the number of the socket; the process is then found by looking through /proc for who has that socket open. A [Finder] remembers
// where it found sockets and looks there first, and checks what it remembers, so that an answer is never of yesterday.
//
// An answer is as good as the moment: a short-lived program may be gone before it is asked for, and then only the user is known. A
// socket that several processes share is said to be of one of them, usually the youngest.
package owner

import (
	"errors"
	"net/netip"
)

var (
	// ErrNotFound reports that no socket of this machine has such a flow now.
	ErrNotFound = errors.New("no socket has this flow")
	// ErrUnsupported reports that this system is not supported, or that the kernel does not tell.
	ErrUnsupported = errors.New("the owners of flows cannot be found on this system")
	// ErrClosed reports that the Finder was closed.
	ErrClosed = errors.New("the finder of owners is closed")
)

// NoUser is the UID of an Owner whose user is not known.
const NoUser = -1

// An Owner is whom a flow belongs to. What is not known is NoUser, empty or 0.
type Owner struct {
	// UID is the number of the user who made the socket, and User the name.
	UID  int    `json:"uid"`
	User string `json:"user,omitempty"`
	// PID is the process that has the socket, and Program the path of its executable file.
	PID     int    `json:"pid,omitempty"`
	Program string `json:"program,omitempty"`
	// Contained says that the process has another view of the file system, such as that of a container, in which Program is another
	// file than the one that lies at the same path here.
	Contained bool `json:"contained,omitempty"`
}

// Unknown is the Owner of whom nothing is known.
var Unknown = Owner{UID: NoUser}

// A Flow is how a socket is looked for.
type Flow struct {
	// Network is tcp or udp.
	Network string
	// Local is the address and port of the socket on this machine, Remote those of the other end.
	Local, Remote netip.AddrPort
}
