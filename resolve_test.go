package vpn_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	vpn "culvert.example/vpn"
	"culvert.example/vpn/dns"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/leak"
)

// A zone is a dns.Exchanger that knows the addresses of some names and remembers what it was asked.
type zone struct {
	addrs map[string][]string

	mu    sync.Mutex
	asked []string
}

func newZone(addrs map[string][]string) *zone { return &zone{addrs: addrs} }

// machine answers what is asked outside of tunnels.
var machine = newZone(map[string][]string{
	"plain.machine.example": {"192.0.2.80"},
	"notculvert.test":       {"192.0.2.81"},
	"culvert.test.example":  {"192.0.2.82"},
})

var _ dns.Exchanger = (*zone)(nil)

// Exchange implements dns.Exchanger.
func (z *zone) Exchange(_ context.Context, query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil, errors.Join(err, dns.ErrMessage)
	}
	q := m.Questions[0]
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	z.mu.Lock()
	z.asked = append(z.asked, name)
	z.mu.Unlock()
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, RecursionDesired: true, RecursionAvailable: true}
	m.Additionals = nil
	addrs, ok := z.addrs[name]
	if !ok {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addrs {
		addr := netip.MustParseAddr(a)
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}}
		switch {
		case addr.Is4() && q.Type == dnsmessage.TypeA:
			r.Body = &dnsmessage.AResource{A: addr.As4()}
		case addr.Is6() && q.Type == dnsmessage.TypeAAAA:
			r.Body = &dnsmessage.AAAAResource{AAAA: addr.As16()}
		default:
			continue
		}
		m.Answers = append(m.Answers, r)
	}
	return m.Pack()
}

func (z *zone) wasAsked(name string) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return slices.Contains(z.asked, name)
}

// TestResolver resolves names inside the tunnel and outside of it.
func TestResolver(t *testing.T) {
	run(t, func(t *testing.T, m mode) {
		gw, tun := m.open(t)
		resolver := tun.Resolver()
		both := []string{gw.Web.Addr().String(), gw.Web6.Addr().String()}
		for _, tt := range []struct {
			name    string
			network string
			want    []string
			outside bool // the machine is asked
		}{
			{name: gatewaytest.WebName, want: both},
			{name: gatewaytest.WebName, network: "ip4", want: both[:1]},
			{name: gatewaytest.WebName, network: "ip6", want: both[1:]},
			{name: strings.ToUpper(gatewaytest.WebName) + ".", want: both},
			{name: "www", want: both},
			{name: gatewaytest.Alias, want: both},
			{name: gatewaytest.BigName, want: both},
			{name: "nobody." + gatewaytest.Zone},
			{name: gatewaytest.Zone}, // exists, and has no address
			{name: "plain.machine.example", want: []string{"192.0.2.80"}, outside: true},
			// These have something of the zone's name, but not as labels at the end.
			{name: "notculvert.test", want: []string{"192.0.2.81"}, outside: true},
			{name: "culvert.test.example", want: []string{"192.0.2.82"}, outside: true},
			{name: "nobody." + m.name + ".machine.example", outside: true},
		} {
			network := tt.network
			if network == "" {
				network = "ip"
			}
			addrs, err := resolver.LookupNetIP(timeout(t, 10*time.Second), network, tt.name)
			var got []string
			for _, a := range addrs {
				if s := a.Unmap().String(); !slices.Contains(got, s) {
					got = append(got, s)
				}
			}
			slices.Sort(got)
			var notFound *net.DNSError
			if tt.want == nil {
				if !errors.As(err, &notFound) || !notFound.IsNotFound {
					t.Errorf("%s: %v, %v, want a DNSError that says that there is none", tt.name, got, err)
				}
			} else if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("%s %s: %v, %v, want %v", network, tt.name, got, err, tt.want)
			}
			if asked := machine.wasAsked(strings.ToLower(strings.TrimSuffix(tt.name, "."))); asked != tt.outside {
				t.Errorf("%s: the machine was asked: %v, want %v", tt.name, asked, tt.outside)
			}
		}
	})
}

