package main

import (
	"fmt"
	"net/netip"
	"strconv"

	"culvert.example/vpn/internal/netns"
	"culvert.example/vpn/internal/ocserv"
)

// The addresses that all scenes share.
var (
	// outside is the gateway's address for clients.
	outside = netip.MustParseAddr("10.99.0.1")
	// inside is the host behind the gateway.
	inside = ocserv.Inside
)

// insideRoute is the network that clients reach through the tunnel.
const insideRoute = "172.31.0.0/16"

// A place is where a contender works: a host of its own, with a cable of its own to its gateway.
//
//	client 10.98.N.2 -- 10.98.N.1 gateway, 10.99.0.1 and 172.31.0.1 on its loopback interface
type place struct {
	host, gateway *netns.Host
	wire          *netns.Wire // nil if the cable is the kernel's own
	iperfPort     int         // of an iperf3 server for this place alone
	visitor       *process    // asks for pages
	address       netip.Addr  // of the client
}

// A scene is the network of a pair.
type scene struct {
	stage *stage
	lab   *netns.Lab
	n     int // places so far
	bad   bool
}

// newScene returns a scene without hosts. With bad, its cables can be impaired.
func newScene(s *stage, bad bool) *scene { return &scene{stage: s, lab: netns.New(s), bad: bad} }

// newGateway makes the host of a gateway.
func (sc *scene) newGateway(name string) *netns.Host {
	h := sc.lab.Host(name)
	h.IP("address", "add", outside.String()+"/32", "dev", "lo")
	h.IP("address", "add", inside.String()+"/32", "dev", "lo")
	return h
}

// newPlace makes a client's host and joins it to the gateway. With servers there are an iperf3 server and a visitor.
func (sc *scene) newPlace(gateway *netns.Host, servers bool) *place {
	i := sc.n
	sc.n++
	p := &place{host: sc.lab.Host("client" + strconv.Itoa(i)), gateway: gateway, iperfPort: iperfPort + i}
	p.address = netip.AddrFrom4([4]byte{10, 98, byte(i), 2})
	near, far := fmt.Sprintf("10.98.%d.2/24", i), fmt.Sprintf("10.98.%d.1/24", i)
	if sc.bad {
		_, _, p.wire = sc.lab.JoinThrough(p.host, near, gateway, far, netns.Impairment{})
	} else {
		sc.lab.Join(p.host, near, gateway, far)
	}
	p.host.IP("route", "add", outside.String()+"/32", "via", fmt.Sprintf("10.98.%d.1", i))
	if servers {
		sc.stage.spawn(gateway, "iperf3", "--server", "--bind", inside.String(), "--port", strconv.Itoa(p.iperfPort))
		p.visitor = sc.stage.startServer(p.host, "visitor", request{}, nil)
	}
	return p
}

// startInside starts the servers behind a gateway, but for iperf3.
func (sc *scene) startInside(gateway *netns.Host) {
	sc.stage.startServer(gateway, "inside", request{Listen: inside.String()}, nil)
}

// startOcserv starts ocserv.
func (sc *scene) startOcserv(gateway *netns.Host) *ocserv.Server {
	return ocserv.Start(sc.stage, gateway, ocserv.Config{Address: outside})
}
