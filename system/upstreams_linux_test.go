package system_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"culvert.example/vpn/internal/issue"
	"culvert.example/vpn/system"
	"culvert.example/vpn/transport"
)

// serveStream answers the queries of a connection, which have their lengths in front.
func (z *zone) serveStream(c net.Conn) {
	defer c.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		a := z.answer(query)
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...)); err != nil {
			return
		}
	}
}

// ServeHTTP answers the queries of requests.
func (z *zone) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query, err := io.ReadAll(io.LimitReader(r.Body, 4096))
	if err != nil || r.URL.Path != "/dns-query" {
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/dns-message")
	w.Write(z.answer(query))
}

// With a server of the user's own for names outside, by TLS or HTTPS, nobody outside is asked in the clear for any name, and the names of
// the gateway are asked for inside as before.
func TestUpstreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.teach()
	secure := newZone()
	secure.set("www.example.org", "203.0.113.82")
	cert := issue.New(x509.Certificate{DNSNames: []string{"dns.example"}, IsCA: true}, nil)
	shown := &tls.Config{Certificates: []tls.Certificate{cert.TLS()}}
	overTLS, err := w.router.Listen("tcp", ":853")
	if err != nil {
		t.Fatal(err)
	}
	defer overTLS.Close()
	go func() {
		for {
			c, err := overTLS.Accept()
			if err != nil {
				return
			}
			go secure.serveStream(tls.Server(c, shown))
		}
	}()
	overHTTPS, err := w.router.Listen("tcp", ":8443")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: secure}
	defer server.Close()
	go server.Serve(tls.NewListener(overHTTPS, shown))

	at := outsideDNS.Addr().String()
	byTLS, answered := "tls://dns.example@"+at, "203.0.113.82"
	for _, tt := range []struct {
		upstream, outside string
		kill              *system.KillSwitch
	}{
		{byTLS, answered, nil},
		{"https://dns.example@" + at + ":8443/dns-query", answered, nil},
		{byTLS, "RCodeNameError", &system.KillSwitch{Reject: true}},
	} {
		upstream := tt.upstream
		cfg := w.config()
		cfg.DNS.Upstreams, cfg.DNS.Verify = []string{upstream}, &tls.Config{RootCAs: cert.Pool()}
		cfg.KillSwitch = tt.kill
		s := w.reopen(cfg)
		k := w.attach(s, lease(func(l *transport.Lease) { l.Include = prefixes("172.16.0.0/12") }))
		w.air.Forget()
		for name, want := range map[string]string{"www.example.org": tt.outside, "git.corp.example": "172.20.1.1", "nothing.example.org": "RCodeNameError"} {
			if got := w.query(proxy, name, false); got != want {
				t.Errorf("%s: %s is %s, want %s", upstream, name, got, want)
			}
		}
		if st := s.Status().Resolver; !slices.Equal(st.Upstreams, []string{upstream}) || len(st.Outside) > 0 {
			t.Errorf("status %+v", st)
		}
		k.close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for _, p := range w.air.Packets() {
			if strings.HasSuffix(p.To, " 53") {
				t.Errorf("%s: asked in the clear: %s", upstream, p.To)
			}
		}
	}
	if heard := w.outside.heard(); len(heard) > 0 {
		t.Errorf("asked in the clear for %v", heard)
	}
	if heard := secure.heard(); slices.Contains(heard, "git.corp.example") || !slices.Contains(heard, "www.example.org") {
		t.Errorf("asked outside for %v", heard)
	}

	for _, change := range []func(*system.DNS){
		func(d *system.DNS) { d.Upstreams = []string{"tls://dns.example"} },
		func(d *system.DNS) { d.Upstreams = slices.Repeat([]string{"192.0.2.1"}, 9) },
		func(d *system.DNS) { d.Upstreams, d.NoProxy = []string{"192.0.2.1"}, true },
	} {
		cfg := w.config()
		change(&cfg.DNS)
		if _, err := w.tryOpen(cfg); !errors.Is(err, system.ErrConfig) {
			t.Errorf("%+v: %v", cfg.DNS.Upstreams, err)
		}
	}
}
