package nss

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"culvert.example/vpn/host/certificates/sqlite"
)

// A store is a database of certutil's.
type store struct {
	tb       testing.TB
	dir      string
	password string
}

func newStore(tb testing.TB, password string) *store {
	tb.Helper()
	if _, err := exec.LookPath("certutil"); err != nil {
		if os.Getenv("CULVERT_INTEROP") != "" {
			tb.Fatal("certutil is missing: apt-get install libnss3-tools")
		}
		tb.Skip("certutil is not installed")
	}
	s := &store{tb, tb.TempDir(), filepath.Join(tb.TempDir(), "password")}
	noise := make([]byte, 2048)
	rand.Read(noise)
	s.write(s.password, []byte(password+"\n"))
	s.write(s.dir+"/noise", noise)
	s.certutil("-N")
	return s
}

func (s *store) write(file string, b []byte) {
	s.tb.Helper()
	if err := os.WriteFile(file, b, 0o600); err != nil {
		s.tb.Fatal(err)
	}
}

func (s *store) certutil(args ...string) {
	s.tb.Helper()
	cmd := exec.Command("certutil", append(args, "-d", "sql:"+s.dir, "-f", s.password)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.tb.Fatalf("certutil %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// make makes a certificate and its key.
func (s *store) make(name, trust string, args ...string) {
	s.tb.Helper()
	s.certutil(append([]string{"-S", "-z", s.dir + "/noise", "-n", name, "-s", "CN=" + name + ",O=Corp", "-t", trust, "-v", "12"}, args...)...)
}

func (s *store) files() (cert9, key4 []byte) {
	s.tb.Helper()
	var err error
	if cert9, err = os.ReadFile(s.dir + "/cert9.db"); err == nil {
		key4, err = os.ReadFile(s.dir + "/key4.db")
	}
	if err != nil {
		s.tb.Fatal(err)
	}
	return cert9, key4
}

func (s *store) open() *Database {
	s.tb.Helper()
	d, err := Parse(s.files())
	if err != nil {
		s.tb.Fatal(err)
	}
	return d
}

func find(t *testing.T, d *Database, label string) *Certificate {
	t.Helper()
	for i, c := range d.Certificates() {
		if c.Label == label {
			return &d.Certificates()[i]
		}
	}
	t.Fatalf("the certificate %s is not there", label)
	return nil
}

// D735: the trust that Firefox has in authorities, as certutil writes it.
func TestTrust(t *testing.T) {
	s := newStore(t, "")
	for i, tt := range []struct {
		label, trust string
		want         Trust
	}{
		{"Server CA", "C,,", Anchor},
		{"Server and client CA", "CT,,", Anchor},
		{"Client CA", "T,,", Unknown},
		{"Mail CA", ",C,", Unknown},
		{"Nothing", ",,", Unknown},
		{"Valid CA", "c,,", Unknown},
		{"Peer", "P,,", Peer},
		{"Distrusted", "p,,", Distrusted},
		{"Distrusted for mail", ",p,", Unknown},
	} {
		s.make(tt.label, tt.trust, "-x", "-k", "ec", "-q", "nistp256", "-m", string(rune('1'+i)))
		d := s.open()
		c := find(t, d, tt.label)
		if c.Trust != tt.want || c.Certificate.Subject.CommonName != tt.label {
			t.Errorf("%s (%s): %v, want %v", tt.label, tt.trust, c.Trust, tt.want)
		}
		if got := d.Distrusts(c.Certificate); got != (tt.want == Distrusted) {
			t.Errorf("%s: Distrusts is %t", tt.label, got)
		}
		if got := d.DistrustsAny(); got != (i >= 7) {
			t.Errorf("%s: DistrustsAny is %t", tt.label, got)
		}
	}
	// The trust outlives a certificate that is taken out, and is then that in one from elsewhere.
	bad := find(t, s.open(), "Distrusted").Certificate
	s.certutil("-M", "-n", "Server CA", "-t", ",,")
	if c := find(t, s.open(), "Server CA"); c.Trust != Unknown {
		t.Errorf("after the trust was taken away: %v", c.Trust)
	}
	cert9, _ := s.files()
	d, err := Parse(cert9, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c := find(t, d, "Peer"); c.HasKey {
		t.Error("a certificate has a key without key4.db")
	} else if _, err := d.Key(c, ""); !errors.Is(err, ErrNoKey) {
		t.Errorf("its key: %v", err)
	}
	if again, err := x509.ParseCertificate(bytes.Clone(bad.Raw)); err != nil || !d.Distrusts(again) {
		t.Errorf("the same certificate from elsewhere is not distrusted (%v)", err)
	}
}

// The trust objects of PKCS #11 3.2, which newer versions of NSS write than the one that is installed: a database of certutil's
// is changed into such a one.
func TestTrustOfPKCS11(t *testing.T) {
	s := newStore(t, "")
	for _, label := range []string{"One", "Two", "Three", "Four"} {
		s.make(label, "T,,", "-x", "-k", "ec", "-q", "nistp256", "-m", map[string]string{"One": "1", "Two": "2", "Three": "3", "Four": "4"}[label])
	}
	sql := `ALTER TABLE nssPublic ADD COLUMN a62c;
		UPDATE nssPublic SET ace536358 = NULL, a0 = x'0000000b' WHERE a0 = x'ce534353';`
	for _, n := range []string{"1", "2", "3", "4"} {
		sql += "UPDATE nssPublic SET a62c = x'0000000" + n + "' WHERE a0 = x'0000000b' AND a82 = x'02010" + n + "';"
	}
	if out, err := exec.Command("sqlite3", "-bail", s.dir+"/cert9.db", sql).CombinedOutput(); err != nil {
		t.Fatalf("sqlite3: %v: %s", err, out)
	}
	d := s.open()
	for label, want := range map[string]Trust{"One": Peer, "Two": Anchor, "Three": Distrusted, "Four": Unknown} {
		if got := find(t, d, label).Trust; got != want {
			t.Errorf("%s: %v, want %v", label, got, want)
		}
	}
}

func TestKeys(t *testing.T) {
	for _, password := range []string{"", "correct horse ü"} {
		s := newStore(t, password)
		s.make("CA", "C,,", "-x", "-k", "ec", "-q", "nistp256")
		for i, kind := range [][]string{{"-k", "rsa", "-g", "2048"}, {"-k", "ec", "-q", "nistp256"}, {"-k", "ec", "-q", "nistp384"}, {"-k", "ec", "-q", "nistp521"}} {
			name := "user " + kind[1] + " " + kind[3]
			s.make(name, ",,", append(kind, "-c", "CA", "-m", string(rune('2'+i)))...)
			d := s.open()
			c := find(t, d, name)
			if !c.HasKey {
				t.Errorf("%s has no key", name)
			}
			signer, err := d.Key(c, password)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			digest := sha256.Sum256([]byte("text"))
			signature, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			algorithm := x509.ECDSAWithSHA256
			if kind[1] == "rsa" {
				algorithm = x509.SHA256WithRSA
			}
			if err := c.Certificate.CheckSignature(algorithm, []byte("text"), signature); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := d.Key(c, password+"x"); !errors.Is(err, ErrPassword) {
				t.Errorf("%s with the wrong password: %v", name, err)
			}
			swapped := *c
			swapped.Certificate = find(t, d, "CA").Certificate
			if _, err := d.Key(&swapped, password); !errors.Is(err, ErrKey) {
				t.Errorf("%s with the key of another: %v", name, err)
			}
		}
	}
}

// tripleDES is encrypted by pbeWithSha1AndTripleDES-CBC, or so it says.
const tripleDES = "\x30\x15\x30\x0f\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x05\x01\x03\x30\x00\x04\x02xx"

func TestDecrypt(t *testing.T) {
	// As NSS wrote it, with 14 bytes of initialization vector.
	good, err := hex.DecodeString("308181306D06092A864886F70D01050D3060304106092A864886F70D01050C303404208FBE3748FB8D40C9AE68C7E86907A0961B517F62F5931AC531A759C1DBC894BB" +
		"020101020120300A06082A864886F70D0209301B060960864801650304012A040EB15203C042DE7C1143DFF0F785C304109C40034A0D40AFF3512C41FC5A526DD3")
	if err != nil {
		t.Fatal(err)
	}
	salt, err := hex.DecodeString("F114A8051369921E08581293CB615C636907D3FF")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := decrypt(good, derive(salt, "")); err != nil || string(b) != "password-check" {
		t.Errorf("decrypt: %q, %v", b, err)
	}
	change := func(old, new string) []byte {
		return bytes.Replace(good, []byte(old), []byte(new), 1)
	}
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, "not encrypted as NSS does"},
		{"more behind", append(bytes.Clone(good), 0), "not encrypted as NSS does"},
		{"no sequence", []byte("\x30\x11\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x05\x01\x03\x04\x02xx"), "not encrypted as NSS does"},
		{"triple DES", []byte(tripleDES), "triple DES"},
		{"another algorithm", change("\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d", "\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0e"), "not by PBES2"},
		{"another hash", change("\x02\x09\x30\x1b", "\x02\x07\x30\x1b"), "something else than PBKDF2"},
		{"no iterations", change("\x02\x01\x01\x02\x01\x20", "\x02\x01\x00\x02\x01\x20"), "0 times"},
		{"broken parameters", change("\x30\x41\x06\x09", "\x30\x40\x06\x09"), "parameters of its encryption"},
	} {
		_, err := decrypt(tt.data, derive(salt, ""))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestBroken(t *testing.T) {
	s := newStore(t, "")
	s.make("CA", "C,,", "-x", "-k", "ec", "-q", "nistp256")
	cert9, key4 := s.files()
	if _, err := Parse(nil, nil); !errors.Is(err, sqlite.ErrFormat) {
		t.Errorf("no cert9.db: %v", err)
	}
	if _, err := Parse(cert9, []byte("nonsense")); !errors.Is(err, sqlite.ErrFormat) || !strings.Contains(err.Error(), "key4.db") {
		t.Errorf("a broken key4.db: %v", err)
	}
	if _, err := Parse(key4, nil); !errors.Is(err, sqlite.ErrNoTable) {
		t.Errorf("key4.db in the place of cert9.db: %v", err)
	}
	// A certificate that is none does not take the others with it.
	if out, err := exec.Command("sqlite3", "-bail", s.dir+"/cert9.db", `CREATE TABLE copy AS SELECT * FROM nssPublic WHERE a0 = x'00000001';
		UPDATE copy SET id = 1, a11 = x'3000', a3 = 'odd one'; INSERT INTO nssPublic SELECT * FROM copy;`).CombinedOutput(); err != nil {
		t.Fatalf("sqlite3: %v: %s", err, out)
	}
	d := s.open()
	if len(d.Certificates()) != 1 || len(d.Notes()) != 1 || !strings.Contains(d.Notes()[0], "odd one") {
		t.Errorf("certificates %d, notes %q", len(d.Certificates()), d.Notes())
	}
}

func FuzzParse(f *testing.F) {
	if _, err := exec.LookPath("certutil"); err == nil {
		s := newStore(f, "")
		s.make("CA", "C,,", "-x", "-k", "ec", "-q", "nistp256")
		cert9, key4 := s.files()
		f.Add(cert9, key4)
	}
	f.Add([]byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, cert9, key4 []byte) {
		d, err := Parse(cert9, key4)
		if err != nil {
			return
		}
		for i := range d.Certificates() {
			c := &d.Certificates()[i]
			if d.Distrusts(c.Certificate) && c.Trust != Distrusted {
				t.Fatalf("%q is distrusted and %v", c.Label, c.Trust)
			}
			if signer, err := d.Key(c, ""); err == nil && signer == nil {
				t.Fatal("neither key nor error")
			}
		}
	})
}

func FuzzDecrypt(f *testing.F) {
	f.Add([]byte(tripleDES))
	f.Fuzz(func(t *testing.T, b []byte) {
		if plain, err := decrypt(b, make([]byte, 20)); err == nil && len(plain) > len(b) {
			t.Fatal("more came out than went in")
		}
	})
}
