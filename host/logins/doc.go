// Package logins says who is logged on to this machine, locally or over a network, tells when that changes, and says to which
// logon a process belongs.
//
//	src := logins.New(logins.Options{Logger: log})
//	sessions, err := src.List(ctx)
//	err = src.Watch(ctx, func(sessions []logins.Session, err error) { ... })
//	asker, err := src.Asker(ctx, pid)
//
// It states facts; what they allow is decided elsewhere.
//
// # Sources
//
// On Linux systemd-logind is asked over D-Bus, or elogind, which speaks the same. Where neither exists, the file utmp is read and
// looked at every two seconds. A machine with neither, such as a container, has no logons, which is no error. But once logind has
// answered, its silence is an error, so that nobody takes a logind that is being restarted for a machine that everybody has left.
//
// On Windows the Remote Desktop Services API is asked, and on macOS the file utmpx is read, both every two seconds. A screen of macOS
// that is shared over the network is not told apart from the local one.
//
// # Remote or local
//
// Logind's word is taken for it, with two additions. A session that a remote desktop service opened (xrdp, VNC) is remote,
// although logind calls it local since it knows nothing of networks. And where logind has no address for a remote session, or a name instead of
// one, the address is that at the other end of the connection of the sshd that leads the session.
//
// A process is looked up by what it cannot change itself: logind's word about it, the session number of the kernel's audit system,
// its cgroup, and its ancestors. One with an sshd among its ancestors is remote whatever else is known. Environment variables such as
// SSH_CONNECTION are never looked at, since a user can change them.
//
// Nothing that is read is trusted to be of sane size or type: numbers of sessions, lengths of names and times to answer are
// bounded, and an error names the property that was wrong.
package logins
