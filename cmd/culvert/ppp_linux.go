package main

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// maxPPP is how many addresses are kept out of the tunnel on behalf of PPP connections.
const maxPPP = 16

// pppServers returns the addresses that belong to the PPP connections that this machine has now: the other ends of their links, and
// those to which a route for one host leads past them, as pppd and its likes make it for the server that the link itself goes to.
func pppServers() ([]netip.Addr, error) {
	f, err := os.Open("/proc/net/route")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return pppRoutes(f), nil
}

// pppRoutes finds the addresses in the routes, which are as the kernel lists them in /proc/net/route. IPv6 does not stand there.
func pppRoutes(routes io.Reader) []netip.Addr {
	var peers, beyond []netip.Addr
	for lines := bufio.NewScanner(routes); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 8 || words[7] != "FFFFFFFF" {
			continue
		}
		to, ok := hexAddr(words[1])
		_, routed := hexAddr(words[2])
		switch ppp := strings.HasPrefix(words[0], "ppp"); {
		case !ok || !routed:
		case ppp:
			peers = append(peers, to)
		case words[2] != "00000000":
			beyond = append(beyond, to)
		}
	}
	if len(peers) == 0 {
		return nil
	}
	all := append(peers, beyond...)
	slices.SortFunc(all, netip.Addr.Compare)
	all = slices.Compact(all)
	return all[:min(len(all), maxPPP)]
}

// hexAddr parses an IPv4 address as the number that this machine takes it for.
func hexAddr(s string) (netip.Addr, bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 4 {
		return netip.Addr{}, false
	}
	var a [4]byte
	binary.NativeEndian.PutUint32(a[:], binary.BigEndian.Uint32(b))
	return netip.AddrFrom4(a), true
}
