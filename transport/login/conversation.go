package login

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/wire"
)

// Bounds of a conversation. A person who mistypes stays far below them; a gateway that leads in circles does not.
const (
	maxRounds = 32 // documents answered
	maxHops   = 10 // redirections
	maxGroups = 5  // fresh starts with another group
	maxEmpty  = 3  // forms without questions, one after another
	maxDiffer = 3  // repetitions of a new password that differ from it
)

// Login logs in and returns the ticket for the tunnel. It closes every connection that it makes. The context bounds it as a
// whole, the prompts included. The errors match ErrLogin, ErrPrompt, ErrUntrusted, ErrRefused, ErrUnreachable, ErrProtocol
// or ErrUnsupported of package transport.
func Login(ctx context.Context, cfg *Config) (*Ticket, error) {
	t, conn, err := LoginConn(ctx, cfg)
	if conn != nil {
		_ = conn.Close() // the ticket is all that was wanted
	}
	return t, err
}

// LoginConn is like [Login], but leaves the connection open that the login ended on, so that the tunnel can be asked for
// without another handshake. The connection is one that Config.Client has made, and the caller closes it. It is nil if there is none, be
// it that the gateway has closed it or that it is not fit for a tunnel; and it may turn out to be closed when it is used.
func LoginConn(ctx context.Context, cfg *Config) (*Ticket, Conn, error) {
	a, err := newAgent(cfg)
	if err != nil {
		return nil, nil, err
	}
	c := &conversation{agent: a, prompter: cfg.Prompter, redirected: cfg.Redirected, version: cfg.Version, device: cfg.Device}
	if c.version == "" {
		c.version = c.userAgent[strings.LastIndexByte(c.userAgent, ' ')+1:]
	}
	if c.device.Platform == "" {
		c.device.Platform = Platform()
	}
	t, err := c.run(ctx)
	if err != nil || cfg.Client == nil || c.hasCert || c.conn == nil || c.br.Buffered() > 0 {
		c.hangUp()
		return t, nil, err
	}
	return t, c.conn, nil
}

// Platform returns what gateways call this system: linux, linux-64, win, mac-intel, android or apple-ios.
func Platform() string {
	switch runtime.GOOS {
	case "windows":
		return "win"
	case "darwin":
		return "mac-intel"
	case "ios":
		return "apple-ios"
	case "android":
		return "android"
	}
	if strings.Contains(runtime.GOARCH, "64") {
		return "linux-64"
	}
	return "linux"
}

// A conversation is one login from its first request to success or failure.
//
//	hello ── redirected ──► hello at the new host
//	  │  └── no XML ──► the same with GET, and URL-encoded replies from there on
//	  ▼
//	step: success ──► ticket
//	      certificate wanted ──► new connection that shows it, hello │ none ──► hello with client-cert-fail
//	      form of another group than wanted ──► hello with group-select
//	      form ──► ask the Prompter, post ──► step
type conversation struct {
	*agent
	prompter Prompter
	version  string
	device   wire.Device

	redirected func(to string) error // nil lets all pass

	legacy      bool // the gateway speaks forms without config-auth
	hops        int
	opaque      wire.Opaque
	sessionID   string
	token       string
	config      *wire.ClientConfig
	banner      string
	certAsked   bool   // a connection was made anew to show the certificate
	certFail    bool   // the gateway was told that there is no certificate
	group       string // the value of the chosen group
	groupText   string // its text, in case the value changes
	groupSelect string // what hello asks for
	groupTries  int
	empty       int
	answered    map[string]int // how often a form was answered
	at          *url.URL       // where the last document came from
}

func (c *conversation) run(ctx context.Context) (*Ticket, error) {
	doc, err := c.hello(ctx)
	for range maxRounds {
		if err != nil {
			return nil, err
		}
		if c.take(doc) {
			return c.ticket(doc)
		}
		doc, err = c.step(ctx, doc)
	}
	if err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %s asked %d times and came to no end", transport.ErrProtocol, c.name(), maxRounds)
}

