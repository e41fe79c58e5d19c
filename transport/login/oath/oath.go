// Package oath answers a gateway's question for a one-time code by computing it: TOTP (RFC 6238), which depends on the time,
// or HOTP (RFC 4226), which counts.
//
// A code opens the door once. A [Token] therefore never gives the same code twice: if it is asked again within the window of
// a TOTP code, it waits for the next one. When the gateway rejects a code, the Token tries exactly one more and then leaves
// the question to others, because gateways lock accounts after a few wrong codes.
package oath

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"

	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
)

// A Token computes codes. It is a login.Prompter that answers nothing but the field for the code. Its methods may be called
// at the same time.
type Token struct {
	secret string // base32, as package hotp wants it
	hash   otp.Algorithm
	timed  bool

	mu   sync.Mutex
	next uint64 // the first counter, or window of the time, that was not used yet
	// save stores next, if the counter is to be remembered.
	save func(next uint64) error
}

const (
	period = 30 * time.Second
	// maxAttempts is how often one question of a gateway is answered.
	maxAttempts = 2
	// maxSecret bounds a secret, and a file that holds one, in bytes.
	maxSecret = 4096
)

// TOTP returns a Token whose codes depend on the time: six digits, a new one every 30 seconds.
//
// Secret has one of the forms of openconnect's --token-secret: base32:LETTERS, 0xHEX, or plain text that is the secret
// itself; each may have sha1:, sha256: or sha512: in front, which chooses the hash. @FILE reads one of these from a file.
func TOTP(secret transport.Secret) (*Token, error) {
	t, _, _, err := parse(secret, false)
	if err != nil {
		return nil, err
	}
	t.timed = true
	return t, nil
}

// HOTP returns a Token whose codes count up. Secret is as for TOTP, with the next counter after a comma: base32:LETTERS,42.
// Without it the count starts at 0. If the secret comes from a file, each new count is written back to it; otherwise save is
// called, if it is not nil, before a code is used. Whoever makes the Token anew must start with the saved count.
func HOTP(secret transport.Secret, save func(next uint64) error) (*Token, error) {
	t, file, text, err := parse(secret, true)
	if err != nil {
		return nil, err
	}
	t.save = save
	if file != "" {
		t.save = func(next uint64) error {
			return replace(file, text+","+strconv.FormatUint(next, 10)+"\n")
		}
	}
	return t, nil
}

// parse returns the token, and the file that the secret came from with its text, without the counter.
func parse(secret transport.Secret, counts bool) (t *Token, file, text string, err error) {
	text = secret.Reveal()
	if name, ok := strings.CutPrefix(text, "@"); ok {
		file = name
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, "", "", fmt.Errorf("oath: no token secret: %w", err)
		}
		text = strings.TrimSpace(string(b))
	}
	if len(text) > maxSecret {
		return nil, "", "", fmt.Errorf("oath: a token secret of %d bytes is too long", len(text))
	}
	t = new(Token)
	if counts {
		if i := strings.LastIndexByte(text, ','); i >= 0 {
			t.next, err = strconv.ParseUint(strings.TrimSpace(text[i+1:]), 10, 63)
			if err != nil {
				return nil, "", "", errors.New("oath: what follows the comma of the token secret is no counter")
			}
			text = text[:i]
		}
	}
	key := text
	for prefix, hash := range map[string]otp.Algorithm{"sha1:": otp.AlgorithmSHA1, "sha256:": otp.AlgorithmSHA256, "sha512:": otp.AlgorithmSHA512} {
		if rest, ok := cutFold(text, prefix); ok {
			key, t.hash = rest, hash
		}
	}
	raw, err := decode(key)
	if err != nil {
		return nil, "", "", err
	}
	t.secret = base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(raw)
	return t, file, text, nil
}

