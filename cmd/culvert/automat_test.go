package main

import (
	"fmt"
	"strings"
	"testing"

	"culvert.example/vpn/policy/network"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/system"
)

// TestEnforcement: what the policy leaves open stays closed if --always-on closes it.
func TestEnforcement(t *testing.T) {
	for own, want := range map[bool][3]system.Enforcement{
		false: {system.Waived, system.Upheld, system.Shut},
		true:  {system.Unsaid, system.Upheld, system.Shut},
	} {
		m := &automat{own: own}
		for mode, e := range want {
			if got := m.enforcement(network.Mode(mode)); got != e {
				t.Errorf("own %v, %v: %v, want %v", own, network.Mode(mode), got, e)
			}
		}
	}
}

// TestManyAllowedHosts: a kill switch that has no room for all names is in force, with those that it has room for.
func TestManyAllowedHosts(t *testing.T) {
	a, stderr := reading()
	p := &plan.Plan{}
	p.Network.Automatic, p.Network.AlwaysOn = true, network.AlwaysOn{On: true, Closed: true}
	for i := range system.MaxAllowedNames + 1 {
		p.Network.AlwaysOn.Allowed = append(p.Network.AlwaysOn.Allowed, fmt.Sprintf("a%d.example", i))
	}
	p.Network.AlwaysOn.Allowed = append(p.Network.AlwaysOn.Allowed, "192.0.2.1")
	k := killSwitch(a, p)
	if len(k.AllowedNames) != system.MaxAllowedNames || len(k.AllowedHosts) != 1 || !strings.Contains(stderr.String(), "AllowedHosts: a64.example is not let through") {
		t.Errorf("%d names, %d hosts: %s", len(k.AllowedNames), len(k.AllowedHosts), stderr)
	}
}