// take stores what a document carries and reports whether the login has succeeded.
func (c *conversation) take(doc *wire.Document) bool {
	c.log.Debug("document", "gateway", c.name(), "document", doc.String())
	if doc.Opaque != "" {
		c.opaque = doc.Opaque
	}
	if doc.SessionID != "" {
		c.sessionID = doc.SessionID
	}
	if doc.SessionToken != "" {
		c.token = doc.SessionToken
	}
	if doc.Config != nil {
		c.config = doc.Config
	}
	if doc.Auth != nil {
		if b := doc.Auth.Banner.String(); b != "" {
			c.banner = b
		}
	}
	return doc.Succeeded() || doc.Kind == wire.KindComplete && c.cookie(cookieName) != ""
}

// cookieName is the cookie with the session token.
const cookieName = "webvpn"

func (c *conversation) ticket(doc *wire.Document) (*Ticket, error) {
	token := c.token
	if token == "" {
		token = c.cookie(cookieName)
	}
	if token == "" {
		return nil, fmt.Errorf("%w: %s says that the login succeeded but hands out neither session-token nor cookie", transport.ErrProtocol,
			c.name())
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`;,"`, r) }) {
		return nil, fmt.Errorf("%w: the session token of %s has characters that no cookie may have", transport.ErrProtocol, c.name())
	}
	t := &Ticket{
		Cookie:      transport.Secret(token),
		Host:        hostPort(c.url),
		Addr:        c.addr,
		URL:         c.url,
		Certificate: c.cert,
		Banner:      c.banner,
		Group:       c.group,
		WebVPNC:     c.cookie("webvpnc"),
		UserAgent:   c.userAgent,
		Opaque:      c.opaque,
		SessionID:   c.sessionID,
	}
	if doc.Auth != nil {
		t.Message = doc.Auth.Message.String()
	}
	if c.cert != nil {
		t.CertSHA256 = sha256.Sum256(c.cert.Raw)
	}
	if c.config != nil {
		t.DynamicInclude, t.DynamicExclude = c.config.DynamicSplit()
		if c.config.ProfileURI != "" {
			t.setProfile(c.config.ProfileURI, c.config.ProfileHash)
		}
	}
	if t.ProfileURI == nil && t.WebVPNC != "" {
		if w, err := wire.ParseWebVPNC(t.WebVPNC); err == nil && w.Profile != "" {
			t.setProfile(w.ProfilePath(), w.ProfileHash)
		}
	}
	c.log.Debug("logged in", "gateway", t.Host, "address", t.Addr)
	return t, nil
}

// setProfile stores where the profile is, if that is on the same host.
func (t *Ticket) setProfile(ref, hash string) {
	root := &url.URL{Scheme: "https", Host: t.URL.Host, Path: "/"}
	u, err := root.Parse(ref)
	if err == nil && u.Scheme == "https" && hostPort(u) == hostPort(root) {
		t.ProfileURI, t.ProfileHash = u, hash
	}
}

// hello starts the dialogue, at the current host, with the current group.
func (c *conversation) hello(ctx context.Context) (*wire.Document, error) {
	for !c.legacy {
		doc := &wire.Document{
			Kind:           wire.KindInit,
			Version:        c.version,
			Device:         c.device,
			GroupAccess:    "https://" + c.name() + c.url.EscapedPath(),
			GroupSelect:    c.groupSelect,
			ClientCertFail: c.certFail,
		}
		c.at = c.url
		r, err := c.postXML(ctx, c.url, doc)
		if err != nil {
			return nil, err
		}
		if to, err := c.redirection(c.url, r); err != nil {
			return nil, err
		} else if to != nil {
			if hostPort(to) != hostPort(c.url) {
				c.turn(to)
				continue
			}
			c.fallBack("it redirects to another path")
			break
		}
		if r.status == http.StatusOK {
			doc, err := wire.ParseDocument(r.body)
			if err == nil {
				return doc, nil
			}
			if errors.Is(err, wire.ErrTooLarge) {
				return nil, c.unreadable(err)
			}
			c.fallBack(err.Error())
			break
		}
		if err := c.refusal(r, false); err != nil {
			return nil, err
		}
		c.fallBack(r.text())
	}
	return c.get(ctx, c.url)
}

