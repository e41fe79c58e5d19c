// Package sqlite reads the tables of an SQLite database file, and can do nothing else.
//
// Browsers keep certificates in SQLite files. To look at a few dozen rows of two known tables needs none of what a database
// engine is for: no queries, no indexes, no writing, no locks. What it needs is the file format
// (https://www.sqlite.org/fileformat2.html): pages of equal size, B-trees of pages, and records of values whose types stand in
// front of them. That is what is here, and what an attacker who can write the file can reach.
//
// A file is read into memory as a whole by the caller, and every number in it is an offset to be doubted: a page is visited
// once at most in a walk of a table, so that a tree that bites its own tail ends with an error, and no value is larger than the
// file.
//
// Not supported, and refused by name: text in UTF-16, tables WITHOUT ROWID, and virtual tables. Changes in a write-ahead log
// or in a rollback journal are not seen; [Hot] tells whether there are any.
package sqlite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"
)

var (
	// ErrFormat reports a file that is no SQLite database, or a broken one.
	ErrFormat = errors.New("not an intact SQLite database")
	// ErrNoTable reports a table that is not in the database.
	ErrNoTable = errors.New("the database has no such table")
	// ErrUnsupported reports a kind of database or table that this package does not read.
	ErrUnsupported = errors.New("this kind of SQLite database is not supported")
)

const (
	magic      = "SQLite format 3\x00"
	headerSize = 100
	// maxDepth bounds the height of a tree. With two children in each page it would already have more pages than a file can.
	maxDepth = 40
	// maxColumns is SQLite's own default limit.
	maxColumns = 2000
)

// A File is the content of a database file. It may be read by several goroutines at once.
type File struct {
	data     []byte
	pageSize int
	usable   int // bytes of a page without those reserved at its end
	pages    int
}

