package wire

import (
	"strings"
	"unicode/utf8"
)

// Append appends the document to b as XML and returns the result. Answers are written as plain <name>value</name>, without
// attributes and never self-closing, because ocserv looks for them by searching text. A reply to a legacy form is not XML:
// use AppendValues for it.
func (d *Document) Append(b []byte) []byte {
	b = append(b, `<?xml version="1.0" encoding="UTF-8"?>`+"\n"...)
	if d.Legacy {
		if d.Auth != nil {
			b = d.Auth.append(b)
		}
		return append(b, '\n')
	}
	b = append(b, `<config-auth client="vpn"`...)
	b = appendAttr(b, "type", string(d.Kind))
	b = append(b, ` aggregate-auth-version="2">`...)
	who := "vpn"
	if d.Kind == KindAuthRequest || d.Kind == KindComplete {
		who = "sg"
	}
	if d.Version != "" {
		b = append(b, "\n<version"...)
		b = appendAttr(b, "who", who)
		b = append(b, '>')
		b = appendText(b, d.Version)
		b = append(b, "</version>"...)
	}
	b = d.Device.append(b)
	if len(d.MACAddresses) > 0 {
		b = append(b, "\n<mac-address-list>"...)
		for _, m := range d.MACAddresses {
			b = appendElement(b, "mac-address", m)
		}
		b = append(b, "</mac-address-list>"...)
	}
	if len(d.AuthMethods) > 0 {
		b = append(b, "\n<capabilities>"...)
		for _, m := range d.AuthMethods {
			b = appendElement(b, "auth-method", m)
		}
		b = append(b, "</capabilities>"...)
	}
	b = appendOptional(b, "session-id", d.SessionID)
	b = appendOptional(b, "session-token", d.SessionToken)
	b = appendOptional(b, "group-access", d.GroupAccess)
	if d.ClientCertFail {
		b = append(b, "\n<client-cert-fail/>"...)
	}
	if d.Opaque != "" {
		b = append(b, '\n')
		b = append(b, d.Opaque...)
	}
	if d.Auth != nil {
		b = append(b, '\n')
		if d.Kind == KindAuthReply {
			b = d.Auth.appendReply(b)
		} else {
			b = d.Auth.append(b)
		}
	}
	b = appendOptional(b, "group-select", d.GroupSelect)
	b = appendOptional(b, "host-scan-token", d.HostScanToken)
	if h := d.HostScan; h != nil {
		b = append(b, "\n<host-scan>"...)
		b = appendElement(b, "host-scan-ticket", h.Ticket)
		b = appendElement(b, "host-scan-token", h.Token)
		b = appendElement(b, "host-scan-base-uri", h.BaseURI)
		b = appendElement(b, "host-scan-wait-uri", h.WaitURI)
		b = append(b, "</host-scan>"...)
	}
	if d.ClientCertRequest {
		b = append(b, "\n<client-cert-request/>"...)
	}
	if m := d.MultipleCertRequest; m != nil {
		b = append(b, "\n<multiple-client-cert-request>"...)
		for _, h := range m.HashAlgorithms {
			b = appendElement(b, "hash-algorithm", h)
		}
		b = appendElement(b, "random", m.Random)
		b = append(b, "</multiple-client-cert-request>"...)
	}
	if d.CertAuthenticated {
		b = append(b, "\n<cert-authenticated/>"...)
	}
	if d.Config != nil {
		b = d.Config.append(b)
	}
	return append(b, "\n</config-auth>\n"...)
}

func (v Device) append(b []byte) []byte {
	if v == (Device{}) {
		return b
	}
	b = append(b, "\n<device-id"...)
	b = appendOptionalAttr(b, "computer-name", v.ComputerName)
	b = appendOptionalAttr(b, "device-type", v.Type)
	b = appendOptionalAttr(b, "platform-version", v.PlatformVersion)
	b = appendOptionalAttr(b, "unique-id", v.UniqueID)
	b = appendOptionalAttr(b, "unique-id-global", v.UniqueIDGlobal)
	b = append(b, '>')
	b = appendText(b, v.Platform)
	return append(b, "</device-id>"...)
}