// decode returns the bytes of a secret. Its errors do not quote it.
func decode(s string) ([]byte, error) {
	var raw []byte
	var err error
	if rest, ok := cutFold(s, "base32:"); ok {
		clean := strings.ToUpper(strings.NewReplacer(" ", "", "-", "", "=", "").Replace(rest))
		if raw, err = base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(clean); err != nil {
			return nil, errors.New("oath: the token secret is not base32 (letters A-Z and digits 2-7)")
		}
	} else if rest, ok := cutFold(s, "0x"); ok {
		if raw, err = hex.DecodeString(rest); err != nil {
			return nil, errors.New("oath: the token secret after 0x is not hexadecimal")
		}
	} else {
		raw = []byte(s)
	}
	if len(raw) == 0 {
		return nil, errors.New("oath: the token secret is empty")
	}
	return raw, nil
}

func cutFold(s, prefix string) (string, bool) {
	if len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix) {
		return s[len(prefix):], true
	}
	return s, false
}

// replace writes a file anew so that it is whole at any time, even after a crash.
func replace(name, text string) error {
	temporary := name + "." + rand.Text()
	if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
		return err
	}
	return errors.Join(os.Rename(temporary, name), removeIfThere(temporary))
}

func removeIfThere(name string) error {
	if err := os.Remove(name); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Unattended returns true.
func (*Token) Unattended() bool { return true }

// Answer implements login.Prompter. It answers the first question of f that is for a code: a password named
// secondary_password, answer or the like, or any password in a form with the ID challenge. For TOTP it may wait up to 30
// seconds for a code that was not used yet.
func (t *Token) Answer(ctx context.Context, f *login.Form) error {
	complete := true
	given := false
	for i := range f.Fields {
		field := &f.Fields[i]
		switch {
		case field.Answered:
		case given || !wantsCode(f, field):
			complete = false
		case f.Attempt > maxAttempts:
			return fmt.Errorf("%w: %s rejected %d codes, and a third might lock the account", login.ErrCannot, f.Gateway, maxAttempts)
		default:
			code, err := t.Code(ctx)
			if err != nil {
				return err
			}
			field.Set(code)
			given = true
		}
	}
	if !complete {
		return login.ErrCannot
	}
	return nil
}

func wantsCode(f *login.Form, field *login.Field) bool {
	if field.Kind == login.Choice {
		return false
	}
	switch field.Name {
	case "secondary_password", "answer":
		return true
	}
	if field.Kind != login.Password {
		return false
	}
	// Gateways that ask for one factor after the other may call each of them password, and say in words alone which is meant.
	return f.ID == "challenge" || mentionsCode(f.Message) || mentionsCode(field.Label)
}

// mentionsCode reports whether a text of the gateway speaks of one-time codes.
func mentionsCode(text string) bool {
	text = strings.ToLower(text)
	for _, word := range []string{"otp", "one-time", "one time", "tokencode", "token code", "passcode", "verification code", "authenticator"} {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}

// Code returns a code that was never returned before. For TOTP it waits for the next window if it must.
func (t *Token) Code(ctx context.Context) (string, error) {
	counter, err := t.take(ctx)
	if err != nil {
		return "", err
	}
	code, err := hotp.GenerateCodeCustom(t.secret, counter, hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: t.hash})
	if err != nil {
		return "", fmt.Errorf("oath: no code: %w", err)
	}
	return code, nil
}

// take returns a counter that nobody else gets.
func (t *Token) take(ctx context.Context) (uint64, error) {
	for {
		t.mu.Lock()
		now := time.Now()
		window := uint64(now.Unix()) / uint64(period/time.Second)
		if !t.timed || window >= t.next {
			counter := t.next
			if t.timed {
				counter = window
			}
			if t.save != nil {
				if err := t.save(counter + 1); err != nil {
					t.mu.Unlock()
					return 0, fmt.Errorf("oath: the counter cannot be saved, and a code must not be used twice: %w", err)
				}
			}
			t.next = counter + 1
			t.mu.Unlock()
			return counter, nil
		}
		wait := time.Unix(int64(t.next)*int64(period/time.Second), 0).Sub(now)
		t.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return 0, ctx.Err()
		case <-timer.C:
		}
	}
}
