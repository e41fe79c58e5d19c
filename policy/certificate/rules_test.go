package certificate_test

import (
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn/internal/issue"
	"culvert.example/vpn/policy/certificate"
	"culvert.example/vpn/policy/local"
	"culvert.example/vpn/policy/profile"
)

// authority issues a certificate that may issue others.
func authority(name pkix.Name) *issue.Certificate {
	return issue.New(x509.Certificate{Subject: name, IsCA: true}, nil)
}

// settings parses a profile with settings.
func settings(tb testing.TB, xml string) *profile.Profile {
	tb.Helper()
	p, err := profile.Parse("corp.xml", []byte(`<AnyConnectProfile xmlns="http://schemas.xmlsoap.org/encoding/"><ClientInitialization>`+xml+
		`</ClientInitialization></AnyConnectProfile>`))
	if err != nil {
		tb.Fatal(err)
	}
	if err := p.Err(); err != nil {
		tb.Fatal(err)
	}
	return p
}

func names(rules string) string {
	return "<DistinguishedName>" + rules + "</DistinguishedName>"
}

func rule(attributes, name, pattern string) string {
	return "<DistinguishedNameDefinition " + attributes + "><Name>" + name + "</Name><Pattern>" + pattern + "</Pattern></DistinguishedNameDefinition>"
}

