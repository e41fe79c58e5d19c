package main

import (
	"context"
	"crypto"
	"crypto/tls"
	"sync"
	"time"

	"github.com/youmark/pkcs8"

	"culvert.example/vpn/host/certificates"
	"culvert.example/vpn/policy/certificate"
	"culvert.example/vpn/policy/document"
)

// identify returns what finds and opens the client certificate that the documents choose, once a gateway asks for one.
func (c *clientFlags) identify(ctx context.Context, a *app, ask *asker) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	open := sync.OnceValues(func() (*tls.Certificate, error) {
		choice, identities := c.candidates(a)
		if choice.Chosen < 0 {
			if err := choice.Err(); err != nil {
				a.reporter().warn("%s", oneLine(err.Error()))
			} else if choice.Ask {
				a.reporter().warn("the gateway asks for a client certificate, and %d would do (%s): name one with --certificate FILE", len(choice.Accepted), oneLine(choice.Reason))
			}
			return &tls.Certificate{}, nil
		}
		chosen := choice.Accepted[choice.Chosen]
		if e := certificate.ExpiryOf(chosen.Certificate, c.plan.Certificates.WarnDays, time.Now()); e.Warn {
			a.reporter().warn("the client certificate %s %s", oneLine(chosen.Place), e)
		}
		cert, err := identities[chosen.Index].Certificate(certificates.Unlock{
			Password: func(of string) (string, error) {
				if c.keyPasswordFile != "" {
					return firstLine(c.keyPasswordFile)
				}
				return ask.secret(ctx, "Passphrase of "+of)
			},
			PKCS8: func(der []byte, password string) (crypto.PrivateKey, error) {
				return pkcs8.ParsePKCS8PrivateKey(der, []byte(password))
			},
		})
		return &cert, err
	})
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return open() }
}

// candidates chooses among the client certificates of this machine. The identities are those that the Index of a verdict counts.
func (c *clientFlags) candidates(a *app) (certificate.Choice, []*certificates.Identity) {
	var candidates []certificate.Candidate
	var identities []*certificates.Identity
	options := certificates.Options{Getenv: a.getenv, Root: c.documents.root}
	if c.documents.machine {
		options.ReadMachine = func(path string) ([]byte, error) { return document.ReadFile(path, true) }
	}
	for _, s := range c.plan.Certificates.Stores {
		for _, id := range certificates.Open(certificates.Kind(s.Kind), options).Identities {
			candidate := certificate.Candidate{Certificate: id.Chain[0], Store: s.Kind, Place: place(id.Path, id.Label), Excluded: s.Clients.Refusal()}
			if id.NoKey != nil {
				candidate.NoKey = id.NoKey.Error()
			}
			candidates, identities = append(candidates, candidate), append(identities, id)
		}
	}
	return certificate.Choose(candidates, c.plan.Certificates.Rules, time.Now()), identities
}
