package main

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/internal/issue"
)

// sign makes a certificate that expires after some time; by is nil for one that issues itself.
func sign(name, unit string, left time.Duration, ca bool, by *issue.Certificate) *issue.Certificate {
	return issue.New(x509.Certificate{
		Subject:   pkix.Name{CommonName: name, OrganizationalUnit: []string{unit}},
		NotBefore: time.Now().Add(-1000 * time.Hour), NotAfter: time.Now().Add(left), IsCA: ca,
	}, by)
}

// save writes a file, and the directories that it is in.
func save(t *testing.T, perm os.FileMode, text string, elements ...string) string {
	t.Helper()
	file := filepath.Join(elements...)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), perm); err != nil {
		t.Fatal(err)
	}
	return file
}

// runTool runs a program that the test needs.
func runTool(t *testing.T, pkg, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CULVERT_INTEROP") != "" {
			t.Fatalf("%s is missing: apt-get install %s", name, pkg)
		}
		t.Skipf("%s is not installed", name)
	}
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

// The files that openssl, NSS and others write, with their keys and chains.
func TestCertificateFormats(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	openssl := func(args ...string) { t.Helper(); runTool(t, "openssl", "openssl", args...) }
	root := sign("root", "", time.Hour, true, nil)
	middle := sign("middle", "", time.Hour, true, root)
	save(t, 0o600, root.PEM(), in("root.pem"))
	save(t, 0o600, middle.PEM()+root.PEM(), in("chain.pem"))
	save(t, 0o600, sign("other", "", time.Hour, false, nil).KeyPEM(), in("other.key"))
	for _, key := range []struct{ name, make string }{{"ec", "EC -pkeyopt ec_paramgen_curve:P-384"}, {"rsa", "RSA -pkeyopt rsa_keygen_bits:2048"}} {
		openssl(append(append([]string{"genpkey", "-algorithm"}, strings.Fields(key.make)...), "-out", in(key.name+".key"))...)
		save(t, 0o600, middle.KeyPEM(), in("middle.key"))
		openssl("req", "-new", "-key", in(key.name+".key"), "-subj", "/CN=alice", "-out", in("csr"))
		openssl("x509", "-req", "-in", in("csr"), "-CA", in("chain.pem"), "-CAkey", in("middle.key"), "-CAcreateserial", "-days", "2", "-out", in(key.name+".pem"))
		leaf, err := os.ReadFile(in(key.name + ".pem"))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := os.ReadFile(in(key.name + ".key"))
		if err != nil {
			t.Fatal(err)
		}
		export := func(out string, args ...string) {
			t.Helper()
			openssl(append([]string{"pkcs12", "-export", "-in", in(key.name + ".pem"), "-inkey", in(key.name + ".key"), "-certfile", in("chain.pem"),
				"-passout", "pass:right", "-out", in(out)}, args...)...)
		}
		export("modern.p12")
		export("legacy.p12", "-legacy") // RC2 with 40 bits for the certificates, triple DES for the key, SHA-1
		export("des.p12", "-certpbe", "PBE-SHA1-3DES", "-keypbe", "PBE-SHA1-3DES", "-macalg", "sha1")
		export("empty.p12", "-passout", "pass:")
		openssl("pkcs8", "-topk8", "-in", in(key.name+".key"), "-passout", "pass:right", "-out", in("pbes2.key"))
		openssl("pkcs8", "-topk8", "-in", in(key.name+".key"), "-passout", "pass:right", "-scrypt", "-out", in("scrypt.key"))
		openssl("pkcs8", "-topk8", "-in", in(key.name+".key"), "-passout", "pass:right", "-v2", "des3", "-out", in("des3.key"))
		openssl("pkcs8", "-topk8", "-in", in(key.name+".key"), "-passout", "pass:right", "-v1", "PBE-SHA1-3DES", "-out", in("pbes1.key"))
		openssl("pkey", "-traditional", "-aes128", "-in", in(key.name+".key"), "-passout", "pass:right", "-out", in("old.key"))
		openssl("pkey", "-traditional", "-in", in(key.name+".key"), "-out", in("traditional.key"))
		save(t, 0o600, string(leaf)+middle.PEM()+root.PEM(), in("ordered.pem"))
		save(t, 0o600, root.PEM()+middle.PEM()+string(leaf)+string(plain), in("reversed.pem"))
		// NSS takes the file of openssl apart and makes its own.
		db := "sql:" + in("nss-"+key.name)
		save(t, 0o600, "db\n", in("nss-"+key.name), "password")
		runTool(t, "libnss3-tools", "certutil", "-N", "-d", db, "-f", in("nss-"+key.name)+"/password")
		runTool(t, "libnss3-tools", "pk12util", "-i", in("modern.p12"), "-d", db, "-k", in("nss-"+key.name)+"/password", "-W", "right")
		runTool(t, "libnss3-tools", "pk12util", "-o", in("nss.p12"), "-n", "alice", "-d", db, "-k", in("nss-"+key.name)+"/password", "-W", "right")
		runTool(t, "libnss3-tools", "pk12util", "-o", in("nss-empty.p12"), "-n", "alice", "-d", db, "-k", in("nss-"+key.name)+"/password", "-W", "")
		runTool(t, "libnss3-tools", "pk12util", "-o", in("nss-des.p12"), "-n", "alice", "-d", db, "-k", in("nss-"+key.name)+"/password", "-W", "right",
			"-c", "PKCS #12 V2 PBE With SHA-1 And 3KEY Triple DES-CBC", "-C", "PKCS #12 V2 PBE With SHA-1 And 40 Bit RC2 CBC", "-M", "SHA-1")

		asked := 0
		answer := func(password string) func() (string, error) {
			return func() (string, error) { asked++; return password, nil }
		}
		for _, tt := range []struct {
			cert, key, password string
			asked               int
			want                string // part of the error
		}{
			{"modern.p12", "", "right", 1, ""},
			{"modern.p12", "", "wrong", 1, "the passphrase is wrong"},
			{"modern.p12", "", "", 1, "the passphrase is wrong"},
			{"legacy.p12", "", "right", 1, ""},
			{"legacy.p12", "", "wrong", 1, "the passphrase is wrong"},
			{"des.p12", "", "right", 1, ""},
			{"empty.p12", "", "", 0, ""},
			{"nss.p12", "", "right", 1, ""},
			{"nss.p12", "", "wrong", 1, "the passphrase is wrong"},
			{"nss-empty.p12", "", "", 0, ""},
			{"nss-des.p12", "", "right", 1, ""},
			{"ordered.pem", key.name + ".key", "", 0, ""},
			{"ordered.pem", "traditional.key", "", 0, ""},
			{"ordered.pem", "pbes2.key", "right", 1, ""},
			{"ordered.pem", "pbes2.key", "wrong", 1, "the passphrase is wrong"},
			{"ordered.pem", "scrypt.key", "right", 1, ""},
			{"ordered.pem", "des3.key", "right", 1, ""},
			{"ordered.pem", "pbes1.key", "right", 1, "not supported"},
			{"ordered.pem", "old.key", "right", 0, "openssl pkcs8 -topk8"},
			{"reversed.pem", "", "", 0, ""},
			{"ordered.pem", "other.key", "", 0, "does not belong to"},
		} {
			if key.name == "rsa" && strings.HasPrefix(tt.cert, "nss-") {
				continue // what differs is not the key, and NSS takes many iterations
			}
			asked = 0
			file := ""
			if tt.key != "" {
				file = in(tt.key)
			}
			c, err := loadCertificate(in(tt.cert), file, answer(tt.password))
			name := key.name + " " + tt.cert + " " + tt.key + " " + tt.password
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), dir) {
					t.Errorf("%s: %v, want %q", name, err, tt.want)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			var subjects []string
			for _, der := range c.Certificate {
				p, err := x509.ParseCertificate(der)
				if err != nil {
					t.Fatal(err)
				}
				subjects = append(subjects, p.Subject.CommonName)
			}
			if len(subjects) < 2 || !slices.Equal(subjects[:2], []string{"alice", "middle"}) || c.Leaf.Subject.CommonName != "alice" {
				t.Errorf("%s: the chain is %q", name, subjects)
			}
			if asked != tt.asked {
				t.Errorf("%s: asked %d times for the passphrase, want %d", name, asked, tt.asked)
			}
		}
		cancelled := errors.New("cancelled")
		if _, err := loadCertificate(in("modern.p12"), "", func() (string, error) { return "", cancelled }); !errors.Is(err, cancelled) {
			t.Errorf("cancelled: %v", err)
		}
	}
}