// The rules of B.1, one after the other and together.
func TestJudge(t *testing.T) {
	const (
		wildcard = `Wildcard="Enabled"`
		notEqual = `Operator="NotEqual"`
		anyCase  = `MatchCase="Disabled"`
	)
	attribute := func(value any, oid ...int) pkix.AttributeTypeAndValue {
		return pkix.AttributeTypeAndValue{Type: oid, Value: value}
	}
	ca := authority(pkix.Name{CommonName: "Corp Issuing CA 2", Organization: []string{"Corp"}, ExtraNames: []pkix.AttributeTypeAndValue{
		attribute("example", 0, 9, 2342, 19200300, 100, 1, 25), attribute("com", 0, 9, 2342, 19200300, 100, 1, 25),
	}})
	subject := pkix.Name{
		CommonName: "Alice Example", Organization: []string{"Corp"}, OrganizationalUnit: []string{"Sales", "Remote Staff"},
		Country: []string{"CH"}, Locality: []string{"Bern"}, Province: []string{"BE"},
		ExtraNames: []pkix.AttributeTypeAndValue{
			attribute("Example", 2, 5, 4, 4), attribute("Alice", 2, 5, 4, 42), attribute("AE", 2, 5, 4, 43), attribute("III", 2, 5, 4, 44),
			attribute("q7", 2, 5, 4, 46), attribute("Manager", 2, 5, 4, 12), attribute("laptop-7", 1, 2, 840, 113549, 1, 9, 2),
			attribute("alice@example.com", 1, 2, 840, 113549, 1, 9, 1), attribute("corp", 0, 9, 2342, 19200300, 100, 1, 25),
		},
	}
	of := func(usage x509.KeyUsage, extended ...x509.ExtKeyUsage) *issue.Certificate {
		return issue.New(x509.Certificate{Subject: subject, KeyUsage: usage, ExtKeyUsage: extended}, ca)
	}
	plain := of(0)
	user := of(x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageEmailProtection)
	tunnel := of(x509.KeyUsageDecipherOnly|x509.KeyUsageKeyAgreement, x509.ExtKeyUsageIPSECUser)
	server := of(x509.KeyUsageContentCommitment, x509.ExtKeyUsageServerAuth)
	custom := issue.New(x509.Certificate{Subject: subject, UnknownExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 311, 20, 2, 2}, {1, 3, 6, 1, 5, 5, 8, 2, 2}}}, ca)
	everything := of(0, x509.ExtKeyUsageAny)
	bare := issue.New(x509.Certificate{}, ca)

	match := func(xml string) string { return "<CertificateMatch>" + xml + "</CertificateMatch>" }
	ku := func(keys ...string) string {
		return "<KeyUsage><MatchKey>" + strings.Join(keys, "</MatchKey><MatchKey>") + "</MatchKey></KeyUsage>"
	}
	eku := func(keys ...string) string {
		s := "<ExtendedKeyUsage>"
		for _, k := range keys {
			tag := "ExtendedMatchKey"
			if k[0] == '1' {
				tag = "CustomExtendedMatchKey"
			}
			s += "<" + tag + ">" + k + "</" + tag + ">"
		}
		return s + "</ExtendedKeyUsage>"
	}
	for _, tt := range []struct {
		row, rules string
		cert       *issue.Certificate
		want       []string // parts of the refusals; none = may be used
	}{
		{"B.1 no rules", "", plain, nil},
		{"B.1 no rules, client usage", "", user, nil},
		{"B.1 no rules, any usage", "", everything, nil},
		{"B.1 no rules, another usage", "", server, []string{"not for TLS clients but for ServerAuth"}},
		{"B.1 no rules, IPsec usage", "", tunnel, []string{"not for TLS clients but for IPSecUser"}},

		{"B.1 KeyUsage one of one", ku("Digital_Signature"), user, nil},
		{"B.1 KeyUsage at least one", ku("CRL_Sign", "Key_Encipherment"), user, nil},
		{"B.1 KeyUsage none", ku("CRL_Sign", "Key_Cert_Sign"), user, []string{"KeyUsage: it has none of CRL_Sign, Key_Cert_Sign, but Digital_Signature, Key_Encipherment"}},
		{"B.1 KeyUsage absent", ku("CRL_Sign"), plain, nil},
		{"B.1 KeyUsage bits", ku("Decipher_Only") + eku("IPSecUser"), tunnel, nil},
		{"B.1 KeyUsage bits", ku("Key_Agreement") + eku("IPSecUser"), tunnel, nil},
		{"B.1 KeyUsage bits", ku("Non_Repudiation") + eku("ServerAuth"), server, nil},
		{"B.1 MatchOnlyCertsWithKU", "<MatchOnlyCertsWithKU>true</MatchOnlyCertsWithKU>", plain, []string{"MatchOnlyCertsWithKU: it has no key usage"}},
		{"B.1 MatchOnlyCertsWithKU", "<MatchOnlyCertsWithKU>true</MatchOnlyCertsWithKU>", user, nil},
		{"B.1 MatchOnlyCertsWithKU false", "<MatchOnlyCertsWithKU>false</MatchOnlyCertsWithKU>", plain, nil},

		{"B.1 ExtendedKeyUsage all of one", eku("ClientAuth"), user, nil},
		{"B.1 ExtendedKeyUsage all of two", eku("ClientAuth", "EmailProtect"), user, nil},
		{"B.1 ExtendedKeyUsage one of two", eku("ClientAuth", "CodeSign"), user, []string{"ExtendedKeyUsage: it lacks CodeSign and has ClientAuth, EmailProtect"}},
		{"B.1 ExtendedKeyUsage each missing one", eku("OCSPSign", "CodeSign"), user, []string{"lacks OCSPSign", "lacks CodeSign"}},
		{"B.1 ExtendedKeyUsage that is not a client's", eku("IPSecUser"), tunnel, nil},
		{"B.1 ExtendedKeyUsage any is not all", eku("ClientAuth"), everything, []string{"lacks ClientAuth and has AnyExtendedKeyUsage"}},
		{"B.1 ExtendedKeyUsage absent", eku("ClientAuth"), plain, nil},
		{"B.1 MatchOnlyCertsWithEKU", "<MatchOnlyCertsWithEKU>true</MatchOnlyCertsWithEKU>" + eku("ClientAuth"), plain, []string{"MatchOnlyCertsWithEKU: it has no extended key usage"}},
		{"B.1 MatchOnlyCertsWithEKU", "<MatchOnlyCertsWithEKU>true</MatchOnlyCertsWithEKU>", user, nil},
		{"B.1 CustomExtendedMatchKey", eku("1.3.6.1.4.1.311.20.2.2"), custom, nil},
		{"B.1 CustomExtendedMatchKey", eku("1.3.6.1.4.1.311.20.2.3"), custom, []string{"lacks 1.3.6.1.4.1.311.20.2.3 and has 1.3.6.1.4.1.311.20.2.2, IKEIntermediate"}},
		{"B.1 IKEIntermediate", eku("IKEIntermediate", "1.3.6.1.4.1.311.20.2.2"), custom, nil},

		{"B.1 Equal", names(rule("", "CN", "Alice Example")), user, nil},
		{"B.1 Equal other", names(rule("", "CN", "Bob")), user, []string{`DistinguishedName: CN of its subject must be "Bob", and it is "Alice Example"`}},
		{"B.1 Equal is the whole", names(rule("", "CN", "Alice")), user, []string{`must be "Alice"`}},
		{"B.1 Equal any value", names(rule("", "OU", "Remote Staff")), user, nil},
		{"B.1 Equal both values", names(rule("", "OU", "Remote Staff") + rule("", "OU", "Sales")), user, nil},
		{"B.1 Wildcard", names(rule(wildcard, "CN", "ice Ex")), user, nil},
		{"B.1 Wildcard other", names(rule(wildcard, "CN", "Bob")), user, []string{`must contain "Bob"`}},
		{"B.1 MatchCase default", names(rule("", "CN", "alice example")), user, []string{`must be "alice example"`}},
		{"B.1 MatchCase Disabled", names(rule(anyCase, "CN", "alice EXAMPLE")), user, nil},
		{"B.1 both", names(rule(anyCase+" "+wildcard, "OU", "STAFF")), user, nil},
		{"B.1 NotEqual", names(rule(notEqual, "CN", "Bob")), user, nil},
		{"B.1 NotEqual same", names(rule(notEqual, "CN", "Alice Example")), user, []string{`must not be "Alice Example"`}},
		{"B.1 NotEqual one of two values", names(rule(notEqual, "OU", "Sales")), user, []string{`must not be "Sales", and it is "Sales", "Remote Staff"`}},
		{"B.1 NotEqual Wildcard", names(rule(notEqual+" "+wildcard, "OU", "Staff")), user, []string{`must not contain "Staff"`}},
		{"B.1 Equal absent", names(rule("", "CN", "Alice")), bare, []string{"there is none"}},
		{"B.1 NotEqual absent", names(rule(notEqual, "CN", "Alice")), bare, nil},
		{"B.1 AND of names", names(rule("", "CN", "Alice Example") + rule("", "O", "Other") + rule("", "C", "US")), user, []string{`O of its subject`, `C of its subject`}},
		{"B.1 ISSUER-", names(rule("", "ISSUER-CN", "Corp Issuing CA 2") + rule("", "ISSUER-DC", "example") + rule("", "ISSUER-DC", "com")), user, nil},
		{"B.1 ISSUER- is not the subject", names(rule("", "ISSUER-CN", "Alice Example")), user, []string{"CN of its issuer"}},
		{"B.1 the subject is not the issuer", names(rule("", "CN", "Corp Issuing CA 2")), user, []string{"CN of its subject"}},
		{"B.1 all names", names(rule("", "SN", "Example") + rule("", "GN", "Alice") + rule("", "I", "AE") + rule("", "GENQ", "III") + rule("", "DNQ", "q7") +
			rule("", "T", "Manager") + rule("", "N", "laptop-7") + rule("", "EA", "alice@example.com") + rule("", "DC", "corp") + rule("", "L", "Bern")), user, nil},
		{"B.1 SP and ST are the same", names(rule("", "SP", "BE") + rule("", "ST", "BE") + rule("", "C", "CH")), user, nil},

		{"B.1 AND of all parts", ku("CRL_Sign") + eku("CodeSign") + names(rule("", "CN", "Bob")), user, []string{"KeyUsage:", "ExtendedKeyUsage:", "DistinguishedName:"}},
		{"B.1 all parts hold", ku("Digital_Signature") + eku("ClientAuth") + names(rule("", "O", "Corp")), user, nil},
	} {
		rules := settings(t, match(tt.rules)).CertificateMatch()
		got := certificate.Judge(certificate.Candidate{Certificate: tt.cert.Certificate}, rules, time.Now())
		if len(got) != len(tt.want) {
			t.Errorf("%s %s: %v, want %q", tt.row, tt.rules, got, tt.want)
			continue
		}
		for i, part := range tt.want {
			if !strings.Contains(got[i].String(), part) {
				t.Errorf("%s %s: %q lacks %q", tt.row, tt.rules, got[i], part)
			}
		}
	}
	if got := certificate.Judge(certificate.Candidate{Certificate: user.Certificate, NoKey: "it has no key"}, nil, time.Now().Add(2*time.Hour)); len(got) != 2 ||
		got[0].Reason != "it has no key" || !strings.Contains(got[1].Reason, "expired on") {
		t.Errorf("without a key and expired: %v", got)
	}
	excluded := certificate.Use{Reason: "CertificateStoreLinux is Machine", Setting: "CertificateStoreLinux", Document: "profile"}.Refusal()
	if got := certificate.Judge(certificate.Candidate{Certificate: user.Certificate, Excluded: excluded}, nil, time.Now()); len(got) != 1 ||
		got[0].String() != "CertificateStoreLinux: its store is left out: CertificateStoreLinux is Machine" {
		t.Errorf("from a store that is left out: %v", got)
	}
	if (certificate.Use{Allowed: true, Reason: "nothing excludes it"}).Refusal() != (certificate.Refusal{}) {
		t.Error("a store that may be used refuses")
	}
	if got := certificate.Judge(certificate.Candidate{Certificate: user.Certificate}, nil, time.Now().Add(-2*time.Hour)); len(got) != 1 || !strings.Contains(got[0].Reason, "valid only from") {
		t.Errorf("not valid yet: %v", got)
	}
}

