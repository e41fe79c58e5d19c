package upstream

import (
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestExamples answers the challenges of RFC 7616, section 3.9.
func TestExamples(t *testing.T) {
	const nonce, cnonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
	for _, tt := range []struct{ line, user, password, uri, cnonce, want string }{
		{`Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=MD5, nonce="` + nonce + `", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`,
			"Mufasa", "Circle of Life", "/dir/index.html", cnonce,
			`username="Mufasa" nc=00000001 qop=auth algorithm=MD5 opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS" response="8ca523f5e9506fed4657c9700eebdbec"`},
		{`Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=SHA-256, nonce="` + nonce + `", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`,
			"Mufasa", "Circle of Life", "/dir/index.html", cnonce,
			`algorithm=SHA-256 response="753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"`},
		// The RFC prints values of SHA-512 cut short; these are of SHA-512/256, computed with OpenSSL.
		{`Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", ` +
			`opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS", charset=UTF-8, userhash=true`,
			"J\u00e4s\u00f8n Doe", "Secret, or not?", "/doe.json", "NTg6RKcb9boFIAS3KrFK9BGeh+niz/sm",
			`username="793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b" userhash=true response="7a4e1192babbba02e91182d2895bfdbf7adafc6e48d4e517ca301974843d840c"`},
		// RFC 2069 has no quality of protection.
		{`Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41"`,
			"Mufasa", "Circle Of Life", "/dir/index.html", "", `response="670fd8c2df070c60b045671b8b24ff02"`},
		{`Digest realm="r", qop=auth, nonce=n, charset=UTF-8`, "J\u00e4 s\"n", "p", "/", "c", `username*=UTF-8''J%C3%A4%20s%22n`},
		{`Digest realm="a \"b\" \\", qop=auth, nonce=n`, `do"main\user`, "p", "/", "c", `username="do\"main\\user" realm="a \"b\" \\"`},
	} {
		offers, err := parseChallenges([]string{tt.line})
		if err != nil || len(offers) != 1 {
			t.Fatalf("%s: %v, %v", tt.line, offers, err)
		}
		c, err := newChallenge(offers[0])
		if err != nil {
			t.Fatalf("%s: %v", tt.line, err)
		}
		c.cnonce = tt.cnonce
		got, err := c.authorization(http.MethodGet, tt.uri, tt.user, tt.password, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range strings.SplitAfter(tt.want, `" `) {
			if !strings.Contains(got, strings.TrimSpace(part)) && !containsAll(got, strings.Fields(part)) {
				t.Errorf("%s\nanswer %s\nwant   %s", tt.line, got, part)
			}
		}
	}
}

func containsAll(s string, parts []string) bool {
	return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(s, p) })
}

// TestSession mixes the password with the nonces once (RFC 7616, section 3.4.2). The value was computed by curl's rule: MD5 over
// MD5(user:realm:password):nonce:cnonce.
func TestSession(t *testing.T) {
	c, err := newChallenge(offer{params: map[string]string{"realm": "r", "nonce": "n", "qop": "auth", "algorithm": "MD5-sess"}})
	if err != nil {
		t.Fatal(err)
	}
	c.cnonce = "c"
	h := c.algorithm.hash
	want := h(h(h("u:r:p")+":n:c") + ":n:00000002:c:auth:" + h("CONNECT:host:1"))
	got, err := c.respond("u", "p", "host:1", 2)
	if err != nil || !strings.Contains(got, want) || !strings.Contains(got, "algorithm=MD5-sess") {
		t.Errorf("%s, %v: want %s", got, err, want)
	}
	if c.renewed("next") != nil {
		t.Error("a new nonce would need a new mixture")
	}
}

// TestStrongest takes the best hash that is offered.
func TestStrongest(t *testing.T) {
	d := &Dialer{Proxy: Proxy{User: "u"}}
	offers, err := parseChallenges([]string{`Basic realm=r, Digest realm=r, nonce=1, qop=auth, Digest realm=r, nonce=2, qop=auth, algorithm=SHA-256, Digest realm=r, nonce=3, qop=auth, algorithm=MD5`})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := d.pick(offers); err != nil || c == nil || c.nonce != "2" {
		t.Errorf("%v, %v", c, err)
	}
}

// TestChallenges takes Proxy-Authenticate apart.
func TestChallenges(t *testing.T) {
	for _, tt := range []struct {
		lines []string
		want  []offer
	}{
		{nil, nil},
		{[]string{"", " , ,"}, nil},
		{[]string{"Basic"}, []offer{{"basic", "", map[string]string{}}}},
		{[]string{"Negotiate, NTLM , Basic realm=\"a, b=c\""}, []offer{{"negotiate", "", map[string]string{}}, {"ntlm", "", map[string]string{}}, {"basic", "", map[string]string{"realm": "a, b=c"}}}},
		{[]string{"Negotiate YWJj==, Basic realm = x"}, []offer{{"negotiate", "YWJj==", map[string]string{}}, {"basic", "", map[string]string{"realm": "x"}}}},
		{[]string{`Newauth realm="apps", type=1, title="Login to \"apps\"", Basic realm="simple"`},
			[]offer{{"newauth", "", map[string]string{"realm": "apps", "type": "1", "title": `Login to "apps"`}}, {"basic", "", map[string]string{"realm": "simple"}}}},
		{[]string{`Basic realm="x" charset="UTF-8"`}, []offer{{"basic", "", map[string]string{"realm": "x", "charset": "UTF-8"}}}},
		{[]string{"Basic realm=x", "Digest nonce="}, []offer{{"basic", "", map[string]string{"realm": "x"}}, {"digest", "nonce=", map[string]string{}}}},
	} {
		if got, err := parseChallenges(tt.lines); err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: %v, %v", tt.lines, got, err)
		}
	}
	for _, line := range []string{`Basic realm="x`, `Basic realm="x\`, "Basic realm=\"\x01\"", "=", `"a"`, "Basic a=1, a=2", strings.Repeat("A, ", 17), "A " + strings.Repeat("b", 17000)} {
		if got, err := parseChallenges([]string{line}); err == nil {
			t.Errorf("%q: %v", line, got)
		}
	}
}

// FuzzChallenges answers whatever a proxy asks: without a panic, and within one line.
func FuzzChallenges(f *testing.F) {
	f.Add(`Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=SHA-256, nonce="n", opaque="o", charset=UTF-8, userhash=true, stale=true`)
	f.Add(`Negotiate YWJj==, Basic realm="x" charset=UTF-8`)
	f.Add(`Digest realm="\"", nonce="\\", algorithm=MD5-sess, qop=auth`)
	f.Fuzz(func(t *testing.T, line string) {
		offers, err := parseChallenges([]string{line})
		if err != nil {
			return
		}
		for _, o := range offers {
			c, err := newChallenge(o)
			if err != nil {
				continue
			}
			header, err := c.respond("us\"er", "pass", "host:443", 1)
			if err != nil {
				continue
			}
			if strings.ContainsAny(header, "\r\n\x00") || strings.Contains(header, "pass") && !strings.Contains(line, "pass") {
				t.Errorf("%q is answered by %q", line, header)
			}
			back, err := parseChallenges([]string{header})
			if err != nil || len(back) != 1 || back[0].params["nonce"] != c.nonce || back[0].params["realm"] != c.realm {
				t.Errorf("%q is answered by %q, which is %v, %v", line, header, back, err)
			}
		}
		nextNonce(http.Header{"Proxy-Authentication-Info": {line}})
	})
}
