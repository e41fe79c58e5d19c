package trust_test

import (
	"crypto/x509"
	"testing"

	"culvert.example/vpn/transport/trust"
)

// FuzzPins takes any pin. What is no pin matches nothing, and a whole one matches beside it.
func FuzzPins(f *testing.F) {
	cert := &x509.Certificate{Raw: []byte("certificate"), RawSubjectPublicKeyInfo: []byte("key")}
	whole := trust.PinOf(cert)
	for _, pin := range []string{
		whole, whole[:15], "PIN-SHA256:" + whole[11:], "sha256:2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683",
		"sha1:A62F2225BF70BFACCBC7F1EF2A397836717377DE", "a6:2f", "pin-sha256:", "::::", "sha512:00",
	} {
		f.Add(pin)
	}
	f.Fuzz(func(t *testing.T, pin string) {
		if err := (trust.Pins{pin}).Check(); err != nil && (trust.Pins{pin}).Match(cert) {
			t.Errorf("%q matches although %v", pin, err)
		}
		if !(trust.Pins{pin, whole}).Match(cert) {
			t.Errorf("%q hides the pin after it", pin)
		}
	})
}
