package certificate_test

import (
	"context"
	"crypto"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/internal/issue"
	"culvert.example/vpn/policy/certificate"
	"culvert.example/vpn/policy/profile"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/trust"
)

// handshake returns the client's error, and what it learned of the server. Each call is a connection of its own.
func handshake(t *testing.T, server tls.Certificate, cfg *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b, err := ln.Accept()
		if err != nil {
			return
		}
		defer b.Close()
		cfg := &tls.Config{Certificates: []tls.Certificate{server}}
		cfg.SetSessionTicketKeys([][32]byte{{1}}) // the same for all connections, so that sessions can be resumed
		conn := tls.Server(b, cfg)
		if conn.Handshake() == nil {
			conn.Write([]byte("x"))
		}
		io.Copy(io.Discard, conn)
	}()
	a, err := net.DialTimeout("tcp", ln.Addr().String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(a, cfg)
	if err = conn.Handshake(); err == nil {
		_, err = conn.Read(make([]byte, 1)) // which also takes in the ticket
	}
	cs := conn.ConnectionState()
	a.Close()
	<-done
	return cs, err
}

func sha512Of(c *issue.Certificate) []byte {
	sum := sha512.Sum512(c.RawSubjectPublicKeyInfo)
	return sum[:]
}

func TestPinsOf(t *testing.T) {
	const hash = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	list := "<CertificatePinList><Pin Subject=\"CN=x\">" + hash + "</Pin></CertificatePinList>"
	if p := certificate.PinsOf(settings(t, "<CertificatePinning>true"+list+"</CertificatePinning>"), profile.Host{}); p == nil || len(p.Hashes) != 1 ||
		hex.EncodeToString(p.Hashes[0]) != hash || p.Document != "corp.xml" {
		t.Errorf("PinsOf: %+v", p)
	}
	if p := certificate.PinsOf(settings(t, "<CertificatePinning>false"+list+"</CertificatePinning>"), profile.Host{Pins: []profile.Pin{{Hash: []byte{1}}}}); p != nil {
		t.Errorf("pins that are switched off: %+v", p)
	}
}

