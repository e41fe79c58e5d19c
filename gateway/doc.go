// Package gateway is an AnyConnect-compatible VPN gateway to embed in a program. Clients such as openconnect, Cisco Secure
// Client and package vpn log in to it, get addresses of their own, and reach through it what it is told to let them reach.
//
// It needs no root, no TUN device and no routes: each [Server] holds a TCP/IP stack in user space that ends the flows of all
// its clients, and forwards each of them with [Config.Dial], which is a [net.Dialer] unless the embedder says otherwise. Where
// there is a TUN device, [Config.Device] lets the host route their packets instead.
//
// # Who may log in
//
// An [Authenticator] judges what was answered so far, and either asks another question or names the user. [Passwords] asks for
// a name and a password on one page and has a [Verifier] judge them, such as [Users], which reads the files of htpasswd and of
// ocserv's ocpasswd. [Certificates] takes the user from a client certificate, alone or before a password. Failed attempts
// make the next one from the same address, and for the same user, wait twice as long as the last.
//
// Who has logged in gets a cookie of 256 random bits, of which only a hash is kept. It is good for any number of tunnels, one at a time and the
// last one counts, until the session times out, stays without a tunnel for too long, says goodbye, or is
// ended by [Server.Disconnect].
//
// # What clients may reach
//
// A client sends only from its own addresses; anything else is dropped. It reaches only what [Network.Routes] announces, less
// what [Network.NoRoutes] takes away, where the longer prefix wins, and the DNS servers it was told. Without routes it reaches
// everything. It never reaches these, unless [Config.AllowSpecial] names them:
//
//   - loopback, "this host" (0.0.0.0/8), link-local and multicast addresses, and so not the metadata service 169.254.169.254
//     of cloud providers, nor the other addresses under which such services answer
//   - other clients, unless [Config.ClientToClient] says so
//
// Mind that an address of the machine itself that lies inside Routes can be reached, with every service that listens on it.
// What the program itself serves inside the tunnel, with [Server.Listen] and [Server.ListenPacket], can be reached by all clients.
//
// # Two channels
//
// Each client has a TLS connection (CSTP), which carries its login, control frames and, where UDP does not get through, its
// packets. Beside it there may be DTLS. Packets go to a client by the channel on which it was last heard.
//
// Datagrams are sealed and sent by the goroutine that has them, since they all leave through one socket, which waits for no client.
// What goes by TLS waits in a queue of bounded size for each client: one that is slow loses packets and delays nobody else. A client that
// is idle costs one goroutine for each of its channels, and no memory for packets.
//
// # Bounds
//
// Strangers and clients can use up only so much: see [Config.MaxSessions], [Config.MaxSessionsPerUser], [Config.MaxFlows],
// [Config.MaxConnectionsPerSource], [Config.MaxLoginsPerSource] and [Config.MaxAttempts]. Besides there are at most 1024
// connections without a tunnel, 4096 logins and 256 DTLS handshakes in progress, the latter 4 for one session.
package gateway
