package certificates

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"culvert.example/vpn/internal/issue"
)

// sign makes a certificate; by is nil for one that issues itself.
func sign(name string, by *issue.Certificate, ca bool) *issue.Certificate {
	return issue.New(x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: ca}, by)
}

func write(tb testing.TB, text string, perm os.FileMode, elements ...string) string {
	tb.Helper()
	file := filepath.Join(elements...)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), perm); err != nil {
		tb.Fatal(err)
	}
	return file
}

func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// B.8: the layout of the PEM store; D735–D737: where the one of Firefox is.
func TestDirectories(t *testing.T) {
	home := environment("HOME", "/home/alice")
	for _, tt := range []struct {
		system string
		kind   Kind
		env    func(string) string
		want   []string
	}{
		{"linux", PEMMachine, home, []string{"/etc/xdg/culvert/certificates", "/opt/.cisco/certificates"}},
		{"linux", PEMMachine, environment("XDG_CONFIG_DIRS", "/a:relative:/b"), []string{"/a/culvert/certificates", "/b/culvert/certificates", "/opt/.cisco/certificates"}},
		{"linux", PEMUser, home, []string{"/home/alice/.config/culvert/certificates", "/home/alice/.cisco/certificates"}},
		{"linux", PEMUser, environment("XDG_CONFIG_HOME", "/x", "HOME", "/h"), []string{"/x/culvert/certificates", "/h/.cisco/certificates"}},
		{"linux", PEMUser, environment(), nil},
		{"linux", Firefox, home, []string{
			"/home/alice/.config/mozilla/firefox", "/home/alice/.mozilla/firefox", "/home/alice/snap/firefox/common/.mozilla/firefox",
			"/home/alice/.var/app/org.mozilla.firefox/.mozilla/firefox",
		}},
		{"linux", System, home, nil},
		{"darwin", PEMMachine, home, []string{"/opt/.cisco/certificates"}},
		{"darwin", PEMUser, home, []string{"/home/alice/.cisco/certificates"}},
		{"darwin", Firefox, home, []string{"/home/alice/Library/Application Support/Firefox"}},
		{"windows", PEMMachine, home, nil},
		{"windows", Firefox, home, nil},
	} {
		if got := Directories(tt.system, tt.kind, tt.env, ""); !slices.Equal(got, tt.want) {
			t.Errorf("%s %s: %q, want %q", tt.system, tt.kind, got, tt.want)
		}
	}
	if got := Directories("linux", PEMMachine, home, "/image"); got[1] != "/image/opt/.cisco/certificates" {
		t.Errorf("below a root: %q", got)
	}
}

