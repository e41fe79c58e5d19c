package logins

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/internal/logind"
)

// A fake is a logind that says whatever a test wants.
type fake struct {
	conn  *dbus.Conn
	lists atomic.Int64

	mu       sync.Mutex
	sessions map[string]map[string]dbus.Variant // by id, in no order; "" as a property "row" is no row
	order    []string
}

func properties(kv ...any) map[string]dbus.Variant {
	all := make(map[string]dbus.Variant)
	for i := 0; i < len(kv); i += 2 {
		all[kv[i].(string)] = dbus.MakeVariant(kv[i+1])
	}
	return all
}

// newFake starts a bus with a fake on it, and returns a Source that asks it.
func newFake(t *testing.T) (*fake, *Source) {
	t.Helper()
	f, src := newBus(t)
	f.export(t, map[string]any{"ListSessions": f.ListSessions, "GetSessionByPID": f.GetSessionByPID}, f.GetAll)
	f.own(t)
	return f, src
}

func newBus(t *testing.T) (*fake, *Source) {
	t.Helper()
	leak.Check(t)
	address := logind.Bus(t)
	f := &fake{sessions: make(map[string]map[string]dbus.Variant)}
	var err error
	if f.conn, err = dbus.Connect(address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.conn.Close() })
	src := New(Options{Bus: address, Utmp: filepath.Join(t.TempDir(), "utmp")})
	src.answer, src.poll = time.Second, 20*time.Millisecond
	return f, src
}

func (f *fake) export(t *testing.T, methods map[string]any, getAll any) {
	t.Helper()
	err := f.conn.ExportMethodTable(methods, logindPath, logindManager)
	if err == nil {
		err = f.conn.ExportSubtreeMethodTable(map[string]any{"GetAll": getAll, "Get": f.Get}, logindPath+"/session", "org.freedesktop.DBus.Properties")
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fake) own(t *testing.T) {
	t.Helper()
	if r, err := f.conn.RequestName(logindName, dbus.NameFlagDoNotQueue); err != nil || r != dbus.RequestNameReplyPrimaryOwner {
		t.Fatal(r, err)
	}
}

func (f *fake) set(id string, p map[string]dbus.Variant) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.sessions[id]; !ok {
		f.order = append(f.order, id)
	}
	f.sessions[id] = p
}

func (f *fake) remove(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.sessions, id)
}

func (f *fake) ListSessions() ([]listed, *dbus.Error) {
	f.lists.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	var rows []listed
	for _, id := range f.order {
		if _, ok := f.sessions[id]; ok {
			rows = append(rows, listed{ID: id, UID: 1000, User: "alice", Path: sessionPrefix + dbus.ObjectPath(id)})
		}
	}
	return rows, nil
}

func (f *fake) GetSessionByPID(pid uint32) (dbus.ObjectPath, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range f.order {
		if p, ok := f.sessions[id]; ok && p["Leader"].Value() == pid {
			return sessionPrefix + dbus.ObjectPath(id), nil
		}
	}
	return "", dbus.NewError(logindName+".NoSessionForPID", []any{"none"})
}

func (f *fake) GetAll(m dbus.Message, iface string) (map[string]dbus.Variant, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	path, _ := m.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	p, ok := f.sessions[strings.TrimPrefix(string(path), sessionPrefix)]
	if !ok || p == nil {
		return nil, dbus.NewError("org.freedesktop.DBus.Error.UnknownObject", []any{"gone"})
	}
	return p, nil
}

func (f *fake) Get(m dbus.Message, iface, name string) (dbus.Variant, *dbus.Error) {
	path, _ := m.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	return dbus.MakeVariant(strings.TrimPrefix(string(path), sessionPrefix)), nil
}

func (f *fake) emit(t *testing.T, member string, args ...any) {
	t.Helper()
	if err := f.conn.Emit(logindPath, logindManager+"."+member, args...); err != nil {
		t.Error(err)
	}
}

