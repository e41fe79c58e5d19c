package main

import (
	"fmt"
	"slices"
	"strings"
)

// A pair is a comparison: contenders of ours, and the peer, which comes last.
type pair struct {
	name, title string
	tools       []string
	trials      []trial
	build       func(s *stage, o *options) []*contender
}

// pairs are the comparisons there are, in the order in which they are made.
var pairs = []pair{
	{
		name: "a", title: "Local ports to a network behind ocserv, DTLS: culvert proxy, and a Go program on vpn.Dial, and openconnect with ocproxy",
		tools: []string{"ocserv", "openconnect", "ocproxy", "iperf3"}, trials: usualTrials(),
		build: func(s *stage, o *options) []*contender {
			sc := newScene(s, false)
			gw := sc.newGateway("gateway")
			var at []*place
			for range 3 {
				at = append(at, sc.newPlace(gw, true))
			}
			sc.startInside(gw)
			server := sc.startOcserv(gw)
			return []*contender{
				newCulvertProxy(s, at[0], server, o.culvert), newDialProgram(s, at[1], server), newOcproxy(s, at[2], server),
			}
		},
	},
	{
		name: "b", title: "Network interface to ocserv, DTLS: vpn.Dial with stack/tun, and openconnect",
		tools: []string{"ocserv", "openconnect", "iperf3"}, trials: usualTrials(), build: buildTUN(false),
	},
	{
		name: "b-tls", title: "The same over TLS alone",
		tools: []string{"ocserv", "openconnect", "iperf3"}, trials: usualTrials(), build: buildTUN(true),
	},
	{
		name: "c", title: "Network interfaces at both ends: our client and gateway, and wireguard-go",
		tools: []string{"iperf3"}, trials: usualTrials(),
		build: func(s *stage, _ *options) []*contender {
			sc := newScene(s, false)
			var cs []*contender
			for i, newContender := range []func(*stage, *place) *contender{newOurPair, newWireguardPair} {
				gw := sc.newGateway(fmt.Sprintf("gateway%d", i))
				at := sc.newPlace(gw, true)
				sc.startInside(gw)
				cs = append(cs, newContender(s, at))
			}
			return cs
		},
	},
	{
		name: "d", title: "Stacks in the processes at both ends: our client and gateway, and wireguard-go with its netstack",
		trials: usualTrials(),
		build: func(s *stage, _ *options) []*contender {
			sc := newScene(s, false)
			var cs []*contender
			for i, newContender := range []func(*stage, *place) *contender{newOurStacks, newWireguardStacks} {
				cs = append(cs, newContender(s, sc.newPlace(sc.newGateway(fmt.Sprintf("gateway%d", i)), false)))
			}
			return cs
		},
	},
	{
		name: "loss", title: "Bad cables to ocserv, DTLS, one stream: a Go program on vpn.Dial, and the kernel's TCP over openconnect with a network interface",
		tools: []string{"ocserv", "openconnect", "iperf3"}, trials: impairedTrials(),
		build: func(s *stage, _ *options) []*contender {
			sc := newScene(s, true)
			gw := sc.newGateway("gateway")
			a, b := sc.newPlace(gw, true), sc.newPlace(gw, true)
			sc.startInside(gw)
			server := sc.startOcserv(gw)
			return []*contender{newDialProgram(s, a, server), newOpenconnect(s, b, server, false)}
		},
	},
	dnsPair(),
}

func buildTUN(noDTLS bool) func(*stage, *options) []*contender {
	return func(s *stage, _ *options) []*contender {
		sc := newScene(s, false)
		gw := sc.newGateway("gateway")
		a, b := sc.newPlace(gw, true), sc.newPlace(gw, true)
		sc.startInside(gw)
		server := sc.startOcserv(gw)
		return []*contender{newDeviceProgram(s, a, server, noDTLS), newOpenconnect(s, b, server, noDTLS)}
	}
}

// choosePairs returns the pairs named in a list such as "a,b". An empty list means all.
func choosePairs(list string) ([]pair, error) {
	if list == "" {
		return pairs, nil
	}
	var chosen []pair
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(pairs, func(p pair) bool { return p.name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("there is no pair %q; --list shows those there are", name)
		}
		chosen = append(chosen, pairs[i])
	}
	return chosen, nil
}
