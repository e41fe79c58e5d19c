package resolver

import (
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/internal/resolved"
)

// A world is a machine with systemd-resolved, an uplink with a DNS server, and a tunnel with another one.
type world struct {
	*machine
	daemon      *resolved.Daemon
	lab         *netns.Lab
	pc          *netns.Host
	uplink, tun string
	out, in     *server
}

const (
	outside = "10.5.5.1" // the DNS server of the uplink, who answers 192.0.2.7
	inside  = "10.9.0.1" // that of the tunnel, who answers 10.9.0.77
)

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{machine: newMachine(t), lab: netns.New(t)}
	w.pc = w.lab.Host("pc")
	isp, office := w.lab.Host("isp"), w.lab.Host("office")
	w.uplink, _ = w.lab.Join(w.pc, "10.5.5.5/24", isp, outside+"/24")
	w.tun, _ = w.lab.Join(w.pc, "10.9.0.2/24", office, inside+"/24")
	w.out, w.in = serve(t, isp, outside+":53", "192.0.2.7"), serve(t, office, inside+":53", "10.9.0.77")
	w.daemon = resolved.Start(t, w.pc)
	w.daemon.Control("dns", w.uplink, outside)
	w.daemon.Control("domain", w.uplink, "home.example")
	w.write("resolv.conf", "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch home.example\n")
	return w
}

func (w *world) resolver() *Resolver {
	return New(Options{Path: w.path, Bus: w.daemon.Address, Switch: filepath.Join(w.dir, "nsswitch.conf")})
}

// do runs f where the interfaces of pc are, as a program on it would run.
func (w *world) do(f func()) {
	w.t.Helper()
	w.pc.Do(f)
}

// undo undoes the journal from its end, as another process would.
func (w *world) undo() (err error) {
	w.t.Helper()
	w.do(func() {
		r := w.resolver()
		w.mu.Lock()
		defer w.mu.Unlock()
		for i := len(w.journal) - 1; i >= 0; i-- {
			err = errors.Join(err, r.Undo(w.t.Context(), w.journal[i]))
		}
	})
	return err
}

func (w *world) apply(r *Resolver, cfg Config) {
	w.t.Helper()
	w.do(func() {
		if err := r.Apply(w.t.Context(), cfg, w.record); err != nil {
			w.t.Fatal(err)
		}
	})
}

// has is what resolvectl says about a setting of a link.
func (w *world) has(what, link string) string {
	w.t.Helper()
	_, words, _ := strings.Cut(w.daemon.Control(what, link), "):")
	return strings.TrimSpace(words)
}

// status is everything that resolvectl says, without what changes by itself.
func (w *world) status() string {
	w.t.Helper()
	var keep []string
	for line := range strings.Lines(w.daemon.Control("status")) {
		if !strings.Contains(line, "Current DNS Server") {
			keep = append(keep, strings.TrimSpace(line)) // it aligns what there is
		}
	}
	return strings.Join(keep, "\n")
}

// A server answers every question for an address with the same one, and remembers the questions.
type server struct {
	mu    sync.Mutex
	asked []string
}

func (s *server) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := s.asked
	s.asked = nil
	return names
}

func serve(t *testing.T, h *netns.Host, addr, answer string) *server {
	t.Helper()
	s := new(server)
	pc, err := h.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	srv := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true
		if len(q.Question) == 1 {
			s.mu.Lock()
			s.asked = append(s.asked, strings.ToLower(q.Question[0].Name))
			s.mu.Unlock()
			if strings.HasSuffix(q.Question[0].Name, ".home.example.") {
				m.Rcode = dns.RcodeNameError
			} else if q.Question[0].Qtype == dns.TypeA {
				m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(answer)}}
			}
		}
		rw.WriteMsg(m)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.ActivateAndServe()
	}()
	<-started
	t.Cleanup(func() {
		srv.Shutdown()
		<-done
	})
	return s
}

