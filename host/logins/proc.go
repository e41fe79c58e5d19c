package logins

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
)

// The files of /proc are read here without looking at the file system. They are the kernel's, but a process chooses its own name.

// parseStat returns the name and the parent of a process from its stat. The name stands in parentheses and may hold some itself.
func parseStat(stat []byte) (name string, parent int, ok bool) {
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return "", 0, false
	}
	fields := bytes.Fields(stat[end+1:])
	if len(fields) < 2 {
		return "", 0, false
	}
	parent, err := strconv.Atoi(string(fields[1]))
	return clean(string(stat[open+1 : end])), parent, err == nil && parent >= 0
}

// parseStatus returns the real user of a process from its status.
func parseStatus(status []byte) (uid uint32, ok bool) {
	for line := range bytes.Lines(status) {
		rest, found := bytes.CutPrefix(line, []byte("Uid:"))
		if !found {
			continue
		}
		fields := bytes.Fields(rest)
		if len(fields) == 0 {
			return NoUID, false
		}
		return parseNumber(fields[0])
	}
	return NoUID, false
}

// parseNumber reads a number of loginuid or sessionid. The largest means that there is none.
func parseNumber(text []byte) (uint32, bool) {
	n, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 32)
	if err != nil {
		return NoUID, false
	}
	return uint32(n), true
}

// parseCgroup returns the session that a process's cgroup is of, such as "c1" of session-c1.scope, or "". Only the hierarchies of
// systemd are looked at.
func parseCgroup(text []byte) string {
	for line := range bytes.Lines(text) {
		number, rest, _ := strings.Cut(strings.TrimSpace(string(line)), ":")
		controllers, path, ok := strings.Cut(rest, ":")
		if !ok || controllers != "name=systemd" && controllers != "name=elogind" && (number != "0" || controllers != "") {
			continue
		}
		// The innermost scope is the one: a session cannot hold another one.
		parts := strings.Split(path, "/")
		for i := len(parts) - 1; i >= 0; i-- {
			if name, ok := strings.CutPrefix(parts[i], "session-"); ok {
				if id, ok := strings.CutSuffix(name, ".scope"); ok && validID(id) {
					return id
				}
			}
			// elogind names the directory after the session.
			if controllers == "name=elogind" && validID(parts[i]) {
				return parts[i]
			}
		}
	}
	return ""
}

// validID reports whether a text can be the id of a session: letters and digits.
func validID(id string) bool {
	return id != "" && len(id) <= 64 && strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// parseTCP calls each with the sockets of /proc/net/tcp or tcp6, by their inodes.
func parseTCP(text []byte, each func(inode uint64, s socket)) {
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) < 10 {
			continue
		}
		inode, err := strconv.ParseUint(string(fields[9]), 10, 64)
		if err != nil || inode == 0 {
			continue
		}
		state := string(fields[3])
		s := socket{established: state == "01", listening: state == "0A"}
		word, _, _ := bytes.Cut(fields[2], []byte(":"))
		s.peer = parseHexAddress(word)
		each(inode, s)
	}
}

// parseHexAddress reads an address as the kernel prints it: words of 32 bits, in the machine's byte order.
func parseHexAddress(word []byte) netip.Addr {
	var b [16]byte
	if len(word) != 8 && len(word) != 32 {
		return netip.Addr{}
	}
	n, err := hex.Decode(b[:], word)
	if err != nil {
		return netip.Addr{}
	}
	for i := 0; i < n; i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, _ := netip.AddrFromSlice(b[:n])
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a.Unmap()
}

// parseSocketLink returns the inode of a socket from the link of a descriptor.
func parseSocketLink(link string) (inode uint64, ok bool) {
	s, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 64)
	return inode, err == nil
}
