package anyconnect_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
)

// TestOneConnection asks for the tunnel on the connection of the login.
func TestOneConnection(t *testing.T) {
	gw := gatewaytest.New(t, gatewaytest.Options{NoUDP: true})
	d := dialer(gw)
	var n atomic.Int32
	d.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		n.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	open(t, d)
	if n.Load() != 1 {
		t.Errorf("%d connections were made, want 1", n.Load())
	}
}

// TestClosedAfterLogin makes another connection for the tunnel when the gateway closes that of the login, whether it says so or not.
func TestClosedAfterLogin(t *testing.T) {
	for name, say := range map[string]bool{"announced": true, "unannounced": false} {
		t.Run(name, func(t *testing.T) {
			var serverTLS *tls.Config
			gw := gatewaytest.New(t, gatewaytest.Options{NoUDP: true, Config: func(c *gateway.Config) { serverTLS = c.TLS.Clone() }})
			back, err := url.Parse(gw.URL)
			if err != nil {
				t.Fatal(err)
			}
			// The login goes through a server of its own, which hangs up after the last reply or at CONNECT.
			d := dialer(gw)
			forward := httputil.NewSingleHostReverseProxy(back)
			forward.Transport = &http.Transport{TLSClientConfig: d.TLS.Clone()}
			var requests, connects atomic.Int32
			front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodConnect {
					connects.Add(1)
					panic(http.ErrAbortHandler)
				}
				// One for the form, one with the credentials.
				if requests.Add(1) == 2 && say {
					w.Header().Set("Connection", "close")
				}
				forward.ServeHTTP(w, r)
			}))
			front.TLS = serverTLS
			front.StartTLS()
			defer front.Close()
			var n atomic.Int32
			d.Dial = func(ctx context.Context, network, to string) (net.Conn, error) {
				if n.Add(1) == 1 {
					to = front.Listener.Addr().String()
				}
				return new(net.Dialer).DialContext(ctx, network, to)
			}
			start := time.Now()
			open(t, d)
			if n.Load() != 2 || time.Since(start) > 5*time.Second {
				t.Errorf("%d connections were made in %v, want 2 soon", n.Load(), time.Since(start))
			}
			if got := connects.Load() == 1; got == say {
				t.Errorf("CONNECT came on the connection of the login: %v", got)
			}
		})
	}
}