// turn goes on at another host, where nothing of the old one counts.
func (c *conversation) turn(to *url.URL) {
	c.log.Info("redirected", "from", c.name(), "to", hostPort(to))
	c.moveTo(to)
	c.opaque, c.token, c.sessionID, c.config = "", "", "", nil
	c.certAsked, c.certFail, c.legacy = false, false, false
}

func (c *conversation) fallBack(why string) {
	c.log.Info("the gateway does not take XML, going on with plain forms", "gateway", c.name(), "why", why)
	c.hangUp()
	c.legacy = true
}

// get fetches a form in the older way.
func (c *conversation) get(ctx context.Context, target *url.URL) (*wire.Document, error) {
	for {
		c.at = target
		r, err := c.send(ctx, http.MethodGet, target, "", nil)
		if err != nil {
			return nil, err
		}
		to, err := c.redirection(target, r)
		if err != nil {
			return nil, err
		}
		switch {
		case to == nil:
			return c.document(r, len(c.answered) > 0)
		case hostPort(to) != hostPort(c.url):
			c.turn(to)
			return c.hello(ctx)
		}
		target = to
	}
}

// redirection returns where a reply leads, or nil.
func (c *conversation) redirection(from *url.URL, r *reply) (*url.URL, error) {
	location := r.header.Get("Location")
	if r.status/100 != 3 || location == "" {
		return nil, nil
	}
	if c.hops++; c.hops > maxHops {
		return nil, fmt.Errorf("%w: %s redirects more than %d times", transport.ErrProtocol, c.name(), maxHops)
	}
	to, err := c.resolve(from, location)
	if err == nil && c.redirected != nil && hostPort(to) != hostPort(c.url) {
		if err = c.redirected(hostPort(to)); err != nil {
			return nil, fmt.Errorf("%s redirects to %s: %w", c.name(), hostPort(to), err)
		}
	}
	return to, err
}

// document makes a document of a reply that should have one.
func (c *conversation) document(r *reply, answered bool) (*wire.Document, error) {
	if r.status != http.StatusOK {
		if err := c.refusal(r, answered); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %s answers %s; is it an AnyConnect gateway, and %.100q the right path?", transport.ErrProtocol, c.name(),
			r.text(), c.at.Path)
	}
	doc, err := wire.ParseDocument(r.body)
	switch {
	case err == nil:
		if doc.Legacy && c.cookie(cookieName) != "" && doc.Auth.Form == nil {
			doc.Kind = wire.KindComplete
		}
		return doc, nil
	case answered && c.cookie(cookieName) != "" && !errors.Is(err, wire.ErrTooLarge):
		// Old gateways show their web portal now; the cookie is what counts.
		return &wire.Document{Kind: wire.KindComplete, Legacy: true}, nil
	}
	return nil, c.unreadable(err)
}

func (c *conversation) unreadable(err error) error {
	return fmt.Errorf("%w: what %s answers at %.100q is no login form (%w); is it an AnyConnect gateway, and the path right?",
		transport.ErrProtocol, c.name(), c.at.Path, err)
}

