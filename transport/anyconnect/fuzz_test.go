package anyconnect_test

import (
	"testing"

	"culvert.example/vpn/transport/anyconnect"
)

// FuzzParseServer takes any name of a gateway. What is taken can be dialed, and names nobody who logs in.
func FuzzParseServer(f *testing.F) {
	for _, server := range []string{"vpn.example.com", "https://vpn.example.com:8443/group?secret", "[2001:db8::1]:443", "http://x", "https://u:p@x", "https://:443", "https:///x", "%"} {
		f.Add(server)
	}
	f.Fuzz(func(t *testing.T, server string) {
		u, err := anyconnect.ParseServer(server)
		if err == nil && (u.Scheme != "https" || u.Hostname() == "" || u.User != nil) {
			t.Errorf("%q is %v", server, u)
		}
	})
}