// goes looks a name up and fails unless only the server of the tunnel was asked, or only the other one.
func (w *world) goes(name string, toTunnel bool) {
	w.t.Helper()
	w.in.names()
	w.out.names()
	out := w.daemon.Control("query", "--cache=no", "--legend=no", "-4", name)
	answer, asked, not := "192.0.2.7", w.out, w.in
	if toTunnel {
		answer, asked, not = "10.9.0.77", w.in, w.out
	}
	if yes, no := asked.names(), not.names(); !strings.Contains(out, answer) || len(yes) == 0 || len(no) > 0 {
		w.t.Errorf("%s: %q, the right server was asked %q and the other one %q", name, out, yes, no)
	}
}

func TestResolved(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	before, file := w.status(), w.snapshot()
	r := w.resolver()
	w.do(func() {
		if b, reason, err := r.Detect(t.Context()); b != Resolved || err != nil || !strings.Contains(reason, "127.0.0.53") {
			t.Errorf("Detect = %v, %q, %v", b, reason, err)
		}
	})
	w.goes("git.corp.example", false) // or the lookups prove nothing

	split := Config{Device: w.tun, Servers: addrPorts(inside + ":53"), Search: []string{"corp.example"}, Routes: []string{"lab.example", "9.10.in-addr.arpa"}}
	w.apply(r, split)
	for what, want := range map[string]string{"dns": inside, "domain": "corp.example ~lab.example ~9.10.in-addr.arpa", "default-route": "no",
		"llmnr": "no", "mdns": "no", "dnsovertls": "no", "dnssec": "no"} {
		if got := w.has(what, w.tun); got != want {
			t.Errorf("%s is %q, want %q", what, got, want)
		}
	}
	w.goes("git.corp.example", true)
	w.goes("a.b.lab.example", true)
	// A name without a dot is tried with the search list of each link.
	if out := w.daemon.Control("query", "--cache=no", "--legend=no", "-4", "git"); !strings.Contains(out, "git.corp.example") {
		t.Errorf("git is %q", out)
	}
	w.goes("www.example.org", false)
	w.goes("evilcorp.example", false)

	// Nothing new is no change.
	w.apply(r, split)
	if len(w.journal) != 1 {
		t.Errorf("%d records, want 1", len(w.journal))
	}
	w.do(func() {
		u, err := r.Upstream(t.Context())
		if err != nil || !slices.Equal(u.Servers, addrPorts(outside+":53")) || !slices.Equal(u.Search, []string{"home.example"}) {
			t.Errorf("Upstream = %+v, %v", u, err)
		}
	})

	w.apply(r, Config{Device: w.tun, Servers: addrPorts(inside + ":53"), TunnelAll: true})
	w.goes("www.example.org", true)
	w.goes("git.corp.example", true)
	w.apply(r, Config{Device: w.tun, Servers: addrPorts(inside+":5353", "[fd00::53]:53"), Default: true})
	if got := w.has("dns", w.tun); got != inside+":5353 fd00::53" {
		t.Errorf("dns is %q", got)
	}
	if len(w.journal) != 3 {
		t.Errorf("%d records, want 3", len(w.journal))
	}
	for range 2 {
		if err := w.undo(); err != nil {
			t.Error(err)
		}
		if after := w.status(); after != before {
			t.Errorf("the status is\n%s\nand was\n%s", after, before)
		}
	}
	if w.snapshot() != file {
		t.Errorf("the file is %s", w.snapshot())
	}
	w.goes("git.corp.example", false)
}

// TestResolvedBefore finds settings of somebody else on the link.
func TestResolvedBefore(t *testing.T) {
	w := newWorld(t)
	w.daemon.Control("dns", w.tun, "192.0.2.53", "[2001:db8::53]:5353#dns.example")
	w.daemon.Control("domain", w.tun, "~theirs.example", "search.example")
	w.daemon.Control("default-route", w.tun, "no")
	w.daemon.Control("llmnr", w.tun, "resolve")
	before := w.status()
	r := w.resolver()
	w.apply(r, Config{Device: w.tun, Servers: addrPorts(inside + ":53"), TunnelAll: true})
	if got := w.has("dns", w.tun); got != inside {
		t.Errorf("dns is %q", got)
	}
	if err := w.undo(); err != nil {
		t.Error(err)
	}
	if after := w.status(); after != before {
		t.Errorf("the status is\n%s\nand was\n%s", after, before)
	}
}

