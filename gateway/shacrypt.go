package gateway

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
)

// SHA-crypt is the password hash of Unix systems and of ocserv's ocpasswd, as Ulrich Drepper's "Unix crypt using SHA-256 and
// SHA-512" (public domain, version 0.6) specifies it: $5$ and $6$, optionally followed by rounds=N$.
const (
	shaCryptRounds    = 5000
	shaCryptMinRounds = 1000
	// The specification allows 999,999,999 rounds, which is half an hour of one processor for each login.
	shaCryptMaxRounds = 10_000_000
	shaCryptMaxSalt   = 16
	// shaCryptMaxPassword bounds the password, because its length enters the cost quadratically.
	shaCryptMaxPassword = 256
)

// A shaCrypt is a parsed hash of a password.
type shaCrypt struct {
	new    func() hash.Hash
	order  []byte // the order in which the bytes of the digest are written, three for each group of four characters
	rounds int
	salt   string
	sum    string
}

// The digest is written in groups of three bytes, most significant first, four characters for each.
var (
	order256 = []byte{
		0, 10, 20, 21, 1, 11, 12, 22, 2, 3, 13, 23, 24, 4, 14, 15, 25, 5, 6, 16, 26, 27, 7, 17, 18, 28, 8, 9, 19, 29, 31, 30,
	}
	order512 = []byte{
		0, 21, 42, 22, 43, 1, 44, 2, 23, 3, 24, 45, 25, 46, 4, 47, 5, 26, 6, 27, 48, 28, 49, 7, 50, 8, 29, 9, 30, 51, 31, 52, 10,
		53, 11, 32, 12, 33, 54, 34, 55, 13, 56, 14, 35, 15, 36, 57, 37, 58, 16, 59, 17, 38, 18, 39, 60, 40, 61, 19, 62, 20, 41, 63,
	}
)

const shaCryptAlphabet = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func parseShaCrypt(s string) (*shaCrypt, error) {
	c := &shaCrypt{rounds: shaCryptRounds}
	rest := s
	switch {
	case strings.HasPrefix(s, "$5$"):
		c.new, c.order = sha256.New, order256
	case strings.HasPrefix(s, "$6$"):
		c.new, c.order = sha512.New, order512
	default:
		return nil, errors.New("not a SHA-crypt hash")
	}
	rest = rest[3:]
	if number, after, ok := strings.Cut(rest, "$"); ok && strings.HasPrefix(number, "rounds=") {
		n, err := strconv.ParseUint(number[len("rounds="):], 10, 31)
		if err != nil {
			return nil, fmt.Errorf("SHA-crypt: %q is no number of rounds", number)
		}
		if n > shaCryptMaxRounds {
			return nil, fmt.Errorf("SHA-crypt: %d rounds are more than the %d allowed here", n, shaCryptMaxRounds)
		}
		c.rounds, rest = max(int(n), shaCryptMinRounds), after
	}
	var ok bool
	if c.salt, c.sum, ok = strings.Cut(rest, "$"); !ok {
		return nil, errors.New("SHA-crypt: no $ between salt and hash")
	}
	c.salt = c.salt[:min(len(c.salt), shaCryptMaxSalt)]
	if want := (c.new().Size()*8 + 5) / 6; len(c.sum) != want {
		return nil, fmt.Errorf("SHA-crypt: the hash has %d characters, want %d", len(c.sum), want)
	}
	return c, nil
}

// verify reports whether the password has the hash. It takes the same time for every password of one length.
func (c *shaCrypt) verify(password string) bool {
	if len(password) > shaCryptMaxPassword {
		return false
	}
	return subtle.ConstantTimeCompare([]byte(c.digest(password)), []byte(c.sum)) == 1
}

// digest follows the numbered steps of the specification.
func (c *shaCrypt) digest(password string) string {
	key, salt := []byte(password), []byte(c.salt)
	h := c.new()
	size := h.Size()

	// Steps 4 to 8: B = H(key salt key).
	h.Write(key)
	h.Write(salt)
	h.Write(key)
	b := h.Sum(nil)

	// Steps 1 to 3 and 9 to 12: A = H(key salt B... and B or key for each bit of the length).
	h.Reset()
	h.Write(key)
	h.Write(salt)
	h.Write(repeat(b, len(key)))
	for n := len(key); n > 0; n >>= 1 {
		if n&1 != 0 {
			h.Write(b)
		} else {
			h.Write(key)
		}
	}
	a := h.Sum(nil)

	// Steps 13 to 16: P is as long as the key.
	h.Reset()
	for range key {
		h.Write(key)
	}
	p := repeat(h.Sum(nil), len(key))

	// Steps 17 to 20: S is as long as the salt.
	h.Reset()
	for range 16 + int(a[0]) {
		h.Write(salt)
	}
	s := repeat(h.Sum(nil), len(salt))

	// Step 21.
	sum := make([]byte, 0, size)
	for i := range c.rounds {
		h.Reset()
		if i&1 != 0 {
			h.Write(p)
		} else {
			h.Write(a)
		}
		if i%3 != 0 {
			h.Write(s)
		}
		if i%7 != 0 {
			h.Write(p)
		}
		if i&1 != 0 {
			h.Write(a)
		} else {
			h.Write(p)
		}
		sum = h.Sum(sum[:0])
		copy(a, sum)
	}

	// Step 22.
	var out strings.Builder
	for i := 0; i < len(c.order); i += 3 {
		group := c.order[i:min(i+3, len(c.order))]
		var v uint32
		chars := 4
		switch len(group) {
		case 3:
			v = uint32(a[group[0]])<<16 | uint32(a[group[1]])<<8 | uint32(a[group[2]])
		case 2:
			v, chars = uint32(a[group[0]])<<8|uint32(a[group[1]]), 3
		case 1:
			v, chars = uint32(a[group[0]]), 2
		}
		for range chars {
			out.WriteByte(shaCryptAlphabet[v&63])
			v >>= 6
		}
	}
	return out.String()
}

// repeat returns n bytes of b, b, b...
func repeat(b []byte, n int) []byte {
	out := make([]byte, 0, n)
	for len(out) < n {
		out = append(out, b[:min(len(b), n-len(out))]...)
	}
	return out
}
