// Package bench measures whole paths, as a ladder: each rung has one layer more than the one before, so that the difference
// between two rungs is what the layer costs.
//
//	0       packet.Copy between two packet.Pipes, without TCP
//	1       TCP from stack to stack, with a pump each way between them
//	2-tls   and CSTP over TLS on the loopback interface between the pumps
//	2-dtls  or DTLS
//	3-tls   and failover and the gates at the client's end
//	3-dtls
//	4-tls   vpn.Dial to package gateway: everything
//	4-dtls
//
// All of it is in the tests: go test -run '^$' -bench . ./bench. Both ends run in the one process and share its
// processors, so that a rung shows about half of what one end alone can do. MB/s counts what the application receives (on rung
// 0, the packets), packets/s the packets that the sender's stack emits, and allocs/packet divides everything that is
// allocated meanwhile, at both ends, by these.
package bench
