package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/policy"
	"culvert.example/vpn/policy/network"
	"culvert.example/vpn/policy/network/selection"
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

// TestRedirected: under Always-On a gateway sends on only to those that the profile lists (B.12).
func TestRedirected(t *testing.T) {
	for _, tt := range []struct {
		alwaysOn string
		to       string
		follow   bool
	}{
		{"true", "m.corp.example:443", true},
		{"true", "B.corp.example:443", true},
		{"true", "vpn.corp.example:8443", false},
		{"true", "evil.example:443", false},
		{"false", "elsewhere.example:443", true},
	} {
		root := trustedDir(t)
		a, _ := reading()
		put(t, root, machineProfiles+"corp.xml", corp("<AutomaticVPNPolicy>true<AlwaysOn>"+tt.alwaysOn+"</AlwaysOn></AutomaticVPNPolicy>",
			`<HostAddress>vpn.corp.example</HostAddress><BackupServerList><HostAddress>b.corp.example</HostAddress></BackupServerList>
<LoadBalancingServerList><HostAddress>m.corp.example</HostAddress></LoadBalancingServerList>`))
		p, err := a.documents(&documentFlags{root: root, machine: true}, "Office")
		if err != nil {
			t.Fatal(err)
		}
		manager, err := network.New(p.Network, selection.Cache{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		m := &automat{flags: &clientFlags{plan: p}, runner: network.NewRunner(manager, nil, nil), ready: make(chan struct{})}
		err = m.redirected(1, tt.to)
		refused := (*policy.RefusedError)(nil)
		if tt.follow && err != nil || !tt.follow && (!errors.As(err, &refused) || refused.Line == 0 || !errors.Is(err, selection.ErrRedirect)) {
			t.Errorf("Always-On %s, to %s: %v", tt.alwaysOn, tt.to, err)
		}
	}
}
