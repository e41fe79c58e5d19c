package wire

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// ErrWebVPNC reports a cookie webvpnc that does not follow its grammar.
var ErrWebVPNC = errors.New("wire: malformed webvpnc cookie")

// maxWebVPNC bounds the cookie in bytes.
const maxWebVPNC = 8192

// A WebVPNC is the value of the cookie webvpnc, with which a gateway tells where its files are once a login is complete.
// It is made of key:value pairs with & between them, and values may be percent-encoded.
type WebVPNC struct {
	// Base is the path that the other paths are relative to (bu).
	Base string
	// Portal is "t" (p), Installer the path of the installer files (iu), Localization that of the translations (lu).
	Portal, Installer, Localization string
	// ServerHash is the SHA-1 of the gateway's certificate in hex (sh).
	ServerHash string
	// Profile is the path of the user's profile (fu), ProfileHash the SHA-1 of that file in hex (fh).
	Profile, ProfileHash string
}

// ParseWebVPNC parses the value of the cookie. Unknown keys are ignored, as are hashes that are none; of a repeated key the last
// value counts. An empty value, with which gateways clear the cookie, gives the zero WebVPNC.
func ParseWebVPNC(s string) (WebVPNC, error) {
	var w WebVPNC
	if len(s) > maxWebVPNC {
		return w, fmt.Errorf("%w: %d bytes", ErrWebVPNC, len(s))
	}
	for s != "" {
		var pair string
		pair, s, _ = strings.Cut(s, "&")
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, ":")
		if !ok {
			return WebVPNC{}, fmt.Errorf("%w: %.20q has no colon", ErrWebVPNC, pair)
		}
		value, err := url.PathUnescape(value)
		if err != nil || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return WebVPNC{}, fmt.Errorf("%w: bad value of %.20q", ErrWebVPNC, key)
		}
		switch key {
		case "bu":
			w.Base = value
		case "p":
			w.Portal = value
		case "iu":
			w.Installer = value
		case "lu":
			w.Localization = value
		case "fu":
			w.Profile = value
		case "sh":
			w.ServerHash = sha1Hex(value)
		case "fh":
			w.ProfileHash = sha1Hex(value)
		}
	}
	return w, nil
}

// sha1Hex returns s in upper case if it is a SHA-1 in hex, and "" otherwise.
func sha1Hex(s string) string {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 20 {
		return ""
	}
	return strings.ToUpper(s)
}

// String returns the value of the cookie. Empty fields are left out.
func (w WebVPNC) String() string {
	var b strings.Builder
	pair := func(key, value string) {
		if value == "" {
			return
		}
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(key)
		b.WriteByte(':')
		b.WriteString(value)
	}
	pair("bu", escapePath(w.Base))
	pair("p", escapePath(w.Portal))
	pair("iu", escapePath(w.Installer))
	pair("sh", w.ServerHash)
	pair("lu", escapePath(w.Localization))
	pair("fu", escapePath(w.Profile))
	pair("fh", w.ProfileHash)
	return b.String()
}

// ProfilePath returns the path of the profile on the gateway, decoded, or "" if there is none.
func (w WebVPNC) ProfilePath() string {
	switch {
	case w.Profile == "":
		return ""
	case strings.HasPrefix(w.Profile, "/"):
		return "/" + strings.TrimLeft(w.Profile, "/")
	}
	if base := strings.Trim(w.Base, "/"); base != "" {
		return "/" + base + "/" + w.Profile
	}
	return "/" + w.Profile
}

// escapePath escapes what would end a value, a cookie or a header.
func escapePath(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`%&;,="\`, c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
