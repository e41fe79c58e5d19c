package main

import (
	"context"
	"errors"
	"net"
	"runtime"

	"culvert.example/vpn"
	"culvert.example/vpn/policy/profile"
)

// each calls try with the gateway, and with its backups after it as long as those before cannot be reached. It must come after
// vpnConfig.
func (c *clientFlags) each(ctx context.Context, a *app, server string, try func(server string, cfg *vpn.Config) error) error {
	servers := []string{server}
	if c.plan != nil && c.plan.Listed {
		servers = c.plan.Servers
	}
	for i, next := range servers {
		err := c.one(a, next, try)
		if err == nil || i == len(servers)-1 || codeOf(err) != exitUnreachable {
			return c.behindPortal(ctx, nil, err)
		}
		a.reporter().warn("%s cannot be reached: %s", oneLine(next), oneLine(plainText(err)))
	}
	return nil
}

// one calls try with one gateway of the plan, or the one that was named.
func (c *clientFlags) one(a *app, server string, try func(server string, cfg *vpn.Config) error) error {
	var err error
	if c.plan != nil && c.plan.Listed {
		if server, err = listedURL(c.plan, server, ""); err != nil {
			return err
		}
	}
	if server, err = c.locate(server); err != nil {
		return err
	}
	cfg, err := c.reach(a)
	if err != nil {
		return err
	}
	a.reporter().say(event{Event: "tunnel", State: "connecting", Gateway: server}, "connecting to %s", oneLine(server))
	return c.blame(c.explained(a, try(server, cfg)))
}

// explained returns an error of a connection to a gateway as the refusal of a document that it is, if it is one.
func (c *clientFlags) explained(a *app, err error) error {
	if dns := (*net.DNSError)(nil); c.unlisted != "" && errors.As(err, &dns) {
		return &unlistedError{err, c.unlisted, profile.Directories(runtime.GOOS, profile.VPN, a.getenv, c.documents.root, c.documents.machine)}
	}
	if c.plan == nil || errors.Is(err, vpn.ErrLogin) {
		return err
	}
	return c.plan.TLS.Explain(err)
}
