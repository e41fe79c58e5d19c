package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"culvert.example/vpn/internal/ocserv"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// A forwarding is the local ports that lead to the servers behind the gateway.
func (p *place) forwards() []string {
	var fs []string
	for local, port := range map[int]int{iperfPort: p.iperfPort, httpPort: httpPort, firstPort: firstPort} {
		fs = append(fs, fmt.Sprintf("%d:%s:%d", local, inside, port))
	}
	return fs
}

// newOcservContender returns a contender whose gateway is ocserv.
func newOcservContender(name string, at *place, start func() *visit) *contender {
	return &contender{name: name, at: at, start: start, gatewayPIDs: func() ([]int, error) {
		var pids []int
		for _, pid := range at.gateway.Processes() {
			comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			if err == nil && strings.HasPrefix(string(comm), "ocserv") {
				pids = append(pids, pid)
			}
		}
		return pids, nil
	}}
}

// overForward is a client with local ports.
func overForward(p *process) *visit {
	return &visit{client: p, target: loopback, iperfPort: iperfPort, hasForward: true}
}

// overTUN is a client with a network interface.
func overTUN(p *process, at *place) *visit {
	return &visit{client: p, target: inside, iperfPort: at.iperfPort}
}

// newCulvertProxy is our command with local ports.
func newCulvertProxy(s *stage, at *place, server *ocserv.Server, command string) *contender {
	return newOcservContender("culvert proxy", at, func() *visit {
		args := []string{"proxy", "--json", "--non-inter", "--user", user, "--passwd-on-stdin", "--servercert", server.Pin}
		for _, f := range at.forwards() {
			args = append(args, "-L", f)
		}
		p := s.spawn(at.host, command, append(args, server.URL)...)
		fmt.Fprintln(p.stdin, password)
		v := overForward(p)
		v.settle = settledEvent(p)
		return v
	})
}

// settledEvent is settle for our command.
func settledEvent(p *process) func(context.Context) (settled, error) {
	line := settledLine(p, `"event":"tunnel"`, `"state":"connected"`, `"path":"dtls"`)
	return func(ctx context.Context) (settled, error) {
		s, err := line(ctx)
		if err != nil {
			return s, err
		}
		var event struct {
			Path string
			MTU  int
		}
		if err := json.Unmarshal([]byte(s.detail), &event); err != nil {
			return s, err
		}
		return settled{detail: fmt.Sprintf("%s, MTU %d", event.Path, event.MTU)}, nil
	}
}

// newDialProgram is a Go program with vpn.Dial and local ports.
func newDialProgram(s *stage, at *place, server *ocserv.Server) *contender {
	return newOcservContender("vpn.Dial", at, func() *visit {
		p := s.startRole(at.host, "forward", request{Server: server.URL, Pin: server.Pin, Forwards: at.forwards()})
		v := overForward(p)
		v.settle = settledRole(p)
		return v
	})
}

// newDeviceProgram is a Go program with vpn.Dial and stack/tun.
func newDeviceProgram(s *stage, at *place, server *ocserv.Server, noDTLS bool) *contender {
	return newOcservContender("vpn.Dial with TUN", at, func() *visit {
		p := s.startRole(at.host, "tun", request{
			Server: server.URL, Pin: server.Pin, NoDTLS: noDTLS, Routes: []string{insideRoute},
		})
		v := overTUN(p, at)
		v.settle = settledRole(p)
		return v
	})
}

// openconnectArgs are the arguments of openconnect in any use.
func openconnectArgs(server *ocserv.Server, more ...string) []string {
	args := append([]string{"--user", user, "--passwd-on-stdin", "--non-inter", "--servercert", server.Pin}, more...)
	return append(args, server.URL)
}

// newOcproxy is openconnect with ocproxy.
func newOcproxy(s *stage, at *place, server *ocserv.Server) *contender {
	return newOcservContender("openconnect + ocproxy", at, func() *visit {
		script := "ocproxy"
		for _, f := range at.forwards() {
			script += " -L " + f
		}
		p := s.spawn(at.host, "openconnect", openconnectArgs(server, "--script-tun", "--script", script)...)
		fmt.Fprintln(p.stdin, password)
		v := overForward(p)
		v.settle = settledLine(p, "Established DTLS connection")
		return v
	})
}

// tunScript sets up the interface of openconnect as setUpTUN does that of the others.
const tunScript = `#!/bin/sh
[ "$reason" = connect ] || exit 0
ip address add "$INTERNAL_IP4_ADDRESS/32" dev "$TUNDEV"
ip link set dev "$TUNDEV" up mtu "$INTERNAL_IP4_MTU"
ip route add ` + insideRoute + ` dev "$TUNDEV"
`

// newOpenconnect is openconnect with a network interface.
func newOpenconnect(s *stage, at *place, server *ocserv.Server, noDTLS bool) *contender {
	script := filepath.Join(server.Dir, "tun.sh")
	s.check(os.WriteFile(script, []byte(tunScript), 0o700))
	return newOcservContender("openconnect with TUN", at, func() *visit {
		args := []string{"--script", script}
		if noDTLS {
			args = append(args, "--no-dtls")
		}
		p := s.spawn(at.host, "openconnect", openconnectArgs(server, args...)...)
		fmt.Fprintln(p.stdin, password)
		v := overTUN(p, at)
		v.settle = settledLine(p, "Established DTLS connection")
		if noDTLS {
			v.settle = settledLine(p, "Connected to HTTPS")
		}
		return v
	})
}
