package system

import (
	"bytes"
	"encoding/json"
	"testing"
)

// Whatever is in the file, only narrow prefixes and few of them pass the kill switch for it, and they read back as themselves.
func FuzzLastRules(f *testing.F) {
	f.Add([]byte(`{"hosts":["192.0.2.0/24","fd00::/16"],"lan":true}`))
	f.Add([]byte(`{"hosts":["0.0.0.0/0"]}`))
	f.Add([]byte(`{"hosts":["::ffff:10.0.0.0/104"]}`))
	f.Add([]byte(`{"hosts":[""]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseLastRules(b)
		if err != nil {
			if r.Hosts != nil || r.LAN {
				t.Fatalf("%v, and yet %+v", err, r)
			}
			return
		}
		if len(r.Hosts) > maxLast {
			t.Fatalf("%d prefixes", len(r.Hosts))
		}
		for _, p := range r.Hosts {
			if p.Addr().Unmap().Is4() && p.Bits()-p.Addr().BitLen()+32 < 8 || p.Bits() < 8 || p.Addr().Is6() && p.Bits() < 16 {
				t.Fatalf("%v passes", p)
			}
		}
		written, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseLastRules(written)
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := json.Marshal(again); !bytes.Equal(b, written) {
			t.Fatalf("%s and then %s", written, b)
		}
	})
}
