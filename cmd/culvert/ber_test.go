package main

import (
	"bytes"
	"encoding/asn1"
	"encoding/hex"
	"strings"
	"testing"
)

func TestBER(t *testing.T) {
	for _, c := range []struct{ name, ber, der string }{
		{"DER", "3003020103", "3003020103"},
		{"without a length", "3080 020103 0000", "3003020103"},
		{"with a long length", "308300000 3 020103", "3003020103"},
		{"inside of each other", "3080 3080 020103 0000 3080 0000 0000", "3007 3003020103 3000"},
		{"a string in pieces", "2480 040161 2404 04026263 0000", "0403616263"},
		{"a string in pieces, tagged outside", "3080 0601 2a a080 2480 040161 0000 0000 0000", "3008 06012a a003 040161"},
		{"EncryptedContentInfo", "3080 06012a 3000 a080 040161 040162 0000 0000", "3009 06012a 3000 80026162"},
		{"another tag there", "3080 06012a 3000 a080 020103 0000 0000", "300a 06012a 3000 a003020103"},

		{"nothing", "", ""},
		{"cut off", "3080 020103", ""},
		{"cut off in the end", "3080 020103 00", ""},
		{"length beyond the end", "3004 020103", ""},
		{"length of too many digits", "3084 00000003 020103", ""},
		{"a primitive without a length", "0480 0000", ""},
		{"an end without a beginning", "3002 0000", ""},
		{"something behind the end", "3080 0000 00", ""},
		{"a number in a string", "2480 020103 0000", ""},
		{"a long tag", "3f8100 00", ""},
		{"too deep", strings.Repeat("3080", 40) + strings.Repeat("0000", 40), ""},
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(c.ber, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		got, err := toDER(b)
		if want := strings.ReplaceAll(c.der, " ", ""); hex.EncodeToString(got) != want || (err == nil) != (want != "") {
			t.Errorf("%s: %x, %v, want %s", c.name, got, err, want)
		}
	}
}

func FuzzBER(f *testing.F) {
	for _, seed := range []string{"3003020103", "30803080020103000030800000 0000", "2480040161240404026263 0000",
		"308006012a3000a080040161040162000000 00", "a0802480040161000000 00", "308200 03020103"} {
		b, err := hex.DecodeString(strings.ReplaceAll(seed, " ", ""))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		der, err := toDER(b)
		if err != nil {
			return
		}
		var raw asn1.RawValue
		if rest, err := asn1.Unmarshal(der, &raw); err != nil || len(rest) > 0 {
			t.Errorf("%x becomes %x, which is not DER: %v", b, der, err)
		}
		if again, err := toDER(der); err != nil || !bytes.Equal(again, der) {
			t.Errorf("%x becomes %x, and that %x (%v)", b, der, again, err)
		}
	})
}
