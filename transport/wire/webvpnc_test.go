package wire

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

const webvpncExample = "bu:/CACHE/stc/1/&p:t&iu:1/&sh:0123456789ABCDEF0123456789ABCDEF01234567&lu:/+CSCOT+/translation-table?textdomain%3DAnyConnect%26type%3Dmanifest" +
	"&fu:profiles%2Fcorp.xml&fh:89abcdef0123456789abcdef0123456789abcdef"

func TestWebVPNC(t *testing.T) {
	w, err := ParseWebVPNC(webvpncExample)
	want := WebVPNC{
		Base: "/CACHE/stc/1/", Portal: "t", Installer: "1/", ServerHash: "0123456789ABCDEF0123456789ABCDEF01234567",
		Localization: "/+CSCOT+/translation-table?textdomain=AnyConnect&type=manifest",
		Profile:      "profiles/corp.xml", ProfileHash: "89ABCDEF0123456789ABCDEF0123456789ABCDEF",
	}
	if err != nil || w != want {
		t.Errorf("got  %+v, %v\nwant %+v", w, err, want)
	}
	if p := w.ProfilePath(); p != "/CACHE/stc/1/profiles/corp.xml" {
		t.Errorf("ProfilePath %q", p)
	}
	if again, err := ParseWebVPNC(w.String()); again != w || err != nil {
		t.Errorf("%q: %+v, %v", w.String(), again, err)
	}
	for _, test := range []struct {
		w    WebVPNC
		path string
	}{
		{WebVPNC{}, ""},
		{WebVPNC{Base: "/", Profile: "profiles/x.xml"}, "/profiles/x.xml"},
		{WebVPNC{Profile: "x.xml"}, "/x.xml"},
		{WebVPNC{Base: "/a", Profile: "//b"}, "/b"},
	} {
		if got := test.w.ProfilePath(); got != test.path {
			t.Errorf("%+v: %q", test.w, got)
		}
	}
	if w, err := ParseWebVPNC(""); w != (WebVPNC{}) || err != nil {
		t.Errorf("empty: %+v, %v", w, err)
	}
	if w, err := ParseWebVPNC("sh:zz&unknown:1&&fh:12"); w != (WebVPNC{}) || err != nil {
		t.Errorf("nonsense: %+v, %v", w, err)
	}
	for _, bad := range []string{"nothing", "bu:%zz", "bu:a%0ab", strings.Repeat("a:b&", 4000)} {
		if w, err := ParseWebVPNC(bad); !errors.Is(err, ErrWebVPNC) {
			t.Errorf("%.20q: %+v, %v", bad, w, err)
		}
	}
}

func FuzzWebVPNC(f *testing.F) {
	f.Add(webvpncExample)
	f.Fuzz(func(t *testing.T, s string) {
		w, err := ParseWebVPNC(s)
		if err != nil {
			return
		}
		text := w.String()
		if strings.ContainsAny(text, "\r\n; ") {
			t.Errorf("%q", text)
		}
		if again, err := ParseWebVPNC(text); len(text) <= maxWebVPNC && (again != w || err != nil) {
			t.Errorf("%+v became %+v, %v", w, again, err)
		}
		if p := w.ProfilePath(); p != "" && (p[0] != '/' || strings.HasPrefix(p, "//")) {
			t.Errorf("path %q", p)
		}
	})
}

func postAuth(exclude, include string) string {
	return `<?xml version="1.0" encoding="UTF-8"?> <config-auth client="vpn" type="complete" aggregate-auth-version="2"> <config client="vpn" type="private">` +
		` <opaque is-for="vpn-client"> <custom-attr> <dynamic-split-exclude-domains><![CDATA[` + exclude + `]]></dynamic-split-exclude-domains>` +
		` <dynamic-split-include-domains>` + include + `</dynamic-split-include-domains> <BypassVirtualSubnetsOnlyV4>true</BypassVirtualSubnetsOnlyV4>` +
		` </custom-attr> </opaque> </config> </config-auth>`
}

func TestDynamicSplit(t *testing.T) {
	include, exclude, err := DynamicSplit(postAuth("example.com,foo.net,.WWW.Example.org., *.cdn.example,foo.net,no..domain,", "corp.example"))
	if err != nil || !slices.Equal(exclude, []string{"example.com", "foo.net", "www.example.org", "cdn.example"}) ||
		!slices.Equal(include, []string{"corp.example"}) {
		t.Errorf("include %q, exclude %q, %v", include, exclude, err)
	}
	if _, _, err := DynamicSplit("not XML"); err == nil {
		t.Error("no error")
	}
	if include, exclude, err := DynamicSplit(`<config-auth type="complete"/>`); include != nil || exclude != nil || err != nil {
		t.Errorf("include %q, exclude %q, %v", include, exclude, err)
	}
}

func FuzzDynamicSplit(f *testing.F) {
	f.Add(postAuth("example.com,foo.net,", "a.b"))
	f.Fuzz(func(t *testing.T, s string) {
		include, exclude, err := DynamicSplit(s)
		if err != nil && len(include)+len(exclude) > 0 {
			t.Error("both lists and an error")
		}
		for _, d := range slices.Concat(include, exclude) {
			if d == "" || d != domain(d) || len(d) > 253 {
				t.Errorf("domain %q", d)
			}
		}
	})
}
