package vpn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// inOrder returns what dials over the IP protocols that are named, IPv4 and IPv6 or one of them, in their order: the second is tried
// beside the first once that has failed or takes long. Without names, or a dial, it is dial.
func inOrder(protocols []string, dial DialFunc) DialFunc {
	if len(protocols) == 0 || dial == nil {
		return dial
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.HasSuffix(network, "4") || strings.HasSuffix(network, "6") {
			return dial(ctx, network, address)
		}
		networks, err := overProtocols(protocols, network, address)
		if err != nil {
			return nil, err
		}
		return dialInTurn(ctx, networks, address, dial)
	}
}

// overProtocols returns the networks to dial an address by.
func overProtocols(protocols []string, network, address string) ([]string, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	literal, _ := netip.ParseAddr(host)
	var networks []string
	for _, p := range protocols {
		six := p == "IPv6"
		if !six && p != "IPv4" {
			return nil, fmt.Errorf("Config.IPProtocols: %q is neither IPv4 nor IPv6", p)
		}
		if literal.IsValid() && literal.Unmap().Is6() != six {
			continue
		}
		networks = append(networks, network+strings.TrimPrefix(p, "IPv"))
	}
	if len(networks) == 0 {
		return nil, fmt.Errorf("%s: gateways are reached over %s only", host, strings.Join(protocols, ", "))
	}
	return networks, nil
}

// dialInTurn dials by one network after the other, and returns the first connection that comes about.
func dialInTurn(ctx context.Context, networks []string, address string, dial DialFunc) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	next := time.NewTimer(0)
	defer next.Stop()
	var failed error
	for pending := 0; ; {
		select {
		case <-next.C:
			if len(networks) == 0 {
				continue
			}
			network := networks[0]
			networks, pending = networks[1:], pending+1
			next.Reset(fallbackDelay)
			go func() {
				conn, err := dial(ctx, network, address)
				select {
				case results <- result{conn, err}:
				case <-ctx.Done():
					if conn != nil {
						conn.Close()
					}
				}
			}()
		case r := <-results:
			if r.err == nil {
				return r.conn, nil
			}
			// That there is no address of a kind says less than that one did not answer.
			if dns := (*net.DNSError)(nil); failed == nil || errors.As(failed, &dns) {
				failed = r.err
			}
			if pending--; len(networks) > 0 {
				next.Reset(0)
			} else if pending == 0 {
				return nil, failed
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
