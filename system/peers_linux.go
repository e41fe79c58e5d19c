package system

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

// maxPeers bounds how many open connections are looked at.
const maxPeers = 1 << 14

// peers returns the addresses that programs of the place have connections with. Those of UDP count too, since QUIC is made of them: a
// socket that is not connected has no address there.
func (p *place) peers() []netip.Addr {
	var addrs []netip.Addr
	p.do(func() error {
		for _, name := range []string{"tcp", "tcp6", "udp", "udp6"} {
			if f, err := os.Open("/proc/thread-self/net/" + name); err == nil {
				addrs = append(addrs, parsePeers(f)...)
				f.Close()
			}
		}
		return nil
	})
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// parsePeers reads the remote addresses from a table of sockets as in proc_pid_net(5). Each word of an address is in the byte order of the
// machine.
func parsePeers(r io.Reader) []netip.Addr {
	var addrs []netip.Addr
	lines := bufio.NewScanner(r)
	for lines.Scan() && len(addrs) < maxPeers {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 {
			continue
		}
		const listening = "0A"
		text, _, ok := strings.Cut(fields[2], ":")
		b, err := hex.DecodeString(text)
		if !ok || err != nil || fields[3] == listening {
			continue
		}
		for i := 0; i+4 <= len(b); i += 4 {
			binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
		}
		if a, ok := netip.AddrFromSlice(b); ok && !a.IsUnspecified() && !a.IsLoopback() {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs
}
