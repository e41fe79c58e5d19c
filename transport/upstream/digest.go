package upstream

import (
	"crypto/fips140"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// An algorithm is a hash for Digest (RFC 7616, section 6.1).
type algorithm struct {
	name string
	hash func(string) string // to hexadecimal digits
	rank int                 // a higher one is stronger
	sess bool                // the password is mixed with the nonces of the first use
}

func algorithmOf(name string) (algorithm, error) {
	if name == "" {
		name = "MD5"
	}
	a := algorithm{name: name}
	base, sess := strings.CutSuffix(strings.ToUpper(name), "-SESS")
	a.sess = sess
	switch base {
	case "MD5":
		if fips140.Enabled() {
			return a, errors.New("the proxy offers Digest by MD5, which FIPS 140-3 does not allow")
		}
		a.hash, a.rank = func(s string) string { h := md5.Sum([]byte(s)); return hex.EncodeToString(h[:]) }, 1
	case "SHA-256":
		a.hash, a.rank = func(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) }, 2
	case "SHA-512-256":
		a.hash, a.rank = func(s string) string { h := sha512.Sum512_256([]byte(s)); return hex.EncodeToString(h[:]) }, 3
	default:
		return a, fmt.Errorf("the proxy offers Digest by %s; known are MD5, SHA-256 and SHA-512-256", printable(name, 32))
	}
	return a, nil
}

// A challenge is a question of Digest (RFC 7616, section 3.3). It is not changed once it is made.
type challenge struct {
	realm, nonce, opaque string
	hasOpaque            bool
	algorithm            algorithm
	named                bool // the algorithm was
	qop                  bool // quality of protection "auth"; without any it is as in RFC 2069
	stale, utf8          bool
	userhash             bool
	cnonce               string // ours
}

func newChallenge(o offer) (*challenge, error) {
	c := &challenge{realm: o.params["realm"], nonce: o.params["nonce"], cnonce: clientNonce()}
	c.opaque, c.hasOpaque = o.params["opaque"]
	var err error
	if c.algorithm, err = algorithmOf(o.params["algorithm"]); err != nil {
		return nil, err
	}
	_, c.named = o.params["algorithm"]
	if _, ok := o.params["realm"]; !ok || c.nonce == "" {
		return nil, errors.New("the proxy offers Digest without a realm or a nonce")
	}
	if qop, ok := o.params["qop"]; ok {
		for q := range strings.SplitSeq(qop, ",") {
			c.qop = c.qop || strings.EqualFold(strings.TrimSpace(q), "auth")
		}
		if !c.qop {
			return nil, fmt.Errorf("the proxy offers Digest with qop %s; known is auth", printable(qop, 32))
		}
	} else if c.algorithm.rank > 1 || c.algorithm.sess {
		return nil, errors.New("the proxy offers Digest without qop, which only MD5 may lack")
	}
	c.stale = strings.EqualFold(o.params["stale"], "true")
	c.utf8 = strings.EqualFold(o.params["charset"], "UTF-8")
	c.userhash = strings.EqualFold(o.params["userhash"], "true")
	return c, nil
}

// renewed returns c with the nonce that the proxy wants to see next, or nil where the password has been mixed with the first one.
func (c *challenge) renewed(nonce string) *challenge {
	if c.algorithm.sess {
		return nil
	}
	next := *c
	next.nonce = nonce
	return &next
}

// respond returns the value of Proxy-Authorization for the uses'th CONNECT with this nonce.
func (c *challenge) respond(user, password, target string, uses uint32) (string, error) {
	return c.authorization(http.MethodConnect, target, user, password, uses)
}

func (c *challenge) authorization(method, uri, user, password string, uses uint32) (string, error) {
	h := c.algorithm.hash
	a1 := user + ":" + c.realm + ":" + password
	if c.algorithm.sess {
		a1 = h(a1) + ":" + c.nonce + ":" + c.cnonce
	}
	a2 := method + ":" + uri
	count := fmt.Sprintf("%08x", uses)
	middle := c.nonce
	if c.qop {
		middle += ":" + count + ":" + c.cnonce + ":auth"
	}
	response := h(h(a1) + ":" + middle + ":" + h(a2))

	var b strings.Builder
	b.WriteString("Digest ")
	switch {
	case c.userhash:
		// RFC 7616, section 3.4.4.
		fmt.Fprintf(&b, `username="%s", userhash=true`, h(user+":"+c.realm))
	case c.utf8 && !ascii(user):
		b.WriteString("username*=UTF-8''" + percent(user))
	default:
		b.WriteString("username=" + quote(user))
	}
	fmt.Fprintf(&b, `, realm=%s, nonce=%s, uri=%s, response="%s"`, quote(c.realm), quote(c.nonce), quote(uri), response)
	if c.named {
		b.WriteString(", algorithm=" + c.algorithm.name)
	}
	if c.qop {
		fmt.Fprintf(&b, `, qop=auth, nc=%s, cnonce="%s"`, count, c.cnonce)
	}
	if c.hasOpaque {
		b.WriteString(", opaque=" + quote(c.opaque))
	}
	// A value of the proxy's goes back to it, and must stay within its line.
	if b.Len() > 2*maxOffer {
		return "", fmt.Errorf("%w: its challenge is too long to answer", ErrProtocol)
	}
	return b.String(), nil
}

// nextNonce returns the nonce that the proxy wants to see next, or "" (RFC 7616, section 3.5).
func nextNonce(h http.Header) string {
	params, err := parseParams(h.Get("Proxy-Authentication-Info"))
	if err != nil {
		return ""
	}
	return params["nextnonce"]
}

func clientNonce() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// quote returns a quoted string (RFC 9110, section 5.6.4). Control characters, which can be in none, were refused before.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// percent encodes for an extended parameter (RFC 8187, section 3.2.1).
func percent(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || strings.IndexByte("!#$&+-.^_`|~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
