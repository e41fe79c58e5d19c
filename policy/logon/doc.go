// Package logon decides whether a tunnel may come up, and whether it may stay, given who is logged on to the machine: the rules
// of a VPN profile for RDP and SSH sessions.
//
//	v := logon.Decide(rules, sessions, logon.Request{Session: "c1"}, time.Now())
//	if !v.Allow {
//		return v.Reason // names the setting, its value and the document
//	}
//	... the tunnel comes up ...
//	m := logon.NewMachine(rules, sessions, request, time.Now())
//	for sessions := range changes {
//		if c := m.Sessions(time.Now(), sessions); c.Action == logon.Disconnect { ... }
//	}
//
// Two settings rule, one of each pair on its system:
//
//   - WindowsLogonEnforcement and LinuxLogonEnforcement limit how many users may be logged on, when the tunnel comes up and as long
//     as it is up. SingleLocalLogon: one locally, any number remotely. SingleLogon: one in all. SingleLogonNoRemote: one locally,
//     none remotely. They are in force before the first logon (Start Before Logon) too.
//   - WindowsVPNEstablishment and LinuxVPNEstablishment say whether somebody who is logged on remotely may bring the tunnel up.
//     LocalUsersOnly: no. AllowRemoteUsers: yes, unless the routes of the tunnel would cut that somebody off. They are not in force
//     before the first logon, when there is nobody to judge.
//
// RetainVpnOnLogoff says whether the tunnel outlives the logon of its user, and UserEnforcement whether it outlives the logon of
// somebody else after that.
//
// # What counts as a logon
//
// Systems count sessions, the settings speak of users. Here a logon is a user at a place: the machine itself, or one remote
// address. So:
//
//   - A user with a desktop and two text consoles is logged on once, and so is one with three windows of SSH from the same
//     address. The same user at the machine and over SSH is logged on twice, once locally and once remotely.
//   - A remote session whose address nobody knows is a logon by itself.
//   - Greeters, lock screens, and what runs in the background (cron, a service manager of a user) are nobody's logon.
//   - A session that is closing, whose user has left while programs stayed, is not a logon any more; but a program in
//     it (tmux after the end of SSH) still belongs to a local or remote session when it asks for a tunnel.
//   - A session with nobody attached (RDP that was disconnected, or a user who was switched away) is a logon: its user has not logged off.
//   - Changing the user with su or sudo makes no logon.
//   - A logon that arrives through the tunnel is a remote one. SingleLocalLogon lets it be, the other two end the tunnel.
//
// A program that belongs to no session, such as a service, a cron job or a desktop program that a service manager of the user started,
// is judged by its user: it is local if that user has an active local session that is not locked, else remote if the user has a
// remote session, and nobody's if the user has none; nobody is not a remote user.
//
// # Where routes cut a remote user off
//
// Who brings the tunnel up remotely under AllowRemoteUsers gives a function that says which addresses the tunnel would capture.
// If that user's own is among them, or is not known, the tunnel is refused, before anything has changed, or ended if
// routes change later. Other remote users are not asked for: SingleLocalLogon lets a local user connect although that cuts them off.
//
// The 90 seconds: on Windows a remote user who disconnects the session less than 90 seconds after the tunnel came up ends the tunnel,
// since that is how being cut off looks. [Change.Deadline] says until when. Linux has no such rule, and no need of it, since an SSH session that ends
// is a logoff.
//
// All of it is pure: sessions and time are arguments, and nothing waits. Sessions come from package host/logins.
package logon
