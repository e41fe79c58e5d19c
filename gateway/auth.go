package gateway

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
)

// An Authenticator decides who may log in. It may be called by several goroutines at once, and may take its time.
//
// If it is a [Grouper] too, users may choose only groups that they are in; users without any group may choose all.
type Authenticator interface {
	// Authenticate judges the forms answered so far, and returns the next form to ask or the user who has logged in.
	// It is called with no forms to begin with. An error that matches [transport.ErrLogin] says that the answers are
	// wrong, and the login begins again; any other error is the gateway's own trouble, and is only logged. Neither text is
	// shown to the user, except that of a [Refusal]. PeerOf(ctx) tells who is asking.
	Authenticate(ctx context.Context, answered []login.Form) (next *login.Form, user string, err error)
}

// A Refusal is an error of an [Authenticator] whose text the user may see. It matches transport.ErrLogin.
type Refusal struct {
	// Text is for the user, such as "Your account has expired."
	Text string
}

// Error implements error.
func (r *Refusal) Error() string { return r.Text }

// Is reports whether target is transport.ErrLogin.
func (r *Refusal) Is(target error) bool { return target == transport.ErrLogin }

// A Grouper knows the groups of users.
type Grouper interface {
	Groups(user string) []string
}

// A Verifier judges passwords. It may be called by several goroutines at once.
type Verifier interface {
	// Verify returns nil if the user has the password, an error matching [transport.ErrLogin] if not, and another error
	// if it cannot tell.
	Verify(ctx context.Context, user, password string) error
}

// A VerifierFunc is a function as a Verifier.
type VerifierFunc func(ctx context.Context, user, password string) error

// Verify calls f.
func (f VerifierFunc) Verify(ctx context.Context, user, password string) error {
	return f(ctx, user, password)
}

// A Peer is what is known about a client that is logging in.
type Peer struct {
	// Addr is where the connection comes from.
	Addr netip.AddrPort
	// Certificates is the verified chain of the client's certificate, leaf first; nil if there is none.
	Certificates []*x509.Certificate
	// Group is the chosen group, empty if there are no groups.
	Group string
	// UserAgent is the name of the client program.
	UserAgent string
}

type peerKey struct{}

// PeerOf returns the client on whose behalf an [Authenticator] is called.
func PeerOf(ctx context.Context) Peer {
	p, _ := ctx.Value(peerKey{}).(Peer)
	return p
}

// Names of the fields of forms, as all clients know them.
const (
	fieldUser     = "username"
	fieldPassword = "password"
)

// errWrong says no more than it must to somebody who guesses.
var errWrong = fmt.Errorf("%w: wrong user name or password", transport.ErrLogin)

// Passwords asks for user name and password on one page and has v judge them. If v is a [Grouper], so is the result.
func Passwords(v Verifier) Authenticator { return passwords{v} }

type passwords struct{ v Verifier }

func (p passwords) Authenticate(ctx context.Context, answered []login.Form) (*login.Form, string, error) {
	if len(answered) == 0 {
		return &login.Form{
			ID:      "main",
			Title:   "Login",
			Message: "Please enter your username and password.",
			Fields: []login.Field{
				{Name: fieldUser, Label: "Username:", Kind: login.Text},
				{Name: fieldPassword, Label: "Password:", Kind: login.Password},
			},
		}, "", nil
	}
	user, password := answer(answered[0], fieldUser), answer(answered[0], fieldPassword)
	// To a directory a name without a password is a question that it answers with yes (RFC 4513 section 5.1.2).
	if user == "" || password == "" {
		return nil, "", errWrong
	}
	if err := p.v.Verify(ctx, user, password); err != nil {
		return nil, "", err
	}
	return nil, user, nil
}

// Groups implements Grouper.
func (p passwords) Groups(user string) []string { return groupsOf(p.v, user) }

func groupsOf(v any, user string) []string {
	if g, ok := v.(Grouper); ok {
		return g.Groups(user)
	}
	return nil
}

