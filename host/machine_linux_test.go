package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A notebook is a Part whose state is a line of text.
type notebook struct {
	line    string
	applied int
	fail    error
	foreign bool
}

type note string

func (n *notebook) part() Part {
	return PartOf(func(ctx context.Context, s note, record func([]byte) error) error {
		n.applied++
		if n.line == string(s) {
			return nil
		}
		if err := record([]byte(n.line)); err != nil {
			return err
		}
		if n.fail != nil {
			return n.fail
		}
		n.line = string(s)
		return nil
	}, func(ctx context.Context, undo []byte) error {
		if n.foreign {
			return fmt.Errorf("the line: %w", fs.ErrExist)
		}
		n.line = string(undo)
		return nil
	}, fs.ErrExist)
}

type bench struct {
	*testing.T
	k        *fakeKernel
	path     string
	resolver notebook
	firewall notebook
	heal     bool
	keep     bool
}

func newBench(t *testing.T) *bench {
	return &bench{T: t, k: newFake(), path: filepath.Join(t.TempDir(), "journal"), resolver: notebook{line: "old"}, firewall: notebook{line: "open"}}
}

func (b *bench) parts() Parts { return Parts{Resolver: b.resolver.part(), Firewall: b.firewall.part()} }

func (b *bench) open() *Machine {
	b.Helper()
	m, err := openMachine(Config{JournalPath: b.path, Parts: b.parts(), Heal: b.heal, KeepFirewall: b.keep}, b.k)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { m.Close() })
	return m
}

// crash ends a Machine as kill -9 does: the lock goes, the journal stays.
func (b *bench) crash(m *Machine) {
	b.Helper()
	m.closed = true
	if err := m.j.f.Close(); err != nil {
		b.Fatal(err)
	}
}

func full() Settings {
	return Settings{
		Device: "culvert0", Addresses: pfxs("10.8.0.5/24", "fd08::5/64"), MTU: 1400,
		Tunnel: pfxs("0.0.0.0/0", "::/0"), Direct: pfxs("203.0.113.0/24"), Blocked: pfxs("203.0.113.128/25"),
		Gateways: []netip.Addr{addr("198.51.100.7")}, Resolver: note("10.8.0.1"), Firewall: note("closed"),
	}
}

func narrow() Settings {
	s := full()
	s.Tunnel, s.MTU, s.Local = pfxs("10.0.0.0/8"), 1300, LocalRoutes
	s.Addresses = pfxs("10.8.0.6/24")
	s.Resolver = note("10.8.0.2")
	return s
}

