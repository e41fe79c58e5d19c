package oath_test

import (
	"context"
	"encoding/base32"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/login/oath"
)

const plain = "12345678901234567890" // the secret of the test vectors in RFC 4226 and RFC 6238

var vectors = []string{"755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"} // RFC 4226 D

func TestHOTP(t *testing.T) {
	b32 := base32.StdEncoding.EncodeToString([]byte(plain))
	for _, secret := range []string{
		plain, "base32:" + b32, "BASE32:" + strings.ToLower(b32), "sha1:base32:" + b32, "0x3132333435363738393031323334353637383930",
		plain + ",0",
	} {
		tok, err := oath.HOTP(transport.Secret(secret), nil)
		if err != nil {
			t.Fatalf("HOTP(%q): %v", secret, err)
		}
		for i, want := range vectors {
			if got, err := tok.Code(t.Context()); got != want || err != nil {
				t.Errorf("%q: code %d = %s, %v; want %s", secret, i, got, err, want)
			}
		}
	}
	for _, secret := range []string{"", "base32:1", "base32:", "0x", "0xg0", plain + ",x", plain + ",-1", "@/does/not/exist"} {
		if _, err := oath.HOTP(transport.Secret(secret), nil); err == nil {
			t.Errorf("HOTP(%q) accepts it", secret)
		} else if secret != "" && secret[0] != '@' && len(secret) > 8 && strings.Contains(err.Error(), secret) {
			t.Errorf("the error %q tells the secret", err)
		}
	}
}

func TestHOTPSaves(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("sha1:"+plain+",3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range vectors[3:6] {
		tok, err := oath.HOTP(transport.Secret("@"+file), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tok.Code(t.Context()); got != want || err != nil {
			t.Errorf("code = %s, %v; want %s", got, err, want)
		}
	}
	if b, _ := os.ReadFile(file); string(b) != "sha1:"+plain+",6\n" {
		t.Errorf("the file holds %q", b)
	}
	if left, _ := os.ReadDir(filepath.Dir(file)); len(left) != 1 {
		t.Errorf("%d files are left, want 1", len(left))
	}

	full := errors.New("disk full")
	tok, err := oath.HOTP(plain, func(uint64) error { return full })
	if err != nil {
		t.Fatal(err)
	}
	if code, err := tok.Code(t.Context()); !errors.Is(err, full) || code != "" {
		t.Errorf("Code with a counter that cannot be saved: %q, %v", code, err)
	}
}

// TestTOTP runs at the times of RFC 6238 appendix B, whose codes are cut to six digits.
func TestTOTP(t *testing.T) {
	for _, tt := range []struct {
		secret string
		at     int64
		want   string
	}{
		{plain, 1111111109, "081804"},
		{plain, 1234567890, "005924"},
		{"sha256:" + plain + "123456789012", 1234567890, "819424"},
		{"sha512:" + strings.Repeat(plain, 3) + "1234", 1234567890, "441116"},
	} {
		synctest.Test(t, func(t *testing.T) {
			// A bubble starts in the year 2000.
			time.Sleep(time.Until(time.Unix(tt.at, 0)))
			tok, err := oath.TOTP(transport.Secret(tt.secret))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := tok.Code(t.Context()); got != tt.want || err != nil {
				t.Errorf("code at %d = %s, %v; want %s", tt.at, got, err, tt.want)
			}
		})
	}
}

func TestTOTPNeverRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tok, err := oath.TOTP(plain)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		seen := make(map[string]bool)
		start := time.Now()
		for i := range 3 {
			code, err := tok.Code(t.Context())
			if err != nil || seen[code] {
				t.Fatalf("code %d: %q, %v", i, code, err)
			}
			seen[code] = true
		}
		if d := time.Since(start); d != 50*time.Second {
			t.Errorf("three codes took %s, want the rest of one window and another: 50s", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := tok.Code(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Code under a deadline: %v", err)
		}
	})
}

func TestAnswer(t *testing.T) {
	tok, err := oath.HOTP(plain, nil)
	if err != nil {
		t.Fatal(err)
	}
	form := func(id string, attempt int, names ...string) *login.Form {
		f := &login.Form{ID: id, Attempt: attempt}
		for _, n := range names {
			kind := login.Password
			if n == "username" {
				kind = login.Text
			}
			f.Fields = append(f.Fields, login.Field{Name: n, Kind: kind})
		}
		return f
	}
	f := form("main", 1, "username", "password", "secondary_password")
	if err := tok.Answer(t.Context(), f); !errors.Is(err, login.ErrCannot) {
		t.Errorf("Answer of a form with other questions: %v", err)
	}
	if v := f.Fields[2].Value.Reveal(); v != vectors[0] || f.Fields[0].Answered || f.Fields[1].Answered {
		t.Errorf("the code is %q, and the name and password are answered: %t, %t", v, f.Fields[0].Answered, f.Fields[1].Answered)
	}
	f = form("challenge", 1, "password")
	if err := tok.Answer(t.Context(), f); err != nil || f.Fields[0].Value.Reveal() != vectors[1] {
		t.Errorf("challenge: %v, %q", err, f.Fields[0].Value.Reveal())
	}
	f = form("challenge", 2, "answer")
	if err := tok.Answer(t.Context(), f); err != nil || f.Fields[0].Value.Reveal() != vectors[2] {
		t.Errorf("second attempt: %v, %q", err, f.Fields[0].Value.Reveal())
	}
	f = form("challenge", 3, "answer")
	if err := tok.Answer(t.Context(), f); !errors.Is(err, login.ErrCannot) || f.Fields[0].Answered {
		t.Errorf("third attempt: %v", err)
	}
	// With a fixed password the two complete each other.
	f = form("main", 1, "username", "password", "secondary_password")
	p := login.Chain(login.Fixed{Username: "alice", Password: "pass"}, tok)
	if err := p.Answer(t.Context(), f); err != nil || f.Fields[2].Value.Reveal() != vectors[3] || !login.Unattended(p) {
		t.Errorf("chain: %v, %q", err, f.Fields[2].Value.Reveal())
	}
}
