package filter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

// golden is Match as the documentation of Config says it, as slow as it may be.
func golden(cfg Config, s Subject) Verdict {
	v := Verdict{Action: cfg.Default, Rule: -1, Name: "default"}
	logName := ""
	note := func(name string) {
		if logName == "" {
			logName = name
		}
	}
	// provisional tells for the two ways in which rules count, see below.
	allowDepends, blockDepends := false, false
	decided := false
	for i, r := range cfg.Rules {
		name := r.Name
		if name == "" {
			name = fmt.Sprintf("rule %d", i+1)
		}
		if !goldenRest(r, s) {
			continue
		}
		prefix := goldenPrefix(r, s)
		if len(r.Names) > 0 && !prefix {
			matches := goldenName(r, s) && r.Action != Log
			allowDepends = allowDepends || matches || r.Action != Allow || r.Note
			blockDepends = blockDepends || matches || r.Action == Allow
		}
		if !prefix && !goldenName(r, s) && len(r.Names)+len(r.Prefixes) > 0 {
			continue
		}
		if r.Action == Log || r.Note {
			note(name)
		}
		if r.Action != Log {
			v.Action, v.Rule, v.Name, decided = r.Action, i, name, true
			break
		}
	}
	if !decided && cfg.LogDefault {
		note("default")
	}
	v.Log, v.LogName = logName != "", logName
	v.Provisional = allowDepends
	if v.Action == Block {
		v.Provisional = blockDepends
	}
	return v
}

func goldenRest(r Rule, s Subject) bool {
	one := func(list []string, ok func(string) bool) bool {
		if len(list) == 0 {
			return true
		}
		for _, v := range list {
			if ok(v) {
				return true
			}
		}
		return false
	}
	return (r.Direction == "" || r.Direction == s.Direction.String()) &&
		one(r.Protocols, func(v string) bool { return v == s.Protocol.String() }) &&
		one(r.Ports, func(v string) bool {
			low, high, ok := strings.Cut(v, "-")
			if !ok {
				high = low
			}
			a, _ := strconv.Atoi(low)
			b, _ := strconv.Atoi(high)
			return s.Protocol != ICMP && a <= int(s.Port) && int(s.Port) <= b
		}) &&
		one(r.Users, func(v string) bool {
			if id, err := strconv.Atoi(v); err == nil {
				return id == s.UID
			}
			return v == s.User
		}) &&
		one(r.Programs, func(v string) bool {
			if strings.HasSuffix(v, "/") {
				return len(s.Program) > len(v) && strings.HasPrefix(s.Program, v)
			}
			return v == s.Program
		})
}

func goldenPrefix(r Rule, s Subject) bool {
	for _, v := range r.Prefixes {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			a := netip.MustParseAddr(v)
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if p.Contains(s.Addr) {
			return true
		}
	}
	return false
}

func goldenName(r Rule, s Subject) bool {
	if r.Confirmed && !s.Confirmed {
		return false
	}
	labels := strings.Split(s.Name, ".")
	for _, v := range r.Names {
		v, star := strings.CutPrefix(v, "*.")
		want := strings.Split(v, ".")
		n := len(labels) - len(want)
		if n < 0 || n == 0 && star {
			continue
		}
		if strings.Join(labels[n:], ".") == strings.Join(want, ".") {
			return true
		}
	}
	return false
}

// pick returns up to n values of list.
func pick(r *rand.Rand, n int, list ...string) (out []string) {
	for range r.IntN(n + 1) {
		out = append(out, list[r.IntN(len(list))])
	}
	return out
}

