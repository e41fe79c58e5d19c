package oath

import (
	"encoding/base32"
	"strings"
	"testing"

	"culvert.example/vpn/transport"
)

// FuzzSecret takes any secret but one in a file. What is taken makes a token that has a key.
func FuzzSecret(f *testing.F) {
	for _, secret := range []string{"base32:GEZDGNBVGY3TQOJQ", "0x3132,42", "sha512:plain", "sha1:sha256:x", "BASE32:ge-zd gn==,9223372036854775808", ",", "0x"} {
		f.Add(secret, true)
		f.Add(secret, false)
	}
	f.Fuzz(func(t *testing.T, secret string, counts bool) {
		if strings.HasPrefix(secret, "@") {
			return
		}
		token, file, _, err := parse(transport.Secret(secret), counts)
		if err != nil {
			return
		}
		key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(token.secret)
		if err != nil || len(key) == 0 || len(key) > maxSecret || file != "" || !counts && token.next != 0 {
			t.Errorf("%q: the key %x (%v), the file %q, the counter %d", secret, key, err, file, token.next)
		}
	})
}
