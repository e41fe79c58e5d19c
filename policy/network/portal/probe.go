package portal

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// DefaultTimeout is how long a gateway has to answer if [Prober.Timeout] is zero.
	DefaultTimeout = 5 * time.Second

	maxBody   = 4 << 10
	maxHeader = 16 << 10
	maxAsked  = 4 // gateways at a time
)

// A Prober asks gateways over the network. The zero Prober is ready to use. Its methods may be called from any goroutine.
type Prober struct {
	// Dial makes the connections, which must not go through the tunnel. Nil means a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS says what certificate is a gateway's: authorities, or VerifyConnection for pins. It is cloned. Nil means the
	// authorities of the machine. A configuration that takes every certificate makes every portal a gateway.
	TLS *tls.Config
	// Timeout bounds the asking of one gateway. Zero means [DefaultTimeout].
	Timeout time.Duration
	// HTTPPort is where plain HTTP is asked; "" means 80.
	HTTPPort string
}

// Ask asks the gateways, each a host or host:port, at the same time, and gives one verdict on all. Of more than four only the
// first four are asked. It returns after Timeout at the latest.
func (p *Prober) Ask(ctx context.Context, gateways []string) Report {
	gateways = gateways[:min(len(gateways), maxAsked)]
	reports := make([]Report, len(gateways))
	var wait sync.WaitGroup
	for i, g := range gateways {
		wait.Go(func() {
			host, _ := split(g)
			reports[i] = Judge(host, p.Evidence(ctx, g))
		})
	}
	wait.Wait()
	return Merge(reports)
}

// split returns the host and the port of a gateway.
func split(gateway string) (host, port string) {
	if h, p, err := net.SplitHostPort(gateway); err == nil {
		return h, p
	}
	return strings.Trim(gateway, "[]"), "443"
}

// Evidence asks one gateway, over TLS and HTTP at the same time.
func (p *Prober) Evidence(ctx context.Context, gateway string) (e Evidence) {
	d := p.Timeout
	if d <= 0 {
		d = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	host, port := split(gateway)
	dial := p.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	var h Evidence
	var wait sync.WaitGroup
	wait.Go(func() { h = p.http(ctx, dial, host) })
	e.TLS = p.tls(ctx, dial, host, port)
	if e.TLS == Answered {
		cancel() // what HTTP says does not matter any more
	}
	wait.Wait()
	h.TLS = e.TLS
	return h
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

func (p *Prober) tls(ctx context.Context, dial dialFunc, host, port string) Outcome {
	conn, err := dial(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return outcome(err)
	}
	defer func() { _ = conn.Close() }()
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if p.TLS != nil {
		cfg = p.TLS.Clone()
	}
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	err = tls.Client(conn, cfg).HandshakeContext(ctx)
	if err == nil {
		return Answered
	}
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	switch {
	case errors.As(err, &certificate):
		return WrongCertificate
	case errors.As(err, &record):
		return Garbled
	case errors.As(err, &alert):
		return Garbled
	}
	if o := outcome(err); o != Untried {
		return o
	}
	// What is left is VerifyConnection or VerifyPeerCertificate of the caller, and a peer that does not speak TLS as it should.
	if cfg.VerifyConnection != nil || cfg.VerifyPeerCertificate != nil {
		return WrongCertificate
	}
	return Garbled
}

func (p *Prober) http(ctx context.Context, dial dialFunc, host string) (e Evidence) {
	port := p.HTTPPort
	if port == "" {
		port = "80"
	}
	t := &http.Transport{
		DialContext:            dial,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
	}
	defer t.CloseIdleConnections()
	authority := bracket(host)
	if port != "80" {
		authority = net.JoinHostPort(host, port)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+authority+"/", nil)
	if err != nil {
		e.HTTP = NoName
		return e
	}
	req.Header.Set("User-Agent", "")
	req.Header.Set("Cache-Control", "no-cache")
	resp, err := t.RoundTrip(req)
	if err != nil {
		if e.HTTP = outcome(err); e.HTTP == Untried {
			e.HTTP = Garbled
		}
		return e
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	e.HTTP, e.Status, e.Location, e.Body = Answered, resp.StatusCode, resp.Header.Get("Location"), string(body)
	return e
}

// outcome returns what an error of the network means, or Untried if it is none.
func outcome(err error) Outcome {
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &dns):
		if dns.IsNotFound {
			return NoName
		}
		return NoWay
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETDOWN),
		errors.Is(err, syscall.EADDRNOTAVAIL):
		return NoWay
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Refused
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.As(err, &timeout) && timeout.Timeout():
		return Silent
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return NoWay // our own firewall, in which nobody has let the gateway through
	}
	return Untried
}
