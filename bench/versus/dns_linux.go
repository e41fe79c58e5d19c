package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"culvert.example/vpn/dns"
)

const (
	// queries is the rate of a DNS server: answered questions in a second.
	queries metric = "queries/s"
	// queryCPU is the processor time of the DNS server for each answer.
	queryCPU metric = "server CPU µs/query"
	// queryTime is how long an answer takes on average, as dnsperf says.
	queryTime metric = "mean µs"
)

const (
	// cachedNames is how many names the load of a DNS server has. All of them are in its cache.
	cachedNames = 1000
	// upstreamPort is where the server listens that both contenders ask what is not in their caches.
	upstreamPort = 5300
	dnsPort      = 53
	// dnsWarmTime is how long the load runs before it is measured.
	dnsWarmTime = time.Second
)

// dnsTrials are the loads of DNS servers: how many sockets dnsperf asks from. It keeps 100 questions under way in all.
var dnsTrials = []trial{
	{name: dnsLoadName(1), direction: dnsLoad, streams: 1},
	{name: dnsLoadName(16), direction: dnsLoad, streams: 16},
}

// dnsLoad is the direction of the trials of DNS servers.
const dnsLoad = "dns"

func dnsLoadName(clients int) string { return fmt.Sprintf("cached answers over UDP, %d", clients) }

// dnsPair is our DNS proxy, and dnsmasq, each on a host of its own; dnsperf and the upstream of both are on the gateway's host.
func dnsPair() pair {
	return pair{
		name: "dns", title: "Answers of a DNS proxy from its cache, over UDP, asked by dnsperf: dns.Server, and dnsmasq",
		tools: []string{"dnsmasq", "dnsperf"}, trials: dnsTrials,
		build: func(s *stage, _ *options) []*contender {
			sc := newScene(s, false)
			gw := sc.newGateway("gateway")
			a, b := sc.newPlace(gw, false), sc.newPlace(gw, false)
			upstream := netip.AddrPortFrom(outside, upstreamPort)
			s.startServer(gw, "dns-upstream", request{Listen: upstream.String()}, nil)
			dir, err := os.MkdirTemp("", "versus-dns")
			s.check(err)
			s.Cleanup(func() { os.RemoveAll(dir) })
			file := filepath.Join(dir, "queries")
			var text strings.Builder
			for i := range cachedNames {
				fmt.Fprintf(&text, "host%d.corp.example A\n", i)
			}
			s.check(os.WriteFile(file, []byte(text.String()), 0o644))
			return []*contender{
				newDNSContender("dns.Server", a, file, func(listen netip.AddrPort) *process {
					return s.startRole(a.host, "dns", request{Listen: listen.String(), Server: upstream.String()})
				}),
				newDNSContender("dnsmasq", b, file, func(listen netip.AddrPort) *process {
					return s.spawn(b.host, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts",
						"--bind-interfaces", "--listen-address="+listen.Addr().String(), "--port="+strconv.Itoa(int(listen.Port())),
						"--server="+upstream.Addr().String()+"#"+strconv.Itoa(int(upstream.Port())), "--cache-size=10000")
				}),
			}
		},
	}
}

// newDNSContender is a DNS server that start starts.
func newDNSContender(name string, at *place, file string, start func(listen netip.AddrPort) *process) *contender {
	listen := netip.AddrPortFrom(at.address, dnsPort)
	return &contender{name: name, at: at, gatewayPIDs: func() ([]int, error) { return nil, nil }, start: func() *visit {
		p := start(listen)
		return &visit{
			client: p, target: listen.Addr(),
			await:  func(ctx context.Context) error { return awaitDNS(ctx, p, at, listen) },
			settle: func(context.Context) (settled, error) { return settled{detail: "listens at " + listen.String()}, nil },
			dns:    file,
		}
	}}
}

