// Package cstp carries IP packets over TLS: the channel that every AnyConnect session has, and the only one where UDP is
// blocked.
//
// A client makes a [Link], which is a TLS connection with two more abilities, asks for a tunnel with [Connect], takes its
// configuration from the reply with [LeaseOf], and then has a [Conn] on the same connection:
//
//	link := cstp.Client(nc, tlsConfig)
//	reply, br, err := cstp.Connect(ctx, link, request)
//	lease, err := cstp.LeaseOf(reply, gateway, time.Now())
//	conn := cstp.NewConn(link, br, cstp.Config{MTU: lease.MTU, Beat: ...})
//
// A gateway uses [Server] in place of Client, answers the request itself and has the same Conn.
//
// # Frames, records and segments
//
// Each packet travels in a frame with a header of 8 bytes. The format would allow any stream of frames, but most peers
// take one TLS record for one frame: two in one record end the session or lose the second, and the halves of a split one are
// lost or end it too. So a Conn writes each frame as one record, and gathers the records of a batch below TLS, such that they
// leave in one system call. It does not expect the same of its peer: it reads a stream.
//
// # Who writes
//
// The caller of ReadBatch never writes, not even the answer to a probe. It would wait for a peer that does not
// read, and if that peer waits likewise, both would wait for ever. A goroutine of the Conn sends all that is not data.
package cstp
