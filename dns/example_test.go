package dns_test

import (
	"context"
	"log"
	"net"
	"net/netip"

	"culvert.example/vpn/dns"
)

// A proxy that asks two servers in a tunnel for the names of the inside, and somebody else, over TLS, for all other names.
func ExampleServer() {
	var tunnel net.Dialer // in truth, what dials in the tunnel

	inside := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.53:53"), netip.MustParseAddrPort("10.0.1.53:53")}
	outside := &dns.TLSClient{Server: netip.MustParseAddrPort("192.0.2.53:853"), Name: "dns.example.net"}
	defer outside.Close()

	s, err := dns.NewServer(dns.ServerConfig{
		Rules: dns.Rules{
			Zones: []dns.Zone{
				{
					Name:      "corp",
					Suffixes:  []string{"corp.example"},
					Prefixes:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
					Way:       dns.Tunnel,
					Upstreams: dns.Clients(inside, tunnel.DialContext),
				},
				{Name: "others", Suffixes: []string{"."}, Way: dns.Direct, Upstreams: []dns.Exchanger{outside}},
			},
			Search: []string{"corp.example"},
		},
		OnAnswer: func(a dns.Answer) { log.Println(a.Names, "lead to", a.Addrs, "for", a.TTL) },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()

	udp, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp", "127.0.0.54:53")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(s.ServePacket(udp))
}