func TestChoose(t *testing.T) {
	now := time.Now()
	make := func(name string, from, to time.Duration) certificate.Candidate {
		c := issue.New(x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(from).Truncate(time.Second), NotAfter: now.Add(to).Truncate(time.Second)}, nil)
		return certificate.Candidate{Certificate: c.Certificate, Store: certificate.PEMUser, Place: name + ".pem"}
	}
	soon := make("soon", -time.Hour, time.Hour)
	late := make("late", -time.Hour, 3*time.Hour)
	newer := make("newer", -time.Minute, 3*time.Hour)
	expired := make("expired", -2*time.Hour, -time.Hour)
	keyless := late
	keyless.NoKey, keyless.Place = "its private key is not there", "elsewhere"
	again := late
	again.Place, again.Store = "cert9.db", certificate.Firefox
	sum := sha1.Sum(soon.Certificate.Raw)
	thumbprint := strings.ToUpper(hex.EncodeToString(sum[:]))
	for _, tt := range []struct {
		name       string
		candidates []certificate.Candidate
		rules      certificate.Rules
		accepted   string // names in order
		refused    string
		chosen     int
		ask        bool
		reason     string
	}{
		{"most recent expiry first", []certificate.Candidate{soon, late, expired, newer}, certificate.Rules{Automatic: true}, "newer late soon", "expired", 0, false, "expires last"},
		{"only one", []certificate.Candidate{expired, soon}, certificate.Rules{Automatic: true}, "soon", "expired", 0, false, "the only one"},
		{"the one with the key", []certificate.Candidate{keyless, again}, certificate.Rules{Automatic: true}, "late", "late", 0, false, "the only one"},
		{"twice", []certificate.Candidate{late, again}, certificate.Rules{Automatic: true}, "late", "late", 0, false, "the only one"},
		{"the user chooses", []certificate.Candidate{soon, late}, certificate.Rules{}, "late soon", "", -1, true, "the user chooses"},
		{"the user has chosen", []certificate.Candidate{late, soon}, certificate.Rules{Preferred: thumbprint}, "late soon", "", 1, false, "chose it before"},
		{"the user has chosen one that is gone", []certificate.Candidate{late}, certificate.Rules{Preferred: thumbprint}, "late", "", -1, true, "the user chooses"},
		{"the choice does not count", []certificate.Candidate{late, soon}, certificate.Rules{Preferred: thumbprint, Automatic: true}, "late soon", "", 0, false, "expires last"},
		{"none", nil, certificate.Rules{Automatic: true}, "", "", -1, false, "no certificate"},
		{"none is good", []certificate.Candidate{expired}, certificate.Rules{Document: "corp.xml"}, "", "expired", -1, false, "no certificate"},
	} {
		c := certificate.Choose(tt.candidates, tt.rules, now)
		list := func(verdicts []certificate.Verdict) string {
			var all []string
			for _, v := range verdicts {
				all = append(all, v.Certificate.Subject.CommonName)
				if tt.candidates[v.Index].Place != v.Place {
					t.Errorf("%s: the index of %s is wrong", tt.name, v.Place)
				}
			}
			return strings.Join(all, " ")
		}
		if list(c.Accepted) != tt.accepted || list(c.Refused) != tt.refused || c.Chosen != tt.chosen || c.Ask != tt.ask || !strings.Contains(c.Reason, tt.reason) {
			t.Errorf("%s: accepted %q, refused %q, chosen %d, ask %t, %q", tt.name, list(c.Accepted), list(c.Refused), c.Chosen, c.Ask, c.Reason)
		}
		var none *certificate.NoCertificateError
		err := c.Err()
		if want := tt.accepted == "" && tt.refused != ""; errors.As(err, &none) != want {
			t.Errorf("%s: error %v", tt.name, err)
		} else if want && (!strings.Contains(err.Error(), "corp.xml") || !strings.Contains(err.Error(), "expired.pem: it expired on")) {
			t.Errorf("%s: the error %q does not say enough", tt.name, err)
		}
	}
	if c := certificate.Choose([]certificate.Candidate{keyless, again}, certificate.Rules{Automatic: true}, now); c.Accepted[0].Place != "cert9.db" {
		t.Errorf("the certificate is taken from %s, where its key is not", c.Accepted[0].Place)
	}
}

