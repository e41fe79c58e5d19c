package host

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// sample returns one claim of each kind.
func sample() []record {
	r := rule{v6: true, priority: 10400, table: 10400, mark: 1, mask: 0xff}
	return []record{
		{Kind: kindMTU, Key: "mtu 7", Device: "culvert0", Index: 7, MTU: 1500},
		{Kind: kindUp, Key: "up 7", Device: "culvert0", Index: 7},
		{Kind: kindAddress, Key: "address 7", Device: "culvert0", Index: 7, Prefix: pfx("10.8.0.5/32")},
		{Kind: kindTable, Key: "table", Table: 10400, IPv6: true},
		{Kind: kindRule, Key: "rule", Rule: r.record()},
		{Kind: kindPart, Key: "part resolver 1", Part: partResolver, Undo: []byte("nameserver 192.0.2.1\n\x00")},
	}
}

func header() record {
	return record{Kind: kindOpen, Version: journalVersion, PID: 4711, Program: "culvert", Boot: "boot-1", Namespace: 1,
		Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
}

// text returns records as they stand in a file.
func text(t testing.TB, records ...record) []byte {
	t.Helper()
	var b []byte
	for _, r := range records {
		line, err := r.line()
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, line...)
	}
	return b
}

func TestParseJournal(t *testing.T) {
	claims := sample()
	whole := text(t, append([]record{header()}, claims...)...)
	l, err := parseJournal(whole)
	if err != nil || !reflect.DeepEqual(l.live, claims) || !reflect.DeepEqual(l.header, header()) || len(l.damaged) > 0 || l.end != len(whole) {
		t.Fatalf("%+v, %v", l, err)
	}

	// Whatever a loss of power leaves, the records before it are read.
	ends := []int{0}
	for i, c := range whole {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	for cut := range len(whole) {
		complete := 0
		for complete+1 < len(ends) && ends[complete+1] <= cut {
			complete++
		}
		for name, tail := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 100), "zeros and a line": []byte("\x00\x00\n\x00"), "rubbish": []byte("\xff\n0\n")} {
			data := append(bytes.Clone(whole[:cut]), tail...)
			l, err := parseJournal(data)
			if err != nil {
				t.Fatalf("cut at %d, then %s: %v", cut, name, err)
			}
			if len(l.live) != max(0, complete-1) || l.end != ends[complete] || len(l.damaged) > 0 {
				t.Fatalf("cut at %d, then %s: %d records up to %d, damage %v", cut, name, len(l.live), l.end, l.damaged)
			}
		}
	}

	// Damage in the middle is something else.
	middle := bytes.Clone(whole)
	middle[ends[2]+20] ^= 1
	l, err = parseJournal(middle)
	if err != nil || len(l.live) != len(claims)-1 || len(l.damaged) != 1 || !strings.Contains(l.damaged[0], "checksum") {
		t.Errorf("after damage in the middle: %d records, damage %v, %v", len(l.live), l.damaged, err)
	}

	// What was given up is not there any more, and may come again.
	l, err = parseJournal(append(bytes.Clone(whole), text(t, record{Kind: kindForget, Keys: []string{"up 7", "rule", "unheard of"}}, claims[1])...))
	if err != nil || len(l.live) != len(claims)-1 || l.live[len(l.live)-1].Key != "up 7" || l.dead != 3 {
		t.Errorf("after giving up: %+v, %v", l, err)
	}
}