func TestApply(t *testing.T) {
	b := newBench(t)
	before := b.k.picture()
	m := b.open()
	if err := m.Apply(t.Context(), full()); err != nil {
		t.Fatal(err)
	}
	for a, want := range map[string]way{
		"8.8.8.8": tunnel, "2001:4860::1": tunnel, "10.8.0.9": tunnel, "198.51.100.7": direct, "203.0.113.1": direct, "203.0.113.200": blocked,
	} {
		if got := b.k.way(addr(a), 0); got != want {
			t.Errorf("%s has the way %v, want %v", a, got, want)
		}
		if got := b.k.way(addr(a), DefaultMark); got != direct {
			t.Errorf("with the mark %s has the way %v", a, got)
		}
	}
	if b.resolver.line != "10.8.0.1" || b.firewall.line != "closed" || b.k.links["culvert0"] != (link{"culvert0", 7, 1400, true}) {
		t.Errorf("resolver %q, firewall %q, link %v", b.resolver.line, b.firewall.line, b.k.links["culvert0"])
	}

	// Again, and nothing happens.
	b.k.changes = nil
	if err := m.Apply(t.Context(), full()); err != nil || len(b.k.changes) > 0 || b.resolver.applied+b.firewall.applied != 2 {
		t.Errorf("again: %v, changes %v, parts applied %d times", err, b.k.changes, b.resolver.applied+b.firewall.applied)
	}
	if err := m.Renew(t.Context()); err != nil || len(b.k.changes) > 0 || b.resolver.applied+b.firewall.applied != 4 {
		t.Errorf("renewed: %v, changes %v, parts applied %d times", err, b.k.changes, b.resolver.applied+b.firewall.applied)
	}

	// Only the difference.
	s := full()
	s.Tunnel = append(s.Tunnel, pfx("203.0.113.64/26"))
	plan, err := m.Plan(t.Context(), s)
	if err != nil || !slices.Equal(plan, []string{"ip route replace 203.0.113.64/26 dev culvert0 table 10400"}) || len(b.k.changes) > 0 {
		t.Errorf("plan %q, %v, changes %v", plan, err, b.k.changes)
	}
	if err := m.Apply(t.Context(), s); err != nil || !slices.Equal(b.k.changes, []string{"route 203.0.113.64/26 tunnel"}) {
		t.Errorf("one more: %v, changes %v", err, b.k.changes)
	}
	s = narrow()
	s.Resolver = nil
	if err := m.Apply(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if b.resolver.line != "old" || b.k.way(addr("8.8.8.8"), 0) != direct || b.k.way(addr("10.1.1.1"), 0) != tunnel || b.k.addresses[ifaddr{7, pfx("10.8.0.5/32")}] {
		t.Errorf("narrower: resolver %q, %v", b.resolver.line, b.k.picture())
	}
	for _, r := range m.j.live {
		if r.Kind == kindTable && r.IPv6 || r.Kind == kindPart && r.Part == partResolver {
			t.Errorf("still claims %v", r)
		}
	}

	report, err := m.Undo(t.Context())
	if err != nil || len(report.Undone) == 0 || len(report.Left) > 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if !b.k.picture().equal(before) || b.resolver.line != "old" || b.firewall.line != "open" {
		t.Errorf("after Undo %v, resolver %q, firewall %q", b.k.picture(), b.resolver.line, b.firewall.line)
	}
	if report, err := m.Undo(t.Context()); err != nil || len(report.Undone) > 0 {
		t.Errorf("a second Undo: %+v, %v", report, err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
	if err := m.Apply(t.Context(), full()); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := m.Undo(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(b.path)); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// TestFailures makes each change of an Apply fail in turn, and each of a second one, and expects the machine of before.
func TestFailures(t *testing.T) {
	broken := errors.New("broken")
	for _, second := range []bool{false, true} {
		for at := 0; ; at++ {
			b := newBench(t)
			m := b.open()
			if second {
				if err := m.Apply(t.Context(), full()); err != nil {
					t.Fatal(err)
				}
			}
			before, resolver, firewall := b.k.picture(), b.resolver.line, b.firewall.line
			settings := full()
			if second {
				settings = narrow()
			}
			count := 0
			b.k.before = func(string) error {
				if count++; count == at+1 {
					return broken
				}
				return nil
			}
			// The Parts are changes as well.
			if at == 0 {
				b.firewall.fail = broken
				settings.Firewall = note("other")
			}
			err := m.Apply(t.Context(), settings)
			b.k.before = nil
			if err == nil {
				if at < 6 {
					t.Fatalf("only %d changes", at)
				}
				break
			}
			if !errors.Is(err, broken) {
				t.Fatalf("change %d: %v", at, err)
			}
			if !b.k.picture().equal(before) || b.resolver.line != resolver || b.firewall.line != firewall {
				t.Fatalf("second %t, change %d, %v: left\n%v, %q, %q; was\n%v", second, at, err, b.k.picture(), b.resolver.line, b.firewall.line, before)
			}
			b.firewall.fail = nil
			if _, err := m.Undo(t.Context()); err != nil {
				t.Fatal(err)
			}
			if clean := newFake().picture(); !b.k.picture().equal(clean) || b.resolver.line != "old" || b.firewall.line != "open" {
				t.Fatalf("second %t, change %d: after Undo %v, %q, %q", second, at, b.k.picture(), b.resolver.line, b.firewall.line)
			}
			m.Close()
		}
	}
}

// TestCrashes ends the process before each change of an Apply and of a second one, and after the last, and expects Repair
// and Open to bring the first machine back.
func TestCrashes(t *testing.T) {
	clean := newFake().picture()
	for at, done := 0, false; !done; at++ {
		for _, how := range []string{"Repair", "Open", "Repair after Repair has crashed"} {
			b := newBench(t)
			m := b.open()
			count := 0
			b.k.before = func(string) error {
				if count++; count > at {
					panic("kill -9")
				}
				return nil
			}
			killed := func(f func()) (killed bool) {
				defer func() {
					if r := recover(); r != nil {
						killed = true
					}
				}()
				f()
				return false
			}
			apply := func() {
				if err := errors.Join(m.Apply(t.Context(), full()), m.Apply(t.Context(), narrow())); err != nil {
					t.Fatal(err)
				}
			}
			done = !killed(apply)
			b.crash(m)
			b.k.before = nil
			switch how {
			case "Open":
				b.open()
			case "Repair after Repair has crashed":
				n := 0
				b.k.before = func(string) error {
					if n++; n > 3 {
						panic("kill -9")
					}
					return nil
				}
				killed(func() {
					j, l, err := openJournal(b.path, false)
					if err != nil {
						t.Fatal(err)
					}
					defer j.f.Close()
					u := undoer{k: b.k, parts: b.parts(), log: discard}
					u.ledger(t.Context(), b.path, l)
				})
				b.k.before = nil
				fallthrough
			default:
				if _, err := repair(t.Context(), b.path, b.parts(), b.k); err != nil {
					t.Fatal(err)
				}
				if _, err := os.Stat(b.path); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the journal is still there: %v", err)
				}
			}
			if !b.k.picture().equal(clean) || b.resolver.line != "old" || b.firewall.line != "open" {
				t.Fatalf("killed before change %d, then %s: %v, %q, %q", at, how, b.k.picture(), b.resolver.line, b.firewall.line)
			}
		}
		if at > 200 {
			t.Fatal("it never ends")
		}
	}
}

func TestCancelled(t *testing.T) {
	b := newBench(t)
	m := b.open()
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	b.k.before = func(string) error {
		if n++; n == 5 {
			cancel()
		}
		return nil
	}
	if err := m.Apply(ctx, full()); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if !b.k.picture().equal(newFake().picture()) || b.resolver.line != "old" || b.firewall.line != "open" || len(m.j.live) > 0 {
		t.Errorf("left %v, %v", b.k.picture(), m.j.live)
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*bench, *Settings)
		want    error
		says    string
	}{
		"no device":        {func(b *bench, s *Settings) { s.Device = "tun9" }, ErrNoDevice, "tun9"},
		"nonsense":         {func(b *bench, s *Settings) { s.MTU = 1 }, ErrSettings, "MTU"},
		"no IPv6":          {func(b *bench, s *Settings) { b.k.noIPv6 = true }, ErrNoIPv6, "fd08::5"},
		"lease is gateway": {func(b *bench, s *Settings) { s.Gateways = append(s.Gateways, addr("10.8.0.5")) }, ErrCapture, "10.8.0.5"},
		"lease is eth0":    {func(b *bench, s *Settings) { s.Addresses = pfxs("192.168.1.2/32") }, ErrConflict, "eth0"},
		"table of others": {func(b *bench, s *Settings) {
			b.k.table[routeKey{10400, pfx("10.0.0.0/8")}] = route{key: routeKey{10400, pfx("10.0.0.0/8")}}
		}, ErrConflict, "10400"},
		"resolver is unknown": {func(b *bench, s *Settings) { s.Resolver = 5 }, ErrSettings, "int"},
		"mark beyond mask":    {func(b *bench, s *Settings) { s.Mask = 1 }, ErrSettings, "Mask"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			s := full()
			c.prepare(b, &s)
			before := b.k.picture()
			m := b.open()
			err := m.Apply(t.Context(), s)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %v about %s", err, c.want, c.says)
			}
			if !b.k.picture().equal(before) || b.resolver.line != "old" || b.firewall.line != "open" || len(m.j.live) > 0 {
				t.Errorf("left %v, %q, %q, %v", b.k.picture(), b.resolver.line, b.firewall.line, m.j.live)
			}
		})
	}
	t.Run("not permitted", func(t *testing.T) {
		k := newFake()
		k.denied = ErrNotPermitted
		path := filepath.Join(t.TempDir(), "journal")
		if _, err := openMachine(Config{JournalPath: path}, k); !errors.Is(err, ErrNotPermitted) {
			t.Error(err)
		}
	})
	t.Run("no part", func(t *testing.T) {
		k := newFake()
		m, err := openMachine(Config{JournalPath: filepath.Join(t.TempDir(), "journal")}, k)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := m.Apply(t.Context(), full()); !errors.Is(err, ErrNoPart) || !k.picture().equal(newFake().picture()) {
			t.Error(err, k.changes)
		}
	})
}