func random(r *rand.Rand) Config {
	cfg := Config{Default: Action(r.IntN(2)), LogDefault: r.IntN(4) == 0}
	for range r.IntN(150) {
		rule := Rule{
			Action:    Action(r.IntN(3)),
			Note:      r.IntN(6) == 0,
			Users:     pick(r, 1, "ann", "bob", "0", "1000", "1001"),
			Programs:  pick(r, 1, "/usr/bin/a", "/usr/bin/b", "/usr/", "/usr/bin/", "/opt/x/y"),
			Names:     pick(r, 2, "example", "a.example", "b.a.example", "*.a.example", "*.example", "xa.example"),
			Prefixes:  pick(r, 1, "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "0.0.0.0/0", "::/0", "fd00::/8", "fd00::1"),
			Ports:     pick(r, 2, "80", "443", "0-1023", "400-500", "443-8080", "65535", "0"),
			Protocols: pick(r, 1, "tcp", "udp", "icmp"),
			Direction: []string{"", "", "out", "in"}[r.IntN(4)],
		}
		rule.Confirmed = len(rule.Names) > 0 && r.IntN(4) == 0
		cfg.Rules = append(cfg.Rules, rule)
	}
	return cfg
}

func randomSubject(r *rand.Rand) Subject {
	one := func(list ...string) string { return list[r.IntN(len(list))] }
	s := Subject{
		UID: -1, Program: one("", "/usr/bin/a", "/usr/bin/ab", "/usr/b", "/opt/x/y", "/usr"),
		Name:      one("", "example", "a.example", "b.a.example", "c.b.a.example", "xa.example", "other"),
		Confirmed: r.IntN(2) == 0, Addr: addr(one("10.1.2.3", "10.1.9.9", "10.9.9.9", "192.0.2.1", "fd00::1", "fd00::2", "2001:db8::1")),
		Port: []uint16{0, 1, 80, 443, 450, 501, 8080, 8081, 65535}[r.IntN(9)], Protocol: Protocol(r.IntN(protocols)), Direction: Direction(r.IntN(directions)),
	}
	if r.IntN(4) > 0 {
		s.UID, s.User = []int{0, 1000, 1001, 7}[r.IntN(4)], one("", "ann", "bob", "eve")
	}
	return s
}

// check compares Match with its slow twin and with Explain.
func check(t *testing.T, cfg Config, r *Rules, s Subject) {
	t.Helper()
	want, got := golden(cfg, s), r.Match(&s)
	if got != want {
		t.Fatalf("%+v\n%+v\nMatch  %+v\nwant   %+v", cfg, s, got, want)
	}
	e := r.Explain(&s)
	if e.Verdict != got || len(e.Steps) == 0 && len(cfg.Rules) > 0 {
		t.Fatalf("Explain %+v, Match %+v", e, got)
	}
	for _, step := range e.Steps {
		if decides := step.Matched && step.Action != Log; decides != (step.Rule == got.Rule) {
			t.Fatalf("%+v\n%+v\nMatch %+v, but step %+v", cfg.Rules[step.Rule], s, got, step)
		}
	}
}

func TestGolden(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		cfg := random(r)
		rules := compile(t, cfg)
		for range 100 {
			check(t, cfg, rules, randomSubject(r))
		}
	}
}

func FuzzMatch(f *testing.F) {
	f.Add(uint64(1), uint64(2), "a.example", "/usr/bin/a", "ann", uint16(443))
	f.Add(uint64(9), uint64(9), "..", "///", "0", uint16(0))
	f.Fuzz(func(t *testing.T, one, two uint64, name, program, user string, port uint16) {
		r := rand.New(rand.NewPCG(one, two))
		cfg := random(r)
		s := randomSubject(r)
		s.Name, s.Program, s.User, s.Port = name, program, user, port
		rules := compile(t, cfg)
		if len(name) > maxName || len(program) > maxText {
			rules.Match(&s) // such do not exist
			return
		}
		check(t, cfg, rules, s)
	})
}

func FuzzCompile(f *testing.F) {
	f.Add("a.example", "10.0.0.0/8", "1-2", "/usr/bin/x", "ann")
	f.Add("*.", "::1/", "-", "C:\\", "0")
	f.Fuzz(func(t *testing.T, name, prefix, port, program, user string) {
		r, err := Compile(Config{Rules: []Rule{{
			Names: []string{name}, Prefixes: []string{prefix}, Ports: []string{port}, Programs: []string{program}, Users: []string{user},
		}}})
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		s := Subject{UID: -1, User: user, Program: program, Name: strings.TrimPrefix(strings.ToLower(name), "*."), Port: 1}
		r.Match(&s)
		r.Explain(&s)
	})
}

// large has as many rules as there may be, with prefixes, names, ports and programs.
func large(tb testing.TB) *Rules {
	cfg := Config{Default: Allow}
	for i := range MaxRules {
		r := Rule{Action: Block}
		switch i % 4 {
		case 0:
			r.Prefixes = []string{fmt.Sprintf("10.%d.%d.0/24", i/256%256, i%256), fmt.Sprintf("fd00:%x::/32", i)}
		case 1:
			r.Names = []string{fmt.Sprintf("host%d.corp.example", i)}
		case 2:
			r.Ports, r.Users = []string{strconv.Itoa(10000 + i)}, []string{strconv.Itoa(i)}
		case 3:
			r.Programs = []string{fmt.Sprintf("/opt/app%d/", i)}
		}
		cfg.Rules = append(cfg.Rules, r)
	}
	return compile(tb, cfg)
}

var busy = Subject{
	UID: 1000, User: "ann", Program: "/usr/lib/firefox/firefox", Name: "a.b.c.www.corp.example", Confirmed: true,
	Addr: addr("203.0.113.9"), Port: 443,
}

func TestMatchAllocs(t *testing.T) {
	r := large(t)
	if n := testing.AllocsPerRun(100, func() { r.Decide(&busy) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkMatch is the time to judge one flow, with few rules and with as many as there may be.
func BenchmarkMatch(b *testing.B) {
	for _, bench := range []struct {
		name  string
		rules *Rules
	}{{"rules=8", compile(b, office)}, {"rules=4096", large(b)}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bench.rules.Match(&busy)
			}
		})
	}
}
