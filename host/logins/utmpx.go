package logins

import (
	"encoding/binary"
)

// utmpxSize is the size of a record of /var/run/utmpx of macOS, which is little endian on all of its machines today: user[256],
// id[4], line[32], pid int32, type int16, two bytes of padding, seconds and microseconds int32, host[256], 64 bytes of padding.
const utmpxSize = 628

// parseUtmpx reads a whole utmpx file of macOS. The first record is a signature, of a type of its own.
func parseUtmpx(file []byte) ([]record, error) {
	if len(file) > maxUtmp || len(file)%utmpxSize != 0 {
		return nil, invalid("utmpx has %d bytes, which are no records of %d each", len(file), utmpxSize)
	}
	order := binary.LittleEndian
	var all []record
	for ; len(file) > 0; file = file[utmpxSize:] {
		b := file[:utmpxSize]
		if int16(order.Uint16(b[296:])) != userProcess {
			continue
		}
		r := record{user: text(b[:256]), line: text(b[260:292]), pid: int(int32(order.Uint32(b[292:]))), host: text(b[308:564]),
			since: at(int64(int32(order.Uint32(b[300:]))), int64(int32(order.Uint32(b[304:]))))}
		if r.user == "" || r.line == "" {
			continue
		}
		if all = append(all, r); len(all) > maxSessions {
			return nil, invalid("utmpx has more than %d logons", maxSessions)
		}
	}
	return all, nil
}
