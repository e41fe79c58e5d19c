package main

import (
	"os"
	"strings"
	"testing"

	"culvert.example/vpn/internal/ocserv"
)

// TestScript has a script after the model of vpnc-script configure the machine.
func TestScript(t *testing.T) {
	t.Parallel()
	m := newMachine(t, taste{lines: splitLines})
	m.write("/etc/script", `#!/bin/sh
echo "$1 $reason $TUNDEV $INTERNAL_IP4_ADDRESS $CISCO_SPLIT_DNS $CISCO_SPLIT_INC" >>/etc/said
case $reason in
connect)
	ip link set dev "$TUNDEV" up mtu "$INTERNAL_IP4_MTU"
	ip addr add "$INTERNAL_IP4_ADDRESS/32" dev "$TUNDEV"
	ip route add 172.31.0.0/24 dev "$TUNDEV" ;;
disconnect)
	ip route del 172.31.0.0/24 dev "$TUNDEV" ;;
esac
`)
	if err := os.Chmod(m.path("/etc/script"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := m.connect("--script", "/etc/script 'an argument'", "--interface", "tun5", "--include", more)
	m.seen(ocserv.Inside.String(), tunnelled)
	if got := m.from(more); strings.HasPrefix(got, tunnelled) {
		t.Error("there is a route that the script did not make")
	}
	if r := m.report(); r.Device != "tun5" || r.Resolver.Backend != "" {
		t.Errorf("%+v", r)
	}
	terminated(t, m, p)
	said := m.run("cat", "/etc/said")
	var reasons []string
	for line := range strings.Lines(said) {
		w := strings.Fields(line)
		if len(w) < 4 || w[0] != "an" || w[1] != "argument" || w[3] != "tun5" {
			t.Errorf("the script was told %q", line)
			continue
		}
		reasons = append(reasons, w[2])
	}
	if got := strings.Join(reasons, " "); got != "pre-init connect disconnect" || !strings.Contains(said, "connect tun5 192.168.77.50 corp.example 3\n") && !strings.Contains(said, "connect tun5 192.168.77.50 corp.example 2\n") {
		t.Errorf("the script was told\n%s", said)
	}
}
