package dtls

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/gob"
	"errors"
	"fmt"
	"hash"
	"net"
	"time"

	pion "github.com/pion/dtls/v3"
	"github.com/pion/dtls/v3/pkg/crypto/ciphersuite"
	"github.com/pion/dtls/v3/pkg/crypto/clientcertificate"
	"github.com/pion/dtls/v3/pkg/protocol/handshake"
	"github.com/pion/dtls/v3/pkg/protocol/recordlayer"
	"github.com/pion/logging"

	"culvert.example/vpn/transport"
)

// flightInterval is how long pion waits for an answer before it sends a flight again, at first; it doubles.
const flightInterval = 500 * time.Millisecond

// An outcome is what a handshake leaves.
type outcome struct {
	keys *secrets
	// next is the first number that records of epoch 1 may have now. Those before it are spent.
	next uint64
	// final is the datagram that ended the handshake, if this end sent it. It is sent again, byte for byte, if the peer
	// repeats its flight, since then it has not arrived.
	final []byte
	// early are datagrams with data that overtook the end of the handshake.
	early [][]byte
}

// clientHandshake performs a handshake over g, which it closes.
func clientHandshake(ctx context.Context, g *gate, cfg *Config, resume *suite) (*outcome, error) {
	defer g.Close()
	opts := []pion.ClientOption{
		pion.WithFlightInterval(flightInterval),
		pion.WithLoggerFactory(silence{}),
	}
	var own *pionSuite
	if cfg.PSK != nil {
		key, id := cfg.PSK.Key, cfg.PSK.AppID
		for _, o := range pskSuites(cfg.PSK, &own) {
			opts = append(opts, o)
		}
		opts = append(opts,
			pion.WithPSK(func([]byte) ([]byte, error) { return key, nil }),
			pion.WithPSKIdentityHint([]byte("psk")),
			pion.WithClientHelloMessageHook(func(m handshake.MessageClientHello) handshake.Message {
				m.SessionID = id
				return &m
			}))
	} else {
		r := cfg.Resume
		for _, o := range resumeSuites(resume, &own) {
			opts = append(opts, o)
		}
		opts = append(opts,
			pion.WithExtendedMasterSecret(pion.DisableExtendedMasterSecret),
			pion.WithSessionStore(oneSession{pion.Session{
				ID: r.SessionID, Secret: r.MasterSecret[:], Version: 1, IsClient: true,
				CipherSuiteID:    pion.CipherSuiteID(resume.id),
				PeerCertificates: [][]byte{{0}}, // pion wants one, and nobody looks at it
			}}),
			// There is no certificate to verify: the master secret proves who the peer is. That this is so depends on the
			// session being resumed, which VerifyConnection makes sure of before anything else is sent.
			pion.WithInsecureSkipVerify(true),
			pion.WithVerifyConnection(func(s *pion.State) error {
				if !bytes.Equal(s.SessionID, r.SessionID) {
					return ErrNotResumed
				}
				return nil
			}),
			pion.WithClientHelloMessageHook(func(m handshake.MessageClientHello) handshake.Message {
				m.SessionID = r.SessionID
				m.CipherSuiteIDs = []uint16{resume.id}
				m.Extensions = nil // some peers resume only if there are none
				return &m
			}))
	}
	conn, err := pion.ClientWithOptions(g, g.RemoteAddr(), opts...)
	if err != nil {
		return nil, fmt.Errorf("dtls: %w", err)
	}
	out, err := g.run(ctx, conn, &own)
	if err != nil {
		return nil, err
	}
	if cfg.Resume == nil {
		out.final = nil // the peer had the last word
	}
	return out, nil
}

