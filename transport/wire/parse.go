package wire

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// ParseDocument parses an aggregate-auth document of either end. It is tolerant of what gateways and clients get wrong:
// any order of elements, unknown elements, a missing prolog, single quotes, character data sections, text after the root.
// It knows no document types and resolves no external entities. Errors wrap ErrNotDocument or ErrTooLarge.
// The document keeps no reference to text.
func ParseDocument(text []byte) (*Document, error) {
	root, err := parseTree(text)
	if err != nil {
		return nil, err
	}
	d := new(Document)
	switch root.name {
	case "config-auth":
		d.Kind = Kind(root.attr("type"))
		d.fromConfigAuth(root)
	case "auth":
		d.Legacy = true
		d.Kind = KindAuthRequest
		if root.attr("id") == AuthSuccess {
			d.Kind = KindComplete
		}
		d.fromAuth(root)
	default:
		return nil, fmt.Errorf("%w: the root element is %.40q", ErrNotDocument, root.name)
	}
	return d, nil
}

// ParseRequest parses the body of a request to a gateway. It ignores the content type, as gateways must, and looks at the
// text: XML, or else URL-encoded values, which become a legacy auth-reply. An empty body is such a reply without values.
func ParseRequest(body []byte) (*Document, error) {
	if trimmed := trimDocument(body); len(trimmed) > 0 && trimmed[0] == '<' {
		return ParseDocument(body)
	}
	values, err := ParseValues(body)
	if err != nil {
		return nil, err
	}
	d := &Document{Kind: KindAuthReply, Legacy: true, Auth: &Auth{}}
	for _, v := range values {
		if v.Name == FieldGroup {
			d.GroupSelect = v.Value
			continue
		}
		d.Auth.Values = append(d.Auth.Values, v)
	}
	return d, nil
}

// A node is one element. Start and end are its place in the text.
type node struct {
	name       string
	attrs      []xml.Attr
	text       []byte // the character data directly inside
	kids       []*node
	start, end int64
	doc        []byte
}

func trimDocument(text []byte) []byte {
	return bytes.TrimLeft(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), " \t\r\n")
}

// parseTree parses text into a tree and returns its root element.
func parseTree(text []byte) (*node, error) {
	if len(text) > MaxDocument {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(text))
	}
	text = trimDocument(text)
	if len(text) == 0 || text[0] != '<' {
		return nil, fmt.Errorf("%w: the text does not start with an element", ErrNotDocument)
	}
	if !utf8.Valid(text) {
		text = fromLatin1(text)
	}
	dec := xml.NewDecoder(bytes.NewReader(text))
	dec.Strict = false
	dec.Entity = xml.HTMLEntity
	// The text is UTF-8 by now, whatever its prolog says.
	dec.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }

	var stack []*node
	nodes := 0
	for {
		at := dec.InputOffset()
		tok, err := dec.Token()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("%w: %v", ErrNotDocument, err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			if nodes++; nodes > maxNodes || len(stack) >= maxDepth || len(tok.Attr) > maxAttrs {
				return nil, fmt.Errorf("%w: too many or too deep elements", ErrTooLarge)
			}
			n := &node{name: tok.Name.Local, attrs: tok.Copy().Attr, start: at, doc: text}
			if len(stack) > 0 {
				parent := stack[len(stack)-1]
				parent.kids = append(parent.kids, n)
			}
			stack = append(stack, n)
		case xml.EndElement:
			n := stack[len(stack)-1]
			n.end = dec.InputOffset()
			if stack = stack[:len(stack)-1]; len(stack) == 0 {
				return n, nil
			}
		case xml.CharData:
			if len(stack) > 0 {
				n := stack[len(stack)-1]
				n.text = append(n.text, tok...)
			}
		case xml.Directive:
			return nil, fmt.Errorf("%w: document type declarations are not accepted", ErrNotDocument)
		}
	}
}

// fromLatin1 converts text that is not valid UTF-8 from ISO 8859-1, in which every byte is a character.
func fromLatin1(text []byte) []byte {
	out := make([]byte, 0, len(text)+len(text)/8)
	for _, c := range text {
		out = utf8.AppendRune(out, rune(c))
	}
	return out
}

func (n *node) attr(name string) string {
	v, _ := n.lookup(name)
	return v
}

