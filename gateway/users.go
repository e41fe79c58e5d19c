package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// maxUserFile bounds a user file, in bytes.
const maxUserFile = 64 << 20

// Users are names and password hashes, read from a file with a user on each line. It is a [Verifier] and a [Grouper].
//
// A line is that of htpasswd (name:hash) or that of ocserv's ocpasswd (name:group1,group2:hash, with * for no group). The hash is
// bcrypt ($2a$, $2b$, $2y$: "htpasswd -B") or SHA-crypt ($5$, $6$: "ocpasswd", "openssl passwd -6"). A hash with ! in front is that of a locked
// user. Blank lines and lines that begin with # are skipped. Weaker hashes, such as MD5 ($1$, $apr1$), are refused.
type Users struct {
	file string
	// busy bounds the passwords that are judged at once, since each costs a processor for as long as its hash was made to.
	busy chan struct{}

	mu     sync.RWMutex
	byName map[string]user
	decoy  passwordHash
}

type user struct {
	hash   passwordHash // nil if locked
	groups []string
}

// A passwordHash is a parsed hash.
type passwordHash interface{ verify(password string) bool }

type bcryptHash string

func (h bcryptHash) verify(password string) bool {
	return bcrypt.CompareHashAndPassword([]byte(h), []byte(password)) == nil
}

// LoadUsers reads a file of users. Reload reads it again.
func LoadUsers(file string) (*Users, error) {
	u := &Users{file: file}
	if err := u.Reload(); err != nil {
		return nil, err
	}
	return u, nil
}

// ReadUsers reads users from r.
func ReadUsers(r io.Reader) (*Users, error) {
	u := &Users{}
	return u, u.read(r, "user list")
}

// Reload reads the file again. On an error the users stay as they were. It must not be called if the users did not come from
// LoadUsers.
func (u *Users) Reload() error {
	f, err := os.Open(u.file)
	if err != nil {
		return fmt.Errorf("gateway: reading users: %w", err)
	}
	defer f.Close()
	return u.read(f, u.file)
}

func (u *Users) read(r io.Reader, name string) error {
	byName := map[string]user{}
	var decoy passwordHash
	sc := bufio.NewScanner(io.LimitReader(r, maxUserFile))
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		login, entry, err := parseUser(line)
		if err != nil {
			return fmt.Errorf("gateway: %s line %d: %w", name, n, err)
		}
		if _, ok := byName[login]; ok {
			return fmt.Errorf("gateway: %s line %d: user %q is listed twice", name, n, login)
		}
		byName[login] = entry
		if decoy == nil {
			decoy = entry.hash
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("gateway: reading %s: %w", name, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.byName, u.decoy = byName, decoy
	if u.busy == nil {
		u.busy = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)))
	}
	return nil
}

func parseUser(line string) (login string, u user, err error) {
	parts := strings.Split(line, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" {
		return "", user{}, errors.New("want name:hash, or name:groups:hash")
	}
	if len(parts) == 3 {
		for g := range strings.SplitSeq(parts[1], ",") {
			if g = strings.TrimSpace(g); g != "" && g != "*" {
				u.groups = append(u.groups, g)
			}
		}
	}
	hash := parts[len(parts)-1]
	locked := strings.HasPrefix(hash, "!")
	if hash = strings.TrimLeft(hash, "!"); locked && hash == "" {
		return parts[0], u, nil
	}
	u.hash, err = parseHash(hash)
	if locked {
		u.hash = nil
	}
	return parts[0], u, err
}

// parseHash does not show the hash in its errors.
func parseHash(s string) (passwordHash, error) {
	switch {
	case strings.HasPrefix(s, "$2a$"), strings.HasPrefix(s, "$2b$"), strings.HasPrefix(s, "$2y$"):
		if _, err := bcrypt.Cost([]byte(s)); err != nil {
			return nil, errors.New("malformed bcrypt hash")
		}
		return bcryptHash(s), nil
	case strings.HasPrefix(s, "$5$"), strings.HasPrefix(s, "$6$"):
		return parseShaCrypt(s)
	case strings.HasPrefix(s, "$1$"), strings.HasPrefix(s, "$apr1$"):
		return nil, errors.New("the password is hashed with MD5, which is too weak; make it anew with htpasswd -B or ocpasswd")
	case strings.HasPrefix(s, "{SHA}"):
		return nil, errors.New("the password is hashed with unsalted SHA-1, which is too weak; make it anew with htpasswd -B")
	}
	return nil, errors.New("the hash is neither bcrypt ($2y$) nor SHA-crypt ($5$, $6$); make it with htpasswd -B or ocpasswd")
}

// Verify implements [Verifier]. An unknown user takes as long as a known one.
func (u *Users) Verify(ctx context.Context, name, password string) error {
	u.mu.RLock()
	entry, ok := u.byName[name]
	decoy := u.decoy
	u.mu.RUnlock()
	select {
	case u.busy <- struct{}{}:
		defer func() { <-u.busy }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	hash := entry.hash
	if hash == nil {
		hash = decoy
	}
	right := hash != nil && hash.verify(password)
	if !ok || entry.hash == nil || !right {
		return errWrong
	}
	return nil
}

// Groups implements [Grouper].
func (u *Users) Groups(name string) []string {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.byName[name].groups
}

// Len returns how many users there are.
func (u *Users) Len() int {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return len(u.byName)
}