// B.1 CertificatePinning, on top of verification, and what a store distrusts.
func TestVerifier(t *testing.T) {
	root, other := authority(pkix.Name{CommonName: "root"}), authority(pkix.Name{CommonName: "other"})
	middle := issue.New(x509.Certificate{Subject: pkix.Name{CommonName: "middle"}, IsCA: true}, root)
	leaf := issue.New(x509.Certificate{Subject: pkix.Name{CommonName: "leaf"}, DNSNames: []string{"vpn.example.com"}}, middle)
	// The server also sends a certificate that has nothing to do with it.
	server := tls.Certificate{Certificate: [][]byte{leaf.Raw, middle.Raw, other.Raw}, PrivateKey: leaf.Key}
	roots := x509.NewCertPool()
	roots.AddCert(root.Certificate)
	roots.AddCert(other.Certificate)
	pins := func(of ...*issue.Certificate) *certificate.Pins {
		p := &certificate.Pins{Document: "corp.xml"}
		for _, c := range of {
			p.Hashes = append(p.Hashes, sha512Of(c))
		}
		return p
	}
	distrust := func(bad *issue.Certificate) func(*x509.Certificate) bool {
		return func(c *x509.Certificate) bool { return c.Equal(bad.Certificate) }
	}
	for _, tt := range []struct {
		name     string
		verifier certificate.Verifier
		want     []string // parts of the error
	}{
		{"trusted", certificate.Verifier{Roots: roots}, nil},
		{"not trusted", certificate.Verifier{Roots: x509.NewCertPool()}, []string{"unknown authority"}},
		{"pin of the leaf", certificate.Verifier{Roots: roots, Pins: pins(leaf)}, nil},
		{"pin in the middle", certificate.Verifier{Roots: roots, Pins: pins(middle)}, nil},
		{"pin of the authority, which was not sent", certificate.Verifier{Roots: roots, Pins: pins(root)}, nil},
		{"the second of two pins", certificate.Verifier{Roots: roots, Pins: pins(other, leaf)}, nil},
		{"pin of what was only sent along", certificate.Verifier{Roots: roots, Pins: pins(other)}, []string{"CertificatePinning of corp.xml", "none of its 1 pins", "vpn.example.com", hex.EncodeToString(sha512Of(leaf)), certificate.PinOf(root.Certificate)}},
		{"a pin does not replace trust", certificate.Verifier{Roots: x509.NewCertPool(), Pins: pins(leaf)}, []string{"unknown authority"}},
		{"pinning without a pin", certificate.Verifier{Roots: roots, Pins: pins()}, []string{"none of its 0 pins"}},
		{"a distrusted authority", certificate.Verifier{Roots: roots, Distrusts: distrust(root)}, []string{"depends on the certificate of", "CN=root"}},
		{"distrusted in the middle", certificate.Verifier{Roots: roots, Distrusts: distrust(middle)}, []string{"CN=middle"}},
		{"distrusted itself", certificate.Verifier{Roots: roots, Distrusts: distrust(leaf), Pins: pins(leaf)}, []string{"CN=leaf"}},
		{"something else is distrusted", certificate.Verifier{Roots: roots, Distrusts: distrust(other)}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := tt.verifier.Config(&tls.Config{ServerName: "vpn.example.com"})
			if err != nil {
				t.Fatal(err)
			}
			_, err = handshake(t, server, cfg)
			if tt.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err = trust.Explain(err, "vpn.example.com"); !errors.Is(err, transport.ErrUntrusted) && tt.want[0] != "unknown authority" {
				t.Errorf("error %v does not match ErrUntrusted", err)
			}
			for _, part := range tt.want {
				if part == "unknown authority" {
					part = "no trusted authority signed it"
				}
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("error %v lacks %q", err, part)
				}
			}
		})
	}

	t.Run("resumption", func(t *testing.T) {
		calls := 0
		p := pins(leaf)
		v := certificate.Verifier{Roots: roots, Pins: p}
		cfg, err := v.Config(&tls.Config{ServerName: "vpn.example.com", ClientSessionCache: tls.NewLRUClientSessionCache(4), MaxVersion: tls.VersionTLS12,
			VerifyConnection: func(tls.ConnectionState) error { calls++; return nil }})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			if cs, err := handshake(t, server, cfg); err != nil || cs.DidResume != (i == 1) {
				t.Fatalf("handshake %d: resumed %t, %v", i, cs.DidResume, err)
			}
		}
		if calls != 2 {
			t.Errorf("the caller's VerifyConnection was called %d times, want 2", calls)
		}
		p.Hashes[0] = sha512Of(other)
		var refused *certificate.PinError
		if _, err := handshake(t, server, cfg); !errors.As(err, &refused) || refused.Setting() != "CertificatePinning" {
			t.Errorf("a resumed session is not checked: %v", err)
		}
	})
	t.Run("with the user's own pin", func(t *testing.T) {
		for _, tt := range []struct {
			pins *certificate.Pins
			bad  *issue.Certificate
			ok   bool
		}{{nil, other, true}, {pins(leaf), other, true}, {pins(middle), other, false}, {nil, leaf, false}} {
			v := certificate.Verifier{Roots: x509.NewCertPool(), Pins: tt.pins, Distrusts: distrust(tt.bad)}
			cfg, err := v.Config(&tls.Config{ServerName: "vpn.example.com"})
			if err != nil {
				t.Fatal(err)
			}
			if cfg, err = trust.Config(cfg, trust.Pins{trust.PinOf(leaf.Certificate)}); err != nil {
				t.Fatal(err)
			}
			if _, err := handshake(t, server, cfg); (err == nil) != tt.ok {
				t.Errorf("%+v: %v", tt, err)
			}
		}
	})
	v := certificate.Verifier{}
	if _, err := v.Config(&tls.Config{InsecureSkipVerify: true}); err == nil {
		t.Error("Config lets verification be switched off")
	}
	if cfg, err := v.Config(nil); err != nil || cfg.MinVersion != tls.VersionTLS12 || cfg.RootCAs != nil {
		t.Errorf("Config(nil): %v", err)
	}
}

