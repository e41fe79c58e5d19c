package vpn

import "testing"

func TestPublicName(t *testing.T) {
	for server, want := range map[string]string{
		"vpn.example.com":                        "vpn.example.com",
		"https://vpn.example.com:8443/group":     "https://vpn.example.com:8443/group",
		"https://alice:secret@vpn.example.com/g": "https://vpn.example.com/g",
		"alice:se@cret@vpn.example.com":          "vpn.example.com",
		"https://vpn.example.com/?secret":        "https://vpn.example.com/",
		"vpn.example.com?secret":                 "vpn.example.com",
		"":                                       "",
	} {
		if got := publicName(server); got != want {
			t.Errorf("publicName(%q) = %q, want %q", server, got, want)
		}
	}
}
