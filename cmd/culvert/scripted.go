package main

import (
	"context"
	"net/netip"

	"culvert.example/vpn/script"
	"culvert.example/vpn/system"
)

// configurator returns what configures the machine instead of this program, or nil.
func (m *machineFlags) configurator(a *app) (system.Configurator, error) {
	if m.script == "" {
		return nil, nil
	}
	if m.netns != "" {
		return nil, usagef("--script and --netns exclude each other: scripts configure the namespace that they run in")
	}
	for _, name := range []string{"filter", "dns-listen", "heal"} {
		if m.argv.Changed(name) && !a.fromFile(name) {
			return nil, usagef("--script and --%s exclude each other: the script configures the machine instead of this command", name)
		}
	}
	// What a script cannot be told must not be taken for done, wherever it was said.
	for _, f := range []struct {
		name   string
		values []string
	}{{"include", m.include}, {"exclude", m.exclude}} {
		if _, domains, err := destinations(f.name, f.values); err != nil {
			return nil, err
		} else if len(domains) > 0 {
			return nil, usagef("--script and --%s %s exclude each other: a script is told networks, and only this command's DNS proxy learns the addresses of names",
				f.name, oneLine(domains[0]))
		}
	}
	if m.noDNS {
		return nil, usagef("--script and --no-dns exclude each other: whether the machine's DNS servers are set is up to the script")
	}
	if m.noIPv6 {
		return nil, usagef("--script and --no-ipv6-names exclude each other: DNS answers are left as they are without this command's DNS proxy")
	}
	path, args, err := script.Command(m.script)
	if err != nil {
		return nil, usagef("--script: %w", err)
	}
	s, err := script.New(script.Config{Path: path, Args: args, Logger: a.reporter().logger(a.verbose)})
	if err != nil {
		return nil, usagef("--script: %w", err)
	}
	return &scripted{s, min(1+a.verbose, 3)}, nil
}

// A scripted machine is configured by a program after the model of vpnc-script.
type scripted struct {
	script   *script.Script
	logLevel int
}

var (
	_ system.Preparer    = (*scripted)(nil)
	_ system.Interrupted = (*scripted)(nil)
)

// Prepare implements system.Preparer.
func (s *scripted) Prepare(ctx context.Context, c system.Connection) error {
	return s.script.Run(ctx, script.PreInit, s.settings(c))
}

// Connect implements system.Configurator.
func (s *scripted) Connect(ctx context.Context, c system.Connection) error {
	return s.script.Run(ctx, script.Connect, s.settings(c))
}

// Reconnecting implements system.Interrupted.
func (s *scripted) Reconnecting(ctx context.Context, c system.Connection) error {
	return s.script.Run(ctx, script.AttemptReconnect, s.settings(c))
}

// Reconnect implements system.Configurator.
func (s *scripted) Reconnect(ctx context.Context, c system.Connection) error {
	return s.script.Run(ctx, script.Reconnect, s.settings(c))
}

// Disconnect implements system.Configurator.
func (s *scripted) Disconnect(ctx context.Context, c system.Connection) error {
	return s.script.Run(ctx, script.Disconnect, s.settings(c))
}

// settings are what a script is told. What the user includes and excludes looks to it as if the gateway did.
func (s *scripted) settings(c system.Connection) *script.Settings {
	t := &script.Settings{Device: c.Device}
	if c.Lease != nil {
		t = script.FromLease(c.Lease, c.Device)
	}
	t.LogLevel = s.logLevel
	if c.Gateway.IsValid() {
		t.Gateway = c.Gateway.Addr()
	}
	if c.MTU != 0 {
		t.MTU = c.MTU
	}
	t.LocalLAN = c.LocalLAN
	t.Include = append(t.Include[:len(t.Include):len(t.Include)], narrow(t.Include, c.User.Include)...)
	t.Exclude = append(t.Exclude[:len(t.Exclude):len(t.Exclude)], c.User.Exclude...)
	return t
}

// narrow returns those of more that change anything: a family without a network to include is in the tunnel as a whole.
func narrow(include, more []netip.Prefix) []netip.Prefix {
	var named [2]bool
	for _, p := range include {
		named[family(p)] = true
	}
	var list []netip.Prefix
	for _, p := range more {
		if named[family(p)] {
			list = append(list, p)
		}
	}
	return list
}

func family(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 0
	}
	return 1
}
