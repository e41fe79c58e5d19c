package netns

import (
	"bytes"
	"sync"
)

// maxLog is how much is kept of what a command prints, in bytes: the end of it.
const maxLog = 256 << 10

// A lockedBuffer keeps what a command prints while it runs.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := l.b.Write(p)
	if extra := l.b.Len() - maxLog; extra > 0 {
		l.b.Next(extra)
	}
	return n, err
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