func TestPEM(t *testing.T) {
	root := sign("root", nil, true)
	middle := sign("middle", root, true)
	other := sign("other root", nil, true)
	alice, bob, carol, dave, eve := sign("alice", middle, false), sign("bob", middle, false), sign("carol", root, false), sign("dave", nil, false), sign("eve", root, false)
	home := t.TempDir()
	dir := filepath.Join(home, ".cisco/certificates")
	write(t, root.PEM()+middle.PEM(), 0o644, dir, "ca/bundle.pem")
	write(t, string(root.Raw), 0o644, dir, "ca/root.cer")
	write(t, other.PEM(), 0o644, dir, "ca/other.crt")
	write(t, "nonsense", 0o644, dir, "ca/broken.pem")
	write(t, "not looked at", 0o644, dir, "ca/README")
	write(t, "-----BEGIN TRUSTED CERTIFICATE-----\nMAA=\n-----END TRUSTED CERTIFICATE-----\n", 0o644, dir, "ca/trusted.pem")
	write(t, alice.PEM(), 0o644, dir, "client/alice.pem")
	write(t, alice.KeyPEM(), 0o600, dir, "client/private/alice.key")
	// An authority in front, and the key in the same file.
	write(t, middle.PEM()+bob.PEM()+bob.KeyPEM(), 0o600, dir, "client/bob.pem")
	write(t, carol.PEM(), 0o644, dir, "client/carol.pem")
	write(t, dave.PEM(), 0o644, dir, "client/dave.pem")
	write(t, eve.KeyPEM(), 0o644, dir, "client/private/dave.pem") // somebody else's key, and others may read it
	s := Open(PEMUser, Options{System: "linux", Getenv: environment("HOME", home)})

	if want := []string{dir}; !slices.Equal(s.Directories, want) {
		t.Errorf("directories %q, want %q", s.Directories, want)
	}
	var anchors []string
	for _, a := range s.Anchors {
		anchors = append(anchors, a.Certificate.Subject.CommonName+" "+filepath.Base(a.Path))
	}
	if want := []string{"root bundle.pem", "middle bundle.pem", "other root other.crt"}; !slices.Equal(anchors, want) {
		t.Errorf("anchors %q, want %q", anchors, want)
	}
	problems := fmt.Sprint(s.Problems)
	for _, part := range []string{"broken.pem: it holds no certificate", "trusted.pem: certificate 1 is in OpenSSL's form", "private/dave.pem: others may read"} {
		if !strings.Contains(problems, part) {
			t.Errorf("the problems %s lack %q", problems, part)
		}
	}
	if len(s.Problems) != 3 {
		t.Errorf("%d problems, want 3: %s", len(s.Problems), problems)
	}
	for i, tt := range []struct {
		label string
		chain []string
		noKey string
		err   error
	}{
		{"alice", []string{"alice", "middle"}, "", nil},
		{"bob", []string{"bob", "middle"}, "", nil},
		{"carol", []string{"carol"}, "private/carol.key does not exist", nil},
		{"dave", []string{"dave"}, "", ErrKey},
	} {
		id := s.Identities[i]
		var chain []string
		for _, c := range id.Chain {
			chain = append(chain, c.Subject.CommonName)
		}
		if id.Label != tt.label || !slices.Equal(chain, tt.chain) || id.Store != PEMUser {
			t.Errorf("identity %d: %s %q, want %s %q", i, id.Label, chain, tt.label, tt.chain)
		}
		if tt.noKey != "" {
			if id.NoKey == nil || !strings.Contains(id.NoKey.Error(), tt.noKey) {
				t.Errorf("%s: %v, want %q", tt.label, id.NoKey, tt.noKey)
			}
			if _, err := id.Certificate(Unlock{}); err != id.NoKey {
				t.Errorf("%s: %v", tt.label, err)
			}
			continue
		}
		if c, err := id.Certificate(Unlock{}); !errors.Is(err, tt.err) || err == nil && (len(c.Certificate) != len(tt.chain) || c.Leaf != id.Chain[0]) {
			t.Errorf("%s: %v, want %v", tt.label, err, tt.err)
		}
	}
	if s.Distrusts(root.Certificate) || Distrusts(s) != nil {
		t.Error("a directory of PEM files distrusts")
	}

	pool, err := Pool(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alice.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Errorf("the pool: %v", err)
	}
	if pool, err := Pool(&Store{Kind: System}); err != nil || pool == nil {
		t.Errorf("the pool of the system: %v", err)
	}
	if s := Open(PEMUser, Options{System: "linux"}); len(s.Directories)+len(s.Problems) != 0 {
		t.Errorf("without an environment: %+v", s)
	}
}

// The machine's store is read only as far as the reader that was given trusts it.
func TestMachine(t *testing.T) {
	image := t.TempDir()
	good, bad := sign("good", nil, true), sign("bad", nil, true)
	write(t, good.PEM(), 0o644, image, "opt/.cisco/certificates/ca/good.pem")
	write(t, bad.PEM(), 0o644, image, "opt/.cisco/certificates/ca/bad.pem")
	untrusted := errors.New("could have been written by others")
	s := Open(PEMMachine, Options{System: "linux", Root: image, ReadMachine: func(path string) ([]byte, error) {
		if strings.HasSuffix(path, "bad.pem") {
			return nil, untrusted
		}
		return os.ReadFile(path)
	}})
	if len(s.Anchors) != 1 || s.Anchors[0].Certificate.Subject.CommonName != "good" || len(s.Problems) != 1 || !errors.Is(s.Problems[0], untrusted) {
		t.Errorf("anchors %d, problems %v", len(s.Anchors), s.Problems)
	}
}