// CertificateExpirationThreshold, in days from 0 to 180.
func TestExpiry(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	for _, tt := range []struct {
		left      time.Duration
		threshold int
		days      int
		warn      bool
		text      string
	}{
		{30 * day, 30, 30, true, "expires in 30 days, on 2026-03-31 12:00:00 UTC"},
		{30*day + 1, 30, 30, false, "expires in 30 days"},
		{30*day - 1, 30, 29, true, "expires in 29 days"},
		{day, 1, 1, true, "expires in 1 day,"},
		{day - 1, 1, 0, true, "expires within a day"},
		{day, 0, 1, false, ""},
		{day, -5, 1, false, ""},
		{0, 0, 0, false, "expires within a day"},
		{-1, 0, -1, true, "expired on 2026-03-01 11:59:59"},
		{-day - 1, 30, -2, true, "expired on"},
		{180 * day, 180, 180, true, ""},
		{180 * day, 2147483647, 180, true, ""},
		{181 * day, 2147483647, 181, false, ""},
	} {
		e := certificate.ExpiryOf(&x509.Certificate{NotAfter: now.Add(tt.left)}, tt.threshold, now)
		if e.Days != tt.days || e.Warn != tt.warn || !strings.Contains(e.String(), tt.text) {
			t.Errorf("%v with %d: %d days, warn %t, %q; want %d, %t, %q", tt.left, tt.threshold, e.Days, e.Warn, e, tt.days, tt.warn, tt.text)
		}
	}
}

