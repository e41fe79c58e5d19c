// Package dns takes a question to the server that can answer it.
//
// The pieces fit together through one interface, [Exchanger]: a query goes in, an answer comes out, both in the wire
// format of RFC 1035. A [Client] asks servers, over whatever connections it is given. A [Mux] chooses another Exchanger
// by the name that is asked for, which is split DNS. A [Resolver] turns names into addresses. [FromResolver] makes an
// Exchanger of the machine's own resolver.
package dns

import "context"

// An Exchanger answers one query. Both are messages as in RFC 1035 section 4, without the length that TCP puts in
// front. An answer with an error code in it is an answer; the error says that none came. Implementations do not keep or
// change query, and may be called from several goroutines.
type Exchanger interface {
	Exchange(ctx context.Context, query []byte) (answer []byte, err error)
}
