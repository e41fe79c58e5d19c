package dns

import (
	"fmt"
	"testing"
)

func TestParseUpstream(t *testing.T) {
	for s, want := range map[string]string{
		"192.0.2.1":                                       "*dns.Client 192.0.2.1:53",
		"192.0.2.1:5353":                                  "*dns.Client 192.0.2.1:5353",
		"2001:db8::1":                                     "*dns.Client [2001:db8::1]:53",
		"[2001:db8::1]:5353":                              "*dns.Client [2001:db8::1]:5353",
		"tls://dns.example@192.0.2.1":                     "*dns.TLSClient dns.example 192.0.2.1:853",
		"tls://192.0.2.1:8853":                            "*dns.TLSClient 192.0.2.1 192.0.2.1:8853",
		"tls://[2001:db8::1]":                             "*dns.TLSClient 2001:db8::1 [2001:db8::1]:853",
		"https://dns.example@192.0.2.1/dns-query":         "*dns.HTTPSClient https://dns.example/dns-query [192.0.2.1:0]",
		"https://dns.example@[2001:db8::1]:8443/q":        "*dns.HTTPSClient https://dns.example:8443/q [[2001:db8::1]:8443]",
		"https://[2001:db8::1]/dns-query":                 "*dns.HTTPSClient https://[2001:db8::1]/dns-query [[2001:db8::1]:0]",
		"":                                                "",
		"dns.example":                                     "",
		"192.0.2.1:0":                                     "",
		"tls://dns.example":                               "",
		"tls://a b@192.0.2.1":                             "",
		"tls://dns.example@192.0.2.1/path":                "",
		"tls://dns.example@192.0.2.1:0":                   "",
		"tls://dns.example@192.0.2.1:99999":               "",
		"https://dns.example@192.0.2.1":                   "",
		"https://dns.example:secret@192.0.2.1/dns-query":  "",
		"https://dns.example@192.0.2.1/dns-query?dns=abc": "",
		"http://dns.example@192.0.2.1/dns-query":          "",
	} {
		e, err := ParseUpstream(s, nil, nil)
		got := ""
		switch c := e.(type) {
		case *Client:
			got = fmt.Sprintf("%T %v", c, c)
		case *TLSClient:
			got = fmt.Sprintf("%T %s %v", c, c.Name, c.address())
		case *HTTPSClient:
			got = fmt.Sprintf("%T %s %v", c, c.URL, c.Servers)
		}
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v, want %q", s, got, err, want)
		}
	}
}

func FuzzParseUpstream(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "[2001:db8::1]:53", "tls://dns.example@192.0.2.1:853", "https://dns.example@[2001:db8::1]/dns-query", "tls://%zz@"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := ParseUpstream(s, nil, nil)
		if (e == nil) == (err == nil) {
			t.Errorf("%v, %v", e, err)
		}
		if c, ok := e.(*HTTPSClient); ok {
			if _, _, err := c.begin(); err == nil {
				c.running.Done()
			}
			c.Close()
		}
	})
}
