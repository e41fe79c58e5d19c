package main

import (
	"context"
	"crypto"
	"crypto/tls"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/youmark/pkcs8"

	"culvert.example/vpn/host/certificates"
	"culvert.example/vpn/policy/certificate"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/transport/login"
)

// A wallet has the client certificate that gateways of a profile get when they ask for one.
type wallet struct {
	mu     sync.Mutex
	opened *tls.Certificate // kept, so that nobody is asked for its passphrase again
}

// open returns the certificate for a gateway, which is an empty one if the plan lets none be used. Ask answers which one is meant,
// if the plan leaves that to the user, and the passphrase of its key; tell gets what the user should know.
func (w *wallet) open(ctx context.Context, allowed plan.Certificates, ask login.Prompter, tell func(string)) (*tls.Certificate, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.opened != nil {
		return w.opened, nil
	}
	var candidates []certificate.Candidate
	var identities []*certificates.Identity
	for _, s := range allowed.Stores {
		for _, id := range certificates.Open(certificates.Kind(s.Kind), certificates.Options{Getenv: os.Getenv}).Identities {
			c := certificate.Candidate{Certificate: id.Chain[0], Store: s.Kind, Place: id.Path, Excluded: s.Clients.Refusal()}
			if id.NoKey != nil {
				c.NoKey = id.NoKey.Error()
			}
			candidates, identities = append(candidates, c), append(identities, id)
		}
	}
	choice := certificate.Choose(candidates, allowed.Rules, time.Now())
	if choice.Ask {
		var err error
		if choice.Chosen, err = choose(ctx, ask, choice.Accepted); err != nil {
			return nil, err
		}
	}
	if choice.Chosen < 0 {
		if err := choice.Err(); err != nil {
			tell(line(err.Error()))
		}
		return &tls.Certificate{}, nil
	}
	chosen := choice.Accepted[choice.Chosen]
	if e := certificate.ExpiryOf(chosen.Certificate, allowed.WarnDays, time.Now()); e.Warn {
		tell("The client certificate " + line(chosen.Certificate.Subject.String()) + " " + e.String() + ".")
	}
	c, err := identities[chosen.Index].Certificate(certificates.Unlock{
		Password: func(of string) (string, error) {
			f := &login.Form{Title: "Your certificate", Fields: []login.Field{{Name: "passphrase", Label: "Passphrase of " + of, Kind: login.Password}}}
			err := ask.Answer(ctx, f)
			return f.Fields[0].Value.Reveal(), err
		},
		PKCS8: func(der []byte, password string) (crypto.PrivateKey, error) {
			return pkcs8.ParsePKCS8PrivateKey(der, []byte(password))
		},
	})
	if err != nil {
		return nil, err
	}
	w.opened = &c
	return w.opened, nil
}

// choose asks which of the certificates is meant.
func choose(ctx context.Context, ask login.Prompter, list []certificate.Verdict) (int, error) {
	field := login.Field{Name: "certificate", Label: "Certificate", Kind: login.Choice, Value: "0"}
	for i, v := range list {
		text := fmt.Sprintf("%s, by %s, until %s", v.Certificate.Subject, v.Certificate.Issuer, v.Certificate.NotAfter.Format(time.DateOnly))
		field.Options = append(field.Options, login.Option{Value: strconv.Itoa(i), Text: line(text)})
	}
	f := &login.Form{Title: "Which certificate shall the gateway get?", Fields: []login.Field{field}}
	if err := ask.Answer(ctx, f); err != nil {
		return -1, err
	}
	i, err := strconv.Atoi(f.Fields[0].Value.Reveal())
	if err != nil || i < 0 || i >= len(list) {
		return -1, fmt.Errorf("%w: no certificate was chosen", login.ErrCannot)
	}
	return i, nil
}
