package flow

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"culvert.example/vpn/flow/filter"
	"culvert.example/vpn/flow/owner"
	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/stack/tun"
)

// A machine is a host whose flows are intercepted by the kernel's default route, and a network that it reaches past that.
type machine struct {
	h, net *netns.Host
	dev    *tun.Device
	in     *Interceptor
	owners *owner.Finder

	mu      sync.Mutex
	dialled []string // what was connected to directly
}

const (
	mark      = 0x2e
	server4   = "198.51.100.7"
	server6   = "2001:db8::7"
	inner4    = "10.0.0.5"
	inner6    = "fd00::5"
	elsewhere = "203.0.113.9" // which nobody has
)

// newMachine makes a machine, and starts an interceptor with that configuration.
func newMachine(tb testing.TB, cfg Config) *machine {
	tb.Helper()
	lab := netns.New(tb)
	m := &machine{h: lab.Host("machine"), net: lab.Host("net")}
	link, _ := lab.Join(m.h, "192.0.2.1/24 2001:db8:1::1/64", m.net, "192.0.2.2/24 2001:db8:1::2/64")
	m.net.IP("address", "add", server4+"/32", "dev", "lo")
	m.net.IP("address", "add", server6+"/128", "dev", "lo")
	var err error
	m.h.Do(func() {
		if m.dev, err = tun.Open(tun.Config{Name: "flow0", MTU: 1400}); err == nil {
			m.owners, err = owner.New(owner.Config{})
		}
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { m.owners.Close() })
	m.h.IP("address", "add", inner4+"/32", "dev", "flow0")
	m.h.IP("address", "add", inner6+"/128", "dev", "flow0", "nodad")
	m.h.IP("link", "set", "flow0", "up")
	m.h.IP("route", "add", "default", "dev", "flow0", "src", inner4)
	m.h.IP("-6", "route", "add", "default", "dev", "flow0")
	for _, family := range []string{"-4", "-6"} {
		m.h.IP(family, "rule", "add", "fwmark", fmt.Sprint(mark), "table", "46")
	}
	m.h.IP("route", "add", "default", "via", "192.0.2.2", "dev", link, "table", "46")
	m.h.IP("-6", "route", "add", "default", "via", "2001:db8:1::2", "dev", link, "table", "46")
	cfg.Device, cfg.Direct, cfg.OwnerTime = m.dev, m.dial, 5*time.Second
	if cfg.Owners == nil {
		cfg.Owners = m.owners
	}
	if m.in, err = New(cfg); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { m.in.Close() })
	return m
}

// dial connects past the device, by the mark of the socket.
func (m *machine) dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	m.mu.Lock()
	m.dialled = append(m.dialled, network+" "+addr)
	m.mu.Unlock()
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) }); e != nil {
			return e
		}
		return err
	}}
	m.h.Do(func() { c, err = d.DialContext(ctx, network, addr) })
	return c, err
}

var allowDirect = always(Verdict{Allow: true, Way: Direct})

// direct is a route function that knows one way.
func direct(string, netip.Addr) Way { return Direct }

func lookFor(tb testing.TB, name string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CULVERT_INTEROP") == "1" {
			tb.Fatalf("CULVERT_INTEROP=1, but %v", err)
		}
		tb.Skip(err)
	}
	return path
}

// serve starts an HTTP server in the network, with TLS if there is a configuration.
func (m *machine) serve(tb testing.TB, at string, cfg *tls.Config) {
	tb.Helper()
	l, err := m.net.Listen("tcp", at)
	if err != nil {
		tb.Fatal(err)
	}
	if cfg != nil {
		l = tls.NewListener(l, cfg)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "hello %s", host)
	})}
	go srv.Serve(l)
	tb.Cleanup(func() { srv.Close() })
}