func (a *Auth) append(b []byte) []byte {
	b = append(b, "<auth"...)
	b = appendAttr(b, "id", a.ID)
	b = append(b, '>')
	b = appendOptional(b, "title", a.Title)
	b = a.Message.append(b, "message")
	b = a.Banner.append(b, "banner")
	b = a.Error.append(b, "error")
	if s := a.SSO; s != nil {
		b = appendOptional(b, "sso-v2-login", s.Login)
		b = appendOptional(b, "sso-v2-login-final", s.LoginFinal)
		b = appendOptional(b, "sso-v2-logout", s.Logout)
		b = appendOptional(b, "sso-v2-logout-final", s.LogoutFinal)
		b = appendOptional(b, "sso-v2-token-cookie-name", s.TokenCookie)
		b = appendOptional(b, "sso-v2-error-cookie-name", s.ErrorCookie)
		b = appendOptional(b, "sso-v2-browser-mode", s.BrowserMode)
	}
	if a.AuthenticationComplete {
		b = append(b, "\n<authentication-complete/>"...)
	}
	if a.Form != nil {
		b = a.Form.append(b)
	}
	return append(b, "\n</auth>"...)
}

func (a *Auth) appendReply(b []byte) []byte {
	b = append(b, "<auth>"...)
	for _, v := range a.Values {
		b = appendElement(b, v.Name, v.Value)
	}
	return append(b, "</auth>"...)
}

func (t Text) append(b []byte, name string) []byte {
	if t == (Text{}) {
		return b
	}
	b = append(b, "\n<"...)
	b = append(b, name...)
	if t.ID != "" || t.Param1 != "" || t.Param2 != "" {
		b = appendAttr(b, "id", t.ID)
		b = appendAttr(b, "param1", t.Param1)
		b = appendAttr(b, "param2", t.Param2)
	}
	b = append(b, '>')
	b = appendText(b, t.Format)
	b = append(b, "</"...)
	b = append(b, name...)
	return append(b, '>')
}

func (f *Form) append(b []byte) []byte {
	b = append(b, "\n<form"...)
	b = appendOptionalAttr(b, "method", f.Method)
	b = appendOptionalAttr(b, "action", f.Action)
	b = append(b, '>')
	for i := range f.Fields {
		v := &f.Fields[i]
		if v.Type == InputSelect {
			b = append(b, "\n<select"...)
		} else {
			b = append(b, "\n<input"...)
			b = appendAttr(b, "type", v.Type)
		}
		b = appendAttr(b, "name", v.Name)
		b = appendOptionalAttr(b, "label", v.Label)
		if v.SecondAuth {
			b = appendAttr(b, "second-auth", "1")
		}
		if v.Type != InputSelect {
			b = appendOptionalAttr(b, "value", v.Value)
			b = append(b, "/>"...)
			continue
		}
		b = append(b, '>')
		for j := range v.Options {
			b = v.Options[j].append(b)
		}
		b = append(b, "\n</select>"...)
	}
	return append(b, "\n</form>"...)
}

func (o *Option) append(b []byte) []byte {
	b = append(b, "\n<option"...)
	b = appendAttr(b, "value", o.Value)
	if o.Selected {
		b = appendAttr(b, "selected", "true")
	}
	b = appendOptionalAttr(b, "auth-type", o.AuthType)
	if o.NoAAA {
		b = appendAttr(b, "noaaa", "1")
	}
	if o.SecondAuth {
		b = appendAttr(b, "second-auth", "1")
	}
	b = appendOptionalAttr(b, "override-name", o.OverrideName)
	b = appendOptionalAttr(b, "override-label", o.OverrideLabel)
	b = appendOptionalAttr(b, "secondary_username", o.SecondaryUsername)
	if o.SecondaryUsernameEditable {
		b = appendAttr(b, "secondary_username_editable", "true")
	}
	b = append(b, '>')
	b = appendText(b, o.Text)
	return append(b, "</option>"...)
}

