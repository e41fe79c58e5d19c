// Package dtls carries IP packets over DTLS 1.2 (RFC 6347) the way AnyConnect gateways and their clients do, for both ends.
//
// A DTLS channel lies beside a TLS channel that is already up, and takes its authentication from it, in one of two ways:
//
//   - [PSK]: a key that both ends export from the TLS channel is the pre-shared key of a full handshake. The session id of
//     the ClientHello carries an identifier, by which the gateway finds the session and so the key.
//   - [Resume]: the client has sent a master secret over the TLS channel, and the handshake pretends to resume a session that
//     has this secret. A peer that does not resume it is refused, since nothing else proves who it is.
//
// The handshake is that of pion/dtls, over a private packet connection. Once it is complete nothing of pion remains. The
// records are protected here, with keys derived from the master secret: a batch of packets is sealed
// into one piece of memory and handed to the system in one call, and received records are opened straight into the Bufs of
// the reader, without an allocation for each packet.
//
// Each record holds one byte that says what it is, and a payload: an IP packet, a request that the peer answers
// to show that it is alive, the answer, or nothing (a keepalive). Requests are padded to the size of the largest packet.
// So the same exchange that shows that the peer is alive shows that packets of that size arrive; if they do not while small
// ones do, the size is searched for anew. [Conn.MTU] is the result.
//
// DTLS may always fail. Every error of this package is about one channel, never about the session: the packets then go
// through the TLS channel, and the caller dials again later, on a new socket.
package dtls
