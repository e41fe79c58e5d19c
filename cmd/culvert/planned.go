package main

import (
	"fmt"
	"runtime"

	"culvert.example/vpn"
	"culvert.example/vpn/host/certificates"
	"culvert.example/vpn/policy/certificate"
	"culvert.example/vpn/policy/decision"
	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/plan"
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

// planConfig makes the configuration of a tunnel, as clientFlags.vpnConfig has made it, what the documents want: which authorities
// vouch for the gateway and what is distrusted, pinned keys, TLS, DTLS, and who decides about flows. The decider gets the plan; who
// else has a say is for the caller to add. It returns what could not be read of the stores, which keeps nothing from working.
func (a *app) planConfig(p *plan.Plan, f *documentFlags, c *clientFlags, cfg *vpn.Config) (*decision.Decider, []error, error) {
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
	v := &certificate.Verifier{Distrusts: certificates.Distrusts(vouching...), Pins: p.Certificates.Pins}
	if c.cafile == "" && !c.noSystemTrust {
		var err error
		if v.Roots, err = certificates.Pool(vouching...); err != nil {
			return nil, problems, fmt.Errorf("the certificate stores of %s: %w", runtime.GOOS, err)
		}
	}
	checked, err := v.Config(p.TLS.Config(cfg.TLS))
	if err != nil {
		return nil, problems, err
	}
	cfg.TLS = checked
	if p.NoDTLS {
		cfg.NoDTLS = true
	}
	d := decision.NewDecider("")
	// The routes are the business of the tunnel, which asks the decider before it looks at them.
	d.Set(decision.Inputs{Plan: p})
	cfg.Policy = d
	return d, problems, nil
}