func (c *ClientConfig) append(b []byte) []byte {
	b = append(b, "\n"+`<config client="vpn" type="private">`...)
	if c.BasePackageURI != "" || c.ServerCertHash != "" {
		b = append(b, "\n<vpn-base-config>"...)
		b = appendOptional(b, "base-package-uri", c.BasePackageURI)
		b = appendOptional(b, "server-cert-hash", c.ServerCertHash)
		b = append(b, "</vpn-base-config>"...)
	}
	if len(c.Custom) > 0 {
		b = append(b, "\n"+`<opaque is-for="vpn-client"><custom-attr>`...)
		for _, v := range c.Custom {
			b = appendElement(b, v.Name, v.Value)
		}
		b = append(b, "</custom-attr></opaque>"...)
	}
	if c.ProfileURI != "" {
		b = append(b, "\n"+`<vpn-profile-manifest><vpn rev="1.0"><file type="profile" service-type="user">`...)
		b = appendElement(b, "uri", c.ProfileURI)
		b = append(b, `<hash type="sha1">`...)
		b = appendText(b, c.ProfileHash)
		b = append(b, "</hash></file></vpn></vpn-profile-manifest>"...)
	}
	return append(b, "\n</config>"...)
}

// appendElement appends <name>value</name>. It drops an element whose name is none, lest a name from a hostile form become
// markup.
func appendElement(b []byte, name, value string) []byte {
	if !ValidName(name) {
		return b
	}
	b = append(b, '<')
	b = append(b, name...)
	b = append(b, '>')
	b = appendText(b, value)
	b = append(b, "</"...)
	b = append(b, name...)
	return append(b, '>')
}

func appendOptional(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return appendElement(append(b, '\n'), name, value)
}

func appendOptionalAttr(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return appendAttr(b, name, value)
}

func appendAttr(b []byte, name, value string) []byte {
	b = append(b, ' ')
	b = append(b, name...)
	b = append(b, '=', '"')
	b = appendEscaped(b, value, true)
	return append(b, '"')
}

func appendText(b []byte, s string) []byte { return appendEscaped(b, s, false) }

// appendEscaped escapes no more than XML demands, since some gateways know few entities. Characters that XML cannot carry
// become U+FFFD; see Encodable.
func appendEscaped(b []byte, s string, attr bool) []byte {
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '&':
			b = append(b, "&amp;"...)
		case r == '<':
			b = append(b, "&lt;"...)
		case r == '>':
			b = append(b, "&gt;"...)
		case r == '\r':
			b = append(b, "&#13;"...)
		case attr && r == '"':
			b = append(b, "&quot;"...)
		case attr && r == '\n':
			b = append(b, "&#10;"...)
		case attr && r == '\t':
			b = append(b, "&#9;"...)
		case !xmlRune(r) || r == utf8.RuneError && size == 1:
			b = utf8.AppendRune(b, utf8.RuneError)
		default:
			b = append(b, s[i:i+size]...)
		}
		i += size
	}
	return b
}

// xmlRune reports whether XML 1.0 allows r.
func xmlRune(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' || r >= 0x20 && r <= 0xd7ff || r >= 0xe000 && r <= 0xfffd || r >= 0x10000 && r <= 0x10ffff
}

// Encodable reports whether XML can carry s unchanged. Control characters and invalid UTF-8 it cannot.
func Encodable(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !xmlRune(r) }) < 0
}

// ValidName reports whether s can be the name of an element that carries an answer: ASCII letters, digits, - . and _, with
// a letter or _ in front, at most 128 bytes.
func ValidName(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i, r := range []byte(s) {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '_':
		case i > 0 && (r >= '0' && r <= '9' || r == '-' || r == '.'):
		default:
			return false
		}
	}
	return true
}