// awaitDNS asks until there is an answer.
func awaitDNS(ctx context.Context, p *process, at *place, server netip.AddrPort) error {
	conn, err := at.gateway.DialContext(ctx, "udp", server.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	question := []byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05host0\x04corp\x07example\x00\x00\x01\x00\x01")
	answer := make([]byte, 1500)
	for {
		if _, err := conn.Write(question); err == nil {
			conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if n, err := conn.Read(answer); err == nil && n > len(question) && answer[3]&0x0f == 0 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no answer: %w; it printed:\n%s", ctx.Err(), p.said())
		case <-p.done:
			return fmt.Errorf("it has ended; it printed:\n%s", p.said())
		case <-time.After(time.Millisecond):
		}
	}
}

// dnsperf measures the server with so many clients.
func (v *visit) dnsperf(ctx context.Context, clients int, d time.Duration) (map[metric]float64, error) {
	run := func(d time.Duration) (dnsReport, error) {
		ctx, cancel := context.WithTimeout(ctx, d+hungTime)
		defer cancel()
		out, err := v.at.gateway.Command(ctx, "dnsperf", "-s", v.target.String(), "-p", strconv.Itoa(dnsPort), "-d", v.dns, "-e",
			"-c", strconv.Itoa(clients), "-l", strconv.FormatFloat(d.Seconds(), 'f', 0, 64)).CombinedOutput()
		if err != nil {
			return dnsReport{}, fmt.Errorf("dnsperf: %w: %s", err, bytes.TrimSpace(out))
		}
		return parseDNSPerf(string(out))
	}
	if _, err := run(dnsWarmTime); err != nil {
		return nil, err
	}
	w, err := v.stopwatch()
	if err != nil {
		return nil, err
	}
	r, err := run(d)
	if err != nil {
		return nil, err
	}
	c, err := w.stop()
	if err != nil {
		return nil, err
	}
	return map[metric]float64{
		queries: r.rate, queryTime: float64(r.mean) / float64(time.Microsecond), queryCPU: c.client.Seconds() * 1e6 / r.completed,
	}, nil
}

// A dnsReport is what dnsperf prints.
type dnsReport struct {
	completed, rate float64
	mean            time.Duration
}

var (
	dnsCompleted = regexp.MustCompile(`(?m)^\s*Queries completed:\s+(\d+)`)
	dnsLost      = regexp.MustCompile(`(?m)^\s*Queries lost:\s+(\d+)`)
	dnsCodes     = regexp.MustCompile(`(?m)^\s*Response codes:\s+(.*)$`)
	dnsRate      = regexp.MustCompile(`(?m)^\s*Queries per second:\s+([\d.]+)`)
	dnsMean      = regexp.MustCompile(`(?m)^\s*Average Latency \(s\):\s+([\d.]+)`)
)

// parseDNSPerf reads what dnsperf prints. A run in which answers were lost or failed is none.
func parseDNSPerf(out string) (dnsReport, error) {
	var r dnsReport
	var mean, lost float64
	for _, f := range []struct {
		re *regexp.Regexp
		to *float64
	}{{dnsCompleted, &r.completed}, {dnsRate, &r.rate}, {dnsMean, &mean}, {dnsLost, &lost}} {
		m := f.re.FindStringSubmatch(out)
		if m == nil {
			return r, fmt.Errorf("dnsperf does not say %s: %s", f.re, out)
		}
		var err error
		if *f.to, err = strconv.ParseFloat(m[1], 64); err != nil {
			return r, err
		}
	}
	r.mean = time.Duration(mean * float64(time.Second))
	codes := dnsCodes.FindStringSubmatch(out)
	if codes == nil || !strings.HasPrefix(codes[1], "NOERROR ") || strings.Contains(codes[1], ",") {
		return r, fmt.Errorf("dnsperf got other answers than NOERROR: %q", codes)
	}
	if r.completed == 0 || lost > r.completed/1000 {
		return r, fmt.Errorf("of %.0f questions %.0f were lost", r.completed+lost, lost)
	}
	return r, nil
}

// A dnsRole is our DNS proxy.
type dnsRole struct{ server *dns.Server }

func (r *dnsRole) begin(_ context.Context, req request) (any, error) {
	upstream, err := netip.ParseAddrPort(req.Server)
	if err != nil {
		return nil, err
	}
	listen, err := netip.ParseAddrPort(req.Listen)
	if err != nil {
		return nil, err
	}
	r.server, err = dns.NewServer(dns.ServerConfig{Rules: dns.Rules{Zones: []dns.Zone{
		{Suffixes: []string{"."}, Way: dns.Direct, Upstreams: dns.Clients([]netip.AddrPort{upstream}, nil)},
	}}})
	if err != nil {
		return nil, err
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(listen))
	if err != nil {
		return nil, err
	}
	go r.server.ServePacket(conn)
	return nil, nil
}

func (r *dnsRole) serve(context.Context, request) (any, error) { return nil, errNoOp }

func (r *dnsRole) close() {
	if r.server != nil {
		r.server.Close()
	}
}

// A dnsUpstreamRole knows one address for all names, for a day.
type dnsUpstreamRole struct{ conn *net.UDPConn }

func (r *dnsUpstreamRole) begin(_ context.Context, req request) (any, error) {
	listen, err := netip.ParseAddrPort(req.Listen)
	if err != nil {
		return nil, err
	}
	if r.conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(listen)); err != nil {
		return nil, err
	}
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := r.conn.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if answer := answerAll(b[:max(n, 0)]); err == nil && answer != nil {
				r.conn.WriteToUDPAddrPort(answer, from)
			}
		}
	}()
	return nil, nil
}

func (r *dnsUpstreamRole) serve(context.Context, request) (any, error) { return nil, errNoOp }

func (r *dnsUpstreamRole) close() {
	if r.conn != nil {
		r.conn.Close()
	}
}

// answerAll returns an answer to a question for an address (RFC 1035 section 4), without EDNS.
func answerAll(q []byte) []byte {
	const header = 12
	if len(q) < header || q[2]&0x80 != 0 || binary.BigEndian.Uint16(q[4:]) != 1 {
		return nil
	}
	end := header
	for end < len(q) && q[end] != 0 {
		end += 1 + int(q[end])
	}
	if end += 1 + 4; end > len(q) {
		return nil
	}
	a := append([]byte(nil), q[:end]...)
	a[2], a[3] = 0x81, 0x80
	copy(a[4:], []byte{0, 1, 0, 1, 0, 0, 0, 0})
	a = append(a, 0xc0, header, 0, 1, 0, 1)
	a = binary.BigEndian.AppendUint32(a, 86400)
	return append(a, 0, 4, 192, 0, 2, 1)
}
