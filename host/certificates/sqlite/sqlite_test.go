package sqlite

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// database lets the real program make a database.
func database(tb testing.TB, sql string) []byte {
	tb.Helper()
	if _, err := exec.LookPath("sqlite3"); err != nil {
		if os.Getenv("CULVERT_INTEROP") != "" {
			tb.Fatal("sqlite3 is missing: apt-get install sqlite3")
		}
		tb.Skip("sqlite3 is not installed")
	}
	file := filepath.Join(tb.TempDir(), "test.db")
	cmd := exec.Command("sqlite3", "-bail", file)
	cmd.Stdin = strings.NewReader(sql)
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("sqlite3: %v: %s", err, out)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// rows returns all rows of a table as text.
func rows(data []byte, table string) ([]string, error) {
	f, err := Parse(data)
	if err != nil {
		return nil, err
	}
	t, err := f.Table(table)
	if err != nil {
		return nil, err
	}
	var all []string
	for row, err := range t.Rows() {
		if err != nil {
			return all, err
		}
		var cells []string
		for _, v := range row {
			if b, ok := v.([]byte); ok {
				v = fmt.Sprintf("x%x", b)
			}
			cells = append(cells, fmt.Sprint(v))
		}
		all = append(all, strings.Join(cells, "|"))
	}
	return all, nil
}

func TestValues(t *testing.T) {
	data := database(t, `
		CREATE TABLE "t one" (id INTEGER PRIMARY KEY, [a b], "c,d" TEXT DEFAULT '(,', e NUMERIC(10,2), CHECK (id > 0));
		INSERT INTO "t one" VALUES (1, NULL, 'text', 0), (2, 1, '', -1), (3, 127, 'ü', 128), (4, -32768, x'00ff', 8388607),
			(5, 2147483647, 'x', -140737488355328), (6, 9223372036854775807, 'x', 2.5);
		ALTER TABLE "t one" ADD COLUMN late;
		CREATE TABLE other (x);
		CREATE TABLE odd (x PRIMARY KEY) WITHOUT ROWID;`)
	got, err := rows(data, "T ONE")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"1|<nil>|text|0|<nil>", "2|1||-1|<nil>", "3|127|ü|128|<nil>", "4|-32768|x00ff|8388607|<nil>",
		"5|2147483647|x|-140737488355328|<nil>", "6|9223372036854775807|x|2.5|<nil>",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	f, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	table, err := f.Table("t one")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"id", "a b", "c,d", "e", "late"}; !slices.Equal(table.Columns, want) || table.Column("C,D") != 2 || table.Column("f") != -1 {
		t.Errorf("columns %q, want %q", table.Columns, want)
	}
	if got, err := rows(data, "other"); err != nil || len(got) != 0 {
		t.Errorf("the empty table: %q, %v", got, err)
	}
	if _, err := rows(data, "none"); !errors.Is(err, ErrNoTable) {
		t.Errorf("a table that is not there: %v", err)
	}
	if _, err := rows(data, "odd"); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a table WITHOUT ROWID: %v", err)
	}
	row := Row{nil, int64(7), "text", []byte{1}}
	if row.Blob(-1) != nil || row.Blob(9) != nil || row.Blob(1) != nil || string(row.Blob(2)) != "text" || row.Text(3) != "" || row.Text(9) != "" {
		t.Error("Blob and Text do not tell their values from others")
	}
	if n, ok := row.Int(1); n != 7 || !ok {
		t.Error("Int does not find the number")
	}
	if _, ok := row.Int(2); ok {
		t.Error("Int takes a text for a number")
	}
}

