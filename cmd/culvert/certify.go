package main

import (
	"context"
	"crypto"
	"crypto/tls"
	"sync"
	"time"

	"github.com/youmark/pkcs8"

	"culvert.example/vpn"
	"culvert.example/vpn/host/certificates"
	"culvert.example/vpn/policy/certificate"
	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/policy/plan"
)

// certify has a configuration trust gateways as the documents say, and identify itself with the certificate that they choose, unless
// the user has named one.
func (c *clientFlags) certify(ctx context.Context, a *app, cfg *vpn.Config, ask *asker) error {
	p := c.plan
	options := certificates.Options{Getenv: a.getenv, Root: c.documents.root}
	if options.Root == "" {
		// Below a root, the owners of files are not those of this machine.
		options.ReadMachine = func(path string) ([]byte, error) { return document.ReadFile(path, true) }
	}
	if err := certificate.CheckStores(p.Certificates.Stores); err != nil {
		return err
	}
	var vouch []*certificates.Store
	var candidates []certificate.Candidate
	var identities []*certificates.Identity
	for _, s := range p.Certificates.Stores {
		if !s.Servers.Allowed && !s.Clients.Allowed {
			continue
		}
		held := certificates.Open(certificates.Kind(s.Kind), options)
		for _, problem := range held.Problems {
			a.reporter().warn("certificates: %s", oneLine(problem.Error()))
		}
		if s.Servers.Allowed && !(c.noSystemTrust && s.Kind == certificate.System) {
			vouch = append(vouch, held)
		}
		for _, id := range held.Identities {
			candidate := certificate.Candidate{Certificate: id.Chain[0], Store: s.Kind, Place: place(id.Path, id.Label), Excluded: s.Clients.Refusal()}
			if id.NoKey != nil {
				candidate.NoKey = id.NoKey.Error()
			}
			candidates, identities = append(candidates, candidate), append(identities, id)
		}
	}
	roots, err := certificates.Pool(vouch...)
	if err != nil {
		return err
	}
	if c.cafile != "" {
		b, err := readSmall(c.cafile)
		if err != nil {
			return asUsage(err)
		}
		roots.AppendCertsFromPEM(b)
	}
	verifier := certificate.Verifier{Roots: roots, Distrusts: certificates.Distrusts(vouch...), Pins: p.Certificates.Pins}
	if cfg.TLS, err = verifier.Config(cfg.TLS); err != nil {
		return err
	}
	if c.certificate != "" {
		return nil
	}
	choice := certificate.Choose(candidates, p.Certificates.Rules, time.Now())
	cfg.TLS.GetClientCertificate = c.identify(ctx, a, p, ask, choice, identities)
	return nil
}

// identify returns what opens the client certificate that was chosen, once a gateway asks for one.
func (c *clientFlags) identify(ctx context.Context, a *app, p *plan.Plan, ask *asker, choice certificate.Choice, identities []*certificates.Identity) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	open := sync.OnceValues(func() (*tls.Certificate, error) {
		if choice.Chosen < 0 {
			if err := choice.Err(); err != nil {
				a.reporter().warn("%s", oneLine(err.Error()))
			} else if choice.Ask {
				a.reporter().warn("the gateway wants a client certificate, and %d would do (%s): name one with --certificate FILE", len(choice.Accepted), oneLine(choice.Reason))
			}
			return &tls.Certificate{}, nil
		}
		chosen := choice.Accepted[choice.Chosen]
		if e := certificate.ExpiryOf(chosen.Certificate, p.Certificates.WarnDays, time.Now()); e.Warn {
			a.reporter().warn("the client certificate %s %s", oneLine(chosen.Place), e)
		}
		cert, err := identities[chosen.Index].Certificate(certificates.Unlock{
			Password: func(of string) (string, error) {
				if c.keyPasswordFile != "" {
					return firstLine(c.keyPasswordFile)
				}
				return ask.secret(ctx, "Passphrase of "+of)
			},
			PKCS8: unlockPKCS8,
		})
		return &cert, err
	})
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return open() }
}

// unlockPKCS8 decrypts a private key.
func unlockPKCS8(der []byte, password string) (crypto.PrivateKey, error) {
	return pkcs8.ParsePKCS8PrivateKey(der, []byte(password))
}
