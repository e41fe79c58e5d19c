package script

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The bounds of single values, in bytes. The kernel takes strings of up to 128 KiB in an environment.
const (
	maxBanner  = 8 << 10
	maxOption  = 4 << 10
	maxOptions = 32 << 10
	maxList    = 32 << 10
	maxURL     = 2 << 10
	maxDevice  = 15 // IFNAMSIZ without the final NUL
)

// lookalikes stand for the characters that a shell takes for something else in a string between quotes. A script that puts a
// text into a command for "eval" is wrong, but then nothing happens.
var lookalikes = map[rune]rune{
	'$':  '＄',
	'`':  '‘',
	'\'': '’',
	'"':  '”',
	'\\': '＼',
}

// cleanText returns s for a person to read, cut to so many bytes: without control characters, also those that change the
// direction of writing, and with look-alikes for the quotes of a shell. A line break stays if lines is set, else it becomes a
// blank, as tabs do.
func cleanText(s string, limit int, lines bool) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' && lines:
		case unicode.IsSpace(r):
			r = ' '
		case r == utf8.RuneError, !unicode.IsPrint(r):
			continue
		default:
			if l, ok := lookalikes[r]; ok {
				r = l
			}
		}
		if b.Len()+utf8.RuneLen(r) > limit {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}

// excerpt returns s for a message of ours: on one line, and at most 200 bytes long.
func excerpt(s string) string { return cleanText(s, 200, false) }

func letterOrDigit(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// checkDomain returns s as a domain name without the dot at its ends, or why it is none. Underscores are let through, since
// domains of Windows have them.
func checkDomain(s string) (string, error) {
	s = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(s, "*."), "."), ".")
	if s == "" || len(s) > 253 {
		return "", errors.New("a domain name has 1 to 253 bytes")
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return "", errors.New("a label of a domain name has 1 to 63 bytes")
		}
		for i := range len(label) {
			c := label[i]
			// A script may hand the name to a program that takes what begins with a hyphen for an option.
			if !letterOrDigit(c) && c != '_' && (c != '-' || i == 0) {
				return "", errors.New("a domain name consists of letters, digits, hyphens and underscores between dots")
			}
		}
	}
	return s, nil
}

// checkDevice returns why s is no name for a network interface. The kernel lets more through, but then scripts fail.
func checkDevice(s string) error {
	if s == "" || len(s) > maxDevice || s == "." || s == ".." || s[0] == '-' {
		return errors.New("the name of an interface has 1 to 15 bytes and does not begin with a hyphen")
	}
	for i := range len(s) {
		if c := s[i]; !letterOrDigit(c) && c != '_' && c != '-' && c != '.' {
			return errors.New("the name of an interface consists of letters, digits, dots, hyphens and underscores")
		}
	}
	return nil
}

// checkURL returns why s is no URL that can be handed to a script. Many URLs are not that do no harm elsewhere.
func checkURL(s string) error {
	if len(s) > maxURL {
		return errors.New("a URL of more than 2 KiB")
	}
	if !strings.HasPrefix(s, "http://") && !strings.HasPrefix(s, "https://") {
		return errors.New("a URL that begins neither with http:// nor with https://")
	}
	for i := range len(s) {
		if c := s[i]; !letterOrDigit(c) && strings.IndexByte("-._~:/?=%+,@[]", c) < 0 {
			return errors.New("a URL with a character that must be encoded for a script")
		}
	}
	return nil
}

// secretOption reports whether the header of this name is not for scripts: because it is a secret, or names one, or because
// it is a document that would fill the environment.
func secretOption(name string) bool {
	name = strings.ToLower(name)
	for _, part := range []string{"secret", "session", "cookie", "token", "password", "app-id", "xml", "banner"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

func checkOption(name string) error {
	if !strings.HasPrefix(name, "X-CSTP-") && !strings.HasPrefix(name, "X-DTLS-") && !strings.HasPrefix(name, "X-DTLS12-") || len(name) > 64 {
		return errors.New("an option begins with X-CSTP- or X-DTLS- and has at most 64 bytes")
	}
	for i := range len(name) {
		if c := name[i]; !letterOrDigit(c) && c != '-' {
			return errors.New("the name of an option consists of letters, digits and hyphens")
		}
	}
	return nil
}
