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

// TestAlwaysOnBeside: where the profile demands Always-On, nobody makes holes in it on the command line.
func TestAlwaysOnBeside(t *testing.T) {
	for flags, want := range map[string]string{
		"":                       "",
		"--always-on closed":     "",
		"--include 192.0.2.0/24": "",
		"--exclude 192.0.2.0/24": "leave out --exclude",
		"--exclude saas.example": "leave out --exclude",
		"--always-on closed --allow-host 192.0.2.1": "leave out --allow-host",
	} {
		for _, policyOn := range []bool{true, false} {
			root := trustedDir(t)
			put(t, root, machineProfiles+"corp.xml", corp(fmt.Sprintf("<AutomaticVPNPolicy>true<AlwaysOn>%v</AlwaysOn></AutomaticVPNPolicy>", policyOn), ""))
			a, m := machineFlagsOf(t, strings.Fields(flags)...)
			p, err := a.documents(&documentFlags{root: root, machine: true}, "Office")
			if err != nil {
				t.Fatal(err)
			}
			cfg, err := m.systemConfig(a)
			if err != nil {
				t.Fatal(err)
			}
			err = m.obey(a, p, &cfg)
			refused := (*policy.RefusedError)(nil)
			if want == "" || !policyOn {
				if err != nil || policyOn && cfg.KillSwitch == nil {
					t.Errorf("Always-On %v, %s: %v, %+v", policyOn, flags, err, cfg.KillSwitch)
				}
			} else if !errors.As(err, &refused) || refused.Setting != "AutomaticVPNPolicy/AlwaysOn" || refused.Line == 0 || !strings.Contains(err.Error(), want) {
				t.Errorf("Always-On %v, %s: %v, want %s", policyOn, flags, err, want)
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