func (n *node) lookup(name string) (string, bool) {
	for _, a := range n.attrs {
		if a.Name.Local == name {
			return a.Value, true
		}
	}
	return "", false
}

func (n *node) flag(name string) bool {
	v := strings.ToLower(n.attr(name))
	return v == "1" || v == "true" || v == "yes" || v == name
}

// trimmed returns the text of n without the space around it.
func (n *node) trimmed() string { return string(bytes.TrimSpace(n.text)) }

// raw returns n as it stands in the document.
func (n *node) raw() string { return string(n.doc[n.start:n.end]) }

// leaves appends the elements below n that hold only text.
func (n *node) leaves(values []Value) []Value {
	for _, k := range n.kids {
		if len(k.kids) == 0 {
			values = append(values, Value{k.name, string(k.text)})
			continue
		}
		values = k.leaves(values)
	}
	return values
}

// each calls f for the elements below n, parents first.
func (n *node) each(f func(*node)) {
	for _, k := range n.kids {
		f(k)
		k.each(f)
	}
}

func (d *Document) fromConfigAuth(root *node) {
	for _, n := range root.kids {
		switch n.name {
		case "version":
			d.Version = n.trimmed()
		case "device-id":
			d.Device = Device{
				Platform:        n.trimmed(),
				ComputerName:    n.attr("computer-name"),
				Type:            n.attr("device-type"),
				PlatformVersion: n.attr("platform-version"),
				UniqueID:        n.attr("unique-id"),
				UniqueIDGlobal:  n.attr("unique-id-global"),
			}
		case "mac-address-list":
			for _, k := range n.kids {
				d.MACAddresses = append(d.MACAddresses, k.trimmed())
			}
		case "capabilities":
			for _, k := range n.kids {
				if k.name == "auth-method" {
					d.AuthMethods = append(d.AuthMethods, k.trimmed())
				}
			}
		case "group-access":
			d.GroupAccess = n.trimmed()
		case "group-select":
			d.GroupSelect = n.trimmed()
		case "client-cert-fail":
			d.ClientCertFail = true
		case "host-scan-token":
			d.HostScanToken = n.trimmed()
		case "session-id":
			d.SessionID = n.trimmed()
		case "session-token":
			d.SessionToken = n.trimmed()
		case "opaque":
			if n.attr("is-for") != "vpn-client" {
				d.Opaque = Opaque(n.raw())
			}
		case "auth":
			d.fromAuth(n)
		case "host-scan":
			d.hostScan(n)
		case "client-cert-request":
			d.ClientCertRequest = true
		case "cert-authenticated":
			d.CertAuthenticated = true
		case "multiple-client-cert-request":
			m := new(MultipleCertRequest)
			for _, k := range n.kids {
				switch k.name {
				case "hash-algorithm":
					m.HashAlgorithms = append(m.HashAlgorithms, k.trimmed())
				case "random":
					m.Random = k.trimmed()
				}
			}
			d.MultipleCertRequest = m
		case "config":
			d.fromConfig(n)
		}
	}
}

func (d *Document) hostScan(n *node) {
	h := new(HostScan)
	for _, k := range n.kids {
		switch k.name {
		case "host-scan-ticket":
			h.Ticket = k.trimmed()
		case "host-scan-token":
			h.Token = k.trimmed()
		case "host-scan-base-uri":
			h.BaseURI = k.trimmed()
		case "host-scan-wait-uri":
			h.WaitURI = k.trimmed()
		}
	}
	d.HostScan = h
}

