// Package dns takes a question to the server that can answer it.
//
// The pieces fit together through one interface, [Exchanger]: a query goes in, an answer comes out, both in the wire
// format of RFC 1035. A [Client] asks servers, over whatever connections it is given; a [TLSClient] and an [HTTPSClient]
// do the same where nobody may listen. A [Mux] chooses another Exchanger by the name that is asked for, which is split
// DNS. A [Resolver] turns names into addresses. [FromResolver] makes an Exchanger of the machine's own resolver.
//
// A [Server] is the proxy that other programs are pointed at. It is told which [Zone] of names is asked for where, and
// answers on any number of sockets, which may be the machine's or those of a stack inside of the process:
//
//	question → hosts file → names that never leave → zone of the name → cache → upstreams of the zone → sifting → cache
//
// What it promises is that a name of the inside is told to nobody outside: not when all servers of the inside are down,
// not at the end of a chain of CNAMEs, not with another search domain behind it. A question has one zone, the one with
// the longest suffix, and whatever goes wrong there is the answer.
package dns

import "context"

// An Exchanger answers one query. Both are messages as in RFC 1035 section 4, without the length that TCP puts in
// front. An answer with an error code in it is an answer; the error says that none came. Implementations do not keep or
// change query, and may be called from several goroutines.
type Exchanger interface {
	Exchange(ctx context.Context, query []byte) (answer []byte, err error)
}
