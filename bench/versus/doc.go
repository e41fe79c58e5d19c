// Command versus measures Culvert beside the programs that do the same, in one run on one machine, and prints the ratios.
//
//	go run ./bench/versus                             # everything, as root on Debian
//	go run ./bench/versus --pairs a,b --rounds 3      # less
//	go run ./bench/versus --json raw.json --markdown tables.md
//
// Absolute rates say little on a machine that is shared, and nothing about another one. So every contender does the same work
// in turn, A B A B and so on, many times, each against the same gateway over the same kind of cable; the result of a round is the
// ratio between the two, and what is printed is the median of these ratios, with the least and the greatest.
//
// Hosts are network namespaces. Every contender has a host of its own with a cable of its own to the gateway, so that all
// of them can be up at the same time without sharing a route; only one of them carries traffic at a time. What is measured of each:
//
//   - the rate, up, down and both ways, over 1 and 8 streams: what iperf3 says was received, or, where both ends of the
//     connections live inside the contender's process, what that process and its peer count
//   - the latency of HTTP requests for 1 KB on one connection, the median and the 99th percentile
//   - CPU time for each gigabyte that was carried, of the client's processes and of the whole machine. It includes the
//     kernel's time, as the kernel accounts it to processes
//   - how much of one core the busiest process of the gateway takes: where it is near 100 % the gateway is the limit, and rates
//     say nothing about the clients; and how busy the machine is as a whole
//   - the largest resident memory of the client's processes
//   - of DNS servers, the questions that they answer in a second, as dnsperf counts them, and their CPU time for each
//   - the time from starting the client until the first byte came through the tunnel, with its login; for programs on vpn.Dial
//     also the time from that call
//
// The client and the gateway share the processors, as do iperf3 and all else. Nothing is left out to be faster: certificates are
// verified, packets are encrypted and filtered as they are for users.
//
// The exit status is 0 if everything was measured, 1 if a run of ours failed or a number could not be judged, 2 for wrong usage, 3
// if a program or a privilege is missing, 4 with --strict if a number was not reached, and 130 after SIGINT. A peer that fails
// now and then is reported, and no more.
package main