// B.7, B.8, D733, D735, D741: which stores may be used for what.
func TestStores(t *testing.T) {
	type row struct {
		kind             certificate.Kind
		servers, clients string // the reason against it, or "" for yes
	}
	const (
		bundle   = "it holds authorities only"
		ofUser   = "and the store belongs to the user"
		override = "CertificateStoreOverride does not open it for users"
	)
	usual := []row{{certificate.System, "", bundle}, {certificate.PEMMachine, "", override}, {certificate.PEMUser, "", ""}, {certificate.Firefox, "", ""}}
	for _, tt := range []struct {
		row      string
		in       certificate.Situation
		settings string
		policy   func(*local.Policy)
		want     []row
		none     bool // no store for servers is left
	}{
		{"D735 default", certificate.Situation{System: "linux"}, "", nil, usual, false},
		{"D735 default as root", certificate.Situation{System: "linux", Administrator: true}, "", nil,
			[]row{usual[0], {certificate.PEMMachine, "", ""}, usual[2], usual[3]}, false},
		{"D741 without Firefox", certificate.Situation{System: "linux"}, "", func(p *local.Policy) { p.ExcludeFirefoxNSS = true },
			[]row{usual[0], usual[1], usual[2], {certificate.Firefox, "ExcludeFirefoxNSSCertStore is true", "ExcludeFirefoxNSSCertStore is true"}}, false},
		{"B.7 ExcludePemFileCertStore", certificate.Situation{System: "linux"}, "", func(p *local.Policy) { p.ExcludePEM = true },
			[]row{usual[0], {certificate.PEMMachine, "ExcludePemFileCertStore", "ExcludePemFileCertStore"}, {certificate.PEMUser, "ExcludePemFileCertStore", "ExcludePemFileCertStore"}, usual[3]}, false},
		{"B.7 those of other systems", certificate.Situation{System: "linux"}, "", func(p *local.Policy) { p.ExcludeMacNative, p.ExcludeWinNative = true, true }, usual, false},
		{"B.7 RestrictServerCertStore", certificate.Situation{System: "linux"}, "", func(p *local.Policy) { p.RestrictServerCertStore = true },
			[]row{usual[0], usual[1], {certificate.PEMUser, ofUser, ""}, {certificate.Firefox, ofUser, ""}}, false},
		{"B.1 CertificateStoreLinux Machine", certificate.Situation{System: "linux", Administrator: true}, "<CertificateStoreLinux>Machine</CertificateStoreLinux>", nil,
			[]row{usual[0], {certificate.PEMMachine, "", ""}, {certificate.PEMUser, "", ofUser}, {certificate.Firefox, "", ofUser}}, false},
		{"B.1 CertificateStoreLinux User", certificate.Situation{System: "linux", Administrator: true}, "<CertificateStoreLinux>User</CertificateStoreLinux>", nil,
			[]row{usual[0], {certificate.PEMMachine, "", "the store belongs to the machine"}, usual[2], usual[3]}, false},
		{"D1212 CertificateStoreOverride", certificate.Situation{System: "linux"}, "<CertificateStoreOverride>true</CertificateStoreOverride>", nil,
			[]row{usual[0], {certificate.PEMMachine, "", ""}, usual[2], usual[3]}, false},
		{"D1212 CertificateStoreOverride and User", certificate.Situation{System: "linux"},
			"<CertificateStoreLinux>User</CertificateStoreLinux><CertificateStoreOverride>true</CertificateStoreOverride>", nil,
			[]row{usual[0], {certificate.PEMMachine, "", "the store belongs to the machine"}, usual[2], usual[3]}, false},
		{"B.1 CertificateStoreMac System", certificate.Situation{System: "darwin", Administrator: true}, "<CertificateStoreMac>System</CertificateStoreMac>", nil,
			[]row{{certificate.System, "", "private keys"}, {certificate.PEMMachine, "", ""}, {certificate.PEMUser, "", ofUser}, {certificate.Firefox, "", ofUser}}, false},
		{"B.1 CertificateStoreMac Login", certificate.Situation{System: "darwin", Administrator: true}, "<CertificateStoreMac>Login</CertificateStoreMac>", nil,
			[]row{{certificate.System, "", "private keys"}, {certificate.PEMMachine, "", "the store belongs to the machine"}, usual[2], usual[3]}, false},
		{"B.7 ExcludeMacNativeCertStore", certificate.Situation{System: "darwin"}, "", func(p *local.Policy) { p.ExcludeMacNative = true },
			[]row{{certificate.System, "ExcludeMacNativeCertStore", "ExcludeMacNativeCertStore"}, usual[1], usual[2], usual[3]}, false},
		{"B.7 Windows", certificate.Situation{System: "windows"}, "", nil, []row{{certificate.System, "", "private keys"}}, false},
		{"D733 ExcludeWinNativeCertStore", certificate.Situation{System: "windows"}, "", func(p *local.Policy) { p.ExcludeWinNative = true },
			[]row{{certificate.System, "ExcludeWinNativeCertStore", "ExcludeWinNativeCertStore"}}, true},
		{"D733 everything excluded", certificate.Situation{System: "darwin"}, "", func(p *local.Policy) {
			p.ExcludeMacNative, p.ExcludePEM, p.ExcludeFirefoxNSS = true, true, true
		}, []row{
			{certificate.System, "ExcludeMacNativeCertStore", "ExcludeMacNativeCertStore"}, {certificate.PEMMachine, "ExcludePem", "ExcludePem"},
			{certificate.PEMUser, "ExcludePem", "ExcludePem"}, {certificate.Firefox, "ExcludeFirefox", "ExcludeFirefox"},
		}, true},
	} {
		policy := local.Default()
		if tt.policy != nil {
			tt.policy(policy)
		}
		stores := certificate.Stores(tt.in, profile.Resolve(settings(t, tt.settings), nil, tt.in.System).Settings(), policy)
		if len(stores) != len(tt.want) {
			t.Errorf("%s: %v", tt.row, stores)
			continue
		}
		for i, want := range tt.want {
			got := stores[i]
			if got.Kind != want.kind || got.Servers.Allowed != (want.servers == "") || got.Clients.Allowed != (want.clients == "") ||
				!strings.Contains(got.Servers.Reason, want.servers) || !strings.Contains(got.Clients.Reason, want.clients) {
				t.Errorf("%s: %+v, want %+v", tt.row, got, want)
			}
			for _, use := range []certificate.Use{got.Servers, got.Clients} {
				if use.Reason == "" || (use.Setting == "") != (use.Document == "") {
					t.Errorf("%s: %s: the reason is incomplete: %+v", tt.row, got.Kind, use)
				}
			}
		}
		var none *certificate.NoStoreError
		if err := certificate.CheckStores(stores); errors.As(err, &none) != tt.none {
			t.Errorf("%s: %v", tt.row, err)
		} else if tt.none && !slices.Contains(none.Settings, stores[0].Servers.Setting) {
			t.Errorf("%s: %v does not name the setting", tt.row, err)
		}
	}
	if got := certificate.Stores(certificate.Situation{System: "linux"}, profile.Resolve(nil, nil, "linux").Settings(), nil); len(got) != 4 || !got[3].Clients.Allowed {
		t.Errorf("without any document: %+v", got)
	}
}

// FuzzJudge holds the rules against certificates that others have made.
func FuzzJudge(f *testing.F) {
	c := issue.New(x509.Certificate{Subject: pkix.Name{CommonName: "c"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}, nil)
	f.Add(c.Raw, "CN", "c")
	f.Fuzz(func(t *testing.T, der []byte, name, pattern string) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		candidate := certificate.Candidate{Certificate: c, Place: "p"}
		at := c.NotBefore
		plain := len(certificate.Judge(candidate, nil, at))
		equal := profile.CertificateMatch{Names: []profile.NameRule{{Name: name, Pattern: pattern}}}
		differ := profile.CertificateMatch{Names: []profile.NameRule{{Name: name, Pattern: pattern, NotEqual: true}}}
		if n := len(certificate.Judge(candidate, &equal, at)) + len(certificate.Judge(candidate, &differ, at)); n != 2*plain+1 {
			t.Fatalf("Equal and NotEqual agree about %q %q", name, pattern)
		}
	})
}
