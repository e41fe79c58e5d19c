package main

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"culvert.example/vpn/internal/ocserv"
)

// A leaker is all the programs of a machine that know nothing of a tunnel, and a stranger's network that wants their packets.
type leaker struct {
	stop chan struct{}
	done sync.WaitGroup
}

// leak has programs of the machine send to everywhere, all the time, until the test ends.
func (m *machine) leak() {
	l := &leaker{stop: make(chan struct{})}
	m.t.Cleanup(func() { close(l.stop); l.done.Wait() })
	try := func(network, to string) {
		l.done.Go(func() {
			for {
				// The namespace is entered for each socket, since goroutines have no thread of their own.
				m.client.Do(func() {
					c, err := net.DialTimeout(network, to, 100*time.Millisecond)
					if err != nil {
						return
					}
					c.Write([]byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06secret\x04corp\x07example\x00\x00\x01\x00\x01"))
					c.Close()
				})
				select {
				case <-l.stop:
					return
				case <-time.After(30 * time.Millisecond):
				}
			}
		})
	}
	for _, to := range []string{somebody, somebody6, excluded, ocserv.Inside.String(), ocserv.Inside6.String(), resolver, "10.98.0.1"} {
		try("tcp", netip.AddrPortFrom(netip.MustParseAddr(to), 80).String())
		try("udp", netip.AddrPortFrom(netip.MustParseAddr(to), 53).String())
		try("udp", netip.AddrPortFrom(netip.MustParseAddr(to), 443).String())
	}
}

// tight fails the test if anything has left the machine since the last time that does not belong to the tunnel.
func (m *machine) tight(when string) {
	m.t.Helper()
	now := time.Now()
	if found := m.out.strangers(m.mark); len(found) > 0 {
		m.t.Errorf("%s this leaves the machine: %v", when, found)
	}
	if !m.out.heard(m.mark) {
		m.t.Errorf("%s nothing at all was seen", when)
	}
	m.mark = now
}

// TestKillSwitch has a machine with a kill switch leak wherever it can.
func TestKillSwitch(t *testing.T) {
	t.Parallel()
	m := newMachine(t, taste{lines: wholeLines})
	m.leak()
	m.eventually(5*time.Second, "without a kill switch there is a leak of everything", func() bool {
		found := m.out.strangers(time.Time{})
		return found["tcp "+somebody+" 80"] > 0 && found["tcp "+somebody6+" 80"] > 0 && found["udp "+resolver+" 53"] > 0
	})

	p := m.start("pass\n", m.connectArgs("--always-on", "closed", "--reconnect-timeout", "60")...)
	var told int
	m.mark = p.wait(&told, "the kill switch is closed", func(e event) bool { return e.Event == "system" && e.State == "closed" }).Time
	connected := func(e event) bool { return e.Event == "system" && e.State == "connected" }
	p.wait(&told, "the machine uses the tunnel", connected)
	m.tight("while it connects")
	m.seen(somebody, tunnelled)
	m.seen(somebody6, tunnel6)
	m.tight("with a tunnel")
	if got := m.culvert("policy", "explain", somebody); got.code != exitOK ||
		!strings.Contains(got.out, ": tunnel\n") || !strings.Contains(got.out, "whenever the tunnel is down: nowhere\n") || !strings.Contains(got.out, "--always-on = closed (command line): ") {
		t.Errorf("explain: %+v", got)
	}
	gatewayHost, _, _ := net.SplitHostPort(strings.TrimPrefix(m.server.URL, "https://"))
	if got := m.culvert("policy", "explain", "--protocol", "udp", gatewayHost+":53"); got.code != exitFailed || !strings.Contains(got.out, "it lets nothing else pass to the gateway than ") {
		t.Errorf("explain of the gateway: %+v", got)
	}
	// Whoever is not root is told what to do.
	for _, args := range [][]string{{"status"}, {"disconnect"}, {"data-path", "confirm"}} {
		got := m.runAs("", "setpriv", append([]string{"--reuid", "65534", "--regid", "65534", "--clear-groups", "--", self(t)}, args...)...)
		if got.code != exitFailed || !strings.Contains(got.stderr, "/run/culvert/connect.sock is closed to this user") || !strings.Contains(got.stderr, "sudo culvert "+strings.Join(args, " ")+"\n") {
			t.Errorf("%v as nobody: %+v", args, got)
		}
	}
	if got := m.runAs("", "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--", self(t), "repair"); got.code != exitFailed ||
		got.out != "" || strings.Count(got.stderr, "error:") != 1 || !strings.Contains(got.stderr, "sudo culvert repair\n") {
		t.Errorf("repair as nobody: %+v", got)
	}

	// A stranger's DHCP server hands out routes (option 121), and a stranger's router takes what it gets: TunnelVision.
	strange := func(do string) {
		for _, route := range []string{"0.0.0.0/1", "128.0.0.0/1", "203.0.113.0/24", "203.0.113.1/32", "172.31.0.0/24"} {
			m.client.IP("route", do, route, "via", "10.98.0.1", "dev", m.clientIf)
		}
		for _, route := range []string{"::/1", "8000::/1", "2001:db8:2::/64"} {
			m.client.IP("-6", "route", do, route, "via", "fd00:98::1", "dev", m.clientIf)
		}
	}
	strange("add")
	m.client.IP("rule", "add", "priority", "100", "to", saas, "lookup", "main")
	m.seen(somebody, tunnelled)
	m.from(saas) // goes out by that rule, into the wall
	time.Sleep(300 * time.Millisecond)
	m.tight("with a stranger's routes")

	// The gateway is gone and comes back.
	m.server.Stop()
	p.within(20*time.Second, &told, "the tunnel is lost", func(e event) bool { return e.Event == "tunnel" && e.State == "reconnecting" })
	time.Sleep(300 * time.Millisecond)
	m.offline("while the tunnel reconnects")
	m.tight("while the tunnel reconnects")
	m.server.Restart()
	p.within(40*time.Second, &told, "the tunnel is back", func(e event) bool { return e.Event == "tunnel" && e.State == "connected" })
	m.seen(somebody, tunnelled)
	m.tight("after reconnecting")

	// A crash leaves it closed.
	p.cmd.Process.Kill()
	<-p.done
	time.Sleep(300 * time.Millisecond)
	m.offline("after a crash")
	if got := m.culvert("status"); got.code != exitFailed || !strings.Contains(got.stderr, "blocks the network of this machine, also after --always-on open, until: culvert repair") {
		t.Errorf("status after a crash: %+v", got)
	}
	if got := m.culvert("status", "--json"); !strings.Contains(got.out, `"blocked":true`) {
		t.Errorf("status --json after a crash: %+v", got)
	}
	if got := m.culvert("policy", "explain", somebody); got.code != exitFailed || !strings.Contains(got.out, ": nowhere\n") || !strings.Contains(got.out, "until: culvert repair => nowhere") {
		t.Errorf("explain after a crash: %+v", got)
	}
	m.arp()
	m.tight("after a crash")

	// The next client takes over without a gap, and can lift it.
	p = m.connect("--always-on", "closed")
	m.tight("while the next client connects")
	m.seen(somebody, tunnelled)
	strange("del")
	m.client.IP("rule", "del", "priority", "100")
	disconnected(t, m, p)
	m.seen(somebody, plainly)

	// So does repair, after another crash.
	p = m.connect("--always-on", "closed", "--allow-host", saas)
	m.seen(saas, tunnelled)
	p.cmd.Process.Kill()
	<-p.done
	m.seen(saas, plainly)
	m.offline("after a second crash")
	if got := m.culvert("repair"); got.code != exitOK || !strings.Contains(got.out, "undone") {
		t.Errorf("repair: %+v", got)
	}
	m.unchanged("after culvert repair")
	m.seen(somebody, plainly)

	// A login that fails leaves it closed, too.
	p = m.start("wrong\n", m.connectArgs("--always-on", "closed")...)
	if code := p.exit(); code != exitLogin || !strings.Contains(p.said(), "culvert repair") {
		t.Errorf("exit status %d:\n%s", code, p.said())
	}
	m.offline("after a login that failed")
	if got := m.culvert("repair"); got.code != exitOK {
		t.Errorf("repair: %+v", got)
	}
	m.unchanged("after the last culvert repair")

	// A locked one survives whoever ends the client, and not root's repair.
	p = m.connect("--always-on", "locked")
	if got := m.culvert("disconnect"); got.code != exitOK || !strings.Contains(got.stderr, stillLocked) {
		t.Errorf("disconnect: %+v", got)
	}
	if code := p.exit(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
	m.offline("after culvert disconnect with a locked kill switch")
	if got := m.culvert("status"); got.code != exitFailed || !strings.Contains(got.stderr, "because it is locked") || strings.Contains(got.stderr, "without undoing") {
		t.Errorf("status after a disconnect with a locked kill switch: %+v", got)
	}
	if got := m.culvert("repair"); got.code != exitOK {
		t.Errorf("repair: %+v", got)
	}
	m.unchanged("after culvert repair of a locked kill switch")
}

// offline fails the test if the machine reaches somebody.
func (m *machine) offline(when string) {
	m.t.Helper()
	for _, url := range []string{"http://" + somebody + "/", "http://[" + somebody6 + "]/"} {
		if out, err := m.try("curl", "-sS", "-m", "0.7", url); err == nil {
			m.t.Errorf("%s %s sees the machine from %s", when, url, out)
		}
	}
}

// arp has the machine say something that it may always say, so that a tap that hears nothing else proves something.
func (m *machine) arp() {
	m.t.Helper()
	m.client.IP("neigh", "flush", "dev", m.clientIf)
	m.try("ping", "-c", "1", "-W", "1", outside.String())
	m.client.Do(func() {
		if c, err := net.DialTimeout("tcp", netip.AddrPortFrom(outside, ocserv.Port).String(), time.Second); err == nil {
			c.Close()
		}
	})
}

// TestOpenKillSwitch checks that a machine without a tunnel is as before where the user wants that.
func TestOpenKillSwitch(t *testing.T) {
	t.Parallel()
	m := newMachine(t, taste{lines: wholeLines})
	p := m.connect("--always-on", "open", "--reconnect-timeout", "1")
	m.mark = time.Now()
	m.seen(somebody, tunnelled)
	m.tight("with a tunnel")
	m.server.Stop()
	m.eventually(30*time.Second, "the machine is online without a tunnel", func() bool { return strings.HasPrefix(m.from(somebody), plainly) })
	m.server.Restart()
	var told int
	connected := func(e event) bool { return e.Event == "system" && e.State == "connected" }
	p.wait(&told, "the first tunnel", connected)
	p.within(60*time.Second, &told, "another tunnel", connected)
	m.seen(somebody, tunnelled)
	// Somebody deletes the network interface.
	m.client.IP("link", "del", "culvert0")
	p.wait(&told, "who ended the tunnel", func(e event) bool {
		return e.Event == "system" && e.Kind == "routes" && strings.Contains(e.Message, "deleted")
	})
	p.within(60*time.Second, &told, "a third tunnel", connected)
	m.seen(somebody, tunnelled)
	terminated(t, m, p)
}
