package document

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// An Encoding is how the characters of a document are written as bytes.
type Encoding struct {
	// Name is UTF-8, UTF-16LE, UTF-16BE, ISO-8859-1, windows-1252 or US-ASCII.
	Name string `json:"name"`
	// BOM says that a byte order mark comes first.
	BOM bool `json:"bom,omitempty"`
}

// family is the name that the XML declaration gives the encoding by: both byte orders of UTF-16 are one encoding there.
func (e Encoding) family() string {
	if strings.HasPrefix(e.Name, "UTF-16") {
		return "UTF-16"
	}
	return e.Name
}

// canonical returns the name of an encoding as this package writes it, and "" for one that it does not read.
func canonical(name string) string {
	switch strings.ToLower(name) {
	case "utf-8", "utf8":
		return "UTF-8"
	case "utf-16", "utf16", "utf-16le", "utf-16be":
		return "UTF-16"
	case "iso-8859-1", "iso8859-1", "latin1":
		return "ISO-8859-1"
	case "windows-1252", "cp1252":
		return "windows-1252"
	case "us-ascii", "ascii":
		return "US-ASCII"
	}
	return ""
}

// An encodingError is a fault of the encoding, at a byte of the source.
type encodingError struct {
	line, column  int
	message, hint string
}

func (e *encodingError) Error() string { return e.message }

// decode returns the characters of raw in UTF-8, without a byte order mark, and the encoding that they were in.
func decode(raw []byte) ([]byte, Encoding, *encodingError) {
	const save = "save the document as UTF-8"
	switch {
	case bytes.HasPrefix(raw, []byte("\xff\xfe\x00\x00")), bytes.HasPrefix(raw, []byte("\x00\x00\xfe\xff")),
		bytes.HasPrefix(raw, []byte("<\x00\x00\x00")), bytes.HasPrefix(raw, []byte("\x00\x00\x00<")):
		return nil, Encoding{}, &encodingError{1, 1, "the document is in UTF-32, which is not read", save}
	case bytes.HasPrefix(raw, []byte("\xef\xbb\xbf")):
		text := raw[3:]
		return text, Encoding{"UTF-8", true}, checkUTF8(text)
	case bytes.HasPrefix(raw, []byte("\xff\xfe")):
		text, err := decodeUTF16(raw[2:], binary.LittleEndian)
		return text, Encoding{"UTF-16LE", true}, err
	case bytes.HasPrefix(raw, []byte("\xfe\xff")):
		text, err := decodeUTF16(raw[2:], binary.BigEndian)
		return text, Encoding{"UTF-16BE", true}, err
	case bytes.HasPrefix(raw, []byte("<\x00")):
		text, err := decodeUTF16(raw, binary.LittleEndian)
		return text, Encoding{"UTF-16LE", false}, err
	case bytes.HasPrefix(raw, []byte("\x00<")):
		text, err := decodeUTF16(raw, binary.BigEndian)
		return text, Encoding{"UTF-16BE", false}, err
	}
	// Every other encoding that is read writes the letters of the declaration as ASCII does.
	declared := declaredEncoding(raw)
	name := "UTF-8"
	if declared != "" {
		name = canonical(declared)
	}
	switch name {
	case "UTF-8":
		return raw, Encoding{Name: name}, checkUTF8(raw)
	case "UTF-16":
		return nil, Encoding{}, &encodingError{1, 1, fmt.Sprintf("the document says that it is in %s, but its bytes are not", declared),
			"write encoding=\"UTF-8\""}
	case "US-ASCII":
		for i, c := range raw {
			if c >= 0x80 {
				line, column := count(raw[:i])
				return nil, Encoding{}, &encodingError{line, column, fmt.Sprintf("byte 0x%02x is not US-ASCII, which the document says it is in", c), save}
			}
		}
		return raw, Encoding{Name: name}, nil
	case "ISO-8859-1", "windows-1252":
		return decode8(raw, name == "windows-1252"), Encoding{Name: name}, nil
	}
	return nil, Encoding{}, &encodingError{1, 1, fmt.Sprintf("the encoding %q is not read", clip(declared)), save}
}

// declaredEncoding returns the encoding that the XML declaration of raw names, or "".
func declaredEncoding(raw []byte) string {
	if !bytes.HasPrefix(raw, []byte("<?xml")) {
		return ""
	}
	end := bytes.Index(raw[:min(len(raw), 512)], []byte("?>"))
	if end < 0 {
		return ""
	}
	for _, a := range pseudoAttributes(string(raw[len("<?xml"):end])) {
		if a[0] == "encoding" {
			return a[1]
		}
	}
	return ""
}

