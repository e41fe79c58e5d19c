package selection

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"time"
)

const (
	// Probes is how often each gateway is measured.
	Probes = 3
	// Patience is how long all the measuring may take. What has not answered by then is not chosen.
	Patience = 7 * time.Second

	atATime = 8
)

// Measure takes the time of three exchanges with each server, one after the other, with several servers at a time, and
// returns the shortest of each, in the order of the servers. It returns when ctx ends, or after Patience, with what it has.
func Measure(ctx context.Context, servers []string, roundTrip func(ctx context.Context, server string) (time.Duration, error)) []Sample {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	samples := make([]Sample, min(len(servers), MaxServers))
	gate := make(chan struct{}, atATime)
	var wait sync.WaitGroup
	for i := range samples {
		wait.Go(func() {
			s := &samples[i]
			s.Server = servers[i]
			for range Probes {
				select {
				case gate <- struct{}{}:
				case <-ctx.Done():
					return
				}
				d, err := roundTrip(ctx, s.Server)
				<-gate
				if err == nil && (!s.OK || d < s.Delay) {
					s.Delay, s.OK = d, true
				}
			}
		})
	}
	wait.Wait()
	return samples
}

// A Prober measures over the network. The zero Prober is ready to use. Its methods may be called from any goroutine.
type Prober struct {
	// Dial makes the connections, which must not go through the tunnel. Nil means a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS says what certificate is a gateway's. It is cloned. Nil means the authorities of the machine.
	TLS *tls.Config
}

// RoundTrip returns how long it takes to connect to a server over TCP, to agree on keys over TLS, and to take leave. A server whose
// certificate is not accepted has an error: it must not be chosen, however fast it is. A name is looked up before the clock starts.
func (p *Prober) RoundTrip(ctx context.Context, server string) (time.Duration, error) {
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		host, port = strings.Trim(server, "[]"), "443"
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if p.TLS != nil {
		cfg = p.TLS.Clone()
	}
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	cfg.ClientSessionCache = nil // every exchange is a whole one
	address := net.JoinHostPort(host, port)
	dial := p.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return 0, err
		}
		if len(addrs) == 1 {
			address = net.JoinHostPort(addrs[0].String(), port)
		}
	}
	start := time.Now()
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	c := tls.Client(conn, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		return 0, err
	}
	_ = c.Close()
	return time.Since(start), nil
}