func answer(f login.Form, name string) string {
	if field := f.Field(name); field != nil {
		return field.Value.Reveal()
	}
	return ""
}

// A CertificateName says which part of a client's certificate names the user.
type CertificateName uint8

const (
	// CommonName is the CN of the subject.
	CommonName CertificateName = iota
	// UserID is the UID of the subject (0.9.2342.19200300.100.1.1).
	UserID
	// Email is the first e-mail address among the alternative names.
	Email
	// DNSName is the first DNS name among the alternative names.
	DNSName
)

// Certificates takes the user from the client's certificate, which crypto/tls has verified by the ClientCAs of [Config.TLS].
type Certificates struct {
	// Name says where the user's name stands.
	Name CertificateName
	// And asks more after the certificate, such as a password; it must name the same user. Nil means that the certificate
	// is enough.
	And Authenticator
	// Or is for clients without a certificate. Nil means that they are refused.
	Or Authenticator
}

// Authenticate implements [Authenticator].
func (c Certificates) Authenticate(ctx context.Context, answered []login.Form) (*login.Form, string, error) {
	chain := PeerOf(ctx).Certificates
	if len(chain) == 0 {
		if c.Or != nil {
			return c.Or.Authenticate(ctx, answered)
		}
		return nil, "", &Refusal{"Certificate Validation Failure"}
	}
	owner := nameIn(chain[0], c.Name)
	if owner == "" {
		return nil, "", &Refusal{"Certificate Validation Failure"}
	}
	if c.And == nil {
		return nil, owner, nil
	}
	next, user, err := c.And.Authenticate(ctx, answered)
	switch {
	case err != nil:
		return nil, "", err
	case next == nil && user != owner:
		return nil, "", errWrong
	case next != nil:
		if f := next.Field(fieldUser); f != nil && f.Value == "" {
			f.Value = transport.Secret(owner)
		}
	}
	return next, user, nil
}

// Groups implements [Grouper].
func (c Certificates) Groups(user string) []string {
	if g := groupsOf(c.And, user); g != nil {
		return g
	}
	return groupsOf(c.Or, user)
}

func nameIn(cert *x509.Certificate, which CertificateName) string {
	switch which {
	case CommonName:
		return cert.Subject.CommonName
	case UserID:
		uid := asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}
		for _, n := range cert.Subject.Names {
			if s, ok := n.Value.(string); ok && n.Type.Equal(uid) {
				return s
			}
		}
	case Email:
		if len(cert.EmailAddresses) > 0 {
			return cert.EmailAddresses[0]
		}
	case DNSName:
		if len(cert.DNSNames) > 0 {
			return cert.DNSNames[0]
		}
	}
	return ""
}

// onePageEach asks for the password on a page of its own, under the same ID, as ocserv does.
type onePageEach struct{ Authenticator }

func (o onePageEach) Authenticate(ctx context.Context, answered []login.Form) (*login.Form, string, error) {
	if len(answered) >= 2 {
		whole := answered[0]
		whole.Fields = append(append([]login.Field(nil), whole.Fields...), answered[1].Fields...)
		return o.Authenticator.Authenticate(ctx, append([]login.Form{whole}, answered[2:]...))
	}
	next, user, err := o.Authenticator.Authenticate(ctx, nil)
	if err != nil || next == nil {
		return next, user, err
	}
	page := *next
	page.Fields = nil
	for _, f := range next.Fields {
		if (f.Kind == login.Password) == (len(answered) == 1) {
			page.Fields = append(page.Fields, f)
		}
	}
	if len(answered) == 1 {
		page.Message = "Please enter your password."
	} else {
		page.Message = "Please enter your username."
	}
	return &page, "", nil
}

// Groups implements Grouper.
func (o onePageEach) Groups(user string) []string { return groupsOf(o.Authenticator, user) }

// refusalText returns what the user may know about err.
func refusalText(err error) string {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Text
	}
	return "Login failed."
}