// TestLeftovers: what a dead process has left is known without doing anything about it.
func TestLeftovers(t *testing.T) {
	now := header()
	now.Boot, _ = here()
	resolver := sample()[5]
	wall := record{Kind: kindPart, Key: "part firewall 2", Part: partFirewall, Undo: []byte("x")}
	for name, tt := range map[string]struct {
		records             []record
		left, walled, alone bool
	}{
		"nothing was changed":             {[]record{now}, false, false, false},
		"no firewall":                     {[]record{now, resolver}, true, false, false},
		"firewall":                        {[]record{now, resolver, wall}, true, true, false},
		"firewall alone":                  {[]record{now, resolver, wall, {Kind: kindForget, Keys: []string{resolver.Key}}}, true, true, true},
		"firewall that was given up":      {[]record{now, resolver, wall, {Kind: kindForget, Keys: []string{wall.Key}}}, true, false, false},
		"all is given up":                 {[]record{now, wall, {Kind: kindForget, Keys: []string{wall.Key}}}, false, false, false},
		"firewall before the last reboot": {[]record{header(), wall}, true, false, false},
	} {
		file := filepath.Join(t.TempDir(), "journal")
		if err := os.WriteFile(file, text(t, tt.records...), 0o600); err != nil {
			t.Fatal(err)
		}
		if left, walled, alone, err := Leftovers(file); left != tt.left || walled != tt.walled || alone != tt.alone || err != nil {
			t.Errorf("%s: %v, %v, %v, %v", name, left, walled, alone, err)
		}
	}
	dir := t.TempDir()
	if left, walled, _, err := Leftovers(filepath.Join(dir, "none")); left || walled || err != nil {
		t.Errorf("without a journal: %v, %v, %v", left, walled, err)
	}
	if _, _, _, err := Leftovers(dir); !errors.Is(err, ErrJournal) {
		t.Errorf("a directory: %v", err)
	}
	resolver.Kind = kindOpen
	file := filepath.Join(dir, "journal")
	if err := os.WriteFile(file, text(t, resolver), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := Leftovers(file); !errors.Is(err, ErrJournal) {
		t.Errorf("a journal of another version: %v", err)
	}
}

func TestParseHostileJournal(t *testing.T) {
	newer := header()
	newer.Version = 2
	for name, data := range map[string][]byte{
		"no header":      text(t, sample()...),
		"a newer format": text(t, newer),
	} {
		if _, err := parseJournal(data); !errors.Is(err, ErrJournal) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Records that this package does not write are reported, and nothing is done about them.
	for name, r := range map[string]record{
		"unknown kind":   {Kind: "format", Key: "x"},
		"main table":     {Kind: kindTable, Key: "x", Table: 254},
		"no table":       {Kind: kindTable, Key: "x"},
		"no rule":        {Kind: kindRule, Key: "x"},
		"rule of others": {Kind: kindRule, Key: "x", Rule: &ruleRecord{Priority: 32766, Table: 254}},
		"no name":        {Kind: kindUp, Key: "x", Index: 1},
		"bad name":       {Kind: kindUp, Key: "x", Device: "../../x", Index: 1},
		"no index":       {Kind: kindUp, Key: "x", Device: "eth0"},
		"bad MTU":        {Kind: kindMTU, Key: "x", Device: "eth0", Index: 1, MTU: -1},
		"no prefix":      {Kind: kindAddress, Key: "x", Device: "eth0", Index: 1},
		"no part":        {Kind: kindPart, Key: "x"},
		"too much":       {Kind: kindPart, Key: "x", Part: "resolver", Undo: make([]byte, maxUndo+1)},
		"no key":         {Kind: kindUp, Device: "eth0", Index: 1},
		"second header":  header(),
	} {
		l, err := parseJournal(text(t, header(), r))
		if err != nil || len(l.live) > 0 || len(l.damaged) != 1 {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
	if _, err := (record{Kind: kindPart, Undo: make([]byte, maxLine)}).line(); !errors.Is(err, ErrJournal) {
		t.Errorf("a record of any size: %v", err)
	}
}

func FuzzParseJournal(f *testing.F) {
	whole := text(f, append([]record{header()}, sample()...)...)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add(append(bytes.Clone(whole), text(f, record{Kind: kindForget, Keys: []string{"rule"}})...))
	f.Add([]byte("00000000 {}\n"))
	f.Add(text(f, header(), record{Kind: kindTable, Key: "x", Table: 254}))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := parseJournal(data)
		if err != nil {
			return
		}
		if len(l.damaged) > 64 || l.end > len(data) {
			t.Fatalf("%d reports of damage, end %d of %d", len(l.damaged), l.end, len(data))
		}
		// What was read can be written, and is read again.
		if l.header.Kind == "" {
			return
		}
		again, err := parseJournal(text(t, append([]record{l.header}, l.live...)...))
		if err != nil || len(again.live) != len(l.live) {
			t.Fatalf("%v; %d of %d records came back", err, len(again.live), len(l.live))
		}
		for i, r := range l.live {
			if r.String() != again.live[i].String() || r.Key != again.live[i].Key {
				t.Fatalf("%v came back as %v", r, again.live[i])
			}
		}
		// Undoing whatever it says does nothing to a kernel in which nothing is ours, whoever wrote it.
		k := newFake()
		before := k.picture()
		k.boot = l.header.Boot
		k.namespace = l.header.Namespace
		live := l.live
		for i := range live {
			// What has the name, index and address of something foreign is beyond what a journal can protect.
			if live[i].Kind == kindMTU || live[i].Kind == kindUp || live[i].Kind == kindAddress {
				return
			}
		}
		u := undoer{k: k, log: discard}
		u.ledger(t.Context(), "/nonexistent/journal", ledger{header: l.header, live: live})
		if !k.picture().equal(before) {
			t.Fatalf("a journal has changed what is not ours: %v", k.changes)
		}
	})
}
