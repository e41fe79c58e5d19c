package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestPPPRoutes(t *testing.T) {
	route := func(device, to, by, mask string) string {
		kernel := func(addr string) string {
			return fmt.Sprintf("%08X", binary.NativeEndian.Uint32(netip.MustParseAddr(addr).AsSlice()))
		}
		return fmt.Sprintf("%s\t%s\t%s\t0007\t0\t0\t0\t%s\t0\t0\t0\n", device, kernel(to), kernel(by), kernel(mask))
	}
	const (
		head   = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
		broken = "ppp0\tnonsense\nppp0\t01\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\nppp0\n\n"
		none   = "0.0.0.0"
		host   = "255.255.255.255"
	)
	usual := head + route("eth0", none, "10.0.0.1", none) + route("eth0", "10.0.0.0", none, "255.255.255.0") + route("eth0", "10.0.0.9", none, host)
	peer, server := route("ppp0", "10.64.64.1", none, host), route("eth0", "192.0.2.5", "10.0.0.1", host)
	var many strings.Builder
	for i := range 40 {
		many.WriteString(route("ppp0", fmt.Sprintf("10.64.64.%d", i), none, host))
	}
	for _, tt := range []struct{ name, routes, want string }{
		{"nothing", "", "[]"},
		{"no PPP connection", usual + server, "[]"},
		{"a link", usual + peer, "[10.64.64.1]"},
		{"a link and the way to its server", usual + server + peer + peer, "[10.64.64.1 192.0.2.5]"},
		{"what cannot be read", head + broken, "[]"},
	} {
		if got := fmt.Sprint(pppRoutes(strings.NewReader(tt.routes))); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if got := pppRoutes(strings.NewReader(many.String())); len(got) != maxPPP {
		t.Errorf("%d addresses", len(got))
	}
	if _, err := pppServers(); err != nil {
		t.Error(err)
	}
}
