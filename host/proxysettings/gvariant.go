package proxysettings

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
)

// The serialised form of GVariant, as far as dconf needs it for these settings: strings, lists of strings, booleans and
// numbers, each in a variant, which is its data, a zero and its type; and the dictionary of changes that dconf-service takes.
// The byte order is little-endian, as on all machines that matter.

// A variant is the serialised form of a GVariant of type v.
type variant []byte

func variantOf(typ string, data []byte) variant {
	return slices.Concat(data, []byte{0}, []byte(typ))
}

func variantString(s string) variant { return variantOf("s", append([]byte(s), 0)) }

func variantInt(n int) variant {
	return variantOf("i", binary.LittleEndian.AppendUint32(nil, uint32(int32(n))))
}

func variantBool(b bool) variant {
	if b {
		return variantOf("b", []byte{1})
	}
	return variantOf("b", []byte{0})
}

func variantStrings(list []string) variant {
	var body []byte
	var ends []int
	for _, s := range list {
		body = append(append(body, s...), 0)
		ends = append(ends, len(body))
	}
	return variantOf("as", framed(body, ends))
}

// framed appends the offsets of the ends of elements, in as many bytes each as the whole needs.
func framed(body []byte, ends []int) []byte {
	size := offsetSize(len(body), len(ends))
	for _, e := range ends {
		var b [4]byte
		binary.LittleEndian.PutUint32(b[:], uint32(e))
		body = append(body, b[:size]...)
	}
	return body
}

func offsetSize(body, offsets int) int {
	switch {
	case body+offsets <= 0xff:
		return 1
	case body+2*offsets <= 0xffff:
		return 2
	}
	return 4
}

// open returns the type and data of a variant.
func (v variant) open() (typ string, data []byte) {
	i := bytes.LastIndexByte(v, 0)
	if i < 0 {
		return "", nil
	}
	return string(v[i+1:]), v[:i]
}

// text returns a string, or "" for anything else.
func (v variant) text() string {
	typ, data := v.open()
	if typ != "s" || len(data) == 0 || data[len(data)-1] != 0 || bytes.IndexByte(data, 0) != len(data)-1 {
		return ""
	}
	return string(data[:len(data)-1])
}

// number returns a number, or 0 for anything else.
func (v variant) number() int {
	typ, data := v.open()
	if typ != "i" || len(data) != 4 {
		return 0
	}
	return int(int32(binary.LittleEndian.Uint32(data)))
}

// list returns a list of strings, or nil for anything else.
func (v variant) list() []string {
	typ, data := v.open()
	if typ != "as" || len(data) == 0 {
		return nil
	}
	size := 1
	if len(data) > 0xff {
		size = 2
	}
	if len(data) > 0xffff {
		size = 4
	}
	at := func(i int) int {
		var b [4]byte
		copy(b[:size], data[i:])
		return int(binary.LittleEndian.Uint32(b[:]))
	}
	if len(data) < size {
		return nil
	}
	offsets := at(len(data) - size)
	if offsets > len(data)-size || (len(data)-offsets)%size != 0 {
		return nil
	}
	var list []string
	start := 0
	for i := offsets; i < len(data); i += size {
		end := at(i)
		if end <= start || end > offsets || data[end-1] != 0 {
			return nil
		}
		list = append(list, string(data[start:end-1]))
		start = end
	}
	return list
}

// change serialises a dictionary of changes, of type a{smv}: a key with nil is unset.
func change(values map[string]variant) []byte {
	var body []byte
	var ends []int
	for _, key := range slices.Sorted(maps.Keys(values)) {
		body = pad(body)
		entry := append([]byte(key), 0)
		end := len(entry)
		entry = pad(entry)
		if v := values[key]; v != nil {
			// A maybe with something in it has a zero behind that.
			entry = append(append(entry, v...), 0)
		}
		body = append(body, framed(entry, []int{end})...)
		ends = append(ends, len(body))
	}
	return framed(body, ends)
}

// pad aligns to 8 bytes, as variants are.
func pad(b []byte) []byte {
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	return b
}
