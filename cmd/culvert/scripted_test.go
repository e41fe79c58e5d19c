//go:build unix

package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"culvert.example/vpn/split"
	"culvert.example/vpn/system"
	"culvert.example/vpn/transport"
)

func TestScripted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		says string
	}{
		{[]string{"-s", file + ".not"}, "--script"},
		{[]string{"-s", "'open"}, "--script"},
		{[]string{"-s", file, "--heal", "all"}, "--heal"},
		{[]string{"-s", file, "--netns", "x"}, "--netns"},
		{[]string{"-s", file, "--include", "10.0.0.0/8", "--include", "*.corp.example"}, "--include corp.example"},
		{[]string{"-s", file, "--exclude", "corp.example"}, "--exclude corp.example"},
		{[]string{"-s", file, "--no-dns"}, "--no-dns"},
		{[]string{"-s", file, "--no-ipv6-names"}, "--no-ipv6-names"},
	} {
		a, m := machineFlagsOf(t, tc.args...)
		if _, err := m.configurator(a); codeOf(err) != exitUsage || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%q: %v", tc.args, err)
		}
	}
	a, m := machineFlagsOf(t, "-s", file, "--include", "10.0.0.0/8", "--no-dns=false")
	c, err := m.configurator(a)
	if err != nil {
		t.Fatal(err)
	}
	p := netip.MustParsePrefix
	lease := &transport.Lease{Include: []netip.Prefix{p("10.0.0.0/8")}, MTU: 1400}
	got := c.(*scripted).settings(system.Connection{
		Device: "tun0", MTU: 1300, Gateway: netip.MustParseAddrPort("192.0.2.1:443"), Lease: lease, LocalLAN: true,
		User: split.Rules{Include: []netip.Prefix{p("172.16.0.0/12"), p("fd00::/8")}, Exclude: []netip.Prefix{p("10.9.0.0/16")}},
	})
	// The tunnel has all of IPv6 anyway.
	if !reflect.DeepEqual(got.Include, []netip.Prefix{p("10.0.0.0/8"), p("172.16.0.0/12")}) || !reflect.DeepEqual(got.Exclude, []netip.Prefix{p("10.9.0.0/16")}) ||
		got.MTU != 1300 || got.Device != "tun0" || got.Gateway != netip.MustParseAddr("192.0.2.1") || !got.LocalLAN || got.LogLevel != 1 {
		t.Errorf("%+v", got)
	}
	if len(lease.Include) != 1 || lease.MTU != 1400 {
		t.Errorf("the lease was changed: %+v", lease)
	}
}