// The whole command on an image of a machine: documents, PEM directories and Firefox.
func TestCertificates(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the places are those of Linux")
	}
	image := t.TempDir()
	corp := sign("Corp CA", "", 100*24*time.Hour, true, nil)
	save(t, 0o644, corp.PEM(), image, "opt/.cisco/certificates/ca/corp.pem")
	user := image + "/home/alice/.cisco/certificates/client/"
	put := func(name string, c *issue.Certificate) {
		t.Helper()
		save(t, 0o644, c.PEM(), user, name+".pem")
		save(t, 0o600, c.KeyPEM(), user, "private", name+".key")
	}
	put("expired", sign("alice-old", "VPN", -time.Hour, false, corp))
	put("mail", sign("alice-mail", "Mail", 90*24*time.Hour, false, corp))
	put("short", sign("alice-short", "VPN", 5*24*time.Hour, false, corp))
	put("long", sign("alice\x1b[2J", "VPN", 20*24*time.Hour, false, corp))
	save(t, 0o644, sign("keyless", "VPN", 80*24*time.Hour, false, corp).PEM(), user, "keyless.pem")
	firefox := filepath.Join(image, "home/alice/.mozilla/firefox")
	save(t, 0o644, "[Profile0]\nName=default\nIsRelative=1\nPath=p\nDefault=1\n", firefox, "profiles.ini")
	password := save(t, 0o600, "\n", firefox, "p/password")
	db := "sql:" + filepath.Join(firefox, "p")
	runTool(t, "libnss3-tools", "certutil", "-N", "-d", db, "-f", password)
	runTool(t, "libnss3-tools", "certutil", "-A", "-d", db, "-f", password, "-n", "Firefox CA", "-t", "C,,", "-a", "-i",
		save(t, 0o644, sign("Firefox CA", "", time.Hour, true, nil).PEM(), image, "firefox.pem"))
	runTool(t, "libnss3-tools", "pk12util", "-d", db, "-k", password, "-W", "x", "-i", func() string {
		c := sign("alice-firefox", "VPN", 60*24*time.Hour, false, corp)
		both := save(t, 0o600, c.PEM()+c.KeyPEM(), image, "both.pem")
		runTool(t, "openssl", "openssl", "pkcs12", "-export", "-in", both, "-passout", "pass:x", "-name", "alice-firefox", "-out", image+"/f.p12")
		return image + "/f.p12"
	}())
	profileFile := save(t, 0o644, `<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/"><ClientInitialization>
		<CertificateMatch><DistinguishedName><DistinguishedNameDefinition><Name>OU</Name><Pattern>VPN</Pattern></DistinguishedNameDefinition></DistinguishedName></CertificateMatch>
		<CertificateEnrollment><CertificateExpirationThreshold>30</CertificateExpirationThreshold></CertificateEnrollment>
		</ClientInitialization></AnyConnectProfile>`, image, "corp.xml")
	policyFile := save(t, 0o644, `<AnyConnectLocalPolicy xmlns="http://schemas.xmlsoap.org/encoding/" acversion="5.1">
		<ExcludeFirefoxNSSCertStore>true</ExcludeFirefoxNSSCertStore></AnyConnectLocalPolicy>`, image, "policy.xml")
	run := func(args ...string) result {
		t.Helper()
		return culvertEnv(t, "", map[string]string{"HOME": "/home/alice"}, append([]string{"certificates", "--document-root", image}, args...)...)
	}
	contains := func(what, text string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(text, part) {
				t.Errorf("%s lacks %q:\n%s", what, part, text)
			}
		}
	}

	// By default the Firefox store counts (D735), and its certificate expires last.
	r := run("match")
	if r.code != exitOK {
		t.Fatalf("match: status %d: %s", r.code, r.stderr)
	}
	contains("match", r.out, "CHOSEN: CN=alice-mail", "may be used: CN=alice-firefox", "its private key is not there", "it expired on")
	r = run("match", "--profile", profileFile)
	contains("match with a profile", r.out, "CHOSEN: CN=alice-firefox", "because AutomaticCertSelection is true, and it expires last",
		"warning: it expires in 4 days", `DistinguishedName: OU of its subject must be "VPN", and it is "Mail"`)
	r = run("match", "--profile", profileFile, "--local-policy", policyFile)
	contains("match with a profile and a local policy", r.out, "because AutomaticCertSelection", "refused: CN=alice-firefox",
		"ExcludeFirefoxNSSCertStore: its store is left out: ExcludeFirefoxNSSCertStore is true")
	if strings.Contains(r.out, "\x1b") {
		t.Errorf("an escape sequence of a certificate reaches the terminal: %q", r.out)
	}

	r = run("list", "--local-policy", policyFile)
	contains("list", r.out, "Local policy: "+policyFile, "firefox is not used for gateways: ExcludeFirefoxNSSCertStore is true (local policy)",
		"pem-machine authority: CN=Corp CA", "firefox authority: CN=Firefox CA", "system is not used for client certificates: it holds authorities only")

	var list struct {
		Stores []struct {
			Kind               string
			Servers, Clients   struct{ Allowed bool }
			Authorities        []struct{ Subject string }
			ClientCertificates []struct{ SHA1 string }
		}
	}
	r = run("list", "--json")
	if err := json.Unmarshal([]byte(r.out), &list); err != nil || len(list.Stores) != 4 || !list.Stores[3].Servers.Allowed ||
		len(list.Stores[1].Authorities) != 1 || len(list.Stores[2].ClientCertificates) != 5 {
		t.Errorf("list --json: %v: %s", err, r.out)
	}
	var choice struct {
		Chosen  *struct{ Subject string }
		Refused []struct {
			Refusals []struct{ Setting, Reason string }
		}
		Accepted []struct {
			Expiry struct {
				Days int
				Warn bool
			}
		}
	}
	r = run("match", "--json", "--profile", profileFile)
	if err := json.Unmarshal([]byte(r.out), &choice); err != nil || choice.Chosen == nil || !strings.Contains(choice.Chosen.Subject, "alice-firefox") ||
		len(choice.Accepted) != 3 || len(choice.Refused) != 3 || choice.Accepted[2].Expiry.Days != 4 || !choice.Accepted[2].Expiry.Warn {
		t.Errorf("match --json: %v: %s", err, r.out)
	}

	none := save(t, 0o644, `<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/"><ClientInitialization><CertificateMatch>
		<DistinguishedName><DistinguishedNameDefinition><Name>O</Name><Pattern>X</Pattern></DistinguishedNameDefinition></DistinguishedName></CertificateMatch>
		</ClientInitialization></AnyConnectProfile>`, image, "none.xml")
	if r = run("match", "--profile", none); r.code != exitFailed || !strings.Contains(r.stderr, "none of 6 client certificates may be used by the CertificateMatch of none.xml") {
		t.Errorf("nothing matches: status %d: %s", r.code, r.stderr)
	}
	if r = culvertEnv(t, "", nil, "certificates", "match", "--document-root", t.TempDir()); r.code != exitFailed || !strings.Contains(r.stderr, "no client certificate in any store") {
		t.Errorf("nothing there: status %d: %s", r.code, r.stderr)
	}
	for _, args := range [][]string{{"list", "--profile", image + "/missing"}, {"list", "--local-policy", image + "/missing"}, {"match", "--profile", policyFile}, {"list", "x"}} {
		if r = run(args...); r.code != exitUsage {
			t.Errorf("%q: status %d: %s", args, r.code, r.stderr)
		}
	}
}
