// Package bench measures whole paths, as a ladder: each rung has one layer more than the one before, so that the difference
// between two rungs is what the layer costs.
//
//	0       packet.Copy between two packet.Pipes, without TCP
//	1       TCP and UDP from stack to stack, with a pump each way between them
//	2-tls   and CSTP over TLS on the loopback interface between the pumps
//	2-dtls  or DTLS
//	3-tls   and failover and the gates at the client's end
//	3-dtls
//	4-tls   vpn.Dial to package gateway: everything
//	4-dtls
//	5-tun-tls   with TUN devices in the place of the stacks, and the kernel's TCP and UDP in a namespace behind each;
//	5-tun-dtls  these need root, and Linux
//
// # Running it
//
// The command
//
//	make bench
//
// measures every rung COUNT (6) times, one round after the other, each row for BENCHTIME (300ms) in a round, keeps what the benchmarks print in
// bin/bench.txt, and prints the medians as a table in Markdown, which is bin/LADDER.md too. That is about ten minutes. BENCH is a
// regular expression of the rows, where fewer will do:
//
//	make bench BENCH="rung=[24]-dtls/load=tcp" COUNT=9 BENCHTIME=1s
//
// The program ./bench/table prints the table of any such output, also of several files.
//
//	make benchstat OLD=HEAD~5
//
// compares what is in the directory with the commit OLD: both are compiled, then run in turns, so that what else goes on in the
// machine disturbs them alike, and benchstat tells which differences are more than noise. NEW names another commit to be compared, BENCH, COUNT and
// BENCHTIME are as above, and PACKAGE compares the benchmarks of another package, such as ./transport/dtls.
//
// # Reading it
//
// There are two loads. Over tcp, connections are full all the time, so that nearly all packets that go the measured way are
// as large as the MTU. In udp64, IP packets are of 64 bytes with all headers, and each flow has so many under way at a time
// as fill batches and overrun no queue. Both go up, from the client, and down, over IPv4 and IPv6, in 1 flow and in 16.
// Rung 0 has packets of either size; it knows no direction, family or flow.
//
//	MB/s        what the application receives, in 10^6 bytes (on rung 0, the packets)
//	pkts/s      packets that arrive in the measured direction; acknowledgements of TCP, which go the other way, are not among them
//	ns/pkt      time for each of these packets
//	cpu-ns/pkt  time that processors work for each, in the process and for it in the kernel
//	allocs/pkt  what is allocated meanwhile
//	loss-%      packets that were sent and did not arrive. Over TCP those that are under way at the end count as lost, less those
//	            at the beginning, so that a small number there means nothing
//
// Both ends run in the one process, with the programs that send and receive, and share its processors: a rung shows about half of what one
// end alone can do, and its processor time is that of both. On a machine that does other things too, ns/pkt and MB/s
// say how much was left over; cpu-ns/pkt varies much less, and is what to compare.
//
// # The parts by themselves
//
// The pieces of the path have benchmarks in their own packages, and ordinary tests that they allocate nothing for a packet:
//
//	carrying               packet: BenchmarkPipe; TestCopyAllocs, TestBufAllocs
//	joining and cutting    packet/offload: BenchmarkGroup, BenchmarkCut; TestNoAllocations
//	DTLS seal and send     transport/dtls: BenchmarkSeal, BenchmarkWrite; TestWriteAllocs
//	DTLS receive and open  transport/dtls: BenchmarkOpen, BenchmarkExchange; TestAcceptAllocs, TestSocketAllocs
//	CSTP write and read    transport/cstp: BenchmarkFrames, BenchmarkTunnel (with TLS); TestAllocs
//	failover               transport/failover: BenchmarkThrough; TestNoAllocation, TestForwardNoAllocation
//	gate                   policy: BenchmarkGate; TestGateDoesNotAllocate
//	split lookup           split: BenchmarkRoute; TestRouteAllocs
//	stack, out and in      stack: BenchmarkLink, BenchmarkTCP, BenchmarkPath (bad routes); TestLinkAllocs
//	TUN device             stack/tun: BenchmarkDevice; TestNoAllocations
//	gateway                gateway: TestRoutingDoesNotAllocate, TestDeviceAllocs
//
// Crypto/tls allocates about 0.4 times for a packet, nearly all of it once for each read of the socket; gVisor does 6 to 12 times for a
// datagram, and 0.1 times for a segment over IPv6. The rest of the way allocates nothing.
package bench
