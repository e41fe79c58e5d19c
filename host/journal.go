package host

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// The journal is a text file that only grows while it is written: one record a line, each a checksum (CRC-32C of the rest, 8
// hexadecimal digits), a space, and a JSON object. The first record says who wrote it and where. The others each claim
// something that was not ours before, with what it takes to give it back, or give up earlier claims.
//
// A record is on the disk before its change is made, so after a crash the file may claim what was never changed, and never
// misses what was. Undoing does no harm in the first case.

const (
	journalVersion = 1
	maxJournal     = 64 << 20  // bytes of the file
	maxLine        = 256 << 10 // bytes of a record
	maxRecords     = 1 << 18
	maxUndo        = 64 << 10 // bytes of what a Part may need
	compactAfter   = 256      // dead records, if they are more than the live ones
)

// Kinds of records.
const (
	kindOpen    = "open"    // the first: who and where
	kindMTU     = "mtu"     // MTU of an interface: Device, Index, MTU before
	kindUp      = "up"      // an interface that was down: Device, Index
	kindAddress = "address" // Device, Index, Prefix
	kindTable   = "table"   // routes with our protocol in a table that had none: Table, IPv6
	kindRule    = "rule"    // Rule
	kindPart    = "part"    // Part, Undo
	kindForget  = "forget"  // Keys of claims that are given up
)

// A record is a line of the journal.
type record struct {
	Kind string `json:"kind"`
	Key  string `json:"key,omitempty"` // names the claim; at most one of a key is alive

	Version   int       `json:"version,omitempty"`
	PID       int       `json:"pid,omitempty"`
	Program   string    `json:"program,omitempty"`
	Started   time.Time `json:"started,omitzero"`
	Boot      string    `json:"boot,omitempty"`      // id of this start of the machine
	Namespace uint64    `json:"namespace,omitempty"` // inode of the network namespace

	Device string       `json:"device,omitempty"`
	Index  int          `json:"index,omitempty"`
	MTU    int          `json:"mtu,omitempty"`
	Prefix netip.Prefix `json:"prefix,omitzero"`
	Table  int          `json:"table,omitempty"`
	IPv6   bool         `json:"ipv6,omitempty"`
	Rule   *ruleRecord  `json:"rule,omitempty"`

	Part string `json:"part,omitempty"`
	Undo []byte `json:"undo,omitempty"`

	Keys []string `json:"keys,omitempty"`
}

// A ruleRecord is a rule as the journal has it.
type ruleRecord struct {
	IPv6     bool   `json:"ipv6,omitempty"`
	Priority int    `json:"priority"`
	Table    int    `json:"table"`
	Mark     uint32 `json:"mark,omitempty"`
	Mask     uint32 `json:"mask,omitempty"`
	Suppress bool   `json:"suppress,omitempty"`
}

func (r rule) record() *ruleRecord {
	return &ruleRecord{IPv6: r.v6, Priority: r.priority, Table: r.table, Mark: r.mark, Mask: r.mask, Suppress: r.suppress}
}

func (r ruleRecord) rule() rule {
	return rule{v6: r.IPv6, priority: r.Priority, table: r.Table, mark: r.Mark, mask: r.Mask, suppress: r.Suppress}
}

// String says what the claim is, for people.
func (r record) String() string {
	family := "IPv4"
	if r.IPv6 {
		family = "IPv6"
	}
	switch r.Kind {
	case kindMTU:
		return fmt.Sprintf("MTU of %s, %d before", r.Device, r.MTU)
	case kindUp:
		return fmt.Sprintf("%s switched on", r.Device)
	case kindAddress:
		return fmt.Sprintf("address %v on %s", r.Prefix, r.Device)
	case kindTable:
		return fmt.Sprintf("%s routes in table %d", family, r.Table)
	case kindRule:
		if r.Rule != nil {
			return r.Rule.rule().command("add")
		}
	case kindPart:
		return "settings of the " + r.Part
	}
	return "record of kind " + r.Kind
}

// kernel reports whether the change was one of the kernel, which does not survive a start of the machine.
func (r record) kernel() bool { return r.Kind != kindPart }