// serverHandshake performs a handshake over g, which it closes.
func serverHandshake(ctx context.Context, g *gate, psk *PSK, r *Resume) (*outcome, error) {
	defer g.Close()
	opts := []pion.ServerOption{
		pion.WithFlightInterval(flightInterval),
		pion.WithLoggerFactory(silence{}),
		// The session id is a secret token that only the client knows, and the answer to a ClientHello is smaller
		// than the ClientHello.
		pion.WithInsecureSkipVerifyHello(true),
	}
	var own *pionSuite
	if psk != nil {
		key := psk.Key
		for _, o := range pskSuites(psk, &own) {
			opts = append(opts, o)
		}
		opts = append(opts, pion.WithPSK(func([]byte) ([]byte, error) { return key, nil }))
	} else {
		s, err := r.check()
		if err != nil {
			return nil, err
		}
		for _, o := range resumeSuites(s, &own) {
			opts = append(opts, o)
		}
		opts = append(opts,
			pion.WithExtendedMasterSecret(pion.DisableExtendedMasterSecret),
			pion.WithSessionStore(oneSession{pion.Session{
				ID: r.SessionID, Secret: r.MasterSecret[:], Version: 1, CipherSuiteID: pion.CipherSuiteID(s.id),
			}}),
			// pion asks for a certificate before it looks whether the session is resumed. This one has no key, so a
			// full handshake cannot succeed with it.
			pion.WithGetCertificate(func(*pion.ClientHelloInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }),
			pion.WithVerifyConnection(func(st *pion.State) error {
				if !bytes.Equal(st.SessionID, r.SessionID) {
					return ErrNotResumed
				}
				return nil
			}))
	}
	conn, err := pion.ServerWithOptions(g, g.RemoteAddr(), opts...)
	if err != nil {
		return nil, fmt.Errorf("dtls: %w", err)
	}
	out, err := g.run(ctx, conn, &own)
	if err != nil {
		return nil, err
	}
	if psk == nil {
		out.final = nil
	}
	return out, nil
}

// run completes the handshake of conn, which sends and receives through g, and takes the keys over.
func (g *gate) run(ctx context.Context, conn *pion.Conn, own **pionSuite) (*outcome, error) {
	err := conn.HandshakeContext(ctx)
	// pion must not send another word from here on: its close_notify would end the channel before it begins.
	next, final, early := g.shut()
	state, ok := conn.ConnectionState()
	conn.Close()
	if refused := g.refused(); refused != nil && err != nil {
		err = refused
	}
	if err != nil {
		return nil, fmt.Errorf("DTLS handshake with %s: %w", g.RemoteAddr(), err)
	}
	if !ok {
		return nil, errors.New("dtls: pion has no connection state after a handshake")
	}
	out := &outcome{next: next, final: final, early: early}
	if *own != nil && (*own).keys != nil {
		out.keys = (*own).keys
		return out, nil
	}
	out.keys, err = keysOf(&state)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// pionState has those of the fields that pion writes in State.MarshalBinary that matter here, by the names that gob finds
// them by.
type pionState struct {
	LocalRandom, RemoteRandom [32]byte
	CipherSuiteID             uint16
	MasterSecret              []byte
	IsClient                  bool
}

// keysOf derives the keys of a handshake with one of pion's own suites. pion shows the master secret and the randoms only in
// the serialized form of its state.
func keysOf(state *pion.State) (*secrets, error) {
	b, err := state.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("dtls: state of the handshake: %w", err)
	}
	var st pionState
	if err := gob.NewDecoder(bytes.NewReader(b)).Decode(&st); err != nil {
		return nil, fmt.Errorf("dtls: state of the handshake: %w", err)
	}
	s := suiteByID(st.CipherSuiteID)
	if s == nil || s.custom {
		return nil, fmt.Errorf("%w: DTLS cipher suite %#04x", transport.ErrUnsupported, st.CipherSuiteID)
	}
	client, server := st.LocalRandom[:], st.RemoteRandom[:]
	if !st.IsClient {
		client, server = server, client
	}
	return expand(s, st.MasterSecret, client, server)
}

// pskSuites returns the options that offer the suites of p. Those that pion lacks come first with pion, and so they do here. The one
// of them that is made for the handshake is left in own.
func pskSuites(p *PSK, own **pionSuite) []pion.Option {
	var custom []suite
	// The list of pion's own suites must not be empty, or it takes its defaults, of which none is for PSK.
	builtin := []pion.CipherSuiteID{}
	for _, s := range p.suites() {
		if s.custom {
			custom = append(custom, s)
		} else {
			builtin = append(builtin, pion.CipherSuiteID(s.id))
		}
	}
	if len(builtin) == 0 {
		builtin = append(builtin, pion.TLS_ECDHE_ECDSA_WITH_AES_128_CCM) // drops out for want of a certificate
	}
	return []pion.Option{pion.WithCipherSuites(builtin...), customSuites(custom, own)}
}

// customSuites returns the option that adds suites that pion lacks.
func customSuites(list []suite, own **pionSuite) pion.Option {
	return pion.WithCustomCipherSuites(func() []pion.CipherSuite {
		made := make([]pion.CipherSuite, len(list))
		for i, s := range list {
			made[i] = newPionSuite(s, own)
		}
		return made
	})
}

