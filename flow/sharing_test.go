package flow

import (
	"crypto/tls"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/flow/filter"
)

// TestSharedAddress: where DNS has given an address several names, a rule that blocks one of them is not evaded by asking for another,
// and one that does not is not hit by a flow that says its own name.
func TestSharedAddress(t *testing.T) {
	rules, err := filter.Compile(filter.Config{Default: filter.Allow, Rules: []filter.Rule{
		{Name: "payroll", Action: filter.Block, Names: []string{"payroll.corp.example"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	known := []string{"payroll.corp.example", "intranet.corp.example"}
	w := newWorld(t, Config{
		Decider: NewJudge(rules, func(string, netip.Addr) Way { return Tunnel }),
		Names:   func(netip.Addr) []string { return slices.Clone(known) },
		Confirm: func(name string, _ netip.Addr) bool { return slices.Contains(known, name) },
	})
	for _, tt := range []struct {
		name, says string
		passes     bool
	}{
		{"the blocked host", "GET / HTTP/1.1\r\nHost: payroll.corp.example\r\n\r\n", false},
		{"the blocked host by a short name", "GET / HTTP/1.1\r\nhost: PAYROLL:80\r\n\r\n", false},
		{"the other host", "GET / HTTP/1.1\r\nAccept: */*\r\nHost: intranet.corp.example\r\n\r\n", true},
		{"the other host by a short name", "GET / HTTP/1.1\r\nHost: intranet\r\n\r\n", true},
		{"a name that DNS does not know there", "GET / HTTP/1.1\r\nHost: harmless.example\r\n\r\n", false},
		{"a target with a host", "GET http://payroll.corp.example/ HTTP/1.1\r\nHost: intranet.corp.example\r\n\r\n", false},
		{"no name", "something else\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := w.mustDial("tcp", "198.51.100.7:7")
			defer c.Close()
			c.SetDeadline(time.Now().Add(20 * time.Second))
			io.WriteString(c, tt.says)
			got := make([]byte, len(tt.says))
			if _, err := io.ReadFull(c, got); (err == nil) != tt.passes || tt.passes && string(got) != tt.says {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	for name, passes := range map[string]bool{"payroll.corp.example": false, "intranet.corp.example": true} {
		_, err := io.ReadAll(tls.Client(w.mustDial("tcp", "198.51.100.7:443"), clientTLS(name)))
		if (err == nil) != passes {
			t.Errorf("TLS to %s: %v", name, err)
		}
	}
	if said := w.tunnel.said(); strings.Contains(said, "payroll") || strings.Contains(said, "harmless") {
		t.Errorf("the destination heard %s", said)
	}
}
