package logins

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// A row is one record of utmp, as a test writes it.
type row struct {
	kind             int16
	pid              int32
	line, user, host string
	seconds, micros  int64
	addr             netip.Addr
}

func (l layout) write(r row) []byte {
	b := make([]byte, l.size())
	l.order.PutUint16(b, uint16(r.kind))
	l.order.PutUint32(b[4:], uint32(r.pid))
	copy(b[8:40], r.line)
	copy(b[44:76], r.user)
	copy(b[76:332], r.host)
	addr := b[348:364]
	if l.wide {
		l.order.PutUint64(b[344:], uint64(r.seconds))
		l.order.PutUint64(b[352:], uint64(r.micros))
		addr = b[360:376]
	} else {
		l.order.PutUint32(b[340:], uint32(r.seconds))
		l.order.PutUint32(b[344:], uint32(r.micros))
	}
	if r.addr.IsValid() {
		copy(addr, r.addr.AsSlice())
	}
	return b
}

var little, big, wide = layout{order: binary.LittleEndian}, layout{order: binary.BigEndian}, layout{binary.LittleEndian, true}

func TestUtmp(t *testing.T) {
	rows := []row{
		{kind: 2, pid: 0, line: "~", user: "reboot", host: "6.1.0-1-amd64", seconds: 1700000000},
		{kind: 6, pid: 500, line: "tty3", user: "LOGIN", seconds: 1700000001},
		{kind: 7, pid: 1000, line: "tty1", user: "alice", seconds: 1700000002, micros: 5},
		{kind: 7, pid: 1001, line: ":0", user: "bob", host: ":0", seconds: 1700000003},
		{kind: 7, pid: 1002, line: "pts/0", user: "carol", host: "10.1.2.3", seconds: 1700000004, addr: netip.MustParseAddr("10.1.2.3")},
		{kind: 7, pid: 1003, line: "pts/1", user: "dave", host: "laptop.example", seconds: 1700000005, addr: netip.MustParseAddr("2001:db8::7")},
		{kind: 7, pid: 1004, line: "pts/2", user: "erin", host: "192.0.2.9 via mosh [1004]"},
		{kind: 7, pid: 1005, line: "pts/3", user: "carol", host: "10.1.2.3:S.0"},
		{kind: 7, pid: 1006, line: "pts/4", user: "carol", host: "tmux(1002).%0"},
		{kind: 7, pid: 1007, line: "pts/5", user: "alice", host: ":0.0"},
		{kind: 7, pid: 1008, line: "pts/6", user: "frank", host: "fe80::1%eth0"},
		{kind: 8, pid: 1009, line: "pts/7", user: "gone"},
		{kind: 7, pid: -5, line: "pts/8", user: "bad\x1b[2J\xff", host: strings.Repeat("h", 256), seconds: -1},
		{kind: 7, pid: 7, line: "pts/9", user: ""},
	}
	want := []string{
		"tty1 1000: alice tty local",
		":0 1001: bob x11 local",
		"pts/0 1002: carol ssh from 10.1.2.3 (10.1.2.3)",
		"pts/1 1003: dave ssh from laptop.example (2001:db8::7)",
		"pts/2 1004: erin ssh from 192.0.2.9 (192.0.2.9)",
		"pts/5 1007: alice x11 local",
		"pts/6 1008: frank ssh from fe80::1%eth0 (fe80::1%eth0)",
		"pts/8 -5: bad\uFFFD[2J\uFFFD ssh from " + strings.Repeat("h", 256) + " (invalid IP)",
	}
	for name, l := range map[string]layout{"little": little, "big": big, "wide": wide} {
		var file []byte
		for _, r := range rows {
			file = append(file, l.write(r)...)
		}
		records, err := parseUtmp(file, l)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for _, r := range records {
			s, ok := r.session("")
			if !ok {
				continue
			}
			place := "local"
			if s.Remote {
				place = fmt.Sprintf("from %s (%s)", s.RemoteHost, s.RemoteAddr)
			}
			got = append(got, fmt.Sprintf("%s: %s %s %s", s.ID, s.User, s.Kind, place))
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if s, _ := records[0].session(""); !s.Since.Equal(time.Unix(1700000002, 5000)) || s.Leader != 1000 {
			t.Errorf("%s: %+v", name, s)
		}
		if s, _ := records[len(records)-1].session(""); !s.Since.IsZero() || s.Leader != 0 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// The record of a real machine: written by glibc's pututxline on amd64, the unused tail left out.
func TestUtmpRecorded(t *testing.T) {
	record := make([]byte, 384)
	head, _ := hex.DecodeString("0700000039300000" + hex.EncodeToString([]byte("pts/3")))
	copy(record, head)
	copy(record[40:], "ts/3")
	copy(record[44:], "root")
	copy(record[76:], "10.9.8.7")
	copy(record[336:], []byte{0x39, 0x30, 0, 0, 0x80, 0x5c, 0x53, 0x65, 0x10, 0x27, 0, 0, 10, 9, 8, 7})
	records, err := parseUtmp(record, little)
	if err != nil || len(records) != 1 {
		t.Fatal(records, err)
	}
	s, _ := records[0].session("")
	if s.ID != "pts/3 12345" || s.User != "root" || s.RemoteAddr != netip.MustParseAddr("10.9.8.7") || s.Since.Unix() != 0x65535c80 {
		t.Errorf("%+v", s)
	}
}

func TestUtmpRefuses(t *testing.T) {
	one := little.write(row{kind: 7, pid: 1, line: "x", user: "y"})
	for name, file := range map[string][]byte{
		"cut off":  one[:383],
		"too many": bytes.Repeat(one, maxSessions+1),
		"too long": make([]byte, (maxUtmp/384+1)*384),
		"one more": append(bytes.Clone(one), 0),
	} {
		if all, err := parseUtmp(file, little); !errors.Is(err, ErrInvalid) || all != nil {
			t.Errorf("%s: %d records, %v", name, len(all), err)
		}
	}
	if all, err := parseUtmp(bytes.Repeat(one, maxSessions), little); err != nil || len(all) != maxSessions {
		t.Errorf("as many as may be: %d, %v", len(all), err)
	}
	if all, err := parseUtmp(nil, little); err != nil || len(all) != 0 {
		t.Errorf("an empty file: %d, %v", len(all), err)
	}
}

func FuzzUtmp(f *testing.F) {
	f.Add(little.write(row{kind: 7, pid: 3, line: "pts/0", user: "a", host: "10.0.0.1"}), false, false)
	f.Add(wide.write(row{kind: 7, pid: 3, line: ":0", user: "a", host: ":0"}), false, true)
	f.Add(make([]byte, 628), true, false)
	f.Fuzz(func(t *testing.T, file []byte, bigEndian, wide bool) {
		l := layout{binary.LittleEndian, wide}
		if bigEndian {
			l.order = binary.BigEndian
		}
		records, err := parseUtmp(file, l)
		if more, err := parseUtmpx(file); err == nil {
			records = append(records, more...)
		}
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatal(err)
		}
		for _, r := range records {
			s, _ := r.session("console")
			sane(t, s)
		}
	})
}

// sane fails the test for what no Session may be.
func sane(t *testing.T, s Session) {
	t.Helper()
	for _, text := range []string{s.ID, s.User, s.RemoteHost, s.Service} {
		if len(text) > 4*maxText || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Fatalf("%q in %+v", text, s)
		}
	}
	if s.RemoteAddr.IsValid() && !s.Remote || s.Leader < 0 || s.Since.Year() > 10000 {
		t.Fatalf("%+v", s)
	}
}

func TestUtmpx(t *testing.T) {
	write := func(kind int16, pid int32, user, line, host string) []byte {
		b := make([]byte, utmpxSize)
		copy(b, user)
		copy(b[260:], line)
		binary.LittleEndian.PutUint32(b[292:], uint32(pid))
		binary.LittleEndian.PutUint16(b[296:], uint16(kind))
		binary.LittleEndian.PutUint32(b[300:], 1700000000)
		copy(b[308:], host)
		return b
	}
	file := bytes.Join([][]byte{write(10, 0, "utmpx-1.00", "", ""), write(2, 1, "", "~", ""), write(7, 150, "alice", "console", ""),
		write(7, 900, "bob", "ttys000", ""), write(7, 901, "carol", "ttys001", "10.1.2.3"), write(8, 902, "gone", "ttys002", "")}, nil)
	records, err := parseUtmpx(file)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range records {
		s, _ := r.session("console")
		got = append(got, fmt.Sprint(s.ID, " ", s.User, " ", s.Kind, " ", s.Remote, " ", s.RemoteAddr, " ", s.Since.Unix()))
	}
	want := "console 150 alice console false invalid IP 1700000000, ttys000 900 bob tty false invalid IP 1700000000, ttys001 901 carol ssh true 10.1.2.3 1700000000"
	if strings.Join(got, ", ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), want)
	}
	if _, err := parseUtmpx(file[1:]); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

func TestWTS(t *testing.T) {
	client := func(family uint32, addr string) []byte {
		b := make([]byte, 24)
		binary.LittleEndian.PutUint32(b, family)
		copy(b[6:], netip.MustParseAddr(addr).AsSlice())
		return b
	}
	info := func(flags uint32, at time.Time) []byte {
		b := make([]byte, 240)
		binary.LittleEndian.PutUint32(b, 1)
		binary.LittleEndian.PutUint32(b[16:], flags)
		binary.LittleEndian.PutUint64(b[168:], uint64(at.UnixMicro()*10+116444736000000000))
		return b
	}
	since := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		in   wtsSession
		want string
	}{
		{wtsSession{id: 0, state: wtsDisconnected, user: ""}, ""},
		{wtsSession{id: 65536, state: 6, user: ""}, ""},
		{wtsSession{id: 65536, state: 6, user: "x"}, ""},
		{wtsSession{id: 1, state: wtsConnected}, ""}, // the greeter
		{wtsSession{id: 1, state: wtsActive, user: "alice", domain: "CORP", info: info(1, since)}, `1 CORP\alice console local active 2026-11-23`},
		{wtsSession{id: 1, state: wtsActive, user: "alice", info: info(0, since)}, `1 alice console local active locked 2026-11-23`},
		{wtsSession{id: 2, state: wtsActive, user: "bob", domain: "CORP", client: "LAPTOP", protocol: 2, address: client(2, "10.1.2.3")},
			`2 CORP\bob rdp from LAPTOP 10.1.2.3 active 0001-01-01`},
		{wtsSession{id: 2, state: wtsActive, user: "bob", protocol: 2, address: client(23, "2001:db8::5")}, `2 bob rdp from  2001:db8::5 active 0001-01-01`},
		{wtsSession{id: 2, state: wtsActive, user: "bob", protocol: 1, address: []byte{2}}, `2 bob rdp from  invalid IP active 0001-01-01`},
		{wtsSession{id: 3, state: wtsDisconnected, user: "carol", info: []byte{1}}, `3 carol console local detached 0001-01-01`},
	} {
		s, ok := c.in.session()
		got := ""
		if ok {
			got = s.ID + " " + s.User + " " + string(s.Kind)
			if s.Remote {
				got += fmt.Sprint(" from ", s.RemoteHost, " ", s.RemoteAddr)
			} else {
				got += " local"
			}
			for word, is := range map[string]bool{" active": s.Active, " detached": s.Detached} {
				if is {
					got += word
				}
			}
			if s.Locked {
				got += " locked"
			}
			got += s.Since.Format(" 2006-01-02")
		}
		if got != c.want {
			t.Errorf("%+v: %q, want %q", c.in, got, c.want)
		}
	}
}

// Windows forgets from where a session came when it is disconnected; the memory does not, as long as it is the same session.
func TestMemory(t *testing.T) {
	m := make(memory)
	remote := Session{ID: "2", User: "bob", Kind: RDP, Remote: true, RemoteAddr: netip.MustParseAddr("10.1.2.3"), Active: true}
	left := Session{ID: "2", User: "bob", Kind: Console, Detached: true}
	see := func(s ...Session) []Session {
		m.recall(s)
		return s
	}
	see(remote)
	for range 2 {
		if got := see(left)[0]; !got.Remote || got.RemoteAddr != remote.RemoteAddr || !got.Detached {
			t.Fatalf("%+v", got)
		}
	}
	if got := see(Session{ID: "2", User: "bob", Kind: Console, Active: true})[0]; got.Remote {
		t.Errorf("at the console now, but %+v", got)
	}
	see(remote)
	see()
	if got := see(left)[0]; got.Remote || len(m) != 1 {
		t.Errorf("another session of the same number: %+v", got)
	}
}

func TestProc(t *testing.T) {
	for _, c := range []struct {
		in     string
		name   string
		parent int
		ok     bool
	}{
		{"12 (sshd) S 7 12 12 0", "sshd", 7, true},
		{"12 (a) b) (c) S 3 1", "a) b) (c", 3, true},
		{"12 (sshd) S", "", 0, false},
		{"12 sshd S 4", "", 0, false},
		{") (", "", 0, false},
		{"1 (x) S -4", "x", -4, false},
	} {
		name, parent, ok := parseStat([]byte(c.in))
		if ok != c.ok || ok && (name != c.name || parent != c.parent) {
			t.Errorf("%q: %q, %d, %v", c.in, name, parent, ok)
		}
	}
	for in, want := range map[string]string{
		"0::/user.slice/user-1000.slice/session-3.scope\n":                              "3",
		"12:pids:/x\n1:name=systemd:/user.slice/user-0.slice/session-c12.scope\n":       "c12",
		"0::/user.slice/user-1000.slice/session-3.scope/session-4.scope/x\n":            "4",
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope\n":      "",
		"5:devices:/session-9.scope\n0::/\n":                                            "", // any user may make that
		"0::/session-.scope\n":                                                          "",
		"0::/session-a/b.scope\n":                                                       "",
		"1:name=elogind:/7\n":                                                           "7",
		"garbage":                                                                       "",
		"0::/session-" + strings.Repeat("9", 65) + ".scope":                             "",
		"0::/user.slice/session-\x1b.scope\n1:name=systemd:/user.slice/session-8.scope": "8",
	} {
		if got := parseCgroup([]byte(in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if uid, ok := parseStatus([]byte("Name:\tx\nUid:\t1000\t0\t0\t0\n")); !ok || uid != 1000 {
		t.Error(uid, ok)
	}
	for _, bad := range []string{"", "Uid:\n", "Uid:\t-1\n", "Uid:\t99999999999\n"} {
		if uid, ok := parseStatus([]byte(bad)); ok || uid != NoUID {
			t.Errorf("%q: %d", bad, uid)
		}
	}
	tcp := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
		"   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1 0 100 0 0 10 0\n" +
		"   1: 0100000A:0016 0302010A:D431 01 00000000:00000000 02:000A7D8C 00000000     0        0 101 4 0 20 4 30 10 -1\n" +
		"   2: 00000000000000000000000000000000:0016 B80D01200000000000000000070000000:0000 01 0:0 0:0 0 0 0 102\n" +
		"   3: 00000000000000000000000000000000:0016 B80D0120000000000000000007000000:0050 01 00000000:00000000 0:0 0 0 0 103\n" +
		"   4: 00000000000000000000000000000000:0016 0000000000000000FFFF00000302010A:0050 01 00000000:00000000 0:0 0 0 0 104\nx\n"
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the table is of a little endian machine")
	}
	var got []string
	parseTCP([]byte(tcp), func(inode uint64, s socket) {
		got = append(got, fmt.Sprint(inode, s.listening, s.established, s.peer))
	})
	want := "100 true false invalid IP, 101 false true 10.1.2.3, 102 false true invalid IP, 103 false true 2001:db8::7, 104 false true 10.1.2.3"
	if strings.Join(got, ", ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), want)
	}
	if inode, ok := parseSocketLink("socket:[77]"); !ok || inode != 77 {
		t.Error(inode, ok)
	}
	for _, bad := range []string{"pipe:[7]", "/dev/null", "socket:[x]", "socket:["} {
		if _, ok := parseSocketLink(bad); ok {
			t.Error(bad)
		}
	}
}

func FuzzProc(f *testing.F) {
	f.Add([]byte("12 (sshd) S 7 12"), []byte("0::/user.slice/session-3.scope\n"), []byte("   1: 0100000A:0016 0302010A:D431 01 0:0 0:0 0 0 0 101 4"))
	f.Fuzz(func(t *testing.T, stat, cgroup, tcp []byte) {
		if name, parent, ok := parseStat(stat); ok && (parent < 0 || len(name) > 4*maxText) {
			t.Fatal(name, parent)
		}
		parseStatus(stat)
		if id := parseCgroup(cgroup); id != "" && !validID(id) {
			t.Fatalf("%q", id)
		}
		parseTCP(tcp, func(inode uint64, s socket) {
			if inode == 0 || s.listening && s.established || s.peer.IsValid() && s.peer.IsUnspecified() {
				t.Fatal(inode, s)
			}
		})
		parseSocketLink(string(stat))
		wtsAddress(stat)
		wtsInfo(tcp)
	})
}

func TestIdentify(t *testing.T) {
	sessions := []Session{
		{ID: "1", User: "alice", UID: 1000, Leader: 100, Kind: Wayland},
		{ID: "c2", User: "bob", UID: 1001, Leader: 200, Kind: SSH, Remote: true, RemoteAddr: netip.MustParseAddr("10.1.2.3")},
	}
	shell := process{pid: 300, parent: 250, name: "bash", uid: 0, loginUID: NoUID}
	with := func(change func(*process)) process {
		p := shell
		change(&p)
		return p
	}
	root := process{pid: 1, name: "systemd", loginUID: NoUID}
	sshd := process{pid: 250, parent: 240, name: "sshd", loginUID: NoUID}
	named := func(pid int, name string) process { return process{pid: pid, name: name, loginUID: NoUID} }
	for _, c := range []struct {
		row     string
		chain   []process
		told    string
		session string // its id
		remote  bool
		account string
	}{
		{"logind says", []process{shell, root}, "c2", "c2", true, "uid 1001"},
		{"logind names a session that it does not list", []process{shell, root}, "c9", "", false, ""},
		{"the audit system says", []process{with(func(p *process) { p.audit = "1" }), root}, "", "1", false, "uid 1000"},
		{"the cgroup says", []process{with(func(p *process) { p.cgroup = "c2" }), root}, "", "c2", true, "uid 1001"},
		{"a leader is among the ancestors", []process{shell, named(150, "su"), named(200, "sshd"), root}, "", "c2", true, "uid 1001"},
		{"it leads the session itself", []process{named(100, "gdm"), root}, "", "1", false, "uid 1000"},
		{"a service", []process{shell, root}, "", "", false, ""},
		{"sudo in no session", []process{with(func(p *process) { p.loginUID = 1000 }), root}, "", "", false, "uid 1000"},
		{"a service of a user", []process{with(func(p *process) { p.uid = 1000 }), root}, "", "", false, "uid 1000"},
		{"SSH that nobody wrote down", []process{shell, sshd, root}, "", "process 250", true, "uid 0"},
		{"SSH of a user that nobody wrote down", []process{with(func(p *process) { p.loginUID = 1000 }), sshd, root}, "", "process 250", true, "uid 1000"},
		{"SSH into a local session", []process{shell, sshd, named(100, "gdm"), root}, "1", "process 250", true, "uid 1000"},
		{"dropbear", []process{shell, named(250, "dropbear"), root}, "", "process 250", true, "uid 0"},
		{"OpenSSH 9.8 and later", []process{shell, named(250, "sshd-session"), root}, "", "process 250", true, "uid 0"},
		{"sshd itself is a service", []process{sshd, root}, "", "", false, ""},
		{"nothing is known", nil, "c2", "", false, ""},
	} {
		a := identify(c.chain, sessions, c.told)
		if a.Found != (c.session != "") || a.Session.ID != c.session || a.Session.Remote != c.remote || a.Account() != c.account || a.Found != (a.Evidence != "") {
			t.Errorf("%s: %+v with account %q", c.row, a, a.Account())
		}
	}
}

func TestPeer(t *testing.T) {
	client, forwarded := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("192.0.2.1")
	user := []socket{{listening: true}, {established: true, peer: forwarded}}
	mid := []socket{{established: true, peer: client}}
	top := []socket{{listening: true}}
	busy := []socket{{listening: true}, {established: true, peer: forwarded}}
	for _, c := range []struct {
		row       string
		processes [][]socket
		want      netip.Addr
	}{
		{"the process between", [][]socket{user, mid, top}, client},
		{"the listener has somebody at the door", [][]socket{user, mid, busy}, client},
		{"one process", [][]socket{{{established: true, peer: client}}}, client},
		{"one process, which listens too", [][]socket{busy}, forwarded},
		{"none that may be seen", [][]socket{nil, nil}, netip.Addr{}},
		{"none at all", nil, netip.Addr{}},
	} {
		if got := peer(c.processes); got != c.want {
			t.Errorf("%s: %v", c.row, got)
		}
	}
}
