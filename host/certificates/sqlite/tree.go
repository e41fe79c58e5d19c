package sqlite

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// errStop ends a walk that nobody wants more of.
var errStop = errors.New("stopped")

// A walk visits the rows of one table.
type walk struct {
	file *File
	seen []uint64 // a bit for each page
	sum  int64    // bytes of all rows so far: many cells could point to the same bytes
}

// visit returns a page by its number, which counts from 1, and refuses to do so twice.
func (w *walk) visit(number uint32) ([]byte, error) {
	if number < 1 || int64(number) > int64(w.file.pages) {
		return nil, fmt.Errorf("%w: it has no page %d", ErrFormat, number)
	}
	bit := uint64(1) << (number % 64)
	if w.seen[number/64]&bit != 0 {
		return nil, fmt.Errorf("%w: page %d is in two places", ErrFormat, number)
	}
	w.seen[number/64] |= bit
	start := (int(number) - 1) * w.file.pageSize
	return w.file.data[start : start+w.file.usable], nil
}

// page visits the rows below a page of a table's tree. Each leaf cell is handed to row, which reports whether it wants more.
func (w *walk) page(number uint32, depth int, row func(number int64, payload []byte) (bool, error)) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: a tree is deeper than %d pages", ErrFormat, maxDepth)
	}
	page, err := w.visit(number)
	if err != nil {
		return err
	}
	at := 0
	if number == 1 {
		at = headerSize
	}
	const interior, leaf = 5, 13
	kind := page[at]
	header := 8
	switch kind {
	case leaf:
	case interior:
		header = 12
	default:
		return fmt.Errorf("%w: page %d is of kind %d and not of a table", ErrFormat, number, kind)
	}
	cells := int(binary.BigEndian.Uint16(page[at+3:]))
	if at+header+2*cells > len(page) {
		return fmt.Errorf("%w: page %d has %d cells", ErrFormat, number, cells)
	}
	for i := range cells {
		offset := int(binary.BigEndian.Uint16(page[at+header+2*i:]))
		if offset >= len(page) {
			return fmt.Errorf("%w: a cell of page %d is outside of it", ErrFormat, number)
		}
		cell := page[offset:]
		if kind == interior {
			if len(cell) < 4 {
				return fmt.Errorf("%w: a cell of page %d is cut off", ErrFormat, number)
			}
			if err := w.page(binary.BigEndian.Uint32(cell), depth+1, row); err != nil {
				return err
			}
			continue
		}
		key, payload, err := w.payload(cell)
		if err != nil {
			return err
		}
		more, err := row(key, payload)
		if err != nil {
			return err
		}
		if !more {
			return errStop
		}
	}
	if kind == interior {
		return w.page(binary.BigEndian.Uint32(page[at+8:]), depth+1, row)
	}
	return nil
}

// payload returns the number and the record of a leaf cell, whose end may be in a chain of overflow pages.
func (w *walk) payload(cell []byte) (number int64, payload []byte, err error) {
	size, n := varint(cell)
	if n == 0 || size < 0 || size > int64(len(w.file.data)) {
		return 0, nil, fmt.Errorf("%w: a row is larger than the file", ErrFormat)
	}
	if w.sum += size; w.sum > int64(len(w.file.data)) {
		return 0, nil, fmt.Errorf("%w: its rows overlap", ErrFormat)
	}
	cell = cell[n:]
	number, n = varint(cell)
	if n == 0 {
		return 0, nil, fmt.Errorf("%w: a row is cut off", ErrFormat)
	}
	cell = cell[n:]
	// How much of a row is in its page: everything up to X, and else so much that the last overflow page is full, or M.
	u := int64(w.file.usable)
	x, m := u-35, (u-12)*32/255-23
	local := size
	if size > x {
		if local = m + (size-m)%(u-4); local > x {
			local = m
		}
	}
	if size == local {
		if int64(len(cell)) < size {
			return 0, nil, fmt.Errorf("%w: a row is cut off", ErrFormat)
		}
		return number, cell[:size], nil
	}
	if int64(len(cell)) < local+4 {
		return 0, nil, fmt.Errorf("%w: a row is cut off", ErrFormat)
	}
	payload = append(make([]byte, 0, size), cell[:local]...)
	next := binary.BigEndian.Uint32(cell[local:])
	for int64(len(payload)) < size {
		page, err := w.visit(next)
		if err != nil {
			return 0, nil, err
		}
		next = binary.BigEndian.Uint32(page)
		payload = append(payload, page[4:min(int64(len(page)), 4+size-int64(len(payload)))]...)
	}
	return number, payload, nil
}

// varint reads a number of 1 to 9 bytes and returns how many there were, 0 if it is cut off.
func varint(b []byte) (value int64, n int) {
	var v uint64
	for i := range min(len(b), 8) {
		v = v<<7 | uint64(b[i]&0x7f)
		if b[i] < 0x80 {
			return int64(v), i + 1
		}
	}
	if len(b) < 9 {
		return 0, 0
	}
	return int64(v<<8 | uint64(b[8])), 9
}
