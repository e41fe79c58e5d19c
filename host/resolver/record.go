package resolver

import (
	"encoding/hex"
	"encoding/json"
	"path/filepath"
)

const (
	recordVersion = 1
	// maxRecord bounds an undo record, in bytes.
	maxRecord = 64 << 10
)

// An undoRecord undoes one change: of a link of systemd-resolved or of a file.
type undoRecord struct {
	Version int       `json:"version"`
	Link    *linkUndo `json:"link,omitempty"`
	File    *fileUndo `json:"file,omitempty"`
}

// A linkUndo puts the settings of a link back.
type linkUndo struct {
	Device string `json:"device"`
	Index  int    `json:"index"`
	// Before is what the link had.
	Before linkSettings `json:"before"`
	// Servers and Domains are checksums of what we have set in the course of time. If the link has anything else, somebody
	// else has set it.
	Servers []string `json:"servers"`
	Domains []string `json:"domains"`
}

// A fileUndo puts a file back.
type fileUndo struct {
	// Target is the file itself, with symbolic links followed.
	Target string `json:"target"`
	// Owner is the id of the Resolver that wrote it.
	Owner string `json:"owner"`
	// Existed says that there was a file, with the contents, permissions and owner that follow.
	Existed  bool   `json:"existed"`
	Original []byte `json:"original"`
	Mode     uint32 `json:"mode"`
	UID      int    `json:"uid"`
	GID      int    `json:"gid"`
	// Previous was there when Written was about to be written, if that was one of ours.
	Previous []byte `json:"previous,omitempty"`
	Written  []byte `json:"written"`
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
	if (r.Link == nil) == (r.File == nil) {
		return r, invalid("the undo record must be about a link or a file")
	}
	if l := r.Link; l != nil && (l.Index <= 0 || checkDevice(l.Device) != nil) {
		return r, invalid("the undo record names no link")
	}
	if f := r.File; f != nil {
		owner, err := hex.DecodeString(f.Owner)
		switch {
		case !filepath.IsAbs(f.Target) || filepath.Clean(f.Target) != f.Target:
			return r, invalid("the undo record names no file")
		case err != nil || len(owner) != 8:
			return r, invalid("the undo record names no owner")
		case f.Mode&^0o7777 != 0 || f.UID < 0 || f.GID < 0:
			return r, invalid("the undo record has odd permissions")
		}
	}
	return r, nil
}