func TestResolvedFails(t *testing.T) {
	w := newWorld(t)
	before := w.status()
	r := w.resolver()
	cfg := Config{Device: w.tun, Servers: addrPorts(inside + ":53"), TunnelAll: true}
	full := errors.New("disk full")
	w.do(func() {
		missing := cfg
		missing.Device = "none0"
		if err := r.Apply(t.Context(), missing, w.record); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "none0") {
			t.Errorf("Apply without a device: %v", err)
		}
		missing.Index = 4711
		if err := r.Apply(t.Context(), missing, w.record); err == nil {
			t.Error("Apply to a link that is not there")
		}
		if err := r.Apply(t.Context(), cfg, func(b []byte) error { w.record(b); return full }); !errors.Is(err, full) {
			t.Errorf("Apply = %v", err)
		}
	})
	if after := w.status(); after != before || len(w.journal) != 1 {
		t.Errorf("%d records, and the status is\n%s", len(w.journal), after)
	}
	if err := w.undo(); err != nil {
		t.Errorf("undoing what was never done: %v", err)
	}
	if after := w.status(); after != before {
		t.Errorf("the status is\n%s", after)
	}
}

// TestResolvedOthers has somebody else change the link.
func TestResolvedOthers(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	r := w.resolver()
	r.look = 100 * time.Millisecond
	w.apply(r, Config{Device: w.tun, Servers: addrPorts(inside + ":53"), Search: []string{"corp.example"}})
	events := watch(t, r, Repair, w.record)
	for _, change := range [][]string{{"dns", w.tun, "9.9.9.9"}, {"domain", w.tun, "evil.example"}, {"revert", w.tun}} {
		w.daemon.Control(change...)
		if e := next(t, events); !e.Repaired || e.Err != nil || e.Backend != Resolved {
			t.Errorf("%q: %+v", change, e)
		}
		if got := w.has("dns", w.tun) + " " + w.has("domain", w.tun); got != inside+" corp.example" {
			t.Errorf("after %q it has %q", change, got)
		}
	}
	w.apply(r, Config{Device: w.tun, Servers: addrPorts(inside + ":53"), Search: []string{"corp.example", "other.example"}})
	time.Sleep(200 * time.Millisecond)
	if len(events) > 0 {
		t.Errorf("an event of nothing: %+v", <-events)
	}
}

func TestResolvedReports(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	r := w.resolver()
	w.apply(r, Config{Device: w.tun, Servers: addrPorts(inside + ":53"), Search: []string{"corp.example"}})
	events := watch(t, r, Report, w.record)
	w.daemon.Control("dns", w.tun, "9.9.9.9")
	if e := next(t, events); e.Repaired || e.Err != nil || !strings.Contains(e.What, "9.9.9.9") {
		t.Errorf("%+v", e)
	}
	if err := w.undo(); !errors.Is(err, ErrChanged) {
		t.Errorf("Undo = %v, want ErrChanged", err)
	}
	if got := w.has("dns", w.tun) + " " + w.has("domain", w.tun); got != "9.9.9.9 corp.example" {
		t.Errorf("it has %q", got)
	}
}

func TestResolvedRestart(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	r := w.resolver()
	w.apply(r, Config{Device: w.tun, Servers: addrPorts(inside + ":53"), Search: []string{"corp.example"}})
	events := watch(t, r, Report, w.record)
	w.daemon.Restart()
	if e := next(t, events); !e.Repaired || e.Err != nil || !strings.Contains(e.What, "anew") {
		t.Errorf("%+v", e)
	}
	if got := w.has("dns", w.tun) + " " + w.has("domain", w.tun); got != inside+" corp.example" {
		t.Errorf("it has %q", got)
	}
	// Without the daemon the record is kept for later; without the link there is nothing left to undo.
	w.daemon.Stop()
	if err := w.undo(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Undo = %v, want ErrUnavailable", err)
	}
	w.pc.IP("link", "del", w.tun)
	if err := w.undo(); err != nil {
		t.Errorf("Undo = %v", err)
	}
}