// Trees of several levels, and rows longer than a page, for pages of all sizes.
func TestLarge(t *testing.T) {
	for _, size := range []int{512, 4096, 65536} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			data := database(t, fmt.Sprintf(`
				PRAGMA page_size=%d;
				CREATE TABLE t (n, b);
				WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<3000) INSERT INTO t SELECT x, zeroblob(x %% 37) FROM c;
				INSERT INTO t VALUES (0, zeroblob(200000)), (-1, zeroblob(%d));`, size, size-36))
			f, err := Parse(data)
			if err != nil {
				t.Fatal(err)
			}
			table, err := f.Table("t")
			if err != nil {
				t.Fatal(err)
			}
			n := int64(0)
			for row, err := range table.Rows() {
				if err != nil {
					t.Fatal(err)
				}
				n++
				at, _ := row.Int(0)
				want := at % 37
				switch at {
				case 0:
					want = 200000
				case -1:
					want = int64(size - 36)
				default:
					if at != n {
						t.Fatalf("row %d comes as number %d", at, n)
					}
				}
				if got := len(row.Blob(1)); int64(got) != want {
					t.Fatalf("row %d has %d bytes, want %d", at, got, want)
				}
			}
			if n != 3002 {
				t.Errorf("%d rows, want 3002", n)
			}
			for range table.Rows() {
				break // a caller that has seen enough
			}
		})
	}
}

func TestBroken(t *testing.T) {
	data := database(t, `PRAGMA page_size=512; CREATE TABLE t (n, b);
		WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<200) INSERT INTO t SELECT x, zeroblob(700) FROM c;`)
	change := func(do func(b []byte)) []byte {
		b := bytes.Clone(data)
		do(b)
		return b
	}
	root := 0 // of t: the schema page holds its number, so look for the first interior page behind it
	for p := 1; p*512 < len(data); p++ {
		if data[p*512] == 5 {
			root = p
			break
		}
	}
	for _, tt := range []struct {
		name string
		data []byte
		want error
	}{
		{"empty", nil, ErrFormat},
		{"something else", []byte(strings.Repeat("x", 4096)), ErrFormat},
		{"page size", change(func(b []byte) { b[16], b[17] = 3, 1 }), ErrFormat},
		{"reserved bytes", change(func(b []byte) { b[20] = 200 }), ErrFormat},
		{"UTF-16", change(func(b []byte) { b[59] = 2 }), ErrUnsupported},
		{"cut off in the first page", data[:300], ErrFormat},
		{"cut off behind", data[:len(data)/2], ErrFormat},
		{"a tree that bites its own tail", change(func(b []byte) { binary.BigEndian.PutUint32(b[root*512+8:], uint32(root+1)) }), ErrFormat},
		{"a page of another kind", change(func(b []byte) { b[root*512] = 2 }), ErrFormat},
		{"too many cells", change(func(b []byte) { b[root*512+3] = 0xff }), ErrFormat},
		{"a cell outside", change(func(b []byte) { b[root*512+12] = 0xff }), ErrFormat},
	} {
		if _, err := rows(tt.data, "t"); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if !Hot([]byte("\xd9\xd5\x05\xf9\x20\xa1\x63\xd7 and more")) || Hot(make([]byte, 8)) || Hot(nil) {
		t.Error("Hot does not tell a journal from a finished one")
	}
	wal := change(func(b []byte) { b[18], b[19] = 2, 2 })
	if f, err := Parse(wal); err != nil || !f.WriteAhead() {
		t.Errorf("a database with a write-ahead log: %v", err)
	}
	if f, err := Parse(data); err != nil || f.WriteAhead() {
		t.Errorf("a database without one: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	if _, err := exec.LookPath("sqlite3"); err == nil {
		f.Add(database(f, `PRAGMA page_size=512; CREATE TABLE t (n INTEGER PRIMARY KEY, b);
			WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<20) INSERT INTO t SELECT x, zeroblob(x*40) FROM c;`))
	}
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse(data)
		if err != nil {
			return
		}
		for _, name := range []string{"t", "sqlite_sequence"} {
			table, err := file.Table(name)
			if err != nil {
				continue
			}
			total := 0
			for row, err := range table.Rows() {
				if err != nil {
					break
				}
				if len(row) != len(table.Columns) {
					t.Fatalf("%d values for %d columns", len(row), len(table.Columns))
				}
				for i := range row {
					total += len(row.Blob(i))
				}
			}
			if total > 2*len(data) {
				t.Fatalf("%d bytes of values in %d bytes of file", total, len(data))
			}
		}
	})
}
