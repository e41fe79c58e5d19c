// Package network decides by the network that the machine is in whether there shall be a tunnel, through which gateway, and what
// may pass where there is none. It carries out AutomaticVPNPolicy and what belongs to it: trusted networks, Always-On, captive
// portals, automatic server selection, backup servers, and Retain VPN on Logoff.
//
// A [Manager] is pure: it has no clock, no socket and no goroutine. It is told what has happened, and when, and says what is to be
// done. A [Runner] drives it with [Hooks], which do things.
//
//	network changed ─► trusted? ─┬─ trusted ───► TrustedNetworkPolicy: connect, disconnect, pause, nothing
//	                             ├─ untrusted ─► UntrustedNetworkPolicy: connect, nothing
//	                             └─ unknown ───► wait; Always-On counts it as untrusted
//
// # Who decides
//
// A person's word counts until it is overtaken. A tunnel that a person starts in a trusted network stays until the machine leaves
// that network; one that was up before the machine came there does not. A tunnel that a person ends stays down until a
// person starts one or the machine has been in a trusted network in between. The same holds for a session that the gateway has ended
// for its age where BypassConnectUponSessionTimeout is set. After a login that was refused nobody tries again but a person, since
// gateways lock accounts.
//
// # Always-On
//
// Where Always-On is in force the firewall is a consequence of the state, by the table at
// [Mode]; there is no way through the machine on which it is opened first and closed later. While the tunnel is down it is
// closed under ConnectFailurePolicy Closed, and under Open only if a person has ended the tunnel: that person then gets
// no network beside it, and can connect again. A trusted network opens it. What is not known is not trusted.
package network
