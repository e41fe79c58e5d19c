package dns

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
)

const (
	maxHosts      = 32 << 20 // bytes of a hosts file; those that block advertisements have several million
	maxHostsLine  = 16 << 10
	maxHostsFault = 8 // lines that an error names
)

// Hosts are names and addresses that are known without asking, as those in the file hosts(5). It does not change.
type Hosts struct {
	addrs map[string][]netip.Addr // by canonical names
	names map[netip.Addr]string   // the first name of each address
}

// ParseHosts reads a file in the format of hosts(5): an address and its names on each line, "#" before a comment. A line that
// does not parse is left out, as all systems do; the error then names the first of them by their numbers, and
// the Hosts that are returned with it hold the other lines. A file of more than 32 MiB is read so far.
func ParseHosts(r io.Reader) (*Hosts, error) {
	h := &Hosts{addrs: make(map[string][]netip.Addr), names: make(map[netip.Addr]string)}
	var faults []error
	fault := func(line int, format string, args ...any) {
		if len(faults) < maxHostsFault {
			faults = append(faults, fmt.Errorf("hosts line %d: "+format, append([]any{line}, args...)...))
		}
	}
	limited := &io.LimitedReader{R: r, N: maxHosts}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, maxHostsLine)
	n := 0
	for lines.Scan() {
		n++
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil {
			fault(n, "%q is not an address", fields[0])
			continue
		}
		addr = addr.WithZone("").Unmap()
		for _, name := range fields[1:] {
			if !validName(name) {
				fault(n, "%q is not a host name", name)
				continue
			}
			h.add(canonical(name), addr)
		}
	}
	if err := lines.Err(); err != nil {
		faults = append(faults, fmt.Errorf("hosts line %d: %w", n+1, err))
	} else if limited.N <= 0 {
		faults = append(faults, fmt.Errorf("hosts: only the first %d bytes were read", maxHosts))
	}
	return h, errors.Join(faults...)
}

func (h *Hosts) add(name string, addr netip.Addr) {
	if list := h.addrs[name]; len(list) < maxAddresses && !slices.Contains(list, addr) {
		h.addrs[name] = append(list, addr)
	}
	if _, ok := h.names[addr]; !ok {
		h.names[addr] = name
	}
}

// Len returns how many names are known. A nil Hosts has none.
func (h *Hosts) Len() int {
	if h == nil {
		return 0
	}
	return len(h.addrs)
}

// lookup returns the addresses of a canonical name.
func (h *Hosts) lookup(name string) ([]netip.Addr, bool) {
	if h == nil {
		return nil, false
	}
	addrs, ok := h.addrs[name]
	return addrs, ok
}

// reverse returns the name of an address.
func (h *Hosts) reverse(addr netip.Addr) (string, bool) {
	if h == nil {
		return "", false
	}
	name, ok := h.names[addr]
	return name, ok
}
