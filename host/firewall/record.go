package firewall

import (
	"encoding/hex"
	"encoding/json"
)

const (
	recordVersion = 1
	// maxRecord bounds an undo record, in bytes.
	maxRecord = 4 << 10
)

// An undoRecord says which table to remove.
type undoRecord struct {
	Version int `json:"version"`
	// Table is its name, for who reads the journal.
	Table string `json:"table"`
	// Owner is the Firewall that made it, in hex.
	Owner string `json:"owner"`
}

func encode(r undoRecord) ([]byte, error) { return json.Marshal(r) }

// decode reads an undo record. The journal is a file that anything may have happened to.
func decode(b []byte) (undoRecord, error) {
	var r undoRecord
	if len(b) > maxRecord {
		return r, invalid("the undo record has %d bytes, at most %d", len(b), maxRecord)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, invalid("the undo record is not one: %v", err)
	}
	switch owner, err := hex.DecodeString(r.Owner); {
	case r.Version != recordVersion:
		return r, invalid("the undo record has version %d; this program knows %d", r.Version, recordVersion)
	case r.Table != TableName:
		return r, invalid("the undo record is about the table %.40q", r.Table)
	case err != nil || len(owner) != 8:
		return r, invalid("the undo record names no owner")
	}
	return r, nil
}
