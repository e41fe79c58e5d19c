package gateway

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"culvert.example/vpn/transport"
)

const userFile = `# users of the test
alice:$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5

bob:staff,guests:$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1
carol:*:$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5
dave:*:!$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5
erin:!
`

func TestUsers(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	// htpasswd writes $2y$ for the same algorithm.
	file := userFile + "frank:" + strings.Replace(string(hash), "$2a$", "$2y$", 1) + "\n"
	u, err := ReadUsers(strings.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		user, password string
		ok             bool
	}{
		{"alice", "Hello world!", true},
		{"alice", "hello world!", false},
		{"alice", "", false},
		{"bob", "Hello world!", true},
		{"carol", "Hello world!", true},
		{"dave", "Hello world!", false},
		{"erin", "", false},
		{"frank", "secret", true},
		{"frank", "Secret", false},
		{"nobody", "Hello world!", false},
		{"", "", false},
		{"alice", strings.Repeat("x", 1<<20), false},
	} {
		err := u.Verify(context.Background(), tt.user, tt.password)
		if (err == nil) != tt.ok {
			t.Errorf("Verify(%q) = %v", tt.user, err)
		}
		if err != nil && !errors.Is(err, transport.ErrLogin) {
			t.Errorf("Verify(%q) = %v, which is no ErrLogin", tt.user, err)
		}
	}
	if g := strings.Join(u.Groups("bob"), " "); g != "staff guests" {
		t.Errorf("groups of bob = %q", g)
	}
	if g := u.Groups("carol"); len(g) != 0 {
		t.Errorf("groups of carol = %q", g)
	}
}

func TestUsersRejects(t *testing.T) {
	for line, want := range map[string]string{
		"alice":                               "want name:hash",
		":x":                                  "want name:hash",
		"a:b:c:d":                             "want name:hash",
		"alice:plain":                         "neither bcrypt",
		"alice:$1$salt$hash":                  "MD5",
		"alice:$apr1$salt$hash":               "MD5",
		"alice:{SHA}deadbeef":                 "SHA-1",
		"alice:$2y$nonsense":                  "malformed bcrypt",
		"alice:*:$5$short":                    "SHA-crypt",
		"alice:!\nalice:!":                    "twice",
		"ok:!\n" + strings.Repeat("x", 1<<20): "too long",
	} {
		_, err := ReadUsers(strings.NewReader(line))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ReadUsers(%.20q) = %v, want %q", line, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hash$") {
			t.Errorf("the error shows the hash: %v", err)
		}
	}
}

func TestUsersReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(userFile)
	u, err := LoadUsers(file)
	if err != nil {
		t.Fatal(err)
	}
	if u.Len() != 5 {
		t.Errorf("%d users", u.Len())
	}
	write("broken")
	if err := u.Reload(); err == nil {
		t.Error("a broken file is accepted")
	}
	if u.Len() != 5 {
		t.Errorf("%d users after a failed reload", u.Len())
	}
	write("zoe:!\n")
	if err := u.Reload(); err != nil || u.Len() != 1 {
		t.Errorf("%d users after a reload, %v", u.Len(), err)
	}
	if _, err := LoadUsers(file + ".not"); err == nil {
		t.Error("a missing file is accepted")
	}
}

func FuzzParseUser(f *testing.F) {
	for line := range strings.Lines(userFile) {
		f.Add(strings.TrimSpace(line))
	}
	f.Add("a:$6$rounds=1000$x$")
	f.Fuzz(func(t *testing.T, line string) {
		if name, _, err := parseUser(line); err == nil && name == "" {
			t.Error("a user without a name")
		}
	})
}
