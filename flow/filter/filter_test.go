package filter

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func compile(tb testing.TB, cfg Config) *Rules {
	tb.Helper()
	r, err := Compile(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// office is a configuration with one rule of each kind.
var office = Config{
	Default: Allow,
	Rules: []Rule{
		{Name: "payroll", Action: Block, Users: []string{"guest", "1001"}, Names: []string{"payroll.corp.example"}, Prefixes: []string{"10.1.0.0/16"}},
		{Name: "mail", Action: Log, Ports: []string{"25", "465-587"}, Protocols: []string{"tcp"}},
		{Name: "torrent", Action: Block, Programs: []string{"/opt/torrent/", "/usr/bin/torrent"}, Note: true},
		{Name: "quic", Action: Block, Protocols: []string{"udp"}, Ports: []string{"443"}, Names: []string{"*.media.example"}},
		{Name: "updates", Action: Allow, Names: []string{"updates.example"}, Confirmed: true},
		{Name: "servers", Action: Block, Direction: "in", Ports: []string{"0-1023"}},
		{Name: "lab", Action: Block, Prefixes: []string{"2001:db8::/32", "192.0.2.7"}},
		{Name: "no pings", Action: Block, Protocols: []string{"icmp"}, Prefixes: []string{"0.0.0.0/0"}},
	},
}

func TestMatch(t *testing.T) {
	r := compile(t, office)
	for _, tt := range []struct {
		name string
		in   Subject
		want Verdict
	}{
		{"nothing special", Subject{UID: 1, User: "ann", Addr: addr("198.51.100.1"), Port: 22},
			Verdict{Action: Allow, Rule: -1, Name: "default"}},
		{"a user and a prefix", Subject{UID: 7, User: "guest", Addr: addr("10.1.2.3"), Port: 443},
			Verdict{Action: Block, Rule: 0, Name: "payroll"}},
		{"a user by number and a name below", Subject{UID: 1001, User: "bob", Name: "a.payroll.corp.example", Addr: addr("10.2.0.1"), Port: 443},
			Verdict{Action: Block, Rule: 0, Name: "payroll", Provisional: true}}, // another name would be allowed
		{"another user", Subject{UID: 5, User: "1001", Addr: addr("10.1.2.3"), Port: 443},
			Verdict{Action: Allow, Rule: -1, Name: "default"}},
		{"a user who is not known", Subject{UID: -1, Addr: addr("10.1.2.3"), Port: 443},
			Verdict{Action: Allow, Rule: -1, Name: "default"}},
		{"a name that only ends alike", Subject{UID: 1001, Name: "xpayroll.corp.example", Addr: addr("10.2.0.1"), Port: 443},
			Verdict{Action: Allow, Rule: -1, Name: "default", Provisional: true}},
		{"log and go on", Subject{UID: 1, Addr: addr("192.0.2.7"), Port: 500},
			Verdict{Action: Block, Rule: 6, Name: "lab", Log: true, LogName: "mail", Provisional: true}},
		{"the edge of a range", Subject{UID: 1, Addr: addr("192.0.2.7"), Port: 588},
			Verdict{Action: Block, Rule: 6, Name: "lab", Provisional: true}},
		{"a program", Subject{UID: 1, Program: "/usr/bin/torrent", Addr: addr("192.0.2.7"), Port: 1},
			Verdict{Action: Block, Rule: 2, Name: "torrent", Log: true, LogName: "torrent"}},
		{"a program below a directory", Subject{UID: 1, Program: "/opt/torrent/bin/x", Addr: addr("192.0.2.7"), Port: 1},
			Verdict{Action: Block, Rule: 2, Name: "torrent", Log: true, LogName: "torrent"}},
		{"a program with a longer name", Subject{UID: 1, Program: "/usr/bin/torrent2", Addr: addr("192.0.2.7"), Port: 1},
			Verdict{Action: Block, Rule: 6, Name: "lab", Provisional: true}},
		{"a name below", Subject{UID: 1, Name: "cdn.media.example", Addr: addr("198.51.100.1"), Port: 443, Protocol: UDP},
			Verdict{Action: Block, Rule: 3, Name: "quic", Provisional: true}},
		{"only below", Subject{UID: 1, Name: "media.example", Addr: addr("198.51.100.1"), Port: 443, Protocol: UDP},
			Verdict{Action: Allow, Rule: -1, Name: "default", Provisional: true}},
		{"a confirmed name", Subject{UID: 1, Name: "updates.example", Confirmed: true, Addr: addr("2001:db8::1"), Port: 443},
			Verdict{Action: Allow, Rule: 4, Name: "updates", Provisional: true}},
		{"a name that somebody claims", Subject{UID: 1, Name: "updates.example", Addr: addr("2001:db8::1"), Port: 443},
			Verdict{Action: Block, Rule: 6, Name: "lab", Provisional: true}},
		{"inward", Subject{UID: 1, Addr: addr("198.51.100.1"), Port: 22, Direction: In},
			Verdict{Action: Block, Rule: 5, Name: "servers", Provisional: true}},
		{"inward to a high port", Subject{UID: 1, Addr: addr("198.51.100.1"), Port: 1024, Direction: In},
			Verdict{Action: Allow, Rule: -1, Name: "default"}},
		{"an address with a zone", Subject{UID: 1, Addr: addr("2001:db8::1%eth0"), Port: 22},
			Verdict{Action: Block, Rule: 6, Name: "lab", Provisional: true}},
		{"an IPv4 address in IPv6", Subject{UID: 1, Addr: addr("::ffff:192.0.2.7"), Port: 22},
			Verdict{Action: Block, Rule: 6, Name: "lab", Provisional: true}},
		{"a ping", Subject{UID: -1, Addr: addr("198.51.100.1"), Port: 22, Protocol: ICMP},
			Verdict{Action: Block, Rule: 7, Name: "no pings", Provisional: true}},
		{"a ping of IPv6", Subject{UID: -1, Addr: addr("fd00::1"), Protocol: ICMP},
			Verdict{Action: Allow, Rule: -1, Name: "default"}},
		{"a protocol that does not exist", Subject{Protocol: 9, Addr: addr("198.51.100.1")},
			Verdict{Action: Block, Rule: -1, Name: "default"}},
		{"a direction that does not exist", Subject{Direction: 9, Addr: addr("198.51.100.1")},
			Verdict{Action: Block, Rule: -1, Name: "default"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := r.Match(&tt.in); got != tt.want {
				t.Errorf("%+v\nwant %+v\n%v", got, tt.want, r.Explain(&tt.in))
			}
		})
	}
}

// A name that can change nothing is not waited for.
func TestProvisional(t *testing.T) {
	named := Rule{Action: Block, Names: []string{"a.example"}, Users: []string{"guest"}}
	allow, block := Rule{Action: Allow}, Rule{Action: Block}
	logs := Rule{Action: Log, Names: []string{"a.example"}}
	for _, tt := range []struct {
		name  string
		rules []Rule
		in    Subject
		want  bool
	}{
		{"no rule", nil, Subject{}, false},
		{"before", []Rule{named, allow}, Subject{User: "guest"}, true},
		{"before, and it says the same", []Rule{named, block}, Subject{User: "guest"}, false},
		{"before, and it allows", []Rule{{Action: Allow, Names: []string{"a.example"}}, block}, Subject{}, true},
		{"before, and it allows too", []Rule{{Action: Allow, Names: []string{"a.example"}}, allow}, Subject{}, false},
		{"before, and it allows and notes", []Rule{{Action: Allow, Names: []string{"a.example"}, Note: true}, allow}, Subject{}, true},
		{"before, for others", []Rule{named, allow}, Subject{User: "ann"}, false},
		{"behind", []Rule{allow, named}, Subject{User: "guest"}, false},
		{"before the default", []Rule{named}, Subject{User: "guest"}, false},
		{"a rule that logs", []Rule{logs, allow}, Subject{}, true},
		{"a rule that logs what is blocked", []Rule{logs, block}, Subject{}, false},
		{"a name that decided", []Rule{named, allow}, Subject{User: "guest", Name: "a.example"}, true},
	} {
		if got := compile(t, Config{Rules: tt.rules}).Match(&tt.in); got.Provisional != tt.want {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

func TestEmpty(t *testing.T) {
	for _, def := range []Action{Block, Allow} {
		r := compile(t, Config{Default: def, LogDefault: true})
		want := Verdict{Action: def, Rule: -1, Name: "default", Log: true, LogName: "default"}
		if got := r.Decide(&Subject{Addr: addr("192.0.2.1"), Port: 1}); got != want {
			t.Errorf("%+v", got)
		}
		if c := r.Counters(); len(c) != 1 || c[0] != (Counter{-1, "default", def, 1}) {
			t.Errorf("%+v", c)
		}
	}
}

func TestCounters(t *testing.T) {
	r := compile(t, office)
	for range 3 {
		r.Decide(&Subject{UID: 1, Addr: addr("192.0.2.7"), Port: 25}) // mail logs, lab decides
	}
	r.Decide(&Subject{UID: 1, Addr: addr("198.51.100.1"), Port: 1})
	r.Match(&Subject{UID: 1, Addr: addr("198.51.100.1"), Port: 1}) // does not count
	got := ""
	for _, c := range r.Counters() {
		got += fmt.Sprintf("%d %s %v %d\n", c.Rule, c.Name, c.Action, c.Flows)
	}
	const want = `0 payroll block 0
1 mail log 0
2 torrent block 0
3 quic block 0
4 updates allow 0
5 servers block 0
6 lab block 3
7 no pings block 0
-1 default allow 1
`
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestCompileErrors(t *testing.T) {
	no, yes := false, true
	one := func(r Rule) Config { return Config{Rules: []Rule{{}, r}} }
	many := make([]string, MaxValues)
	for i := range many {
		many[i] = "1"
	}
	for _, tt := range []struct {
		cfg  Config
		want string // in the error
	}{
		{Config{Grade: "inspector"}, `grade "inspector"`},
		{Config{FilterSockets: &no}, "filter_sockets is false"},
		{Config{FilterPackets: &yes}, "filter_packets is true"},
		{Config{Default: Log}, "default is log"},
		{Config{Rules: make([]Rule, MaxRules+1)}, "4097 rules"},
		{one(Rule{Name: "rule 1"}), `rules[0] and rules[1] have the same name "rule 1"`},
		{one(Rule{Name: "default"}), `rules[1].name: "default"`},
		{one(Rule{Name: "a\nb"}), `rules[1].name: "a\nb"`},
		{one(Rule{Action: 3}), "rules[1].action: action(3)"},
		{one(Rule{Users: []string{"ann", ""}}), `rules[1].users[1]: "" is no user`},
		{one(Rule{Users: []string{"99999999999"}}), "rules[1].users[0]"},
		{one(Rule{Programs: []string{"curl"}}), `rules[1].programs[0]: "curl" is not the whole path`},
		{one(Rule{Programs: []string{"/usr/../bin/x"}}), "rules[1].programs[0]"},
		{one(Rule{Programs: []string{"/usr//bin"}}), "rules[1].programs[0]"},
		{one(Rule{Programs: []string{"/a\x00b"}}), "control character"},
		{one(Rule{Names: []string{"münchen.example"}}), "xn--"},
		{one(Rule{Names: []string{"10.0.0.1"}}), "put addresses into prefixes"},
		{one(Rule{Names: []string{"a..example"}}), "rules[1].names[0]"},
		{one(Rule{Names: []string{"*"}}), "rules[1].names[0]"},
		{one(Rule{Names: []string{"a.*.example"}}), "rules[1].names[0]"},
		{one(Rule{Names: []string{strings.Repeat("a", 64)}}), "rules[1].names[0]"},
		{one(Rule{Prefixes: []string{"10.0.0.0/33"}}), `rules[1].prefixes[0]: "10.0.0.0/33"`},
		{one(Rule{Prefixes: []string{"10.0.0.1/8"}}), "did you mean 10.0.0.0/8?"},
		{one(Rule{Prefixes: []string{"fe80::1%eth0"}}), "it has a zone"},
		{one(Rule{Prefixes: []string{"::ffff:10.0.0.0/90"}}), "mixes IPv4 with IPv6"},
		{one(Rule{Confirmed: true}), "rules[1].confirmed"},
		{one(Rule{Ports: []string{"443", "90-80"}}), `rules[1].ports[1]: "90-80"`},
		{one(Rule{Ports: []string{"65536"}}), "rules[1].ports[0]"},
		{one(Rule{Ports: []string{"http"}}), "rules[1].ports[0]"},
		{one(Rule{Protocols: []string{"TCP"}}), `rules[1].protocols[0]: "TCP" is not tcp, udp or icmp`},
		{one(Rule{Direction: "up"}), `rules[1].direction: "up" is not out or in`},
		{Config{Rules: []Rule{{Ports: many}, {Ports: []string{"1"}}}}, "rules[1]: the conditions of all rules have more than 65536 values"},
	} {
		r, err := Compile(tt.cfg)
		if err == nil || r != nil || !strings.HasPrefix(err.Error(), "filter: ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want one with %q", err, tt.want)
		}
	}
	if _, err := Compile(Config{Grade: GradeFirewall, FilterSockets: &yes, FilterPackets: &no}); err != nil {
		t.Error(err)
	}
}

func TestPrograms(t *testing.T) {
	for _, s := range []string{"/", "/usr/bin/x", "/opt/a b/", `C:\Program Files\x.exe`, `C:\Program Files\`, "/usr/bin/..x"} {
		if _, err := Compile(Config{Rules: []Rule{{Programs: []string{s}}}}); err != nil {
			t.Error(err)
		}
	}
}

// The tags are those of the files: what is written comes back, and names that do not exist are noticed by a strict decoder.
func TestJSON(t *testing.T) {
	b, err := json.Marshal(office)
	if err != nil {
		t.Fatal(err)
	}
	var back Config
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	if err := d.Decode(&back); err != nil || !reflect.DeepEqual(back, office) {
		t.Errorf("%v\n%s\n%+v", err, b, back)
	}
	const text = `{"default":"allow","rules":[{"name":"x","action":"block","ports":["443"],"direction":"out","note":true}]}`
	want := Config{Default: Allow, Rules: []Rule{{Name: "x", Action: Block, Ports: []string{"443"}, Direction: "out", Note: true}}}
	back = Config{}
	if err := json.Unmarshal([]byte(text), &back); err != nil || !reflect.DeepEqual(back, want) {
		t.Errorf("%+v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"default":"deny"}`), &back); err == nil || !strings.Contains(err.Error(), `"deny" is not block, allow or log`) {
		t.Error(err)
	}
	// Every field has the same name in both kinds of files.
	for _, v := range []any{Config{}, Rule{}} {
		typ := reflect.TypeOf(v)
		for i := range typ.NumField() {
			if f := typ.Field(i); f.Tag.Get("json") != f.Tag.Get("toml") || f.Tag.Get("json") == "" {
				t.Errorf("%v.%s has the tags %q", typ, f.Name, f.Tag)
			}
		}
	}
}

func TestExplain(t *testing.T) {
	r := compile(t, office)
	for _, tt := range []struct {
		in   Subject
		want string
	}{
		{Subject{UID: 1, User: "ann", Addr: addr("192.0.2.7"), Port: 25}, `rules[1] "mail" matches: log
rules[6] "lab" matches: block
5 rules before that do not match; the name of the other end may change this`},
		{Subject{UID: 1, User: "ann", Program: "/opt/torrent/x", Addr: addr("192.0.2.7"), Port: 9}, `rules[2] "torrent" matches: block
2 rules before that do not match`},
		{Subject{UID: 1, User: "ann", Addr: addr("198.51.100.1"), Port: 9}, `no rule decides: allow
8 rules before that do not match`},
	} {
		if got := r.Explain(&tt.in).String(); got != tt.want {
			t.Errorf("%s\nwant\n%s", got, tt.want)
		}
	}
	e := r.Explain(&Subject{UID: 1, User: "ann", Name: "updates.example", Addr: addr("198.51.100.1"), Port: 9})
	for i, want := range []string{
		`the user is "ann"`, "the port is 9", "the program is not known", "the protocol is tcp",
		`the destination is 198.51.100.1, "updates.example", which no answer of DNS has confirmed`, "the direction is out",
		`the destination is 198.51.100.1, "updates.example"`, "the protocol is tcp",
	} {
		if e.Steps[i].Why != want || e.Steps[i].Matched {
			t.Errorf("rule %d: %+v, want %q", i, e.Steps[i], want)
		}
	}
}

// What is not known of a destination is called so: its name, its address, or both.
func TestExplainDestination(t *testing.T) {
	r := compile(t, Config{Rules: []Rule{
		{Name: "names", Action: Block, Names: []string{"pay.example", "*.updates.example"}, Confirmed: true},
		{Name: "prefixes", Action: Block, Prefixes: []string{"192.0.2.0/24", "fd00::/8"}},
	}})
	for _, tt := range []struct {
		in     Subject
		first  string
		second string
	}{
		{Subject{Addr: addr("10.99.5.1")}, "the destination is 10.99.5.1, whose name is not known", "the destination is 10.99.5.1, whose name is not known"},
		{Subject{Name: "pub.corp.example"}, `the destination is "pub.corp.example", whose address is not known yet`,
			`the destination is "pub.corp.example", whose address is not known yet`},
		{Subject{Name: "a.updates.example"}, `the destination is "a.updates.example", which no answer of DNS has confirmed, and whose address is not known yet`,
			`the destination is "a.updates.example", whose address is not known yet`},
		{Subject{Name: "pub.corp.example", Addr: addr("::ffff:10.99.5.1")}, `the destination is 10.99.5.1, "pub.corp.example"`,
			`the destination is 10.99.5.1, "pub.corp.example"`},
		{Subject{}, "the destination is not known", "the destination is not known"},
	} {
		e := r.Explain(&tt.in)
		if len(e.Steps) != 2 || e.Steps[0].Why != tt.first || e.Steps[1].Why != tt.second {
			t.Errorf("%+v: %+v, want %q and %q", tt.in, e.Steps, tt.first, tt.second)
		}
	}
}

func TestStrings(t *testing.T) {
	got := fmt.Sprint(Block, Allow, Log, Action(7), TCP, UDP, ICMP, Protocol(7), Out, In, Direction(7))
	if want := "block allow log action(7) tcp udp icmp protocol(7) out in direction(7)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if _, err := Action(7).MarshalText(); err == nil {
		t.Error("action(7) has a text")
	}
}

// TestOthers: a rule that blocks any of the names blocks, whichever rule the first name meets; nothing else looks at the others.
func TestOthers(t *testing.T) {
	r, err := Compile(Config{Default: Allow, Rules: []Rule{
		{Name: "hr", Action: Allow, Names: []string{"hr.corp.example"}},
		{Name: "seen", Action: Log, Names: []string{"wiki.corp.example"}},
		{Name: "corp", Action: Block, Names: []string{"corp.example"}, Confirmed: true},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		others []string
		want   Verdict
	}{
		{"hr.corp.example", nil, Verdict{Action: Allow, Rule: 0, Name: "hr", Provisional: true}},
		{"hr.corp.example", []string{"x.example", "pay.corp.example"}, Verdict{Action: Block, Rule: 2, Name: "corp", Provisional: true}},
		{"x.example", []string{"hr.corp.example"}, Verdict{Action: Allow, Rule: -1, Name: "default", Provisional: true}},
		{"x.example", []string{"wiki.corp.example"}, Verdict{Action: Block, Rule: 2, Name: "corp", Log: true, LogName: "seen", Provisional: true}},
	} {
		s := Subject{UID: -1, Name: tt.name, Others: tt.others, Confirmed: true, Addr: addr("10.2.0.1"), Port: 80}
		if got := r.Match(&s); got != tt.want {
			t.Errorf("%s and %q: %+v, want %+v", tt.name, tt.others, got, tt.want)
		}
		if x := r.Explain(&s); x.Verdict != tt.want || tt.want.Rule >= 0 && !x.Steps[len(x.Steps)-1].Matched {
			t.Errorf("%s and %q: %+v", tt.name, tt.others, x)
		}
	}
}