func TestKeys(t *testing.T) {
	ec := sign("ec", nil, false)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec.Key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte, headers ...string) string {
		b := &pem.Block{Type: kind, Bytes: der}
		if len(headers) > 0 {
			b.Headers = map[string]string{headers[0]: headers[1]}
		}
		return string(pem.EncodeToMemory(b))
	}
	unlock := Unlock{
		Password: func(string) (string, error) { return "right", nil },
		PKCS8: func(_ []byte, password string) (crypto.PrivateKey, error) {
			if password != "right" {
				return nil, errors.New("structure error")
			}
			return ec.Key, nil
		},
	}
	wrong := unlock
	wrong.Password = func(string) (string, error) { return "wrong", nil }
	cancelled := errors.New("cancelled")
	cancel := unlock
	cancel.Password = func(string) (string, error) { return "", cancelled }
	for _, tt := range []struct {
		name, text string
		unlock     Unlock
		want       error
	}{
		{"PKCS#8", ec.KeyPEM(), Unlock{}, nil},
		{"SEC 1", block("EC PRIVATE KEY", sec1), Unlock{}, nil},
		{"PKCS#1", block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey)), Unlock{}, nil},
		{"behind parameters", "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + block("EC PRIVATE KEY", sec1), Unlock{}, nil},
		{"OpenSSL's old encryption", block("RSA PRIVATE KEY", sec1, "DEK-Info", "DES-EDE3-CBC,00"), unlock, ErrKey},
		{"encrypted", block("ENCRYPTED PRIVATE KEY", []byte{0x30, 0}), unlock, nil},
		{"encrypted, wrong password", block("ENCRYPTED PRIVATE KEY", []byte{0x30, 0}), wrong, ErrPassword},
		{"encrypted, nobody to ask", block("ENCRYPTED PRIVATE KEY", []byte{0x30, 0}), Unlock{PKCS8: unlock.PKCS8}, ErrEncrypted},
		{"encrypted, cancelled", block("ENCRYPTED PRIVATE KEY", []byte{0x30, 0}), cancel, cancelled},
		{"encrypted, not supported", block("ENCRYPTED PRIVATE KEY", []byte{0x30, 0}), Unlock{}, ErrKey},
		{"broken", block("PRIVATE KEY", []byte{1, 2, 3}), Unlock{}, ErrKey},
		{"none", ec.PEM(), Unlock{}, ErrKey},
		{"empty", "", Unlock{}, ErrKey},
	} {
		key, err := parseKey("file.key", []byte(tt.text), tt.unlock)
		if !errors.Is(err, tt.want) || (err == nil) != (key != nil) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if err != nil && err != cancelled && !strings.HasPrefix(err.Error(), "file.key: ") {
			t.Errorf("%s: the error %q does not name the file", tt.name, err)
		}
	}
}

func TestArrange(t *testing.T) {
	root := sign("root", nil, true)
	one := sign("one", root, true)
	two := sign("two", one, true)
	// Another authority with the same name, which has not signed.
	impostor := sign("two", nil, true)
	leaf := sign("leaf", two, false)
	for _, order := range [][]*issue.Certificate{{leaf, two, one, root}, {root, one, two, leaf}, {impostor, two, leaf, root, one, one}} {
		var certs []*x509.Certificate
		for _, c := range order {
			certs = append(certs, c.Certificate)
		}
		var got []string
		for _, c := range Arrange(leaf.Key.Public(), certs) {
			got = append(got, c.Subject.CommonName)
		}
		if want := []string{"leaf", "two", "one"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if got := Arrange(sign("x", nil, false).Key.Public(), certs); got != nil {
			t.Errorf("a key of none: %v", got)
		}
	}
	if got := Arrange(root.Key.Public(), []*x509.Certificate{root.Certificate}); len(got) != 1 {
		t.Errorf("a certificate that issued itself: %d certificates", len(got))
	}
}

func need(tb testing.TB, program, pkg string) {
	tb.Helper()
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("CULVERT_INTEROP") != "" {
			tb.Fatalf("%s is missing: apt-get install %s", program, pkg)
		}
		tb.Skipf("%s is not installed", program)
	}
}