// check refuses records that this package does not write, so that those who undo them need not wonder.
func (r record) check() error {
	switch r.Kind {
	case kindMTU, kindUp, kindAddress:
		if err := checkName(r.Device); err != nil {
			return err
		}
		if r.Index <= 0 {
			return fmt.Errorf("index %d of the interface", r.Index)
		}
		if r.Kind == kindMTU && (r.MTU <= 0 || r.MTU > 1<<20) {
			return fmt.Errorf("MTU %d", r.MTU)
		}
		if r.Kind == kindAddress && !r.Prefix.IsValid() {
			return errors.New("no address")
		}
	case kindTable:
		// The tables of the machine itself are never ours to flush.
		if r.Table <= 0 || r.Table > 1<<32-1 || r.Table >= 253 && r.Table <= 255 {
			return fmt.Errorf("table %d", r.Table)
		}
	case kindRule:
		if r.Rule == nil || r.Rule.Priority < 1 || r.Rule.Priority > 32765 {
			return errors.New("no rule of ours")
		}
	case kindPart:
		if r.Part == "" || len(r.Undo) > maxUndo {
			return errors.New("no part, or too much to undo")
		}
	default:
		return fmt.Errorf("unknown kind %q", r.Kind)
	}
	if r.Key == "" || len(r.Key) > 200 {
		return errors.New("no key")
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// line returns the record as it stands in the file.
func (r record) line() ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	line := make([]byte, 0, len(text)+10)
	line = hex.AppendEncode(line, binary.BigEndian.AppendUint32(nil, crc32.Checksum(text, castagnoli)))
	line = append(line, ' ')
	line = append(line, text...)
	line = append(line, '\n')
	if len(line) > maxLine {
		return nil, fmt.Errorf("%w: a record of %d bytes, at most %d are possible", ErrJournal, len(line), maxLine)
	}
	return line, nil
}

// parseLine reads a record without its line feed.
func parseLine(line []byte) (record, error) {
	var r record
	if len(line) > maxLine {
		return r, errors.New("too long")
	}
	if len(line) < 10 || line[8] != ' ' {
		return r, errors.New("no checksum")
	}
	var sum [4]byte
	if _, err := hex.Decode(sum[:], line[:8]); err != nil {
		return r, errors.New("no checksum")
	}
	text := line[9:]
	if crc32.Checksum(text, castagnoli) != binary.BigEndian.Uint32(sum[:]) {
		return r, errors.New("wrong checksum")
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, err
	}
	return r, nil
}

// A ledger is what a journal says.
type ledger struct {
	header  record
	live    []record // claims that were not given up, oldest first
	dead    int      // records of no effect
	damaged []string // what is wrong with records that are not at the end
	end     int      // bytes up to the end of the last good record
}

// parseJournal reads a journal. A last record that is cut short or damaged is what a loss of power leaves behind; its
// change was not made, and it does not count. Damage before that is reported in the ledger along with all records that are whole.
// An error means that nothing could be understood.
func parseJournal(data []byte) (ledger, error) {
	var l ledger
	alive := make(map[string]int) // by key, index of l.live
	var torn []string             // bad records of which it is not known yet whether a good one follows
	gone := make(map[int]bool)
	records, number, at := 0, 0, 0
	for at < len(data) {
		number++
		end := bytes.IndexByte(data[at:], '\n')
		if end < 0 {
			break // cut short
		}
		line := data[at : at+end]
		at += end + 1
		r, err := parseLine(line)
		if err != nil {
			// Blocks of a file that never reached the disk read as zeros, and may hold anything; what matters is that there are
			// no more than a few words about them.
			if len(torn)+len(l.damaged) < 16 {
				torn = append(torn, fmt.Sprintf("record %d: %v", number, err))
			}
			continue
		}
		if records++; records > maxRecords {
			return ledger{}, fmt.Errorf("%w: more than %d records", ErrJournal, maxRecords)
		}
		l.damaged, torn = append(l.damaged, torn...), nil
		l.end = at
		switch {
		case records == 1:
			if r.Kind != kindOpen {
				return ledger{}, fmt.Errorf("%w: it does not begin with who wrote it", ErrJournal)
			}
			if r.Version != journalVersion {
				return ledger{}, fmt.Errorf("%w: it has version %d and this program knows %d: use the program that wrote it, %q",
					ErrJournal, r.Version, journalVersion, r.Program)
			}
			l.header = r
		case r.Kind == kindForget:
			l.dead++
			for _, k := range r.Keys {
				if i, ok := alive[k]; ok {
					delete(alive, k)
					gone[i] = true
					l.dead++
				}
			}
		default:
			if err := r.check(); err != nil {
				if len(l.damaged) < 16 {
					l.damaged = append(l.damaged, fmt.Sprintf("record %d: %v", number, err))
				}
				continue
			}
			if _, ok := alive[r.Key]; ok {
				l.dead++
				continue
			}
			alive[r.Key] = len(l.live)
			l.live = append(l.live, r)
		}
	}
	if len(gone) > 0 {
		kept := l.live[:0]
		for i, r := range l.live {
			if !gone[i] {
				kept = append(kept, r)
			}
		}
		l.live = kept
	}
	return l, nil
}

// A journal is the file, locked by this process.
type journal struct {
	path   string
	f      *os.File
	size   int64
	header record
	live   []record
	dead   int
	broken error // after which nothing can be written any more
	next   int   // number for the key of the next claim of a Part
}

// openJournal opens and locks the file, and makes it if create is set. It returns what the file says so far. If there is no file
// and create is not set, the error matches fs.ErrNotExist.
func openJournal(path string, create bool) (*journal, ledger, error) {
	f, err := lockFile(path, create)
	if err != nil {
		return nil, ledger{}, err
	}
	fail := func(err error) (*journal, ledger, error) {
		unlock(f)
		return nil, ledger{}, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxJournal+1))
	if err != nil {
		return fail(err)
	}
	if len(data) > maxJournal {
		return fail(fmt.Errorf("%w: %s: larger than %d bytes", ErrJournal, path, maxJournal))
	}
	l, err := parseJournal(data)
	if err != nil {
		return fail(fmt.Errorf("%s: %w: if it is not needed, delete it", path, err))
	}
	return &journal{path: path, f: f, size: int64(len(data)), header: l.header, live: l.live, dead: l.dead}, l, nil
}