// TestLeaseAroundGateway: a netmask that spans the address of the gateway takes nothing away from it.
func TestLeaseAroundGateway(t *testing.T) {
	b := newBench(t)
	m := b.open()
	s := full()
	s.Addresses = pfxs("198.51.100.99/24")
	if err := m.Apply(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if w := b.k.way(addr("198.51.100.7"), 0); w != direct {
		t.Errorf("the gateway has the way %v", w)
	}
	if w := b.k.way(addr("198.51.100.8"), 0); w != tunnel {
		t.Errorf("its neighbour has the way %v", w)
	}
	if !b.k.addresses[ifaddr{7, pfx("198.51.100.99/32")}] {
		t.Errorf("addresses are %v", b.k.addresses)
	}
}

// TestForeign: what others had there before stays, what they have changed since is left alone.
func TestForeign(t *testing.T) {
	b := newBench(t)
	b.k.links["culvert0"] = link{"culvert0", 7, 1400, true}
	b.k.addresses[ifaddr{7, pfx("10.8.0.5/32")}] = true
	before := b.k.picture()
	m := b.open()
	if err := m.Apply(t.Context(), full()); err != nil {
		t.Fatal(err)
	}
	if err := m.Apply(t.Context(), narrow()); err != nil {
		t.Fatal(err)
	}
	b.resolver.foreign = true
	b.k.table[routeKey{10400, pfx("9.0.0.0/8")}] = route{key: routeKey{10400, pfx("9.0.0.0/8")}}
	report, err := m.Undo(t.Context())
	if err != nil || len(report.Left) != 2 {
		t.Errorf("%+v, %v", report, err)
	}
	delete(b.k.table, routeKey{10400, pfx("9.0.0.0/8")})
	after := b.k.picture()
	after.Links["culvert0"] = before.Links["culvert0"] // its MTU was changed, and given back
	if !after.equal(before) {
		t.Errorf("left %v", after)
	}
	if b.k.links["culvert0"] != before.Links["culvert0"] {
		t.Errorf("link %v", b.k.links["culvert0"])
	}
}

// TestOtherDevice moves to another interface, as after a reconnection that could not keep the first.
func TestOtherDevice(t *testing.T) {
	b := newBench(t)
	m := b.open()
	if err := m.Apply(t.Context(), full()); err != nil {
		t.Fatal(err)
	}
	b.k.links["culvert1"] = link{"culvert1", 8, 1500, false}
	b.k.ifs = append(b.k.ifs, Interface{Index: 7, Name: "culvert0", Kind: Tunnel, Up: true, Addrs: pfxs("10.8.0.5/32", "fd08::5/128")})
	s := full()
	s.Device = "culvert1"
	if err := m.Apply(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	for k, r := range b.k.table {
		if r.to.way == tunnel && r.to.dev != 8 {
			t.Errorf("%v still leads to the former device", k.prefix)
		}
	}
	if b.k.links["culvert0"] != (link{"culvert0", 7, 1500, false}) {
		t.Errorf("the former device is %v", b.k.links["culvert0"])
	}
	if _, err := m.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := newFake().picture()
	want.Links["culvert1"] = link{"culvert1", 8, 1500, false}
	if !b.k.picture().equal(want) {
		t.Errorf("left %v", b.k.picture())
	}
}

func TestUndoGoesOn(t *testing.T) {
	b := newBench(t)
	m := b.open()
	if err := m.Apply(t.Context(), full()); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	b.k.before = func(what string) error {
		if strings.HasPrefix(what, "unrule") {
			return broken
		}
		return nil
	}
	report, err := m.Undo(t.Context())
	if !errors.Is(err, broken) || len(b.k.rulebook) != 2 || b.resolver.line != "old" || len(report.Undone) == 0 {
		t.Errorf("%+v, %v", report, err)
	}
	m.Close()
	b.k.before = nil
	report, err = repair(t.Context(), b.path, b.parts(), b.k)
	if err != nil || len(report.Undone) != 2 || !b.k.picture().equal(newFake().picture()) {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestElsewhere: after a start of the machine only files are as they were left, and nothing of another namespace is touched.
func TestElsewhere(t *testing.T) {
	b := newBench(t)
	m := b.open()
	if err := m.Apply(t.Context(), full()); err != nil {
		t.Fatal(err)
	}
	b.crash(m)
	// Something else has our numbers by now.
	b.k.boot = "boot-2"
	before := b.k.picture()
	report, err := repair(t.Context(), b.path, b.parts(), b.k)
	if err != nil || !b.k.picture().equal(before) || b.resolver.line != "old" || b.firewall.line != "open" {
		t.Errorf("%v, %v", err, b.k.changes)
	}
	if len(report.Undone) != 2 || len(report.Gone) < 5 {
		t.Errorf("%+v", report)
	}
}

func TestKeepFirewall(t *testing.T) {
	b := newBench(t)
	b.keep = true
	m := b.open()
	if err := m.Apply(t.Context(), full()); err != nil {
		t.Fatal(err)
	}
	b.crash(m)
	m = b.open()
	if b.firewall.line != "closed" || b.resolver.line != "old" || len(b.k.rulebook) > 0 {
		t.Errorf("firewall %q, resolver %q, rules %v", b.firewall.line, b.resolver.line, b.k.rulebook)
	}
	// It survives an Apply that fails.
	b.k.before = func(string) error { return fs.ErrInvalid }
	if err := m.Apply(t.Context(), narrow()); !errors.Is(err, fs.ErrInvalid) || b.firewall.line != "closed" {
		t.Errorf("firewall %q, %v", b.firewall.line, err)
	}
	b.k.before = nil

	// It survives a second crash, and ends with Undo.
	b.crash(m)
	m = b.open()
	if b.firewall.line != "closed" {
		t.Errorf("firewall %q", b.firewall.line)
	}
	if err := m.Apply(t.Context(), Settings{Firewall: note("closed")}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Undo(t.Context()); err != nil || b.firewall.line != "open" {
		t.Errorf("firewall %q, %v", b.firewall.line, err)
	}
}

func TestDamagedJournal(t *testing.T) {
	b := newBench(t)
	m := b.open()
	if err := m.Apply(t.Context(), full()); err != nil {
		t.Fatal(err)
	}
	b.crash(m)
	data, err := os.ReadFile(b.path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(data), "\n")
	lines[2] = "rubbish\n"
	if err := os.WriteFile(b.path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	report, err := repair(t.Context(), b.path, b.parts(), b.k)
	if !errors.Is(err, ErrJournal) || len(report.Undone) < 5 || len(b.k.rulebook) > 0 || b.resolver.line != "old" {
		t.Errorf("%+v, %v", report, err)
	}
	if _, err := os.Stat(b.path + ".damaged"); err != nil {
		t.Error(err)
	}
	b.open() // and it is out of the way
}

func TestInspect(t *testing.T) {
	for _, heal := range []bool{false, true} {
		t.Run(fmt.Sprintf("heal=%t", heal), func(t *testing.T) {
			b := newBench(t)
			b.heal = heal
			m := b.open()
			s := full()
			s.Local = LocalNetworks
			if err := m.Apply(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			now := time.Unix(0, 0)
			look := func() Event {
				var e Event
				m.inspect(t.Context(), &e, now)
				return e
			}
			if e := look(); len(e.Lost)+len(e.Foreign) > 0 || e.Healed || e.Err != nil {
				t.Errorf("nothing has happened: %+v", e)
			}
			want := b.k.picture()
			// What an Apply has found broken, and made again, is told as well.
			b.k.rulebook = nil
			if err := m.Apply(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if e := look(); len(e.Lost) != 2 || !e.Healed || e.Err != nil || !b.k.picture().equal(want) {
				t.Errorf("after an Apply: %+v", e)
			}
			if e := look(); len(e.Lost) > 0 {
				t.Errorf("it was reported already: %+v", e)
			}
			b.k.rulebook = nil
			delete(b.k.table, routeKey{10400, pfx("198.51.100.7/32")})
			delete(b.k.addresses, ifaddr{7, pfx("10.8.0.5/32")})
			e := look()
			if len(e.Lost) != 4 || e.Healed != heal || e.Err != nil || b.k.picture().equal(want) != heal {
				t.Errorf("%+v", e)
			}
			if e := look(); len(e.Lost) > 0 {
				t.Errorf("it was reported already: %+v", e)
			}
			// A stranger in our table is reported, and not touched.
			stranger := routeKey{10400, pfx("9.0.0.0/8")}
			b.k.table[stranger] = route{key: stranger}
			if e := look(); !slices.Equal(e.Foreign, []string{"9.0.0.0/8 in table 10400"}) {
				t.Errorf("%+v", e)
			}
			if _, ok := b.k.table[stranger]; !ok {
				t.Error("it is gone")
			}
			if !heal {
				return
			}
			// The network outside moves on.
			b.k.ifs[1].Addrs = pfxs("192.168.7.2/24")
			if e := look(); len(e.Lost) > 0 || e.Healed || e.Err != nil {
				t.Errorf("%+v", e)
			}
			if w := b.k.way(addr("192.168.7.9"), 0); w != direct {
				t.Errorf("the new network has the way %v", w)
			}
			if w := b.k.way(addr("192.168.1.9"), 0); w != tunnel {
				t.Errorf("the former network has the way %v", w)
			}
			// Two programs that undo each other's work must not do so for ever.
			healed := 0
			for range 50 {
				b.k.rulebook = nil
				if e := look(); e.Healed {
					healed++
				}
			}
			if healed == 0 || healed > 10 {
				t.Errorf("healed %d times in no time", healed)
			}
			now = now.Add(2 * time.Minute)
			if e := look(); !e.Healed {
				t.Errorf("later: %+v", e)
			}
		})
	}
}

func TestCommands(t *testing.T) {
	for _, c := range []struct {
		s    step
		want string
	}{
		{step{op: opMTU, dev: link{name: "a", mtu: 1400}}, "ip link set a mtu 1400"},
		{step{op: opUp, dev: link{name: "a"}}, "ip link set a up"},
		{step{op: opAddAddr, dev: link{name: "a", index: 1}, addr: ifaddr{1, pfx("10.0.0.1/32")}}, "ip address add 10.0.0.1/32 dev a"},
		{step{op: opDelAddr, addr: ifaddr{4, pfx("10.0.0.1/32")}}, "ip address del 10.0.0.1/32 dev if4"},
		{step{op: opSetRoute, key: routeKey{9, pfx("10.0.0.0/8")}, to: target{way: direct}}, "ip route replace throw 10.0.0.0/8 table 9"},
		{step{op: opDelRoute, key: routeKey{9, pfx("::/0")}, to: target{way: blocked}}, "ip route del unreachable ::/0 table 9"},
		{step{op: opAddRule, rule: rule{priority: 5, table: 9, mark: 1, mask: 3}}, "ip rule add priority 5 not fwmark 0x1/0x3 lookup 9"},
		{step{op: opDelRule, rule: rule{v6: true, priority: 5, table: 254, suppress: true}}, "ip -6 rule del priority 5 lookup 254 suppress_prefixlength 0"},
	} {
		if got := c.s.String(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