// D735, D737: the store of Firefox, in a profile as the browser makes it at its first start.
func TestFirefox(t *testing.T) {
	need(t, "certutil", "libnss3-tools")
	home := t.TempDir()
	base := filepath.Join(home, ".mozilla/firefox")
	profile := filepath.Join(base, "x.default-release")
	write(t, "[Install4F96D1932A9F858E]\nDefault=x.default-release\nLocked=1\n\n[Profile1]\nName=default\nIsRelative=1\nPath=old.default\nDefault=1\n\n"+
		"[Profile0]\nName=default-release\nIsRelative=1\nPath=x.default-release\n\n[General]\nStartWithLastProfile=1\nVersion=2\n", 0o644, base, "profiles.ini")
	password := write(t, "primary\n", 0o600, home, "password")
	noise := make([]byte, 2048)
	rand.Read(noise)
	write(t, string(noise), 0o600, home, "noise")
	certutil := func(args ...string) {
		t.Helper()
		args = append(args, "-d", "sql:"+profile, "-f", password)
		cmd := exec.Command("certutil", args...)
		cmd.Stdin = strings.NewReader("y\n-1\ny\n") // what -2 asks: an authority, of any length of path, and critical
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("certutil %q: %v: %s", args, err, out)
		}
	}
	env := environment("HOME", home)
	if s := Open(Firefox, Options{System: "linux", Getenv: env}); len(s.Directories)+len(s.Problems) != 0 {
		t.Errorf("a profile that was never used: %+v", s)
	}
	write(t, "", 0o644, profile, "times.json")
	certutil("-N")
	noiseFile := filepath.Join(home, "noise")
	certutil("-S", "-z", noiseFile, "-n", "Corp", "-s", "CN=Corp", "-x", "-t", "C,,", "-k", "ec", "-q", "nistp256", "-m", "1", "-v", "12", "-2")
	certutil("-S", "-z", noiseFile, "-n", "Middle", "-s", "CN=Middle", "-c", "Corp", "-t", ",,", "-k", "ec", "-q", "nistp256", "-m", "2", "-v", "12", "-2")
	certutil("-S", "-z", noiseFile, "-n", "alice", "-s", "CN=alice", "-c", "Middle", "-t", ",,", "-k", "ec", "-q", "nistp256", "-m", "3", "-v", "12")
	bad := sign("Bad", nil, true)
	peer := sign("vpn.example.com", nil, false)
	certutil("-A", "-n", "Bad", "-i", write(t, bad.PEM(), 0o644, home, "bad.pem"), "-t", "p,,", "-a")
	certutil("-A", "-n", "Peer", "-i", write(t, peer.PEM(), 0o644, home, "peer.pem"), "-t", "P,,", "-a")
	ca := sign("Peer CA", nil, true)
	certutil("-A", "-n", "Peer CA", "-i", write(t, ca.PEM(), 0o644, home, "ca.pem"), "-t", "P,,", "-a")

	s := Open(Firefox, Options{System: "linux", Getenv: env})
	if want := []string{profile}; !slices.Equal(s.Directories, want) {
		t.Errorf("directories %q, want %q", s.Directories, want)
	}
	var anchors []string
	for _, a := range s.Anchors {
		anchors = append(anchors, a.Label)
	}
	slices.Sort(anchors)
	if want := []string{"Corp", "Peer"}; !slices.Equal(anchors, want) {
		t.Errorf("anchors %q, want %q", anchors, want)
	}
	if len(s.Problems) != 1 || !strings.Contains(s.Problems[0].Error(), `"Peer CA" is trusted as a single server`) {
		t.Errorf("problems %v", s.Problems)
	}
	if distrusts := Distrusts(s); distrusts == nil || !distrusts(bad.Certificate) || distrusts(peer.Certificate) || !s.Distrusts(bad.Certificate) {
		t.Error("the distrusted authority is not the one that is distrusted")
	}
	asked := ""
	var alice *Identity
	for _, id := range s.Identities {
		if id.Label == "alice" {
			alice = id
		}
	}
	if alice == nil || len(alice.Chain) != 2 || alice.Chain[1].Subject.CommonName != "Middle" {
		t.Fatalf("the identity of alice: %+v", alice)
	}
	if _, err := alice.Certificate(Unlock{Password: func(of string) (string, error) {
		asked = of
		return "primary", nil
	}}); err != nil || !strings.Contains(asked, "key4.db") {
		t.Errorf("the key: %v, asked for %q", err, asked)
	}
	if _, err := alice.Key(Unlock{Password: func(string) (string, error) { return "wrong", nil }}); !errors.Is(err, ErrPassword) {
		t.Errorf("the wrong password: %v", err)
	}
	if _, err := alice.Key(Unlock{}); !errors.Is(err, ErrEncrypted) {
		t.Errorf("nobody to ask: %v", err)
	}

	// Bad input, one after the other.
	reopen := func() string { return fmt.Sprint(Open(Firefox, Options{System: "linux", Getenv: env}).Problems) }
	journal := write(t, "\xd9\xd5\x05\xf9\x20\xa1\x63\xd7 and more", 0o600, profile, "cert9.db-journal")
	if got := reopen(); !strings.Contains(got, "being written to") {
		t.Errorf("a hot journal: %s", got)
	}
	write(t, strings.Repeat("\x00", 512), 0o600, journal) // finished
	if got := reopen(); strings.Contains(got, "being written to") {
		t.Errorf("a journal that is no longer hot: %s", got)
	}
	write(t, "nonsense", 0o600, profile, "key4.db")
	if s := Open(Firefox, Options{System: "linux", Getenv: env}); len(s.Identities) != 0 || len(s.Anchors) != 2 || !strings.Contains(fmt.Sprint(s.Problems), "key4.db") {
		t.Errorf("a broken key4.db: %d identities, %d anchors, %v", len(s.Identities), len(s.Anchors), s.Problems)
	}
	write(t, "nonsense", 0o600, profile, "cert9.db")
	if got := reopen(); !strings.Contains(got, "not an intact SQLite database") {
		t.Errorf("a broken cert9.db: %s", got)
	}
	if err := os.Truncate(filepath.Join(profile, "cert9.db"), maxDatabase+1); err != nil {
		t.Fatal(err)
	}
	if got := reopen(); !strings.Contains(got, "too large") {
		t.Errorf("a huge cert9.db: %s", got)
	}
	write(t, "[Profile0]\nPath=../../elsewhere\n", 0o644, base, "profiles.ini")
	if got := reopen(); !strings.Contains(got, "not below its directory") {
		t.Errorf("a path that leads away: %s", got)
	}
}