// What logind says becomes Sessions.
func TestDecode(t *testing.T) {
	f, src := newFake(t)
	f.set("1", properties("Type", "wayland", "Class", "user", "Active", true, "LockedHint", true, "Timestamp", uint64(1700000000000000), "Leader", uint32(77),
		"Service", "gdm-password", "State", "active", "Remote", false))
	f.set("c2", properties("Type", "tty", "Class", "user", "Active", true, "Remote", true, "RemoteHost", "10.1.2.3", "Service", "sshd", "State", "online"))
	f.set("3", properties("Type", "x11", "Class", "user", "Remote", false, "Service", "xrdp-sesman"))
	f.set("4", properties("Type", "tty", "Class", "user", "Remote", true, "RemoteHost", "fe80::1%eth0", "State", "closing"))
	f.set("5", properties("Type", "x11", "Class", "greeter"))
	f.set("6", properties("Type", "unspecified", "Class", "background-light"))
	f.set("7", properties("Class", "manager"))
	f.set("8", properties("Class", "lock-screen", "Type", "web"))
	f.set("9", properties("Class", "something-new", "Leader", ^uint32(0), "Timestamp", ^uint64(0), "RemoteHost", strings.Repeat("\x1b", 5000), "Remote", true))
	f.set("10", nil) // ends between the two questions
	f.set("11", properties("Type", "wayland", "Remote", true, "RemoteHost", "::ffff:10.1.2.4"))
	got, err := src.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []Session{
		{ID: "1", Kind: Wayland, Class: User, Active: true, Locked: true, Since: time.UnixMicro(1700000000000000), Leader: 77, Service: "gdm-password"},
		{ID: "3", Kind: RDP, Class: User, Remote: true, Service: "xrdp-sesman"},
		{ID: "4", Kind: SSH, Class: User, Remote: true, RemoteHost: "fe80::1%eth0", RemoteAddr: netip.MustParseAddr("fe80::1%eth0"), Closing: true},
		{ID: "5", Kind: X11, Class: Greeter},
		{ID: "6", Kind: TTY, Class: Background},
		{ID: "7", Kind: Other, Class: Background},
		{ID: "8", Kind: Other, Class: LockScreen},
		{ID: "9", Kind: SSH, Class: User, Remote: true, RemoteHost: strings.Repeat("\uFFFD", maxText)},
		{ID: "11", Kind: Wayland, Class: User, Remote: true, RemoteHost: "::ffff:10.1.2.4", RemoteAddr: netip.MustParseAddr("10.1.2.4")},
		{ID: "c2", Kind: SSH, Class: User, Active: true, Remote: true, RemoteHost: "10.1.2.3", RemoteAddr: netip.MustParseAddr("10.1.2.3"), Service: "sshd"},
	}
	for i := range want {
		want[i].User, want[i].UID = "alice", 1000
		if i >= len(got) || got[i] != want[i] {
			t.Fatalf("session %d of %d: got\n%+v, want\n%+v", i, len(got), got[min(i, len(got)-1)], want[i])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d sessions", len(got))
	}
}

// A logind that lies, stalls or sends what it should not is an error that names what, in bounded time, and never a list.
func TestHostile(t *testing.T) {
	row := func(rows ...listed) func() ([]listed, *dbus.Error) {
		return func() ([]listed, *dbus.Error) { return rows, nil }
	}
	good := listed{ID: "1", Path: sessionPrefix + "_31"}
	all := func(kv ...any) func(string) (map[string]dbus.Variant, *dbus.Error) {
		return func(string) (map[string]dbus.Variant, *dbus.Error) { return properties(kv...), nil }
	}
	many := make([]listed, maxSessions+1)
	for i := range many {
		many[i] = listed{ID: fmt.Sprint(i), Path: sessionPrefix + "x"}
	}
	for _, c := range []struct {
		row    string
		list   any
		getAll any
		want   error
		says   string
	}{
		{"a list of another type", func() (string, *dbus.Error) { return "all of them", nil }, all(), ErrInvalid, "ListSessions"},
		{"a list of numbers", func() ([]uint32, *dbus.Error) { return []uint32{1, 2}, nil }, all(), ErrInvalid, "ListSessions"},
		{"no list", func() *dbus.Error { return nil }, all(), ErrInvalid, "ListSessions"},
		{"more sessions than there can be", row(many...), all(), ErrInvalid, "4097 sessions"},
		{"an object elsewhere", row(listed{ID: "1", Path: "/org/freedesktop/systemd1"}), all(), ErrInvalid, "session"},
		{"a strange id", row(listed{ID: "../../etc", Path: good.Path}), all(), ErrInvalid, `"../../etc"`},
		{"no id", row(listed{Path: good.Path}), all(), ErrInvalid, "session"},
		{"Remote is a text", row(good), all("Remote", "yes"), ErrInvalid, `property Remote of session 1 of logind: "yes"`},
		{"RemoteHost is a list", row(good), all("RemoteHost", []string{"a"}), ErrInvalid, "property RemoteHost of session 1 of logind: a value of type as"},
		{"Class is a number", row(good), all("Class", int64(7)), ErrInvalid, "property Class of session 1 of logind: int64 7"},
		{"Leader is signed", row(good), all("Leader", int32(-1)), ErrInvalid, "property Leader"},
		{"Timestamp is a fraction", row(good), all("Timestamp", 1e300), ErrInvalid, "property Timestamp"},
		{"Active is a long text", row(good), all("Active", strings.Repeat("x", 1<<20)), ErrInvalid, "property Active"},
		{"properties of another type", row(good), func(string) ([]string, *dbus.Error) { return []string{"Remote"}, nil }, ErrInvalid, "GetAll"},
		{"an error", func() ([]listed, *dbus.Error) {
			return nil, dbus.NewError("org.freedesktop.DBus.Error.AccessDenied", nil)
		}, all(), ErrUnavailable, "AccessDenied"},
		{"an error of one session", row(good), func(string) (map[string]dbus.Variant, *dbus.Error) {
			return nil, dbus.NewError("org.freedesktop.DBus.Error.AccessDenied", nil)
		}, ErrUnavailable, "GetAll of logind: org.freedesktop.DBus.Error.AccessDenied"},
		{"silence", func() ([]listed, *dbus.Error) { time.Sleep(500 * time.Millisecond); return nil, nil }, all(), ErrUnavailable, "ListSessions"},
		{"silence about one", row(good), func(string) (map[string]dbus.Variant, *dbus.Error) {
			time.Sleep(500 * time.Millisecond)
			return nil, nil
		}, ErrUnavailable, "GetAll"},
	} {
		t.Run(c.row, func(t *testing.T) {
			f, src := newBus(t)
			src.answer = 5 * time.Second
			if strings.HasPrefix(c.row, "silence") {
				src.answer = 150 * time.Millisecond
			}
			f.export(t, map[string]any{"ListSessions": c.list}, c.getAll)
			f.own(t)
			began := time.Now()
			got, err := src.List(t.Context())
			if !errors.Is(err, c.want) || got != nil || !strings.Contains(err.Error(), c.says) || len(err.Error()) > 1000 {
				t.Errorf("%d sessions, %v", len(got), err)
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
			// The same for a process, which must not pass for somebody's who is not there.
			if a, err := src.Asker(t.Context(), os.Getpid()); err == nil || a.Found {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
}

// A bus that accepts connections and says nothing does not hold anybody up.
func TestSilentBus(t *testing.T) {
	leak.Check(t)
	src := New(Options{Bus: "unix:path=" + silent(t)})
	src.answer = 200 * time.Millisecond
	if _, err := src.List(t.Context()); !errors.Is(err, ErrUnavailable) || errors.Is(err, errNoLogind) {
		t.Errorf("%v", err)
	}
}

// collect runs Watch and returns a function that waits for the next report.
func collect(t *testing.T, src *Source) (next func() string) {
	t.Helper()
	reports := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		src.Watch(ctx, func(sessions []Session, err error) {
			var words []string
			for _, s := range sessions {
				word := s.ID
				if s.Locked {
					word += " locked"
				}
				if s.Remote {
					word += " remote"
				}
				if s.Closing {
					word += " closing"
				}
				words = append(words, word)
			}
			text := strings.Join(words, ", ")
			if errors.Is(err, ErrUnavailable) {
				text = "unavailable"
			} else if err != nil {
				text = err.Error()
			}
			reports <- text
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return func() string {
		select {
		case r := <-reports:
			return r
		case <-time.After(10 * time.Second):
			return "nothing"
		}
	}
}

func expect(t *testing.T, next func() string, want string) {
	t.Helper()
	if got := next(); got != want {
		t.Fatalf("%q was reported, want %q", got, want)
	}
}

// Changes are told of, and only changes; a logind that goes away is an error, and not the end of all sessions.
func TestWatch(t *testing.T) {
	f, src := newFake(t)
	f.set("1", properties("Type", "wayland"))
	next := collect(t, src)
	expect(t, next, "1")
	f.set("c2", properties("Remote", true))
	f.emit(t, "SessionNew", "c2", sessionPrefix+dbus.ObjectPath("c2"))
	expect(t, next, "1, c2 remote")
	f.set("1", properties("LockedHint", true))
	if err := f.conn.Emit(sessionPrefix+"1", "org.freedesktop.DBus.Properties.PropertiesChanged", logindSession, properties("LockedHint", true), []string{}); err != nil {
		t.Fatal(err)
	}
	expect(t, next, "1 locked, c2 remote")
	f.emit(t, "SessionNew", "c2", sessionPrefix+dbus.ObjectPath("c2")) // which changes nothing
	f.remove("c2")
	f.emit(t, "SessionRemoved", "c2", sessionPrefix+dbus.ObjectPath("c2"))
	expect(t, next, "1 locked")
	// A signal of anything, of anybody, makes no difference but that it is looked at what there is.
	f.emit(t, "SessionRemoved", strings.Repeat("x", 100000), uint64(1))
	f.remove("1")
	if _, err := f.conn.ReleaseName(logindName); err != nil {
		t.Fatal(err)
	}
	got := next()
	if got == "" {
		got = next() // it was asked once more before it went
	}
	if got != "unavailable" {
		t.Fatalf("without logind %q was reported", got)
	}
	f.set("3", properties())
	f.own(t)
	for got = next(); got == "unavailable"; got = next() {
	}
	if got != "3" {
		t.Errorf("when logind came back %q was reported", got)
	}
}

// However many signals come, logind is not asked more often than is good for both.
func TestFlood(t *testing.T) {
	f, src := newFake(t)
	f.set("1", properties())
	next := collect(t, src)
	expect(t, next, "1")
	before, began := f.lists.Load(), time.Now()
	for i := range 3000 {
		f.emit(t, "SessionNew", fmt.Sprint(i), sessionPrefix+dbus.ObjectPath("x"))
	}
	f.set("2", properties())
	f.emit(t, "SessionNew", "2", sessionPrefix+dbus.ObjectPath("2"))
	expect(t, next, "1, 2")
	if n, most := f.lists.Load()-before, int64(time.Since(began)/settle)+2; n > most {
		t.Errorf("logind was asked %d times in %v", n, time.Since(began))
	}
}

func TestAskerByLogind(t *testing.T) {
	f, src := newFake(t)
	f.set("1", properties("Leader", uint32(os.Getpid()), "Remote", true, "RemoteHost", "10.1.2.3"))
	a, err := src.Asker(t.Context(), os.Getpid())
	if err != nil || !a.Found || a.Session.ID != "1" || !a.Session.Remote || a.Evidence != "login manager" || a.Account() != "uid 1000" {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := src.Asker(t.Context(), 1<<22+1); !errors.Is(err, ErrNoProcess) {
		t.Errorf("a process that does not exist: %v", err)
	}
	f.set("1", properties("Leader", uint32(1)))
	if a, err := src.Asker(t.Context(), os.Getpid()); err != nil || a.Found {
		t.Errorf("a process of no session: %+v, %v", a, err)
	}
}