// Parse looks at the header of a database. The data must not change as long as the File is in use.
//
// The error matches [ErrFormat] or [ErrUnsupported].
func Parse(data []byte) (*File, error) {
	if len(data) < headerSize || string(data[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: it has no header", ErrFormat)
	}
	f := &File{data: data, pageSize: int(binary.BigEndian.Uint16(data[16:]))}
	if f.pageSize == 1 {
		f.pageSize = 65536
	}
	if f.pageSize < 512 || f.pageSize&(f.pageSize-1) != 0 {
		return nil, fmt.Errorf("%w: its page size is %d", ErrFormat, f.pageSize)
	}
	if f.usable = f.pageSize - int(data[20]); f.usable < 480 {
		return nil, fmt.Errorf("%w: %d bytes of each page are reserved", ErrFormat, data[20])
	}
	// What is behind the last whole page is no page.
	if f.pages = len(data) / f.pageSize; f.pages == 0 {
		return nil, fmt.Errorf("%w: it is cut off in the first page", ErrFormat)
	}
	if encoding := binary.BigEndian.Uint32(data[56:]); encoding > 1 {
		return nil, fmt.Errorf("%w: its texts are not in UTF-8", ErrUnsupported)
	}
	return f, nil
}

// WriteAhead reports whether the database keeps a write-ahead log, in a file whose name ends in -wal.
func (f *File) WriteAhead() bool { return f.data[18] == 2 || f.data[19] == 2 }

// Hot reports whether a rollback journal, the file beside the database whose name ends in -journal, holds changes that have to
// be taken back before the database makes sense. The argument is the beginning of the journal.
func Hot(journal []byte) bool {
	return strings.HasPrefix(string(journal), "\xd9\xd5\x05\xf9\x20\xa1\x63\xd7")
}

// A Table is a table of a File.
type Table struct {
	// Columns are the names of the columns, in their order.
	Columns []string

	file  *File
	root  uint32
	rowid int // the column that stands for the number of the row, or -1
}

// Table returns the table with the name. The error matches [ErrNoTable], [ErrFormat] or [ErrUnsupported].
func (f *File) Table(name string) (*Table, error) {
	// The table of tables: type, name, tbl_name, rootpage, sql.
	schema := &Table{Columns: make([]string, 5), file: f, root: 1, rowid: -1}
	for row, err := range schema.Rows() {
		if err != nil {
			return nil, err
		}
		if row.Text(0) != "table" || !strings.EqualFold(row.Text(1), name) {
			continue
		}
		t := &Table{file: f, rowid: -1}
		root, ok := row.Int(3)
		if !ok || root < 1 || root > int64(f.pages) {
			return nil, fmt.Errorf("%w: the table %s has no pages", ErrUnsupported, name)
		}
		t.root = uint32(root)
		if err := t.define(row.Text(4)); err != nil {
			return nil, fmt.Errorf("the table %s: %w", name, err)
		}
		return t, nil
	}
	return nil, fmt.Errorf("%w: %s", ErrNoTable, name)
}

// define takes the names of the columns from the statement that made the table.
func (t *Table) define(sql string) error {
	open, end := strings.IndexByte(sql, '('), strings.LastIndexByte(sql, ')')
	if open < 0 || end < open {
		return fmt.Errorf("%w: its definition has no columns", ErrUnsupported)
	}
	if strings.Contains(strings.ToUpper(sql[end:]), "WITHOUT") {
		return fmt.Errorf("%w: it is WITHOUT ROWID", ErrUnsupported)
	}
	for _, part := range splitColumns(sql[open+1 : end]) {
		name, rest := firstWord(part)
		switch strings.ToUpper(name) {
		case "":
			return fmt.Errorf("%w: a column has no name", ErrFormat)
		case "CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN":
			continue // a constraint of the table, behind the columns
		}
		if fields := strings.Fields(strings.ToUpper(rest)); len(fields) >= 3 && fields[0] == "INTEGER" && fields[1] == "PRIMARY" && fields[2] == "KEY" {
			t.rowid = len(t.Columns)
		}
		if t.Columns = append(t.Columns, name); len(t.Columns) > maxColumns {
			return fmt.Errorf("%w: it has more than %d columns", ErrUnsupported, maxColumns)
		}
	}
	return nil
}

// splitColumns splits at the commas that stand in no brackets and no quotes.
func splitColumns(s string) []string {
	var parts []string
	depth, start := 0, 0
	quote := byte(0)
	for i := range len(s) {
		switch c := s[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'' || c == '`':
			quote = c
		case c == '[':
			quote = ']'
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ',' && depth == 0:
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	return append(parts, s[start:])
}

// firstWord splits off the name at the beginning of the definition of a column.
func firstWord(s string) (name, rest string) {
	s = strings.TrimSpace(s)
	if s == "" {
		return "", ""
	}
	if end := strings.IndexByte("\"'`[", s[0]); end >= 0 {
		closing := "\"'`]"[end]
		if i := strings.IndexByte(s[1:], closing); i >= 0 {
			return s[1 : 1+i], s[2+i:]
		}
		return "", ""
	}
	if i := strings.IndexAny(s, " \t\r\n("); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}

// Column returns the index of the column with the name, or -1.
func (t *Table) Column(name string) int {
	for i, c := range t.Columns {
		if strings.EqualFold(c, name) {
			return i
		}
	}
	return -1
}

// Rows yields the rows in the order of their numbers. An error ends them; the rows before it are intact. A Row and its values
// are part of the data of the file, or of memory of their own, and stay as they are.
func (t *Table) Rows() iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		w := &walk{file: t.file, seen: make([]uint64, (t.file.pages+64)/64)}
		err := w.page(t.root, 0, func(number int64, payload []byte) (bool, error) {
			row, err := parseRecord(payload, len(t.Columns))
			if err != nil {
				return false, err
			}
			if t.rowid >= 0 && t.rowid < len(row) && row[t.rowid] == nil {
				row[t.rowid] = number
			}
			return yield(row, nil), nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(nil, err)
		}
	}
}
