package proxysettings

import (
	"encoding/json"
	"path/filepath"
	"strings"
)

const (
	recordVersion = 1
	// maxRecord bounds an undo record, in bytes.
	maxRecord = 64 << 10
)

// An undoRecord undoes one change: of the user's keys, or of the database with the locks.
type undoRecord struct {
	Version int       `json:"version"`
	Keys    *keysUndo `json:"keys,omitempty"`
	Lock    *lockUndo `json:"lock,omitempty"`
}

// A keysUndo puts keys back. A key with null is unset.
type keysUndo struct {
	Session  Session            `json:"session"`
	Database string             `json:"database"`
	Before   map[string]variant `json:"before"`
	Set      map[string]variant `json:"set"`
	// Origin is what was there before the first of several changes, where that is not Before: with it all is undone already.
	Origin map[string]variant `json:"origin,omitempty"`
}

// A lockUndo removes a database, if it is still the one with this checksum.
type lockUndo struct {
	File string `json:"file"`
	Sum  string `json:"sum"`
}

func encode(r undoRecord) ([]byte, error) {
	r.Version = recordVersion
	b, err := json.Marshal(r)
	if err == nil && len(b) > maxRecord {
		return nil, invalid("what is to be put back takes %d bytes, at most %d", len(b), maxRecord)
	}
	return b, err
}

// decode reads an undo record. The journal is a file that anything may have happened to.
func decode(b []byte) (undoRecord, error) {
	var r undoRecord
	if len(b) > maxRecord {
		return r, invalid("the undo record has %d bytes, at most %d", len(b), maxRecord)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, invalid("the undo record is not one: %v", err)
	}
	if r.Version != recordVersion {
		return r, invalid("the undo record has version %d; this program knows %d", r.Version, recordVersion)
	}
	if (r.Keys == nil) == (r.Lock == nil) {
		return r, invalid("the undo record must be about keys or a lock")
	}
	if k := r.Keys; k != nil {
		if err := k.Session.check(); err != nil {
			return r, err
		}
		if !databaseName(k.Database) {
			return r, invalid("the undo record names no database")
		}
		for _, m := range []map[string]variant{k.Before, k.Set, k.Origin} {
			for key := range m {
				if !strings.HasPrefix(key, directory) {
					return r, invalid("the undo record is about a key that is no proxy setting")
				}
			}
		}
	}
	if l := r.Lock; l != nil && (!filepath.IsAbs(l.File) || filepath.Clean(l.File) != l.File || filepath.Base(l.File) != lockDatabase) {
		return r, invalid("the undo record names no database with locks")
	}
	return r, nil
}

// databaseName reports whether s can be part of a path of D-Bus and of a file.
func databaseName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_') {
			return false
		}
	}
	return true
}