func TestProfiles(t *testing.T) {
	for _, tt := range []struct {
		name, ini string
		want      []Profile
		err       string
	}{
		{"one", "[Profile0]\nName=a\nIsRelative=1\nPath=Profiles/a\n", []Profile{{"a", "Profiles/a", true}}, ""},
		{"default", "\ufeff[Profile0]\r\nName=a\r\nPath=a\r\n[Profile1]\r\nName=b\r\nPath=b\r\nDefault=1\r\n", []Profile{{"b", "b", true}}, ""},
		{"absolute", "[Profile0]\nName=a\nIsRelative=0\nPath=/home/a/p\n", []Profile{{"a", "/home/a/p", false}}, ""},
		{"installations", "[Install1]\nDefault=a\n[Install2]\nDefault=b\n[Install3]\nDefault=a\n[Install4]\nDefault=gone\n[Profile0]\nPath=a\n[Profile1]\nPath=b\n[Profile2]\nPath=c\nDefault=1\n",
			[]Profile{{"", "a", true}, {"", "b", true}}, ""},
		{"nothing", "", nil, ""},
		{"comments", "; x\n# y\nPath=a\n[Profile0]\n;Path=b\nPath=c\n", []Profile{{"", "c", true}}, ""},
		{"several and no default", "[Profile0]\nPath=a\n[Profile1]\nPath=b\n", nil, "none of its profiles is the default one"},
		{"up", "[Profile0]\nPath=../x\n", nil, "not below"},
		{"no path", "[Profile0]\nName=x\n", nil, "not below"},
		{"relative and not", "[Profile0]\nIsRelative=0\nPath=x\n", nil, "not absolute"},
		{"many sections", strings.Repeat("[x]\n", 300), nil, "more than 256 sections"},
		{"a long line", "[" + strings.Repeat("x", 1<<17), nil, "too long"},
	} {
		got, err := ParseProfiles([]byte(tt.ini))
		if !slices.Equal(got, tt.want) || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, %v; want %v, %q", tt.name, got, err, tt.want, tt.err)
		}
	}
}

func FuzzParseProfiles(f *testing.F) {
	f.Add([]byte("[Install1]\nDefault=a\n[Profile0]\nName=n\nIsRelative=1\nPath=a\nDefault=1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		profiles, err := ParseProfiles(data)
		if err == nil && len(profiles) > maxProfiles {
			t.Fatalf("%d profiles", len(profiles))
		}
		for _, p := range profiles {
			if p.Relative && !filepath.IsLocal(p.Path) {
				t.Fatalf("%q leads away", p.Path)
			}
		}
	})
}

func FuzzParsePEM(f *testing.F) {
	c := sign("c", nil, true)
	f.Add([]byte(c.PEM()))
	f.Add(c.Raw)
	f.Add([]byte(c.KeyPEM()))
	f.Fuzz(func(t *testing.T, data []byte) {
		certs, problems := ParsePEM(data)
		if len(certs)+len(problems) == 0 {
			t.Fatal("nothing found, and no problem either")
		}
		if key, err := parseKey("f", data, Unlock{}); err == nil && key == nil {
			t.Fatal("neither key nor error")
		}
		if bytes.Contains(data, []byte("TRUSTED")) && len(problems) > maxProblems {
			t.Fatalf("%d problems", len(problems))
		}
	})
}
