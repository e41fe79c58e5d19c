package main

import (
	"context"
	"net"
	"time"

	"culvert.example/vpn/policy/network/portal"
)

// portalPatience is how long a command that has failed anyhow looks for a captive portal.
const portalPatience = 2 * time.Second

// A portalError is that of a gateway that cannot be reached, or that somebody else answers for, since a captive portal lies before it.
type portalError struct {
	error
	url string // the page of the portal, or ""
}

// Error implements error.
func (e *portalError) Error() string {
	return plainText(e.error) + "; a captive portal lies before the gateway" + orNothing(", at ", oneLine(e.url))
}

// Unwrap returns what has failed.
func (e *portalError) Unwrap() error { return e.error }

// behindPortal finds out whether a captive portal is why the gateway that was located last has failed, and says so in the error. The
// gateway itself is asked, and nobody else.
func (c *clientFlags) behindPortal(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), err error) error {
	if code := codeOf(err); err == nil || code != exitUnreachable && code != exitUntrusted || c.upstream.dialer != nil {
		return err
	}
	if c.plan != nil {
		if v, _ := c.plan.Effective.Get("DisableCaptivePortalDetection"); v.Value == "true" {
			return err
		}
	}
	cfg, cfgErr := c.prober()
	if cfgErr != nil {
		return err
	}
	p := &portal.Prober{Dial: dial, TLS: cfg, Timeout: portalPatience}
	if r := p.Ask(ctx, []string{gatewayAddress(c.upstream.gateway)}); r.Verdict == portal.Portal {
		return &portalError{err, r.URL}
	}
	return err
}
