package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFrames(t *testing.T) {
	for _, test := range []struct {
		t       Type
		payload []byte
		want    string
	}{
		{DPDRequest, nil, "53 54 46 01 00 00 03 00"},
		{DPDResponse, nil, "53 54 46 01 00 00 04 00"},
		{Keepalive, nil, "53 54 46 01 00 00 07 00"},
		{Terminate, nil, "53 54 46 01 00 00 09 00"},
		{Disconnect, AppendDisconnect(nil, ReasonUser, "User disconnect"),
			"53 54 46 01 00 10 05 00 b0 55 73 65 72 20 64 69 73 63 6f 6e 6e 65 63 74"},
		{Data, []byte{0x45, 0}, "53 54 46 01 00 02 00 00 45 00"},
	} {
		frame := make([]byte, HeaderLen, 64)
		PutHeader(frame, test.t, len(test.payload))
		frame = append(frame, test.payload...)
		if want := unhex(t, test.want); !bytes.Equal(frame, want) {
			t.Errorf("%v: % x, want % x", test.t, frame, want)
		}
		typ, n, err := ParseHeader(frame)
		if typ != test.t || n != len(test.payload) || err != nil {
			t.Errorf("ParseHeader(% x) = %v, %d, %v", frame, typ, n, err)
		}
	}
	if _, n, err := ParseHeader(unhex(t, "53 54 46 01 ff ff 00 00")); n != 65535 || err != nil {
		t.Errorf("largest frame: %d, %v", n, err)
	}
	for _, bad := range []string{"", "53 54 46 01 00 00 03", "53 54 46 02 00 00 03 00", "00 54 46 01 00 00 03 00", "53 54 46 01 00 00 03 01"} {
		if _, _, err := ParseHeader(unhex(t, bad)); !errors.Is(err, ErrFrame) {
			t.Errorf("%q: %v, want ErrFrame", bad, err)
		}
	}
}

func TestDisconnect(t *testing.T) {
	for _, test := range []struct {
		payload string
		reason  Reason
		text    string
		final   bool
	}{
		{"", NoReason, "", false},
		{"\xb0", ReasonUser, "", true},
		{"\xb0User disconnect", ReasonUser, "User disconnect", true},
		{"\x91\x1b[2Jhidden\x00\r\n  text\xff", ReasonReplaced, "[2Jhidden text", false},
		{"\x70" + strings.Repeat("ä", 2000), ReasonError, strings.Repeat("ä", 512), true},
	} {
		reason, text := ParseDisconnect([]byte(test.payload))
		if reason != test.reason || text != test.text || reason.Final() != test.final {
			t.Errorf("%.20q: %v, %q, final %v", test.payload, reason, text, reason.Final())
		}
	}
	if got := AppendDisconnect(nil, ReasonPause, ""); len(got) < 2 {
		t.Errorf("payload without a text: % x", got)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add([]byte("STF\x01\x00\x10\x05\x00\xb0User disconnect"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if typ, n, err := ParseHeader(b); err == nil {
			var again [HeaderLen]byte
			PutHeader(again[:], typ, n)
			if !bytes.Equal(again[:], b[:HeaderLen]) {
				t.Errorf("% x became % x", b[:HeaderLen], again)
			}
		}
		reason, text := ParseDisconnect(b)
		if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) || len(text) > maxDisconnectText {
			t.Errorf("text %q", text)
		}
		if text != "" {
			if r, s := ParseDisconnect(AppendDisconnect(nil, reason, text)); r != reason || s != text {
				t.Errorf("%v %q became %v %q", reason, text, r, s)
			}
		}
	})
}

func TestFrameAllocs(t *testing.T) {
	b := make([]byte, HeaderLen)
	if n := testing.AllocsPerRun(100, func() {
		PutHeader(b, Data, 1400)
		if _, n, err := ParseHeader(b); n != 1400 || err != nil {
			t.Error(n, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
