package trusted

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// DefaultTimeout is how long a server has to answer if [Prober.Timeout] is zero.
const DefaultTimeout = 5 * time.Second

// A Prober asks servers over the network. The zero Prober is ready to use. Its methods may be called from any goroutine.
type Prober struct {
	// Dial makes the connections, which must not go through the tunnel. Nil means a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Timeout bounds the asking of one server. Zero means [DefaultTimeout].
	Timeout time.Duration
	// SkipDNS leaves the DNS servers of the list unasked, so that it says only what the machine's settings must be.
	SkipDNS bool
}

func (p *Prober) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if p.Dial != nil {
		return p.Dial(ctx, network, address)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

func (p *Prober) within(ctx context.Context) (context.Context, context.CancelFunc) {
	d := p.Timeout
	if d <= 0 {
		d = DefaultTimeout
	}
	return context.WithTimeout(ctx, d)
}

// Ask asks all servers of the rules that have to be asked, the DNS servers at the same time and the HTTPS servers one after
// the other until one has answered. It returns when that is done or ctx has ended, after at most Timeout for each HTTPS server.
func (p *Prober) Ask(ctx context.Context, r Rules) Answers {
	var a Answers
	var wait sync.WaitGroup
	defer wait.Wait()
	if servers := r.Asks(); !p.SkipDNS && len(servers) > 0 {
		a.DNS = make([]Answer, len(servers))
		gate := make(chan struct{}, 16)
		for i, s := range servers {
			wait.Go(func() {
				gate <- struct{}{}
				defer func() { <-gate }()
				if p.DNS(ctx, netip.AddrPortFrom(s, 53)) == nil {
					a.DNS[i] = Genuine
				}
			})
		}
	}
	for _, s := range r.HTTPS {
		answer := p.HTTPS(ctx, s)
		a.HTTPS = append(a.HTTPS, answer)
		if answer != Unreachable {
			break
		}
	}
	return a
}

var errOther = errors.New("trusted: another certificate")

// HTTPS asks a server for its certificate. Genuine means that the server has proved by a complete handshake that it
// has the key of the certificate with that hash. No authority is asked, and names and dates do not count: the hash is of
// exactly this certificate.
func (p *Prober) HTTPS(ctx context.Context, s Server) Answer {
	ctx, cancel := p.within(ctx)
	defer cancel()
	conn, err := p.dial(ctx, "tcp", s.HostPort())
	if err != nil {
		return Unreachable
	}
	defer func() { _ = conn.Close() }()
	c := tls.Client(conn, &tls.Config{
		ServerName: strings.Trim(s.Address, "[]"),
		MinVersion: tls.VersionTLS12,
		// The verification by authorities is replaced by the one below, which is stricter, and not left out.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 || !sameHash(state.PeerCertificates[0].Raw, s.Hash) {
				return errOther
			}
			return nil
		},
	})
	switch err := c.HandshakeContext(ctx); {
	case err == nil:
		return Genuine
	case errors.Is(err, errOther):
		return Other
	}
	return Unreachable
}

func sameHash(certificate, hash []byte) bool {
	switch len(hash) {
	case sha256.Size:
		sum := sha256.Sum256(certificate)
		return subtle.ConstantTimeCompare(sum[:], hash) == 1
	case sha512.Size:
		sum := sha512.Sum512(certificate)
		return subtle.ConstantTimeCompare(sum[:], hash) == 1
	}
	return false
}

// DNS asks a server for the root's name servers over UDP, twice if the first question is lost, and returns nil if it answers
// anything at all, a refusal included.
func (p *Prober) DNS(ctx context.Context, server netip.AddrPort) error {
	ctx, cancel := p.within(ctx)
	defer cancel()
	conn, err := p.dial(ctx, "udp", server.String())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	deadline, _ := ctx.Deadline()

	// RFC 1035, section 4.1: a header with the recursion bit and one question: the root, type NS, class IN.
	query := [17]byte{2: 1, 5: 1, 14: 2, 16: 1}
	_, _ = rand.Read(query[:2])
	answer := make([]byte, 4096)
	for _, until := range []time.Time{time.Now().Add(time.Until(deadline) / 3), deadline} {
		if _, err = conn.Write(query[:]); err != nil {
			return err
		}
		if err = conn.SetReadDeadline(until); err != nil {
			return err
		}
		for ctx.Err() == nil {
			var n int
			if n, err = conn.Read(answer); err != nil {
				break
			}
			if n >= 12 && [2]byte(answer) == [2]byte(query[:]) && answer[2]&0x80 != 0 {
				return nil
			}
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return err
}
