package gateway

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/wire"
)

const (
	// maxBody bounds the body of a request, in bytes.
	maxBody = 256 << 10
	// maxHeader bounds the header of a request, in bytes.
	maxHeader = 16 << 10
	// maxAnswer bounds what is put into a field of a form, in bytes.
	maxAnswer = 4 << 10
	// formAction is where the answers to forms are posted.
	formAction = "/auth"
)

// emptyManifest is what all the downloads of an AnyConnect client are: nothing to install, nothing to translate.
const emptyManifest = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<vpn rev=\"1.0\">\n</vpn>\n"

// plainPage is for browsers, probes and the platform pages of the downloader.
const plainPage = "<!DOCTYPE html>\n<html><head><title>VPN</title></head><body><p>This is a VPN gateway.</p></body></html>\n"

// A portal is the web side of a Server: the login, and the files that clients expect to find.
type portal struct {
	srv      *Server
	throttle *throttle
	logins   *dialogues
}

// ServeHTTP implements http.Handler.
func (p *portal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Transcend-Version", "1")
	w.Header().Set("X-Frame-Options", "DENY")
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodConnect {
		p.srv.connect(w, r)
		return
	}
	path := r.URL.Path
	if r.Method == http.MethodPost {
		p.post(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	switch {
	case path == "/VPNManifest.xml", path == "/1/VPNManifest.xml", path == "/CACHE/stc/1/VPNManifest.xml",
		strings.HasPrefix(path, "/+CSCOT+/"):
		reply(w, "text/xml", emptyManifest)
	case path == "/1/binaries/update.txt", path == "/CACHE/stc/1/binaries/update.txt":
		reply(w, "text/plain", "0,0,0000\n")
	case path == "/1/binaries/vpndownloader.sh", path == "/CACHE/stc/1/binaries/vpndownloader.sh":
		reply(w, "application/x-shellscript", "#!/bin/sh\n\nexit 0\n")
	case path == "/logout":
		reply(w, "text/html", "")
	case path == "/1/index.html", path == "/1/Linux", path == "/1/Linux_64", path == "/1/Windows", path == "/1/Windows_ARM64",
		path == "/1/Darwin_i386":
		reply(w, "text/html", plainPage)
	case path == "/+CSCOE+/logon.html", path == "/+webvpn+/index.html", path == "/+webvpn+/webvpn_logout.html":
		http.Redirect(w, r, "/", http.StatusFound)
	case path == "/cert.pem", path == "/cert.cer", path == "/ca.pem", path == "/ca.cer":
		p.certificate(w, r, path)
	default:
		if _, _, ok := p.groupOfPath(path); !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		if !isClient(r) {
			reply(w, "text/html", plainPage)
			return
		}
		p.begin(w, r, &wire.Document{Kind: wire.KindInit, Legacy: true})
	}
}

// isClient tells a VPN client that wants the older login form from browsers and from the agents of clients that only see whether
// somebody is there: those close the connection, and must not begin a login.
func isClient(r *http.Request) bool {
	if r.Header.Get("X-Transcend-Version") != "" {
		return true
	}
	agent := strings.ToLower(r.UserAgent())
	return !r.Close && (strings.Contains(agent, "anyconnect") || strings.Contains(agent, "openconnect"))
}

func reply(w http.ResponseWriter, contentType, body string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	io.WriteString(w, body)
}

func (p *portal) certificate(w http.ResponseWriter, r *http.Request, path string) {
	chain := connOf(r.Context()).certificate()
	if len(chain) == 0 {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	der := chain[0]
	if strings.HasPrefix(path, "/ca.") {
		der = chain[len(chain)-1]
	}
	if strings.HasSuffix(path, ".pem") {
		reply(w, "application/x-pem-file", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
		return
	}
	reply(w, "application/pkix-cert", string(der))
}

func (p *portal) post(w http.ResponseWriter, r *http.Request) {
	if !p.linger(r.Context()) {
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			http.Error(w, "request too large", http.StatusRequestEntityTooLarge)
		}
		return
	}
	doc, err := wire.ParseRequest(body)
	if err != nil {
		p.srv.log.Debug("malformed request", "remote", r.RemoteAddr, "err", err)
		http.Error(w, "malformed request", http.StatusBadRequest)
		return
	}
	switch doc.Kind {
	case wire.KindLogout:
		cookie := doc.SessionToken
		if cookie == "" {
			cookie = cookieOf(r, "webvpn")
		}
		if s := p.srv.table.find(cookie); cookie != "" && s != nil {
			s.end("logout")
		}
		reply(w, "text/html", "")
	case wire.KindInit:
		p.begin(w, r, doc)
	case wire.KindAuthReply:
		p.answer(w, r, doc)
	default:
		http.Error(w, "unexpected document", http.StatusBadRequest)
	}
}

// linger delays a slow login.
func (p *portal) linger(ctx context.Context) bool {
	return pause(ctx, p.srv.cfg.Quirks.LoginDelay)
}

func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// groupOfPath returns the group that a path names, and whether there is such a path. The paths / and /VPN name none.
func (p *portal) groupOfPath(path string) (g *Group, fixed, ok bool) {
	name := strings.Trim(path, "/")
	if name == "" || name == "VPN" || path == formAction {
		return nil, false, true
	}
	if g := p.srv.group(name); g != nil {
		return g, true, true
	}
	return nil, false, false
}

// begin starts a login.
func (p *portal) begin(w http.ResponseWriter, r *http.Request, doc *wire.Document) {
	g, fixed, ok := p.groupOfPath(r.URL.Path)
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if g == nil {
		g = p.srv.group(doc.GroupSelect)
	}
	if g == nil && len(p.srv.cfg.Groups) > 0 {
		g = &p.srv.cfg.Groups[0]
	}
	d := &dialogue{
		group: g, fixed: fixed, legacy: doc.Legacy || isV3(r), began: time.Now(), source: remoteOf(r).Addr(),
		platform: clip(doc.Device.Platform, 63), hostname: clip(doc.Device.ComputerName, 63),
	}
	if p.srv.cfg.Quirks.Server == likeASA {
		d.handle = rand.Text()
	}
	next, user, err := p.srv.auth.Authenticate(p.peer(r, d), nil)
	switch {
	case err != nil:
		p.refuse(w, r, d, err)
	case next == nil:
		p.welcome(w, r, d, user)
	default:
		d.asked = next
		if id, ok := p.logins.add(d); ok {
			d.id = id
			p.ask(w, r, d, next, "")
			return
		}
		http.Error(w, "too many logins", http.StatusServiceUnavailable)
	}
}

// isV3 tells the clients that know only the documents with root auth.
func isV3(r *http.Request) bool {
	return strings.HasPrefix(strings.ToLower(r.UserAgent()), "open anyconnect vpn agent v3")
}

func (p *portal) peer(r *http.Request, d *dialogue) context.Context {
	peer := Peer{Addr: remoteOf(r), UserAgent: clip(r.UserAgent(), 63)}
	if chains := connOf(r.Context()).state().VerifiedChains; len(chains) > 0 {
		peer.Certificates = chains[0]
	}
	if d.group != nil {
		peer.Group = d.group.Name
	}
	return context.WithValue(r.Context(), peerKey{}, peer)
}

// answer goes on with a login.
func (p *portal) answer(w http.ResponseWriter, r *http.Request, doc *wire.Document) {
	d := p.logins.get(cookieOf(r, "webvpncontext"))
	if d == nil {
		// Some clients keep no cookies, and answer the form that everybody gets first.
		d = &dialogue{legacy: doc.Legacy, began: time.Now(), source: remoteOf(r).Addr()}
		if g, fixed, ok := p.groupOfPath(r.URL.Path); ok {
			d.group, d.fixed = g, fixed
		}
		if d.group == nil && len(p.srv.cfg.Groups) > 0 {
			d.group = &p.srv.cfg.Groups[0]
		}
		next, user, err := p.srv.auth.Authenticate(p.peer(r, d), nil)
		if err != nil {
			p.refuse(w, r, d, err)
			return
		}
		if next == nil {
			p.welcome(w, r, d, user)
			return
		}
		d.asked = next
		id, ok := p.logins.add(d)
		if !ok {
			http.Error(w, "too many logins", http.StatusServiceUnavailable)
			return
		}
		d.id = id
	}
	if !d.mu.TryLock() {
		// One login is one conversation; its answers cannot be judged side by side, and guessing in parallel is not offered.
		http.Error(w, "another answer is being judged", http.StatusConflict)
		return
	}
	defer d.mu.Unlock()
	if d.asked == nil {
		p.refuse(w, r, d, errWrong)
		return
	}
	if doc.Device.Platform != "" {
		d.platform, d.hostname = clip(doc.Device.Platform, 63), clip(doc.Device.ComputerName, 63)
	}
	if d.handle != "" && doc.Opaque != p.opaque(d) {
		p.ask(w, r, d, d.asked, "The login has lost its state.")
		return
	}
	if g := p.srv.group(doc.GroupSelect); g != nil && !d.fixed {
		d.group = g
	}

	answered := fill(d.asked, doc)
	user := answer(answered, fieldUser)
	if user == "" && len(d.answered) > 0 {
		user = answer(d.answered[0], fieldUser)
	}
	if wait := p.throttle.wait(user, d.source, time.Now()); wait > maxWait {
		p.srv.log.Warn("login attempt refused: too many failures", "user", clip(user, 64), "remote", r.RemoteAddr)
		p.ask(w, r, d, d.asked, fmt.Sprintf("Too many failed attempts. Please try again in %d seconds.", int(wait.Seconds())+1))
		return
	} else if !pause(r.Context(), wait) {
		return
	}

	next, name, err := p.srv.auth.Authenticate(p.peer(r, d), append(d.answered, answered))
	if err == nil && next == nil && d.group != nil {
		if mine := groupsOf(p.srv.auth, name); len(mine) > 0 && !containsFold(mine, d.group.Name) {
			err = &Refusal{"You are not a member of this group."}
		}
	}
	switch {
	case err != nil:
		p.rejected(w, r, d, user, err)
	case next == nil:
		p.throttle.succeeded(name, d.source, time.Now())
		p.welcome(w, r, d, name)
	default:
		d.answered, d.asked = append(d.answered, answered), next
		p.ask(w, r, d, next, "")
	}
}

// fill returns the form with the answers of the client. One that is longer than maxAnswer is none: answers are kept until the
// login is over.
func fill(asked *login.Form, doc *wire.Document) login.Form {
	f := *asked
	f.Fields = append([]login.Field(nil), asked.Fields...)
	set := func(v string, field *login.Field) {
		if len(v) <= maxAnswer {
			field.Set(v)
		}
	}
	for i := range f.Fields {
		if v, ok := doc.Value(f.Fields[i].Name); ok {
			set(v, &f.Fields[i])
		} else if isRenamed(f.Fields[i].Name) {
			// Clients send the fields of these names as password.
			if v, ok := doc.Value(fieldPassword); ok {
				set(v, &f.Fields[i])
			}
		}
	}
	return f
}

func isRenamed(name string) bool {
	return name == "answer" || name == "whichpin" || name == "new_password"
}

// rejected answers wrong answers: the login begins again, until there were too many.
func (p *portal) rejected(w http.ResponseWriter, r *http.Request, d *dialogue, user string, err error) {
	if !errors.Is(err, transport.ErrLogin) {
		p.srv.log.Error("the authenticator failed", "user", clip(user, 64), "remote", r.RemoteAddr, "err", err)
		p.ask(w, r, d, d.asked, "The gateway cannot check your credentials now. Please try again later.")
		return
	}
	p.throttle.failed(user, d.source, time.Now())
	p.srv.log.Warn("login failed", "user", clip(user, 64), "remote", r.RemoteAddr, "attempt", d.attempts+1)
	d.attempts++
	if d.attempts >= p.srv.cfg.MaxAttempts || p.srv.cfg.Quirks.Server == likeOcserv {
		p.refuse(w, r, d, err)
		return
	}
	next, _, again := p.srv.auth.Authenticate(p.peer(r, d), nil)
	if again != nil || next == nil {
		p.refuse(w, r, d, err)
		return
	}
	d.answered, d.asked = nil, next
	p.ask(w, r, d, next, refusalText(err))
}

// refuse ends a login badly.
func (p *portal) refuse(w http.ResponseWriter, r *http.Request, d *dialogue, err error) {
	p.logins.remove(d)
	if !errors.Is(err, transport.ErrLogin) {
		p.srv.log.Error("the authenticator failed", "remote", r.RemoteAddr, "err", err)
		w.Header().Set("Connection", "close")
		http.Error(w, "the gateway cannot check credentials now", http.StatusServiceUnavailable)
		return
	}
	if refusal, ok := errors.AsType[*Refusal](err); ok && d.asked == nil {
		// Nothing was asked that a 401 could be the answer to, so say what is wrong.
		p.document(w, &wire.Document{Kind: wire.KindAuthRequest, Legacy: d.legacy, Auth: &wire.Auth{
			ID: "main", Title: "Login", Error: wire.Text{ID: "13", Format: refusal.Text},
		}})
		return
	}
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusUnauthorized)
}

// ask sends a form.
func (p *portal) ask(w http.ResponseWriter, r *http.Request, d *dialogue, f *login.Form, problem string) {
	auth := &wire.Auth{
		ID:      f.ID,
		Title:   f.Title,
		Message: wire.Text{Format: f.Message},
		Banner:  wire.Text{Format: f.Banner},
		Form:    &wire.Form{Method: "post", Action: formAction},
	}
	if auth.ID == "" {
		auth.ID = "main"
	}
	if problem == "" {
		problem = f.Error
	}
	if problem != "" {
		auth.Error = wire.Text{ID: "13", Format: problem}
	}
	quirk := p.srv.cfg.Quirks.Server
	if quirk == likeASA || quirk == likeAnyLink {
		auth.Form.Method, auth.Form.Action = "", ""
	}
	for _, field := range f.Fields {
		wf := wire.Field{Name: field.Name, Label: field.Label, Value: field.Value.Reveal(), Type: wire.InputText}
		switch field.Kind {
		case login.Password:
			// What the user has typed is not sent back.
			wf.Type, wf.Value = wire.InputPassword, ""
		case login.Choice:
			wf.Type, wf.Value = wire.InputSelect, ""
			for _, o := range field.Options {
				wf.Options = append(wf.Options, wire.Option{
					Value: o.Value, Text: o.Text, Selected: o.Value == field.Value.Reveal(),
				})
			}
		}
		auth.Form.Fields = append(auth.Form.Fields, wf)
	}
	if len(p.srv.cfg.Groups) > 0 && !d.fixed && len(d.answered) == 0 {
		auth.Form.Fields = append(auth.Form.Fields, p.menu(d.group))
	}
	doc := &wire.Document{Kind: wire.KindAuthRequest, Legacy: d.legacy, Auth: auth}
	if d.handle != "" {
		doc.Opaque = p.opaque(d)
	}
	if d.id != "" {
		setCookie(w, "webvpncontext", d.id)
	}
	p.document(w, doc)
}

// menu returns the choice of a group, the chosen one first.
func (p *portal) menu(chosen *Group) wire.Field {
	f := wire.Field{Type: wire.InputSelect, Name: wire.FieldGroup, Label: "GROUP:"}
	for i := range p.srv.cfg.Groups {
		g := &p.srv.cfg.Groups[i]
		o := wire.Option{Value: g.Name, Text: g.label(), Selected: g == chosen}
		if g == chosen {
			f.Options = append([]wire.Option{o}, f.Options...)
		} else {
			f.Options = append(f.Options, o)
		}
	}
	return f
}

// opaque is the state that a client of an ASA carries. Nothing is read from it: it only has to come back.
func (p *portal) opaque(d *dialogue) wire.Opaque {
	group := "DefaultWEBVPNGroup"
	if d.opaqueGroup == "" {
		if d.group != nil {
			group = d.group.Name
		}
		d.opaqueGroup = group
	}
	return wire.OpaqueOf(
		wire.Value{Name: "tunnel-group", Value: d.opaqueGroup},
		wire.Value{Name: "aggauth-handle", Value: d.handle},
		wire.Value{Name: "config-hash", Value: "1595829378234"},
	)
}

// welcome ends a login well: it makes a session and hands out the cookie.
func (p *portal) welcome(w http.ResponseWriter, r *http.Request, d *dialogue, user string) {
	p.logins.remove(d)
	d.asked = nil
	network, group := &p.srv.cfg.Network, ""
	if d.group != nil {
		group = d.group.Name
		if d.group.Network != nil {
			network = d.group.Network
		}
	}
	agent := clientAgent{clip(r.UserAgent(), 63), d.platform, d.hostname}
	s, cookie, err := p.srv.table.add(user, group, network, agent, time.Now())
	if err != nil {
		p.srv.log.Warn("login refused", "user", user, "remote", r.RemoteAddr, "err", err)
		p.refuse(w, r, d, err)
		return
	}
	p.srv.log.Info("user logged in", "session", s.id, "user", user, "group", group, "remote", r.RemoteAddr,
		"agent", agent.userAgent)

	hash := ""
	if chain := connOf(r.Context()).certificate(); len(chain) > 0 {
		sum := sha1.Sum(chain[0])
		hash = strings.ToUpper(hex.EncodeToString(sum[:]))
	}
	doc := &wire.Document{
		Kind:         wire.KindComplete,
		Legacy:       d.legacy,
		SessionID:    s.id,
		SessionToken: cookie.Reveal(),
		Auth:         &wire.Auth{ID: wire.AuthSuccess},
		Config:       network.clientConfig(hash),
	}
	quirk := p.srv.cfg.Quirks.Server
	if quirk == likeOcserv {
		doc.SessionToken, doc.SessionID = "", ""
	}
	if quirk != likeAnyLink {
		if d.id != "" {
			setCookie(w, "webvpncontext", d.id)
		}
		setCookie(w, "webvpn", cookie.Reveal())
		// The order matters to old clients: the profile is cleared before it is set.
		w.Header().Add("Set-Cookie", "webvpnc=; expires=Thu, 01 Jan 1970 22:00:00 GMT; path=/; Secure; HttpOnly")
		setCookie(w, "webvpnc", "bu:/&p:t&iu:1/&sh:"+hash)
	}
	w.Header().Set("Connection", "Keep-Alive")
	p.document(w, doc)
}

func (p *portal) document(w http.ResponseWriter, doc *wire.Document) {
	w.Header().Set("X-Aggregate-Auth", "1")
	reply(w, "text/xml; charset=utf-8", string(doc.Append(nil)))
}

// clientConfig is what the documents of the login and of X-CSTP-Post-Auth-XML hand to a client.
func (n *Network) clientConfig(certHash string) *wire.ClientConfig {
	c := &wire.ClientConfig{ServerCertHash: certHash}
	if len(n.DynamicExclude) > 0 {
		c.Custom = append(c.Custom, wire.Value{Name: "dynamic-split-exclude-domains", Value: strings.Join(n.DynamicExclude, ",")})
	}
	if len(n.DynamicInclude) > 0 {
		c.Custom = append(c.Custom, wire.Value{Name: "dynamic-split-include-domains", Value: strings.Join(n.DynamicInclude, ",")})
	}
	return c
}

func setCookie(w http.ResponseWriter, name, value string) {
	w.Header().Add("Set-Cookie", name+"="+value+"; path=/; Secure; HttpOnly")
}

// cookieOf returns the first cookie of that name, verbatim: net/http would drop values that it finds odd.
func cookieOf(r *http.Request, name string) string {
	for _, line := range r.Header["Cookie"] {
		for part := range strings.SplitSeq(line, ";") {
			if n, v, ok := strings.Cut(strings.TrimSpace(part), "="); ok && n == name {
				return v
			}
		}
	}
	return ""
}

func remoteOf(r *http.Request) netip.AddrPort {
	a, _ := netip.ParseAddrPort(r.RemoteAddr)
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// clip returns the front of s, which does not keep the rest in memory.
func clip(s string, n int) string { return strings.Clone(strings.ToValidUTF8(s[:min(len(s), n)], "")) }

func containsFold(list []string, s string) bool {
	for _, v := range list {
		if strings.EqualFold(v, s) {
			return true
		}
	}
	return false
}
