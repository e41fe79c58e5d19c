package resolver

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

const (
	// maxConf bounds a resolv.conf that we are to put back, in bytes, and maxWritten one that we write.
	maxConf, maxWritten = 24 << 10, 6 << 10
	// maxLines bounds what is looked at of a resolv.conf.
	maxLines = 4096
	// maxNameservers is MAXNS of the C library, which ignores more.
	maxNameservers = 3
	// mark begins the first line of a file that we wrote. The id of the Resolver follows, and a checksum of the other lines.
	mark = "# culvert "
)

// A Conf is what a resolv.conf says.
type Conf struct {
	// Servers are the addresses after nameserver, in order. Lines with anything else are skipped, as the C library does.
	Servers []netip.Addr
	// Search is the last of the search and domain lines.
	Search []string
	// Options are the words of all options lines, and SortList those of the last sortlist line.
	Options, SortList []string
}

// ParseConf reads a resolv.conf the way the C library does (resolv.conf(5)): a keyword stands at the beginning of its line, comments
// begin with # or ; there, and what makes no sense is skipped. The error is for a file that is too long.
func ParseConf(b []byte) (Conf, error) {
	var c Conf
	if len(b) > maxConf {
		return c, invalid("resolv.conf has %d bytes, at most %d; make it shorter", len(b), maxConf)
	}
	n := 0
	for line := range bytes.Lines(b) {
		if n++; n > maxLines {
			return c, invalid("resolv.conf has more than %d lines; make it shorter", maxLines)
		}
		// A keyword after spaces is none.
		if line[0] == ' ' || line[0] == '\t' || line[0] == '#' || line[0] == ';' {
			continue
		}
		words := strings.Fields(string(line))
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(words[1]); err == nil && !strings.ContainsFunc(a.Zone(), odd) {
				c.Servers = append(c.Servers, a)
			}
		case "domain":
			c.Search = []string{strings.TrimSuffix(words[1], ".")}
		case "search":
			c.Search = nil
			for _, w := range words[1:] {
				c.Search = append(c.Search, strings.TrimSuffix(w, "."))
			}
		case "options":
			c.Options = append(c.Options, words[1:]...)
		case "sortlist":
			c.SortList = words[1:]
		}
	}
	return c, nil
}

// compose writes the resolv.conf for cfg. Before is what the one from before says; its options stay. It returns the servers and
// domains that do not fit.
func compose(id string, cfg Config, before Conf) (conf []byte, left []string, err error) {
	var b bytes.Buffer
	for _, w := range [][]string{before.Options, before.SortList} {
		for _, s := range w {
			if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
				return nil, nil, invalid("resolv.conf: its option %.40q has odd characters", s)
			}
		}
	}
	servers := 0
	add := func(a netip.Addr) {
		if servers == maxNameservers {
			left = append(left, a.String())
			return
		}
		servers++
		fmt.Fprintf(&b, "nameserver %v\n", a)
	}
	for i, s := range cfg.Servers {
		if s.Port() != 53 {
			return nil, nil, invalid("Servers[%d]: resolv.conf knows no port but 53, and this is %v", i, s)
		}
		add(s.Addr())
	}
	if cfg.Fallback {
		for _, a := range before.Servers {
			add(a)
		}
	}
	search := cfg.Search
	if len(search) == 0 && !cfg.TunnelAll {
		for _, s := range before.Search {
			if d, err := domain(s); err == nil && len(search) < maxSearch {
				search = append(search, d)
			}
		}
	}
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	if len(before.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(before.Options, " "))
	}
	if len(before.SortList) > 0 {
		fmt.Fprintf(&b, "sortlist %s\n", strings.Join(before.SortList, " "))
	}
	head := fmt.Sprintf("%s%s %s: written for the tunnel on %s; the file from before comes back when it ends\n",
		mark, id, sum(b.Bytes()), cfg.Device)
	if len(head)+b.Len() > maxWritten {
		return nil, nil, invalid("Search: resolv.conf would have %d bytes, at most %d", len(head)+b.Len(), maxWritten)
	}
	return append([]byte(head), b.Bytes()...), left, nil
}

// sum is the checksum of the lines of a file that we wrote, without empty ones at its end.
func sum(b []byte) string {
	h := sha256.Sum256(bytes.TrimRight(b, "\n"))
	return hex.EncodeToString(h[:8])
}

// ownerOf returns the id of the Resolver that wrote a resolv.conf, "" if none did, and whether it is as it was written.
func ownerOf(b []byte) (id string, intact bool) {
	head, rest, _ := bytes.Cut(b, []byte("\n"))
	s, ok := strings.CutPrefix(string(head), mark)
	if !ok || len(s) < 34 || s[16] != ' ' || s[33] != ':' {
		return "", false
	}
	if _, err := hex.DecodeString(s[:16]); err != nil {
		return "", false
	}
	return s[:16], s[17:33] == sum(rest)
}

// torn reports whether b is what is left when the machine stops while now is written over was, as writeInPlace does it: a beginning
// of now, padded to the length of was, and the rest of was. A file that is empty or holds only zeroes, which some file systems
// leave, counts as well.
func torn(b, was, now []byte) bool {
	if len(bytes.Trim(b, "\x00")) == 0 {
		return len(was) > 0
	}
	whole := pad(now, len(was))
	k := 0
	for k < len(b) && k < len(whole) && b[k] == whole[k] {
		k++
	}
	for ; k >= 0; k-- {
		if k > len(was) && k == len(b) || k <= len(was) && bytes.Equal(b[k:], was[k:]) {
			return true
		}
	}
	return false
}

// pad returns b with empty lines behind it, so that it is at least n bytes long.
func pad(b []byte, n int) []byte {
	return append(bytes.Clone(b), bytes.Repeat([]byte("\n"), max(0, n-len(b)))...)
}
