package main

import (
	"crypto/tls"
	"fmt"
	"runtime"

	"culvert.example/vpn"
	"culvert.example/vpn/host/certificates"
	"culvert.example/vpn/policy/certificate"
	"culvert.example/vpn/policy/decision"
	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/transport/trust"
	"culvert.example/vpn/transport/upstream"
)

// planFlags checks what the user has said on the command line against the documents, and says what they want where the flags leave it
// open. It must be called before clientFlags.vpnConfig.
func planFlags(p *plan.Plan, c *clientFlags) error {
	if err := p.CheckTrust(len(c.servercert) > 0, c.cafile != ""); err != nil {
		return err
	}
	locked := func(path string) bool {
		v, ok := p.Effective.Get(path)
		return ok && p.Profile != nil && !v.UserControllable
	}
	s := &c.upstream.sources
	s.Mode, s.Public = upstream.Mode(p.Proxy.Choice), p.Proxy.Public
	s.Locked, s.PublicLocked = locked("ProxySettings"), locked("ProxySettings/PublicProxyServerAddress")
	// Without a profile the feature is off, so that nothing on this machine is found and used; whoever names a proxy means it.
	s.NoLocal = !p.Proxy.AllowLocal && (p.Profile != nil || c.upstream.proxy == "")
	return nil
}

// planConfig makes the configuration of a tunnel, as clientFlags.vpnConfig has made it, what the documents want for all gateways: TLS,
// DTLS, and who decides about flows, which is the plan. It leaves it to clientFlags.trusted which gateway is accepted, and sets the
// verifier for that: which authorities vouch and what is distrusted. It returns what could not be read of the stores, which keeps
// nothing from working.
func (a *app) planConfig(p *plan.Plan, f *documentFlags, c *clientFlags, cfg *vpn.Config) ([]error, error) {
	options := certificates.Options{Getenv: a.getenv, Root: f.root}
	if f.machine && !f.lenient {
		options.ReadMachine = func(path string) ([]byte, error) { return document.ReadFile(path, true) }
	}
	var vouching []*certificates.Store
	var problems []error
	for _, s := range p.Certificates.Stores {
		if !s.Servers.Allowed {
			continue
		}
		store := certificates.Open(certificates.Kind(s.Kind), options)
		problems = append(problems, store.Problems...)
		vouching = append(vouching, store)
	}
	c.verifier = &certificate.Verifier{Distrusts: certificates.Distrusts(vouching...)}
	if c.cafile == "" && !c.noSystemTrust {
		var err error
		if c.verifier.Roots, err = certificates.Pool(vouching...); err != nil {
			return problems, fmt.Errorf("the certificate stores of %s: %w", runtime.GOOS, err)
		}
	}
	cfg.TLS = p.TLS.Config(cfg.TLS)
	if p.NoDTLS {
		cfg.NoDTLS = true
	}
	d := decision.NewDecider("")
	// The routes are the business of the tunnel, which asks the decider before it looks at them.
	d.Set(decision.Inputs{Plan: p})
	cfg.Policy = d
	return problems, nil
}

// trusted returns the TLS configuration by which a gateway is accepted that has one of the pins, and trust is needed for as well.
func (c *clientFlags) trusted(cfg *tls.Config, pins *certificate.Pins) (*tls.Config, error) {
	if c.verifier == nil {
		return cfg, nil
	}
	v := *c.verifier
	v.Pins = pins
	return v.Config(cfg)
}

// prober returns the TLS configuration for questions that tell a gateway nothing: any of those that are trusted may answer.
func (c *clientFlags) prober() (*tls.Config, error) {
	cfg := c.base.TLS
	if c.plan != nil {
		var err error
		if cfg, err = c.trusted(cfg, c.plan.AnyPins()); err != nil {
			return nil, err
		}
	}
	return trust.Config(cfg, trust.Pins(c.servercert))
}