// Two authorities vouch for the same server, and one of them is distrusted.
func TestTwoChains(t *testing.T) {
	one, two := authority(pkix.Name{CommonName: "one"}), authority(pkix.Name{CommonName: "two"})
	key := issue.New(x509.Certificate{Subject: pkix.Name{CommonName: "middle"}, IsCA: true}, one)
	again := issue.For(key.Key, x509.Certificate{Subject: pkix.Name{CommonName: "middle"}, IsCA: true}, two)
	leaf := issue.New(x509.Certificate{Subject: pkix.Name{CommonName: "leaf"}, DNSNames: []string{"vpn.example.com"}}, key)
	server := tls.Certificate{Certificate: [][]byte{leaf.Raw, key.Raw, again.Raw}, PrivateKey: leaf.Key}
	roots := x509.NewCertPool()
	roots.AddCert(one.Certificate)
	roots.AddCert(two.Certificate)
	for _, tt := range []struct {
		bad, pin *issue.Certificate
		chains   int // that the caller sees; 0 = refused
	}{{nil, nil, 2}, {one, nil, 1}, {one, two, 1}, {one, one, 0}, {leaf, nil, 0}} {
		v := certificate.Verifier{Roots: roots}
		if tt.bad != nil {
			v.Distrusts = func(c *x509.Certificate) bool { return c.Equal(tt.bad.Certificate) }
		}
		if tt.pin != nil {
			v.Pins = &certificate.Pins{Hashes: [][]byte{sha512Of(tt.pin)}}
		}
		chains := 0
		cfg, err := v.Config(&tls.Config{ServerName: "vpn.example.com", VerifyConnection: func(cs tls.ConnectionState) error {
			chains = len(cs.VerifiedChains)
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := handshake(t, server, cfg); (err == nil) != (tt.chains > 0) || chains != tt.chains {
			t.Errorf("%d chains, want %d: %v", chains, tt.chains, err)
		}
	}
}

// An opaque key can sign and say who it is, as those of PKCS #11 modules, TPMs and agents, and nothing else.
type opaque struct {
	key   crypto.Signer
	signs int
}

func (o *opaque) Public() crypto.PublicKey { return o.key.Public() }

func (o *opaque) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	o.signs++
	return o.key.Sign(rand, digest, opts)
}

// A whole login: a certificate chosen by the rules of the profile, with an opaque key, and a gateway that must be pinned.
func TestLogin(t *testing.T) {
	ca := authority(pkix.Name{CommonName: "Corp CA"})
	of := func(name, unit string) *issue.Certificate {
		return issue.New(x509.Certificate{
			Subject:  pkix.Name{CommonName: name, OrganizationalUnit: []string{unit}},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}, ca)
	}
	mail, vpnUser := of("alice-mail", "Mail"), of("alice", "VPN")
	clients := x509.NewCertPool()
	clients.AddCert(ca.Certificate)
	gw := gatewaytest.New(t, gatewaytest.Options{NoUDP: true, Config: func(c *gateway.Config) {
		c.Auth = gateway.Certificates{}
		c.TLS.ClientCAs, c.TLS.ClientAuth = clients, tls.RequireAndVerifyClientCert
	}})
	rules := settings(t, "<CertificateMatch>"+names(rule("", "OU", "VPN"))+"</CertificateMatch>").CertificateMatch()
	keys := []*issue.Certificate{mail, vpnUser}
	choice := certificate.Choose([]certificate.Candidate{
		{Certificate: mail.Certificate, Store: certificate.PEMUser, Place: "mail.pem"}, {Certificate: vpnUser.Certificate, Store: certificate.PEMUser, Place: "vpn.pem"},
	}, certificate.Rules{Match: rules, Automatic: true}, time.Now())
	if choice.Chosen != 0 || len(choice.Refused) != 1 {
		t.Fatalf("choice %+v", choice)
	}
	chosen := choice.Accepted[choice.Chosen]
	signer := &opaque{key: keys[chosen.Index].Key}

	dial := func(pin *x509.Certificate) (*vpn.Tunnel, error) {
		t.Helper()
		sum := sha512.Sum512(pin.RawSubjectPublicKeyInfo)
		v := certificate.Verifier{Roots: gw.Pool, Pins: &certificate.Pins{Hashes: [][]byte{sum[:]}, Document: "corp.xml"}}
		cfg, err := v.Config(&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{chosen.Certificate.Raw}, PrivateKey: signer, Leaf: chosen.Certificate}}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return vpn.Dial(ctx, gw.URL, &vpn.Config{TLS: cfg})
	}
	tunnel, err := dial(gw.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	defer tunnel.Close()
	if s := gw.Sessions(); len(s) != 1 || s[0].User != "alice" {
		t.Errorf("sessions %+v, want one of alice", s)
	}
	if signer.signs == 0 {
		t.Error("the key was not asked to sign")
	}
	if tunnel, err := dial(ca.Certificate); !errors.Is(err, vpn.ErrUntrusted) || !strings.Contains(err.Error(), "CertificatePinning of corp.xml") {
		if err == nil {
			tunnel.Close()
		}
		t.Errorf("a gateway that is not pinned: %v", err)
	}
}