// refusal returns the error that a status means for sure, or nil.
func (c *conversation) refusal(r *reply, answered bool) error {
	retry := ""
	if s := r.header.Get("Retry-After"); s != "" {
		retry = fmt.Sprintf("; it says to try again after %.40q", s)
	}
	switch r.status {
	case http.StatusUnauthorized:
		if scheme := r.header.Get("WWW-Authenticate"); scheme != "" {
			scheme, _, _ = strings.Cut(scheme, " ")
			return fmt.Errorf("%w: %s wants the HTTP authentication %.40q (%s); if it hides behind a secret, the URL must hold it",
				transport.ErrUnsupported, c.name(), scheme, r.text())
		}
		if answered {
			return fmt.Errorf("%w: %s does not accept the user name, password or certificate (%s)", transport.ErrLogin, c.name(), r.text())
		}
		return fmt.Errorf("%w: %s denies access before asking anything (%s); it may want a client certificate", transport.ErrLogin,
			c.name(), r.text())
	case http.StatusForbidden:
		if answered {
			return fmt.Errorf("%w: %s forbids the login (%s)", transport.ErrLogin, c.name(), r.text())
		}
		return fmt.Errorf("%w: %s forbids access before asking anything (%s); it may dislike the user agent %q or this address",
			transport.ErrRefused, c.name(), r.text(), c.userAgent)
	case http.StatusTooManyRequests:
		return fmt.Errorf("%w: %s is locked for now after too many logins (%s)%s", transport.ErrRefused, c.name(), r.text(), retry)
	case http.StatusServiceUnavailable:
		return fmt.Errorf("%w: %s has no room or is down (%s)%s", transport.ErrRefused, c.name(), r.text(), retry)
	}
	return nil
}

// text returns the status of the reply as it came.
func (r *reply) text() string {
	return fmt.Sprintf("%d %.100q", r.status, r.reason)
}

func (c *conversation) postXML(ctx context.Context, target *url.URL, doc *wire.Document) (*reply, error) {
	return c.send(ctx, http.MethodPost, target, "application/xml; charset=utf-8", doc.Append(nil), wire.Value{Name: "X-Aggregate-Auth", Value: "1"})
}

// step answers a document that is not yet the last.
func (c *conversation) step(ctx context.Context, doc *wire.Document) (*wire.Document, error) {
	a := doc.Auth
	switch {
	case doc.ClientCertRequest:
		return c.showCertificate(ctx)
	case doc.MultipleCertRequest != nil:
		return nil, fmt.Errorf("%w: %s demands a second, signing certificate (multiple-client-cert-request)", transport.ErrUnsupported, c.name())
	case doc.HostScan != nil && doc.HostScan.Ticket != "" && doc.HostScan.Token != "":
		return nil, fmt.Errorf("%w: %s demands an examination of this machine (HostScan, Cisco Secure Desktop)", transport.ErrUnsupported, c.name())
	case a == nil || a.ID == "" && a.Form == nil && a.Error == (wire.Text{}):
		return nil, fmt.Errorf("%w: %s answers with a document (%s) that asks nothing", transport.ErrProtocol, c.name(), doc)
	case a.SSO != nil && a.SSO.Login != "" || a.Form != nil && wantsSSO(a.Form):
		return nil, fmt.Errorf("%w: %s demands a login with a browser (SAML single sign-on); another group may take a password",
			transport.ErrUnsupported, c.name())
	case a.AuthenticationComplete:
		if c.empty++; c.empty > maxEmpty {
			return nil, c.circles()
		}
		return c.post(ctx, doc, nil, "")
	case a.Form == nil && a.Error != (wire.Text{}):
		return nil, fmt.Errorf("%w: %s says %.400q", transport.ErrLogin, c.name(), a.Error.String())
	case a.Form == nil:
		return nil, fmt.Errorf("%w: %s asks nothing and says %.400q", transport.ErrProtocol, c.name(), a.Message.String())
	}
	return c.answer(ctx, doc)
}

func wantsSSO(f *wire.Form) bool {
	for i := range f.Fields {
		if f.Fields[i].Type == wire.InputSSO {
			return true
		}
	}
	return false
}

func (c *conversation) circles() error {
	return fmt.Errorf("%w: %s leads in circles", transport.ErrProtocol, c.name())
}