// begin makes the file say only who is at work now, and what is kept of the claims so far.
func (j *journal) begin(header record, keep []record) error {
	header.Kind, header.Version = kindOpen, journalVersion
	j.header = header
	return j.rewrite(keep)
}

// rewrite replaces the file by one with only the live records, in one step: whoever loses power sees the one or the other.
func (j *journal) rewrite(live []record) (err error) {
	var text []byte
	for _, r := range append([]record{j.header}, live...) {
		line, err := r.line()
		if err != nil {
			return err
		}
		text = append(text, line...)
	}
	temporary := j.path + ".new"
	// What may lie there is left from a crash. Removing it rather than opening it avoids following a link.
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temporary, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(temporary)
		}
	}()
	// The new file is locked before it takes the name, so there is no moment in which another process could get the lock.
	if err := flock(f); err != nil {
		return err
	}
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(temporary, j.path); err != nil {
		return err
	}
	old := j.f
	j.f, j.size, j.live, j.dead = f, int64(len(text)), slices.Clone(live), 0
	old.Close()
	// The file has the name already, so nothing is taken back from here on; but nothing more may be written either if nobody
	// knows whether the name is on the disk.
	j.broken = syncDir(filepath.Dir(j.path))
	return nil
}

// write appends a record and waits until it is on the disk.
func (j *journal) write(r record) error {
	if j.broken != nil {
		return j.broken
	}
	line, err := r.line()
	if err != nil {
		return err
	}
	if j.size+int64(len(line)) > maxJournal {
		return fmt.Errorf("%w: %s would become larger than %d bytes", ErrJournal, j.path, maxJournal)
	}
	_, err = j.f.WriteAt(line, j.size)
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		err = fmt.Errorf("%w: writing %s: %w", ErrJournal, j.path, err)
		// Half a line in the middle would be damage. Without this the journal can only be read, not written.
		if e := j.f.Truncate(j.size); e != nil {
			j.broken = err
		}
		return err
	}
	j.size += int64(len(line))
	return nil
}

// claimed reports whether there is a claim of that key.
func (j *journal) claimed(key string) bool {
	return slices.ContainsFunc(j.live, func(r record) bool { return r.Key == key })
}

// claim writes a claim, unless there is one of that key already.
func (j *journal) claim(r record) error {
	if j.claimed(r.Key) {
		return nil
	}
	if err := r.check(); err != nil {
		return fmt.Errorf("%w: %v: %w", ErrJournal, r, err)
	}
	if err := j.write(r); err != nil {
		return err
	}
	j.live = append(j.live, r)
	return nil
}

// partKey returns a key for a claim of a Part, each of which is one of its own.
func (j *journal) partKey(part string) string {
	for {
		j.next++
		if key := fmt.Sprintf("part %s %d", part, j.next); !j.claimed(key) {
			return key
		}
	}
}

// forget gives up claims whose change was undone.
func (j *journal) forget(keys ...string) error {
	keys = slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return !j.claimed(k) })
	if len(keys) == 0 {
		return nil
	}
	kept := slices.DeleteFunc(slices.Clone(j.live), func(r record) bool { return slices.Contains(keys, r.Key) })
	if dead := j.dead + len(keys) + 1; dead > compactAfter && dead > len(kept) {
		return j.rewrite(kept)
	}
	for list := range slices.Chunk(keys, 500) {
		if err := j.write(record{Kind: kindForget, Keys: list}); err != nil {
			return err
		}
		j.dead += len(list) + 1
	}
	j.live = kept
	return nil
}

// close ends the lock. A journal without claims is removed.
func (j *journal) close() error {
	var err error
	if len(j.live) == 0 && j.broken == nil {
		// It is removed while it is locked; whoever waits for the lock finds that the file has no name any more.
		err = os.Remove(j.path)
	}
	return errors.Join(err, unlock(j.f))
}
