// Package trusted finds out whether the machine is in a network of its organisation, where no tunnel is needed.
//
// An administrator describes that network by up to three things, and all that are given must hold:
//
//   - the DNS suffixes that the network gives to a machine (TrustedDNSDomains). One of a link's suffixes must match one of
//     them. Where a star stands, anything may be.
//   - the DNS servers that it names (TrustedDNSServers). All servers that the link uses must be among them, since a stranger's
//     server beside a known one is a stranger's network, and each one of the list must answer if they are asked.
//   - HTTPS servers that only it can reach (TrustedHttpsServerList). One of them must prove that it has the certificate
//     whose hash the administrator has written down. They are asked in their order: one that cannot be reached is passed
//     over, and one that shows another certificate ends the matter.
//
// Suffixes and servers must be those of the same link. Anyone who runs a network can make the first two true, so only the
// third one proves anything: see [Finding.Proven]. With no rules at all, no network is trusted.
//
// [Rules.Links] and [Rules.Judge] are pure. [Prober] asks servers over real sockets. The links must be those outside of the
// tunnel, and so must the sockets: through the tunnel the organisation's servers can be reached from anywhere.
package trusted