// showCertificate meets the demand for a client certificate: with one, if there is one, on a connection of its own, since
// that may be the first in which the gateway asks for it.
func (c *conversation) showCertificate(ctx context.Context) (*wire.Document, error) {
	switch {
	case c.hasCert && !c.certAsked:
		c.certAsked = true
		c.hangUp()
	case !c.certFail:
		c.certFail = true
	case c.hasCert:
		return nil, fmt.Errorf("%w: %s does not accept the client certificate", transport.ErrLogin, c.name())
	default:
		return nil, fmt.Errorf("%w: %s demands a client certificate and none is configured", transport.ErrLogin, c.name())
	}
	return c.hello(ctx)
}

// post sends the answers to the form in doc. Group is empty if the form has no choice of it.
func (c *conversation) post(ctx context.Context, doc *wire.Document, values []wire.Value, group string) (*wire.Document, error) {
	action := ""
	if f := doc.Auth.Form; f != nil {
		action = f.Action
	}
	target, err := c.resolve(c.at, action)
	if err != nil {
		return nil, err
	}
	if hostPort(target) != hostPort(c.url) {
		return nil, fmt.Errorf("%w: the form of %s wants its answers sent to %s, and credentials do not go elsewhere", transport.ErrProtocol,
			c.name(), hostPort(target))
	}
	if doc.Legacy && group != "" {
		values = append(values, wire.Value{Name: wire.FieldGroup, Value: group})
	}
	for {
		c.at = target
		var r *reply
		if doc.Legacy {
			r, err = c.send(ctx, http.MethodPost, target, "application/x-www-form-urlencoded", wire.AppendValues(nil, values))
		} else {
			r, err = c.postXML(ctx, target, &wire.Document{
				Kind:        wire.KindAuthReply,
				Version:     c.version,
				Device:      c.device,
				Opaque:      c.opaque,
				Auth:        &wire.Auth{Values: values},
				GroupSelect: group,
			})
		}
		if err != nil {
			return nil, err
		}
		to, err := c.redirection(target, r)
		switch {
		case err != nil:
			return nil, err
		case to == nil:
			return c.document(r, true)
		case hostPort(to) != hostPort(c.url):
			c.turn(to)
			return c.hello(ctx)
		case doc.Legacy:
			return c.get(ctx, to)
		}
		target = to
	}
}

// Logout tells the gateway that the session of t is over, so that the cookie is worth nothing any more. It is a courtesy for
// sessions without a tunnel: ending the tunnel with a disconnect says the same. Some gateways ignore it, so that a nil error
// promises nothing. Of cfg it uses TLS, DialContext, RequestTimeout and Logger.
func Logout(ctx context.Context, cfg *Config, t *Ticket) error {
	moved := *cfg
	moved.URL = &url.URL{Scheme: "https", Host: t.Host, Path: "/"}
	moved.UserAgent = t.UserAgent
	if cfg.TLS != nil && cfg.URL != nil && hostPort(cfg.URL) != t.Host {
		moved.TLS = cfg.TLS.Clone()
		moved.TLS.ServerName = "" // it is of the host that the login was redirected from
	}
	a, err := newAgent(&moved)
	if err != nil {
		return err
	}
	defer a.hangUp()
	if t.Addr.IsValid() && cfg.DialContext == nil {
		dial := a.dial
		a.dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dial(ctx, network, t.Addr.String())
		}
	}
	a.jar = []wire.Value{{Name: cookieName, Value: t.Cookie.Reveal()}}
	doc := &wire.Document{Kind: wire.KindLogout, SessionID: t.SessionID, SessionToken: t.Cookie.Reveal()}
	r, err := a.send(ctx, http.MethodPost, a.url, "application/xml; charset=utf-8", doc.Append(nil), wire.Value{Name: "X-Aggregate-Auth", Value: "1"})
	if err != nil {
		return err
	}
	if r.status >= http.StatusInternalServerError {
		return fmt.Errorf("%w: %s answers the logout with %s", transport.ErrProtocol, a.name(), r.text())
	}
	return nil
}
