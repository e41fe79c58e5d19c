package logins

import (
	"context"
	"fmt"
	"strconv"
	"unsafe"

	"golang.org/x/sys/windows"
)

// systemState is what a Source remembers on Windows.
type systemState struct{ memory memory }

// Classes of WTSQuerySessionInformation.
const (
	wtsUserName           = 5
	wtsDomainName         = 7
	wtsClientName         = 10
	wtsClientAddress      = 14
	wtsClientProtocolType = 16
	wtsSessionInfoEx      = 25
)

func (s *Source) list(context.Context) ([]Session, error) {
	var first *windows.WTS_SESSION_INFO
	var count uint32
	if err := windows.WTSEnumerateSessions(0, 0, 1, &first, &count); err != nil {
		return nil, fmt.Errorf("%w: WTSEnumerateSessions: %w", ErrUnavailable, err)
	}
	defer windows.WTSFreeMemory(uintptr(unsafe.Pointer(first)))
	if count > maxSessions {
		return nil, invalid("WTSEnumerateSessions: %d sessions, which is more than %d", count, maxSessions)
	}
	var all []Session
	for _, info := range unsafe.Slice(first, count) {
		w := wtsSession{id: info.SessionID, state: info.State, user: queryText(info.SessionID, wtsUserName)}
		if w.user != "" {
			w.domain, w.client = queryText(w.id, wtsDomainName), queryText(w.id, wtsClientName)
			w.address, w.info = query(w.id, wtsClientAddress), query(w.id, wtsSessionInfoEx)
			if b := query(w.id, wtsClientProtocolType); len(b) >= 2 {
				w.protocol = uint16(b[0]) | uint16(b[1])<<8
			}
		}
		if l, ok := w.session(); ok {
			all = append(all, l)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.system.memory == nil {
		s.system.memory = make(memory)
	}
	s.system.memory.recall(all)
	return all, nil
}

func (s *Source) watch(ctx context.Context, w *watch) error { return s.pollList(ctx, w, s.list) }

// query returns what Windows says about a session, or nil.
func query(id uint32, class uint32) []byte {
	const maxAnswer = 64 << 10
	procedure := windows.NewLazySystemDLL("wtsapi32.dll").NewProc("WTSQuerySessionInformationW")
	if procedure.Find() != nil {
		return nil
	}
	var buffer *byte
	var size uint32
	ok, _, _ := procedure.Call(0, uintptr(id), uintptr(class), uintptr(unsafe.Pointer(&buffer)), uintptr(unsafe.Pointer(&size)))
	if ok == 0 || buffer == nil {
		return nil
	}
	defer windows.WTSFreeMemory(uintptr(unsafe.Pointer(buffer)))
	return append([]byte(nil), unsafe.Slice(buffer, min(size, maxAnswer))...)
}

func queryText(id, class uint32) string {
	b := query(id, class)
	words := make([]uint16, len(b)/2)
	for i := range words {
		words[i] = uint16(b[2*i]) | uint16(b[2*i+1])<<8
	}
	return windows.UTF16ToString(words)
}

// Asker finds out who is behind a process of this machine. It fails with ErrNoProcess if there is none, else as List does; that
// a process belongs to no logon is no error.
func (s *Source) Asker(ctx context.Context, pid int) (Asker, error) {
	var id uint32
	if pid <= 0 {
		return Asker{UID: NoUID}, fmt.Errorf("%w: %d", ErrNoProcess, pid)
	}
	if err := windows.ProcessIdToSessionId(uint32(pid), &id); err != nil {
		return Asker{UID: NoUID}, fmt.Errorf("%w: %d: %w", ErrNoProcess, pid, err)
	}
	sessions, err := s.List(ctx)
	if err != nil {
		return Asker{UID: NoUID}, err
	}
	a := identify([]process{{pid: pid, uid: NoUID, loginUID: NoUID}}, sessions, strconv.FormatUint(uint64(id), 10))
	a.User = a.Session.User
	return a, nil
}
