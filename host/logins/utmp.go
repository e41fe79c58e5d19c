package logins

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// A layout is how a system writes the records of utmp.
type layout struct {
	order binary.ByteOrder
	// wide records have 64 bits for times: 400 bytes instead of 384.
	wide bool
}

// nativeLayout is that of this machine: glibc has wide records where it never ran 32-bit programs.
func nativeLayout() layout {
	return layout{binary.NativeEndian, runtime.GOARCH == "arm64" || runtime.GOARCH == "loong64"}
}

func (l layout) size() int {
	if l.wide {
		return 400
	}
	return 384
}

const (
	// userProcess is the type of a record of a logon.
	userProcess = 7
	// maxUtmp bounds the bytes of the file that are read.
	maxUtmp = 8 << 20
)

// A record is one logon that utmp tells of.
type record struct {
	pid              int
	line, user, host string
	since            time.Time
	addr             netip.Addr
}

// parseUtmp reads a whole utmp file: utmp(5). The size of a record divides that of the file. Records of other types than
// logons are left out.
func parseUtmp(file []byte, l layout) ([]record, error) {
	size := l.size()
	if len(file) > maxUtmp || len(file)%size != 0 {
		return nil, invalid("utmp has %d bytes, which are no records of %d each", len(file), size)
	}
	var all []record
	for ; len(file) > 0; file = file[size:] {
		b := file[:size]
		if int16(l.order.Uint16(b[0:])) != userProcess {
			continue
		}
		r := record{pid: int(int32(l.order.Uint32(b[4:]))), line: text(b[8:40]), user: text(b[44:76]), host: text(b[76:332])}
		var seconds, micros int64
		addr := b[348:364]
		if l.wide {
			seconds, micros, addr = int64(l.order.Uint64(b[344:])), int64(l.order.Uint64(b[352:])), b[360:376]
		} else {
			seconds, micros = int64(int32(l.order.Uint32(b[340:]))), int64(int32(l.order.Uint32(b[344:])))
		}
		r.since = at(seconds, micros)
		r.addr = utmpAddress([16]byte(addr))
		if r.user == "" || r.line == "" {
			continue
		}
		if all = append(all, r); len(all) > maxSessions {
			return nil, invalid("utmp has more than %d logons", maxSessions)
		}
	}
	return all, nil
}

// utmpAddress reads ut_addr_v6: an IPv4 address stands in the first four of its bytes, the rest being zero.
func utmpAddress(b [16]byte) netip.Addr {
	a := netip.AddrFrom16(b)
	if [12]byte(b[4:]) == [12]byte{} {
		a = netip.AddrFrom4([4]byte(b[:4]))
	}
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a.Unmap()
}

// at returns a time of a file, or the zero time.
func at(seconds, micros int64) time.Time {
	if micros < 0 || micros >= 1e6 || seconds <= 0 || seconds >= 253402300800 {
		return time.Time{}
	}
	return moment(seconds*1e6 + micros)
}

// text is a field of bytes up to the first zero.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return clean(string(b))
}

// session makes a session of a record. A record of screen or tmux, which names the terminal that it was started on, is not a
// logon, and ok is false.
func (r record) session(console string) (s Session, ok bool) {
	s = Session{ID: r.line + " " + strconv.Itoa(r.pid), User: r.user, UID: NoUID, Kind: TTY, Class: User, Since: r.since, Leader: max(0, r.pid),
		Active: true, RemoteAddr: r.addr}
	host, _, _ := strings.Cut(r.host, " via ") // mosh
	switch {
	case strings.Contains(host, ":S.") || strings.HasPrefix(host, "tmux("):
		return s, false
	case r.line == console && console != "":
		s.Kind = Console
	case displayName(r.line):
		s.Kind = X11
	}
	switch {
	case displayName(host):
		s.Kind = X11
	case host == "login screen" || host == "" && !r.addr.IsValid():
	default:
		s.Remote, s.RemoteHost, s.Kind = true, host, SSH
		if a := address(host); a.IsValid() {
			s.RemoteAddr = a
		}
	}
	if !s.Remote {
		s.RemoteAddr = netip.Addr{}
	}
	return s, true
}

// displayName reports whether a text is the name of a local display, such as ":0" or ":0.0".
func displayName(s string) bool {
	rest, ok := strings.CutPrefix(s, ":")
	return ok && rest != "" && strings.Trim(rest, "0123456789.") == ""
}
