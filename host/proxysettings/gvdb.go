package proxysettings

import (
	"encoding/binary"
	"maps"
	"slices"
	"strings"
)

// A database of dconf is a GVDB file: a hash table from keys to variants, and in it, under .locks, one with the keys that are
// locked. Keys can be made of pieces, each of which has the number of the piece before it.

const (
	gvdbMagic = "GVariant"
	// maxDatabase bounds a database, in bytes, and maxDepth the pieces of a key.
	maxDatabase = 16 << 20
	maxDepth    = 64
	// maxKey bounds a key, and maxKeys all keys of a table together, in bytes: pieces that many keys share are cheap to make long.
	maxKey     = 4096
	maxKeys    = 64 << 20
	locksTable = ".locks"

	gvdbHeader = 24
	gvdbItem   = 24
	noParent   = 0xffffffff
)

// A database is what a file holds. The zero database is empty.
type database struct {
	values map[string]variant
	locks  map[string]bool
}

// locked reports whether a key is locked, by itself or with its directory.
func (d database) locked(key string) bool {
	if d.locks[key] {
		return true
	}
	for i := len(key) - 1; i > 0; i-- {
		if key[i] == '/' && d.locks[key[:i+1]] {
			return true
		}
	}
	return d.locks["/"]
}

// parseDatabase reads the keys of a database that begin with prefix. The file belongs to a user, so it may be anything.
func parseDatabase(b []byte, prefix string) (database, error) {
	d := database{values: make(map[string]variant), locks: make(map[string]bool)}
	if len(b) == 0 {
		return d, nil
	}
	if len(b) > maxDatabase {
		return d, invalid("the dconf database has more than %d bytes", maxDatabase)
	}
	if len(b) < gvdbHeader || string(b[:8]) != gvdbMagic || binary.LittleEndian.Uint32(b[8:]) != 0 {
		return d, invalid("the dconf database is no GVDB file of this machine's byte order")
	}
	root, ok := region(b, b[16:])
	if !ok {
		return d, invalid("the dconf database is damaged: its table lies outside of it")
	}
	err := walk(b, root, func(key string, kind byte, at []byte) error {
		value, ok := region(b, at)
		if !ok {
			return nil
		}
		switch {
		case kind == 'v' && strings.HasPrefix(key, prefix):
			d.values[key] = slices.Clone(value)
		case kind == 'H' && key == locksTable:
			return walk(b, value, func(key string, kind byte, _ []byte) error {
				if kind == 'v' && (strings.HasPrefix(key, prefix) || strings.HasPrefix(prefix, key)) {
					d.locks[key] = true
				}
				return nil
			})
		}
		return nil
	})
	return d, err
}

// region returns what a pointer of the file points to.
func region(b, pointer []byte) ([]byte, bool) {
	start, end := binary.LittleEndian.Uint32(pointer), binary.LittleEndian.Uint32(pointer[4:])
	if start > end || uint64(end) > uint64(len(b)) {
		return nil, false
	}
	return b[start:end], true
}

// walk calls f for each item of a table in a file.
func walk(file, table []byte, f func(key string, kind byte, value []byte) error) error {
	damaged := func(what string) error { return invalid("the dconf database is damaged: %s", what) }
	if len(table) < 8 {
		return damaged("a table without a header")
	}
	// The upper five bits of the number of words of the Bloom filter are its shift.
	skip := 8 + 4*(uint64(binary.LittleEndian.Uint32(table)&(1<<27-1))+uint64(binary.LittleEndian.Uint32(table[4:])))
	if skip > uint64(len(table)) || (uint64(len(table))-skip)%gvdbItem != 0 {
		return damaged("a table that is not as long as it says")
	}
	items := table[skip:]
	count := uint32(len(items) / gvdbItem)
	item := func(i uint32) []byte { return items[i*gvdbItem:][:gvdbItem] }
	total := uint64(0)
	for i := range count {
		length := uint64(0)
		var pieces []string
		for at, depth := i, 0; ; depth++ {
			it := item(at)
			start, size := uint64(binary.LittleEndian.Uint32(it[8:])), uint64(binary.LittleEndian.Uint16(it[12:]))
			length += size
			if total += size; total > maxKeys {
				return damaged("its keys are too long altogether")
			}
			if start+size > uint64(len(file)) || depth == maxDepth || length > maxKey {
				return damaged("a key that lies outside of it or has no end")
			}
			pieces = append(pieces, string(file[start:start+size]))
			if at = binary.LittleEndian.Uint32(it[4:]); at == noParent {
				break
			}
			if at >= count {
				return damaged("a key that begins with one that is not there")
			}
		}
		slices.Reverse(pieces)
		if err := f(strings.Join(pieces, ""), item(i)[14], item(i)[16:]); err != nil {
			return err
		}
	}
	return nil
}

// bytes makes a file of the database, with no directories for listing, which nobody lists it by.
func (d database) bytes() []byte {
	file := append([]byte(gvdbMagic), make([]byte, gvdbHeader-len(gvdbMagic))...)
	locks := make(map[string]entry)
	for key := range d.locks {
		locks[key] = entry{kind: 'v', data: variantBool(true)}
	}
	file, start, end := appendTable(file, locks)
	root := map[string]entry{}
	for key, v := range d.values {
		root[key] = entry{kind: 'v', data: v}
	}
	// The table of locks is pointed to where it is, since its own pointers are those of the file.
	root[locksTable] = entry{kind: 'H', start: start, end: end}
	file, start, end = appendTable(file, root)
	binary.LittleEndian.PutUint32(file[16:], uint32(start))
	binary.LittleEndian.PutUint32(file[20:], uint32(end))
	return file
}

// An entry is a value of a table to be written: data, or what is in the file already.
type entry struct {
	kind       byte
	data       []byte
	start, end int
}

// appendTable writes keys and values, and then their table.
func appendTable(file []byte, entries map[string]entry) (_ []byte, start, end int) {
	type place struct {
		hash       uint32
		key        string
		entry      entry
		start, end int
	}
	var list []place
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		list = append(list, place{hash: hashOf(key), key: key, entry: entries[key]})
	}
	buckets := uint32(len(list))
	slices.SortStableFunc(list, func(a, b place) int { return int(a.hash%buckets) - int(b.hash%buckets) })
	keys := make([]int, len(list))
	for i := range list {
		keys[i] = len(file)
		file = append(file, list[i].key...)
	}
	for i := range list {
		p := &list[i]
		if p.start, p.end = p.entry.start, p.entry.end; p.entry.data != nil {
			file = pad(file)
			p.start = len(file)
			file = append(file, p.entry.data...)
			p.end = len(file)
		}
	}
	file = pad(file)
	start = len(file)
	put := func(n uint32) { file = binary.LittleEndian.AppendUint32(file, n) }
	put(0) // no Bloom filter
	put(buckets)
	next := 0
	for b := range buckets {
		for next < len(list) && list[next].hash%buckets < b {
			next++
		}
		put(uint32(next))
	}
	for i, p := range list {
		put(p.hash)
		put(noParent)
		put(uint32(keys[i]))
		file = binary.LittleEndian.AppendUint16(file, uint16(len(p.key)))
		file = append(file, p.entry.kind, 0)
		put(uint32(p.start))
		put(uint32(p.end))
	}
	return file, start, len(file)
}

// hashOf is the hash function of GVDB, whose characters are signed.
func hashOf(key string) uint32 {
	h := uint32(5381)
	for i := range len(key) {
		h = h*33 + uint32(int32(int8(key[i])))
	}
	return h
}