// resumeSuites returns the options that make s the only suite.
func resumeSuites(s *suite, own **pionSuite) []pion.Option {
	if !s.custom {
		return []pion.Option{pion.WithCipherSuites(pion.CipherSuiteID(s.id))}
	}
	return []pion.Option{
		pion.WithCipherSuites(pion.TLS_PSK_WITH_AES_128_CCM_8), // not none, which means the defaults; drops out for want of a key
		customSuites([]suite{*s}, own),
	}
}

// A pionSuite is one of the AES-GCM suites that pion lacks. pion uses it for the Finished messages. It keeps the keys, which
// pion hands out for its own suites only.
type pionSuite struct {
	suite suite
	keys  *secrets
	gcm   *ciphersuite.GCM
	own   **pionSuite
}

func newPionSuite(s suite, own **pionSuite) *pionSuite { return &pionSuite{suite: s, own: own} }

func (p *pionSuite) String() string                          { return p.suite.name }
func (p *pionSuite) ID() pion.CipherSuiteID                  { return pion.CipherSuiteID(p.suite.id) }
func (p *pionSuite) CertificateType() clientcertificate.Type { return clientcertificate.RSASign }
func (p *pionSuite) HashFunc() func() hash.Hash              { return p.suite.hash }
func (p *pionSuite) ECC() bool                               { return false }
func (p *pionSuite) IsInitialized() bool                     { return p.gcm != nil }

func (p *pionSuite) AuthenticationType() pion.CipherSuiteAuthenticationType {
	if p.suite.psk {
		return pion.CipherSuiteAuthenticationTypePreSharedKey
	}
	return pion.CipherSuiteAuthenticationTypeCertificate
}

func (p *pionSuite) KeyExchangeAlgorithm() pion.CipherSuiteKeyExchangeAlgorithm {
	if p.suite.psk {
		return pion.CipherSuiteKeyExchangeAlgorithmPsk
	}
	return pion.CipherSuiteKeyExchangeAlgorithmNone
}

func (p *pionSuite) Init(master, clientRandom, serverRandom []byte, isClient bool) error {
	k, err := expand(&p.suite, master, clientRandom, serverRandom)
	if err != nil {
		return err
	}
	localKey, localIV, remoteKey, remoteIV := k.clientKey, k.clientIV, k.serverKey, k.serverIV
	if !isClient {
		localKey, localIV, remoteKey, remoteIV = remoteKey, remoteIV, localKey, localIV
	}
	p.gcm, err = ciphersuite.NewGCM(localKey, localIV, remoteKey, remoteIV)
	if err != nil {
		return err
	}
	p.keys = k
	*p.own = p
	return nil
}

func (p *pionSuite) Encrypt(pkt *recordlayer.RecordLayer, raw []byte) ([]byte, error) {
	return p.gcm.Encrypt(pkt, raw)
}

func (p *pionSuite) Decrypt(h recordlayer.Header, in []byte) ([]byte, error) {
	return p.gcm.Decrypt(h, in)
}

// oneSession is a pion.SessionStore with one session in it.
type oneSession struct{ s pion.Session }

// Set implements pion.SessionStore. A new session is of no use.
func (o oneSession) Set([]byte, pion.Session) error { return nil }

// Get implements pion.SessionStore. A client asks by the name of the server, a server by the session id.
func (o oneSession) Get(key []byte) (pion.Session, error) {
	if !o.s.IsClient && !bytes.Equal(key, o.s.ID) {
		return pion.Session{}, nil
	}
	return o.s, nil
}

// Del implements pion.SessionStore.
func (o oneSession) Del([]byte) error { return nil }

// silence is a logger for pion: what matters comes back as an error, and it would write to the standard error.
type silence struct{}

func (silence) NewLogger(string) logging.LeveledLogger { return silence{} }
func (silence) Trace(string)                           {}
func (silence) Tracef(string, ...any)                  {}
func (silence) Debug(string)                           {}
func (silence) Debugf(string, ...any)                  {}
func (silence) Info(string)                            {}
func (silence) Infof(string, ...any)                   {}
func (silence) Warn(string)                            {}
func (silence) Warnf(string, ...any)                   {}
func (silence) Error(string)                           {}
func (silence) Errorf(string, ...any)                  {}

var _ net.PacketConn = (*gate)(nil)