// pseudoAttributes returns the names and values in an XML declaration.
func pseudoAttributes(s string) [][2]string {
	var all [][2]string
	for {
		name, rest, ok := strings.Cut(s, "=")
		rest = strings.TrimLeft(rest, " \t\r\n")
		if !ok || rest == "" || rest[0] != '"' && rest[0] != '\'' {
			return all
		}
		value, tail, ok := strings.Cut(rest[1:], rest[:1])
		if !ok {
			return all
		}
		all = append(all, [2]string{strings.Trim(name, " \t\r\n"), value})
		s = tail
	}
}

// checkUTF8 returns where text is not UTF-8.
func checkUTF8(text []byte) *encodingError {
	if utf8.Valid(text) {
		return nil
	}
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			line, column := count(text[:i])
			return &encodingError{line, column, fmt.Sprintf("byte 0x%02x is not UTF-8", text[i]),
				"save the document as UTF-8, or name its encoding in the first line"}
		}
		i += n
	}
	return nil
}

// decodeUTF16 returns the characters of raw in UTF-8.
func decodeUTF16(raw []byte, order binary.ByteOrder) ([]byte, *encodingError) {
	text := make([]byte, 0, len(raw)/2+len(raw)/8)
	for i := 0; i < len(raw); i += 2 {
		if i+1 == len(raw) {
			line, column := count(text)
			return nil, &encodingError{line, column, "the document is in UTF-16 and ends in the middle of a character", "save the document again"}
		}
		r := rune(order.Uint16(raw[i:]))
		if utf16.IsSurrogate(r) {
			second := rune(utf8.RuneError)
			if i+3 < len(raw) {
				second = rune(order.Uint16(raw[i+2:]))
			}
			pair := utf16.DecodeRune(r, second)
			if pair == utf8.RuneError {
				line, column := count(text)
				return nil, &encodingError{line, column, fmt.Sprintf("0x%04x is half of a character of UTF-16", r), "save the document as UTF-8"}
			}
			r = pair
			i += 2
		}
		text = utf8.AppendRune(text, r)
	}
	return text, nil
}

// windows1252 are the characters of windows-1252 from 0x80 to 0x9f. The five that it leaves free are as in ISO-8859-1.
const windows1252 = "€\u0081‚ƒ„…†‡ˆ‰Š‹Œ\u008dŽ\u008f\u0090‘’“”•–—˜™š›œ\u009džŸ"

// decode8 returns the characters of raw, which has one byte for each, in UTF-8.
func decode8(raw []byte, windows bool) []byte {
	high := []rune(windows1252)
	text := make([]byte, 0, len(raw)+len(raw)/8)
	for _, c := range raw {
		r := rune(c)
		if windows && c >= 0x80 && c < 0xa0 {
			r = high[c-0x80]
		}
		text = utf8.AppendRune(text, r)
	}
	return text
}

// encode is the reverse of decode. Characters that the encoding lacks must have been written as references before.
func (e Encoding) encode(text []byte) []byte {
	switch e.Name {
	case "UTF-16LE", "UTF-16BE":
		var order binary.AppendByteOrder = binary.LittleEndian
		if e.Name == "UTF-16BE" {
			order = binary.BigEndian
		}
		raw := make([]byte, 0, 2*len(text)+2)
		if e.BOM {
			raw = order.AppendUint16(raw, 0xfeff)
		}
		for _, r := range string(text) {
			if r > 0xffff {
				r1, r2 := utf16.EncodeRune(r)
				raw = order.AppendUint16(raw, uint16(r1))
				r = r2
			}
			raw = order.AppendUint16(raw, uint16(r))
		}
		return raw
	case "ISO-8859-1", "windows-1252":
		raw := make([]byte, 0, len(text))
		for _, r := range string(text) {
			c, _ := e.byteOf(r)
			raw = append(raw, c)
		}
		return raw
	}
	if e.BOM {
		return append([]byte("\xef\xbb\xbf"), text...)
	}
	return bytes.Clone(text)
}

// byteOf returns the byte of r in an encoding of one byte for each character.
func (e Encoding) byteOf(r rune) (byte, bool) {
	switch {
	case r < 0x80:
		return byte(r), true
	case e.Name == "US-ASCII":
		return '?', false
	case e.Name == "windows-1252":
		n := 0
		for _, h := range windows1252 {
			if h == r {
				return byte(0x80 + n), true
			}
			n++
		}
		if r < 0xa0 {
			return '?', false
		}
	}
	if r <= 0xff {
		return byte(r), true
	}
	return '?', false
}

// has reports whether the encoding can write r.
func (e Encoding) has(r rune) bool {
	switch e.Name {
	case "ISO-8859-1", "windows-1252", "US-ASCII":
		_, ok := e.byteOf(r)
		return ok
	}
	return true
}

// count returns the line and column, from 1, of what follows before.
func count(before []byte) (line, column int) {
	line = 1 + bytes.Count(before, []byte("\n"))
	return line, 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
}

// clip shortens what a message quotes of a document.
func clip(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}
