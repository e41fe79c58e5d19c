package vpn

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A family is what a network of the test does.
type family struct {
	after time.Duration
	err   error
}

// TestInOrder dials by IP protocols, some of which do not answer or fail.
func TestInOrder(t *testing.T) {
	refused, absent := errors.New("refused"), &net.DNSError{Err: "no such host", IsNotFound: true}
	never := family{after: time.Hour}
	for _, tt := range []struct {
		name      string
		protocols string
		address   string
		families  map[string]family
		dialled   string // in this order
		took      time.Duration
		want      string // the network of the connection, or what the error has in it after "!"
	}{
		{"both work", "IPv4 IPv6", "gw.example:443", nil, "tcp4", 0, "tcp4"},
		{"the other way round", "IPv6 IPv4", "gw.example:443", nil, "tcp6", 0, "tcp6"},
		{"only one", "IPv6", "gw.example:443", map[string]family{"tcp6": {err: refused}}, "tcp6", 0, "!refused"},
		{"the first fails", "IPv6 IPv4", "gw.example:443", map[string]family{"tcp6": {after: 10 * time.Millisecond, err: refused}}, "tcp6 tcp4", 10 * time.Millisecond, "tcp4"},
		{"the first is silent", "IPv4 IPv6", "gw.example:443", map[string]family{"tcp4": never}, "tcp4 tcp6", fallbackDelay, "tcp6"},
		{"the first is slow", "IPv4 IPv6", "gw.example:443", map[string]family{"tcp4": {after: 2 * fallbackDelay}, "tcp6": never}, "tcp4 tcp6", 2 * fallbackDelay, "tcp4"},
		{"there is no address of a kind", "IPv6 IPv4", "gw.example:443", map[string]family{"tcp6": {err: absent}, "tcp4": {err: refused}}, "tcp6 tcp4", 0, "!refused"},
		{"there is none at all", "IPv6 IPv4", "gw.example:443", map[string]family{"tcp6": {err: absent}, "tcp4": {err: absent}}, "tcp6 tcp4", 0, "!no such host"},
		{"an address", "IPv6 IPv4", "192.0.2.1:443", nil, "tcp4", 0, "tcp4"},
		{"an address of the wrong kind", "IPv4", "[2001:db8::1]:443", nil, "", 0, "!over IPv4 only"},
		{"a mapped address", "IPv4", "[::ffff:192.0.2.1]:443", nil, "tcp4", 0, "tcp4"},
		{"no protocol", "IPX", "gw.example:443", nil, "", 0, `!"IPX" is neither`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var dialled []string
				open := map[string]net.Conn{}
				dial := inOrder(strings.Fields(tt.protocols), func(ctx context.Context, network, address string) (net.Conn, error) {
					f := tt.families[network]
					mu.Lock()
					dialled = append(dialled, network)
					mu.Unlock()
					select {
					case <-time.After(f.after):
					case <-ctx.Done():
						return nil, ctx.Err()
					}
					if f.err != nil {
						return nil, f.err
					}
					c, _ := net.Pipe()
					mu.Lock()
					open[network] = c
					mu.Unlock()
					return c, nil
				})
				begin := time.Now()
				c, err := dial(t.Context(), "tcp", tt.address)
				if took := time.Since(begin); took != tt.took {
					t.Errorf("it took %v, want %v", took, tt.took)
				}
				synctest.Wait()
				if got := strings.Join(dialled, " "); got != tt.dialled {
					t.Errorf("dialled %q, want %q", got, tt.dialled)
				}
				if text, bad := strings.CutPrefix(tt.want, "!"); bad {
					if err == nil || !strings.Contains(err.Error(), text) {
						t.Errorf("error %v, want %q", err, text)
					}
				} else if err != nil || c != open[tt.want] {
					t.Errorf("a connection other than by %s: %v", tt.want, err)
				}
			})
		})
	}
}

// TestInOrderEnd: a dial ends with its context, and what comes about afterwards is closed.
func TestInOrderEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		dial := inOrder([]string{"IPv4", "IPv6"}, func(_ context.Context, network, _ string) (net.Conn, error) {
			if network == "tcp6" {
				return nil, errors.New("refused")
			}
			time.Sleep(time.Minute) // it does not look at its context
			return here, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		if _, err := dial(ctx, "tcp", "gw.example:443"); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		if _, err := there.Read(make([]byte, 1)); err == nil || time.Since(begin) != time.Minute {
			t.Errorf("after %v the late connection: %v", time.Since(begin), err)
		}
		synctest.Wait()
	})
}

// TestProtocolsOfClient: the address of the gateway can be kept as without IPProtocols, and a Dial of the caller is left alone.
func TestProtocolsOfClient(t *testing.T) {
	own := DialFunc(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("own") })
	c := (&Config{IPProtocols: []string{"IPv6"}}).client("gw.example")
	if c.Dial == nil || c.DialUDP == nil || !c.Plain {
		t.Errorf("%+v", c)
	}
	if _, err := c.Dial(t.Context(), "tcp", "192.0.2.1:443"); err == nil || !strings.Contains(err.Error(), "IPv6 only") {
		t.Errorf("an IPv4 address: %v", err)
	}
	c = (&Config{IPProtocols: []string{"IPv6"}, Dial: own}).client("gw.example")
	if _, err := c.Dial(t.Context(), "tcp", "192.0.2.1:443"); err == nil || err.Error() != "own" || c.DialUDP != nil || c.Plain {
		t.Errorf("a Dial of the caller: %v", err)
	}
	if c = (&Config{}).client("gw.example"); c.Dial != nil || c.DialUDP != nil {
		t.Error("without IPProtocols there is a dial")
	}
	if got, err := overProtocols([]string{"IPv6", "IPv4"}, "udp", "gw.example:443"); err != nil || !slices.Equal(got, []string{"udp6", "udp4"}) {
		t.Errorf("%q, %v", got, err)
	}
}
