package main

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/youmark/pkcs8"

	"culvert.example/vpn/host/certificates"
	"culvert.example/vpn/policy/certificate"
	"culvert.example/vpn/policy/document"
	"culvert.example/vpn/transport/login"
)

// identify returns what finds and opens the client certificate that the documents choose, once a gateway asks for one.
func (c *clientFlags) identify(ctx context.Context, a *app, ask *asker) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	open := sync.OnceValues(func() (*tls.Certificate, error) {
		choice, identities := c.candidates(a)
		if choice.Ask {
			var err error
			if choice.Chosen, err = ask.certificate(ctx, choice.Accepted); errors.Is(err, login.ErrCannot) {
				a.reporter().warn("the gateway asks for a client certificate, and %d would do (%s): name one with --certificate FILE, or choose one at a terminal",
					len(choice.Accepted), oneLine(choice.Reason))
			} else if err != nil {
				return nil, err
			}
		}
		if choice.Chosen < 0 {
			if err := choice.Err(); err != nil {
				a.reporter().warn("%s", oneLine(err.Error()))
			}
			return &tls.Certificate{}, nil
		}
		chosen := choice.Accepted[choice.Chosen]
		if choice.Ask {
			sum := sha256.Sum256(chosen.Certificate.Raw)
			c.thumbprint = hex.EncodeToString(sum[:])
		}
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

// certificate asks a person which of the certificates the gateway is to get. The error matches login.ErrCannot if there is nobody to
// ask.
func (p *asker) certificate(ctx context.Context, list []certificate.Verdict) (int, error) {
	if p.person == nil || p.alone.Load() {
		return -1, login.ErrCannot
	}
	field := login.Field{Name: "certificate", Label: "Certificate", Kind: login.Choice, Value: "0"}
	for i, v := range list {
		text := fmt.Sprintf("%s, by %s, until %s, in %s", v.Certificate.Subject, v.Certificate.Issuer, v.Certificate.NotAfter.Format(time.DateOnly), v.Place)
		field.Options = append(field.Options, login.Option{Value: strconv.Itoa(i), Text: oneLine(text)})
	}
	f := &login.Form{Gateway: "this machine", Title: "Which certificate shall the gateway get?", Attempt: 1, Fields: []login.Field{field}}
	if err := p.person.Answer(ctx, f); err != nil {
		return -1, err
	}
	i, err := strconv.Atoi(f.Fields[0].Value.Reveal())
	if err != nil || i < 0 || i >= len(list) {
		return -1, login.ErrCannot
	}
	return i, nil
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