// TestResolvedUnused has it run, and nobody ask it.
func TestResolvedUnused(t *testing.T) {
	w := newWorld(t)
	w.write("resolv.conf", "nameserver 192.0.2.1\n")
	r := w.resolver()
	detect := func(want Backend, says string) {
		t.Helper()
		if b, reason, err := r.Detect(t.Context()); b != want || err != nil || !strings.Contains(reason, says) {
			t.Errorf("Detect = %v, %q, %v", b, reason, err)
		}
	}
	detect(File, "names other servers")
	cfg := Config{Device: w.tun, Servers: addrPorts(inside + ":53"), Default: true}
	w.apply(r, cfg)
	if !strings.Contains(w.read(), inside) {
		t.Errorf("resolv.conf is %q", w.read())
	}
	// Somebody makes it the one that is asked: the next Apply moves there.
	w.write("nsswitch.conf", "hosts: files resolve dns\n")
	detect(Resolved, "resolve")
	w.apply(r, cfg)
	if got := w.has("dns", w.tun); got != inside || w.read() != "nameserver 192.0.2.1\n" {
		t.Errorf("the link has %q, and resolv.conf is %q", got, w.read())
	}
	w.write("nsswitch.conf", "hosts: files dns\n")
	w.apply(r, cfg)
	if got := w.has("dns", w.tun); got != "" || !strings.Contains(w.read(), inside) {
		t.Errorf("the link has %q, and resolv.conf is %q", got, w.read())
	}
	if err := w.undo(); err != nil || w.read() != "nameserver 192.0.2.1\n" {
		t.Errorf("Undo = %v, and left %q", err, w.read())
	}
}

// TestResolvedClaims has another link claim what is ours: systemd-resolved then asks its servers too, or these alone, and that is told.
func TestResolvedClaims(t *testing.T) {
	leak.Check(t)
	w := newWorld(t)
	r := w.resolver()
	r.look = 100 * time.Millisecond
	split := Config{Device: w.tun, Servers: addrPorts(inside + ":53"), Search: []string{"corp.example"}, Routes: []string{"lab.example"}}
	w.apply(r, split)
	watch(t, r, Report, w.record)
	expect := func(what string, want ...string) {
		t.Helper()
		var got []string
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
			claims, changed := r.Claims()
			got = nil
			for _, c := range claims {
				got = append(got, c.Domain)
			}
			if slices.Equal(got, want) {
				return
			}
			select {
			case <-changed:
			case <-time.After(time.Second):
			}
		}
		t.Errorf("%s: claimed are %q, want %q", what, got, want)
	}
	expect("at home")
	w.goes("git.corp.example", true)

	w.daemon.Control("domain", w.uplink, "home.example", "~git.corp.example")
	expect("a longer domain", "git.corp.example")
	w.goes("git.corp.example", false)
	w.goes("www.corp.example", true)

	w.daemon.Control("domain", w.uplink, "Lab.Example", "~evilcorp.example", "~.")
	expect("the same domain", "lab.example")
	w.in.names()
	w.out.names()
	w.daemon.Control("query", "--cache=no", "--legend=no", "-4", "a.lab.example")
	if in, out := w.in.names(), w.out.names(); len(in) == 0 || len(out) == 0 {
		t.Errorf("where two links have the same domain, %q was asked inside and %q outside", in, out)
	}

	w.apply(r, Config{Device: w.tun, Servers: addrPorts(inside + ":53"), TunnelAll: true})
	expect("where all names are ours", ".", "evilcorp.example", "lab.example")
	w.daemon.Control("dns", w.uplink, "")
	expect("without a server")
	w.daemon.Control("dns", w.uplink, outside)
	expect("with a server again", ".", "evilcorp.example", "lab.example")
	w.pc.IP("link", "set", w.uplink, "down")
	expect("a link that is down")
	w.pc.IP("link", "set", w.uplink, "up")
	expect("a link that is up again", ".", "evilcorp.example", "lab.example")
	w.daemon.Control("domain", w.uplink, "")
	expect("without a domain")
	w.daemon.Control("domain", w.uplink, "~.")
	w.do(func() {
		if _, err := r.Upstream(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if claims, _ := r.Claims(); !slices.Equal(claims, []Claim{{".", w.uplink}}) {
		t.Errorf("claims %+v", claims)
	}
	w.do(func() {
		for i := len(w.journal) - 1; i >= 0; i-- {
			if err := r.Undo(t.Context(), w.journal[i]); err != nil {
				t.Error(err)
			}
		}
	})
	expect("without the tunnel")
}