func (d *Document) fromAuth(root *node) {
	a := &Auth{ID: root.attr("id")}
	d.Auth = a
	if d.Kind == KindAuthReply {
		a.Values = root.leaves(nil)
		return
	}
	sso := func() *SSO {
		if a.SSO == nil {
			a.SSO = new(SSO)
		}
		return a.SSO
	}
	root.each(func(n *node) {
		switch n.name {
		case "title":
			a.Title = n.trimmed()
		case "message":
			a.Message = textOf(n)
		case "banner":
			a.Banner = textOf(n)
		case "error":
			a.Error = textOf(n)
		case "form":
			// Of several forms the last one with fields counts, as with openconnect.
			if f := formOf(n); a.Form == nil || len(f.Fields) > 0 {
				a.Form = f
			}
		case "authentication-complete":
			a.AuthenticationComplete = true
		case "cert-authenticated":
			d.CertAuthenticated = true
		case "client-cert-request":
			d.ClientCertRequest = true
		case "csd", "csdLinux", "csdMac":
			if d.HostScan == nil {
				d.HostScan = new(HostScan)
			}
			h := d.HostScan
			for to, name := range map[*string]string{
				&h.StubURL: "stuburl", &h.StartURL: "starturl", &h.WaitURI: "waiturl", &h.Token: "token", &h.Ticket: "ticket",
			} {
				if v := n.attr(name); v != "" && *to == "" {
					*to = v
				}
			}
		case "sso-v2-login":
			sso().Login = n.trimmed()
		case "sso-v2-login-final":
			sso().LoginFinal = n.trimmed()
		case "sso-v2-logout":
			sso().Logout = n.trimmed()
		case "sso-v2-logout-final":
			sso().LogoutFinal = n.trimmed()
		case "sso-v2-token-cookie-name":
			sso().TokenCookie = n.trimmed()
		case "sso-v2-error-cookie-name":
			sso().ErrorCookie = n.trimmed()
		case "sso-v2-browser-mode":
			sso().BrowserMode = n.trimmed()
		}
	})
}

func textOf(n *node) Text {
	return Text{ID: n.attr("id"), Format: n.trimmed(), Param1: n.attr("param1"), Param2: n.attr("param2")}
}

func formOf(root *node) *Form {
	f := &Form{Method: root.attr("method"), Action: root.attr("action")}
	options := 0 // counted for the whole form, since select elements inside of each other share theirs
	root.each(func(n *node) {
		if len(f.Fields) == maxFields {
			return
		}
		switch n.name {
		case "input":
			field := Field{
				Type:       strings.ToLower(n.attr("type")),
				Name:       n.attr("name"),
				Label:      n.attr("label"),
				Value:      n.attr("value"),
				SecondAuth: n.flag("second-auth"),
			}
			if field.Type == "" {
				field.Type = InputText
			}
			f.Fields = append(f.Fields, field)
		case "select":
			field := Field{Type: InputSelect, Name: n.attr("name"), Label: n.attr("label"), SecondAuth: n.flag("second-auth")}
			n.each(func(o *node) {
				if o.name == "option" && options < maxOptions {
					options++
					field.Options = append(field.Options, optionOf(o))
				}
			})
			if i := field.Selected(); i >= 0 {
				field.Value = field.Options[i].Value
			}
			f.Fields = append(f.Fields, field)
		}
	})
	return f
}

func optionOf(n *node) Option {
	o := Option{
		Text:                      n.trimmed(),
		Selected:                  n.flag("selected"),
		AuthType:                  n.attr("auth-type"),
		NoAAA:                     n.flag("noaaa"),
		SecondAuth:                n.flag("second-auth"),
		OverrideName:              n.attr("override-name"),
		OverrideLabel:             n.attr("override-label"),
		SecondaryUsername:         n.attr("secondary_username"),
		SecondaryUsernameEditable: n.flag("secondary_username_editable"),
	}
	var ok bool
	if o.Value, ok = n.lookup("value"); !ok {
		o.Value = o.Text
	}
	if o.Text == "" {
		o.Text = o.Value
	}
	return o
}

func (d *Document) fromConfig(root *node) {
	c := new(ClientConfig)
	d.Config = c
	root.each(func(n *node) {
		switch n.name {
		case "base-package-uri":
			c.BasePackageURI = n.trimmed()
		case "server-cert-hash":
			c.ServerCertHash = n.trimmed()
		case "custom-attr":
			for _, k := range n.kids {
				c.Custom = append(c.Custom, Value{k.name, k.trimmed()})
			}
		case "file":
			if n.attr("type") != "profile" || c.ProfileURI != "" {
				return
			}
			if s, ok := n.lookup("service-type"); ok && s != "user" {
				return
			}
			for _, k := range n.kids {
				switch k.name {
				case "uri":
					c.ProfileURI = k.trimmed()
				case "hash":
					c.ProfileHash = k.trimmed()
				}
			}
		}
	})
}
