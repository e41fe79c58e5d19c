package sqlite

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A Row is the values of a row in the order of the columns: nil, int64, float64, string or []byte.
type Row []any

// Text returns a value that is a text, and "" for others.
func (r Row) Text(column int) string {
	if column < 0 || column >= len(r) {
		return ""
	}
	s, _ := r[column].(string)
	return s
}

// Int returns a value that is a whole number.
func (r Row) Int(column int) (int64, bool) {
	if column < 0 || column >= len(r) {
		return 0, false
	}
	n, ok := r[column].(int64)
	return n, ok
}

// Blob returns the bytes of a value that has some: a blob or a text. It returns nil for others, and for a column of -1, so that
// the result of [Table.Column] need not be looked at.
func (r Row) Blob(column int) []byte {
	if column < 0 || column >= len(r) {
		return nil
	}
	switch v := r[column].(type) {
	case []byte:
		return v
	case string:
		return []byte(v)
	}
	return nil
}

// parseRecord reads the values of a row. Columns that the record lacks were added to the table later, and are NULL; values for
// which there is no column are left out.
func parseRecord(b []byte, columns int) (Row, error) {
	size, n := varint(b)
	if n == 0 || size < int64(n) || size > int64(len(b)) {
		return nil, fmt.Errorf("%w: the header of a row is cut off", ErrFormat)
	}
	types, values := b[n:size], b[size:]
	row := make(Row, 0, columns)
	for len(types) > 0 && len(row) < columns {
		kind, n := varint(types)
		if n == 0 || kind < 0 {
			return nil, fmt.Errorf("%w: the header of a row is broken", ErrFormat)
		}
		types = types[n:]
		length := sizeOf(kind)
		if length < 0 || length > int64(len(values)) {
			return nil, fmt.Errorf("%w: a value is larger than its row", ErrFormat)
		}
		row = append(row, value(kind, values[:length]))
		values = values[length:]
	}
	for len(row) < columns {
		row = append(row, nil)
	}
	return row, nil
}

// sizeOf returns how many bytes a value of a type has, -1 for a type that there is not.
func sizeOf(kind int64) int64 {
	switch {
	case kind >= 12:
		return (kind - 12) / 2
	case kind <= 4:
		return kind
	case kind == 5:
		return 6
	case kind <= 7:
		return 8
	case kind <= 9:
		return 0
	}
	return -1
}

// value reads a value of a type.
func value(kind int64, b []byte) any {
	switch {
	case kind == 0:
		return nil
	case kind == 7:
		return math.Float64frombits(binary.BigEndian.Uint64(b))
	case kind == 8:
		return int64(0)
	case kind == 9:
		return int64(1)
	case kind < 7:
		var n int64
		if b[0] >= 0x80 {
			n = -1
		}
		for _, c := range b {
			n = n<<8 | int64(c)
		}
		return n
	case kind%2 == 0:
		return b[:len(b):len(b)]
	}
	return string(b)
}