// TestResolverWithHTTP fetches a page by a name that only the tunnel knows.
func TestResolverWithHTTP(t *testing.T) {
	run(t, func(t *testing.T, m mode) {
		_, tun := m.open(t)
		resolver := tun.Resolver()
		transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			addrs, err := resolver.LookupHost(ctx, host)
			if err != nil {
				return nil, err
			}
			return tun.DialContext(ctx, network, net.JoinHostPort(addrs[0], port))
		}}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
		res, err := client.Get("http://" + gatewaytest.Alias + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if b, err := io.ReadAll(res.Body); err != nil || string(b) != gatewaytest.Page {
			t.Errorf("read %q, %v", b, err)
		}
	})
}

// TestSplitDNS asks whom the gateway wants to be asked.
func TestSplitDNS(t *testing.T) {
	leak.Check(t)
	const outside = "plain.machine.example"
	own := newZone(map[string][]string{outside: {"203.0.113.1"}, gatewaytest.WebName: {"203.0.113.2"}})
	for _, tt := range []struct {
		name    string
		gateway func(*gateway.Config)
		client  func(*vpn.Config)
		host    string
		want    string // an address, or empty if there is none
		by      string // as Explain names it, or empty where there is nothing to explain
	}{
		{name: "split", host: outside, want: "192.0.2.80", by: "machine"},
		{name: "split, inside", host: gatewaytest.WebName, want: "10.211.0.1", by: "tunnel (suffix culvert.test)"},
		{name: "no split", gateway: func(c *gateway.Config) { c.Network.SplitDNS = nil }, host: outside},
		{name: "no split, inside", gateway: func(c *gateway.Config) { c.Network.SplitDNS = nil }, host: gatewaytest.WebName,
			want: "10.211.0.1", by: "tunnel"},
		{name: "all in the tunnel", gateway: func(c *gateway.Config) { c.Network.TunnelAllDNS = true }, host: outside},
		{name: "no server", gateway: func(c *gateway.Config) { c.Network.DNS = nil }, host: outside, want: "192.0.2.80", by: "machine"},
		{name: "other suffix", gateway: func(c *gateway.Config) {
			c.Network.SplitDNS, c.Network.SearchDomains = []string{"other.example"}, nil
		}, host: gatewaytest.WebName},
		{name: "search domain is a suffix", gateway: func(c *gateway.Config) { c.Network.SplitDNS = []string{"other.example"} },
			host: gatewaytest.WebName, want: "10.211.0.1", by: "tunnel (suffix culvert.test)"},
		{name: "dynamic include is a suffix", gateway: func(c *gateway.Config) {
			c.Network.SplitDNS, c.Network.SearchDomains = []string{"other.example"}, nil
			c.Network.DynamicInclude = []string{gatewaytest.Zone}
		}, host: gatewaytest.WebName, want: "10.211.0.1", by: "tunnel (suffix culvert.test)"},
		{name: "configured", client: func(c *vpn.Config) { c.Resolver = own }, host: outside, want: "203.0.113.1", by: "the configured resolver"},
		{name: "configured, inside", client: func(c *vpn.Config) { c.Resolver = own }, host: gatewaytest.WebName, want: "203.0.113.2",
			by: "the configured resolver"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			gw := gatewaytest.New(t, gatewaytest.Options{NoIPv6: true, Config: tt.gateway})
			tun := dial(t, gw.URL, settings(gw, tt.client))
			addrs, err := tun.Resolver().LookupHost(timeout(t, 10*time.Second), tt.host)
			if tt.want == "" {
				if err == nil {
					t.Errorf("%s has the addresses %v", tt.host, addrs)
				}
				return
			}
			if err != nil || !slices.Equal(addrs, []string{tt.want}) {
				t.Errorf("%s: %v, %v, want %s", tt.host, addrs, err, tt.want)
			}
			e, err := tun.Explain(timeout(t, 10*time.Second), tt.host)
			if err != nil || e.Resolver != tt.by || len(e.Routes) != 1 || e.Routes[0].Addr.String() != tt.want {
				t.Errorf("Explain: %+v, %v, want resolver %q", e, err, tt.by)
			}
		})
	}
}