// curl runs curl on the machine, and returns what it prints.
func (m *machine) curl(tb testing.TB, args ...string) (string, error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	args = append([]string{"curl", "--silent", "--show-error", "--max-time", "5"}, args...)
	if args[len(args)-1] == "nobody" {
		args = append([]string{"setpriv", "--reuid=65534", "--clear-groups"}, args[:len(args)-1]...)
	}
	out, err := m.h.Command(ctx, args[0], args[1:]...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// TestCurl has a real program make flows of a real machine: it is recognized, and judged by its user, path and the name it says.
func TestCurl(t *testing.T) {
	path := lookFor(t, "curl")
	checkLeaks(t)
	rules, err := filter.Compile(filter.Config{Default: filter.Allow, Rules: []filter.Rule{
		{Name: "nobody", Action: filter.Block, Users: []string{"65534"}},
		{Name: "curl", Action: filter.Block, Programs: []string{path}, Ports: []string{"8081"}},
		{Name: "name", Action: filter.Block, Names: []string{"blocked.example"}},
		{Name: "prefix", Action: filter.Block, Prefixes: []string{elsewhere}, Protocols: []string{"tcp"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var seen sync.Map
	j := NewJudge(rules, direct)
	m := newMachine(t, Config{Decider: DeciderFunc(func(ctx context.Context, f *Flow) (Verdict, error) {
		v, err := j.Decide(ctx, f)
		if err == nil && !v.Provisional {
			seen.Store(f.Destination.String()+" "+f.Name, *f)
		}
		return v, err
	})})
	for _, at := range []string{server4, server6} {
		m.serve(t, net.JoinHostPort(at, "8080"), nil)
		m.serve(t, net.JoinHostPort(at, "8081"), nil)
		cfg := serverTLS()
		cfg.NextProtos = nil
		m.serve(t, net.JoinHostPort(at, "443"), cfg)
	}
	for _, tt := range []struct {
		args []string
		want string // in what it prints
		ok   bool
	}{
		{[]string{"http://" + server4 + ":8080/"}, "hello 192.0.2.1", true},
		{[]string{"http://[" + server6 + "]:8080/"}, "hello 2001:db8:1::1", true},
		{[]string{"http://" + server4 + ":8080/", "nobody"}, "Connection refused", false},
		{[]string{"http://" + server4 + ":8081/"}, "Connection refused", false},
		{[]string{"http://" + server4 + ":8082/"}, "Connection refused", false},
		{[]string{"http://" + elsewhere + "/"}, "Connection refused", false},
		{[]string{"--insecure", "--resolve", "www.corp.example:443:" + server4, "https://www.corp.example/"}, "hello 192.0.2.1", true},
		{[]string{"--insecure", "--resolve", "www.corp.example:443:" + server6, "https://www.corp.example/"}, "hello 2001:db8:1::1", true},
		{[]string{"--insecure", "--resolve", "a.blocked.example:443:" + server4, "https://a.blocked.example/"}, "reset by peer", false},
	} {
		out, err := m.curl(t, tt.args...)
		// Newer versions of curl say it in other words.
		out = strings.ReplaceAll(out, "Couldn't connect to server", "Connection refused")
		out = strings.ReplaceAll(out, "Could not connect to server", "Connection refused")
		if (err == nil) != tt.ok || !strings.Contains(out, tt.want) {
			t.Errorf("curl %v: %q, %v", tt.args, out, err)
		}
	}
	for key, want := range map[string]Flow{
		server4 + ":8080 ":                       {},
		"[" + server6 + "]:8081 ":                {},
		server4 + ":443 www.corp.example":        {NameFrom: FromTLS},
		server4 + ":443 a.blocked.example":       {NameFrom: FromTLS},
		"[" + server6 + "]:443 www.corp.example": {NameFrom: FromTLS},
	} {
		v, ok := seen.Load(key)
		if key == "["+server6+"]:8081 " {
			continue
		}
		if !ok {
			t.Errorf("there was no flow to %s", key)
			continue
		}
		f := v.(Flow)
		if f.NameFrom != want.NameFrom || f.Owner.Program != path || f.Owner.PID == 0 || f.Owner.Contained {
			t.Errorf("%s: %+v", key, f)
		}
	}
	if s := m.owners.Stats(); s.Errors != 0 || s.NotFound != 0 || s.Nobody != 0 {
		t.Errorf("owners: %+v", s)
	}
}

// TestKernel has programs written in Go send and receive much, in every way.
func TestKernel(t *testing.T) {
	checkLeaks(t)
	m := newMachine(t, Config{Decider: allowDirect, UDPIdle: time.Second})
	for _, server := range []string{server4, server6} {
		t.Run(server, func(t *testing.T) {
			echo, err := m.net.Listen("tcp", net.JoinHostPort(server, "7"))
			if err != nil {
				t.Fatal(err)
			}
			defer echo.Close()
			go func() {
				for {
					c, err := echo.Accept()
					if err != nil {
						return
					}
					go func() {
						// The wrapper keeps the kernel's pipes out of it, which would be taken for a leak.
						io.Copy(c, struct{ io.Reader }{c})
						c.(*net.TCPConn).CloseWrite()
						io.Copy(io.Discard, c)
						c.Close()
					}()
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			var wg sync.WaitGroup
			start := time.Now()
			const each, flows = 8 << 20, 4
			data := bytes.Repeat([]byte("0123456789abcdef"), each/16)
			for range flows {
				c, err := m.h.DialContext(ctx, "tcp", echo.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				c.SetDeadline(time.Now().Add(20 * time.Second))
				wg.Go(func() {
					c.Write(data)
					c.(*net.TCPConn).CloseWrite()
				})
				wg.Go(func() {
					defer c.Close()
					got, err := io.ReadAll(c)
					if err != nil || !bytes.Equal(got, data) {
						t.Errorf("%d bytes, %v", len(got), err)
					}
				})
			}
			wg.Wait()
			t.Logf("%.0f Mbit/s each way", float64(flows*each*8)/1e6/time.Since(start).Seconds())

			// UDP, with datagrams larger than the MTU.
			u, err := m.net.ListenPacket("udp", net.JoinHostPort(server, "7"))
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			go func() {
				b := make([]byte, 65536)
				for {
					n, from, err := u.ReadFrom(b)
					if err != nil {
						return
					}
					u.WriteTo(b[:n], from)
				}
			}()
			c, err := m.h.DialContext(ctx, "udp", u.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			b := make([]byte, 65536)
			for _, size := range []int{1, 1300, 5000, 30000} {
				if _, err := c.Write(data[:size]); err != nil {
					t.Fatal(err)
				}
				if n, err := c.Read(b); err != nil || !bytes.Equal(b[:n], data[:size]) {
					t.Errorf("%d bytes of %d, %v", n, size, err)
				}
			}
			// A port where nobody listens, and one that is not there when a connection is opened.
			c, err = m.h.DialContext(ctx, "udp", net.JoinHostPort(server, "8"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(5 * time.Second))
			c.Write([]byte("?"))
			if _, err := c.Read(b); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("UDP to a closed port: %v", err)
			}
			if _, err := m.h.DialContext(ctx, "tcp", net.JoinHostPort(server, "8")); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("TCP to a closed port: %v", err)
			}
		})
	}
	if got := m.in.Stats().Stack; got.Malformed+got.ChecksumErrors+got.TooBig > 0 {
		t.Errorf("counted %+v", got)
	}
	eventually(t, "all flows end", func() bool { return m.in.Stats().Flows == 0 })
}

// The kernel of the machine understands what it is told about destinations that cannot be reached.
func TestKernelTruth(t *testing.T) {
	verdicts := map[uint16]Verdict{
		1: {Allow: true}, 2: {Way: Direct}, 3: {Allow: true, Way: Direct},
	}
	m := newMachine(t, Config{Decider: DeciderFunc(func(_ context.Context, f *Flow) (Verdict, error) { return verdicts[f.Destination.Port()], nil })})
	m.net.Sysctl("net.ipv4.ip_forward", "1")
	m.net.IP("route", "add", "unreachable", "203.0.113.0/24")
	for _, tt := range []struct {
		network, to string
		want        error
	}{
		{"tcp", server4 + ":1", syscall.ENETUNREACH},
		{"tcp", "[" + server6 + "]:1", syscall.ENETUNREACH},
		{"tcp", server4 + ":2", syscall.ECONNREFUSED},
		{"tcp", "[" + server6 + "]:2", syscall.ECONNREFUSED},
		{"udp", server4 + ":2", syscall.EHOSTUNREACH},
		{"udp", "[" + server6 + "]:2", syscall.EACCES},
		{"udp", server4 + ":1", syscall.ENETUNREACH},
		{"udp", "[" + server6 + "]:1", syscall.ENETUNREACH},
		{"tcp", "203.0.113.9:3", syscall.EHOSTUNREACH},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		c, err := m.h.DialContext(ctx, tt.network, tt.to)
		cancel()
		if err == nil {
			c.SetDeadline(time.Now().Add(2 * time.Second))
			if raw, e := c.(syscall.Conn).SyscallConn(); e == nil {
				// Programs that want to know all ask for it; others hear of refused ports only.
				raw.Control(func(fd uintptr) {
					unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1)
					unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
				})
			}
			c.Write([]byte("?"))
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if !errors.Is(err, tt.want) {
			t.Errorf("%s %s: %v, want %v", tt.network, tt.to, err, tt.want)
		}
	}
}

// Questions of the machine's own resolver library reach the DNS proxy, whatever server it is configured with.
func TestKernelDNS(t *testing.T) {
	asked := make(chan string, 10)
	m := newMachine(t, Config{Decider: allowDirect, DNS: func(_ context.Context, f *Flow, q []byte) ([]byte, error) {
		asked <- f.Network + " " + f.Destination.String()
		return reply(q), nil
	}})
	for _, network := range []string{"udp", "tcp"} {
		for _, to := range []string{"203.0.113.53:53", "[2001:db8:99::53]:53"} {
			c, err := m.h.DialContext(t.Context(), network, to)
			if err != nil {
				t.Fatal(err)
			}
			c.SetDeadline(time.Now().Add(5 * time.Second))
			q := query(3, "www.corp.example")
			if got := exchange(t, c, q); !bytes.Equal(got, reply(q)) {
				t.Errorf("%x", got)
			}
			if got, want := <-asked, network+" "+to; got != want {
				t.Errorf("asked %q, want %q", got, want)
			}
			c.Close()
		}
	}
}
