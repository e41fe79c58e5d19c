package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"culvert.example/vpn/gateway"
)

// serveFlags are the flags of the gateway.
type serveFlags struct {
	listen     string
	userFile   string
	cert, key  string
	keyPass    string
	selfSigned bool
	names      []string
	clientCA   string

	pool, route, noRoute []string
	dns                  []string
	searchDomain         []string
	splitDNS             []string
	tunnelAllDNS         bool
	groups               []string
	banner               string
	allowSpecial         []string
	clientToClient       bool

	noDTLS      bool
	mtu         int
	compression bool
	maxSessions int
	perUser     int

	dpd, keepalive, rekey              seconds
	sessionTimeout, idleTimeout, grace seconds

	control string
	pidFile string
}

func (a *app) serve() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Be a gateway for AnyConnect-compatible clients",
		Long: `Serve is a VPN gateway for openconnect, Cisco Secure Client and culvert. It needs no root and no network device: it ends the
connections of its clients itself and opens them anew to where they lead, as the user that it runs as.

The users are lines NAME:HASH in --user-file, written by "htpasswd -B" or "ocpasswd". SIGHUP reads the users and the certificate
again; whoever is no user any more keeps the session that is up until "culvert sessions disconnect" ends it. "culvert sessions" lists
who is connected.

Every flag can be a key of a TOML file, given with --config:

  listen = "0.0.0.0:443"
  user-file = "/etc/culvert/users"
  cert = "/etc/culvert/cert.pem"
  key = "/etc/culvert/key.pem"
  pool = ["10.20.0.0/24", "fd00:20::/64"]
  route = ["10.0.0.0/8"]
  no-route = ["10.20.0.0/24"]
  dns = ["10.0.0.53"]

` + exitHelp,
		Example: `  htpasswd -cB users alice
  culvert serve --listen :4443 --user-file users --self-signed --pool 10.20.0.0/24 --pool fd00:20::/64 --route 192.168.7.0/24`,
		Args: cobra.NoArgs,
	}
	var s serveFlags
	f := cmd.Flags()
	f.SortFlags = false
	a.addConfig(f)
	f.StringVar(&s.listen, "listen", ":443", "serve TLS (TCP) and DTLS (UDP) on `ADDR:PORT`")
	f.StringVar(&s.userFile, "user-file", "", "the users and their password hashes are in `FILE`")
	f.StringVar(&s.cert, "cert", "", "the certificate with its chain is in `FILE` (PEM or PKCS#12)")
	f.StringVar(&s.key, "key", "", "its private key is in `FILE` (PEM)")
	f.StringVar(&s.keyPass, "key-password-file", "", "the first line of `FILE` is the passphrase of the key")
	f.BoolVar(&s.selfSigned, "self-signed", false, "make a certificate; with --cert and --key it is kept there for the next time")
	f.StringArrayVar(&s.names, "name", nil, "the made certificate is for `HOST`, a name or an address (repeatable; default: those of this machine)")
	f.StringVar(&s.clientCA, "client-ca", "", "clients may log in by a certificate that an authority in `FILE` (PEM) has issued; with --user-file they need the password as well")

	f.StringArrayVar(&s.pool, "pool", nil, "give clients addresses of `PREFIX`, one of IPv4, one of IPv6 or both (default 10.20.0.0/24)")
	f.StringArrayVar(&s.route, "route", nil, "`PREFIX` lies behind this gateway (repeatable; default: everything)")
	f.StringArrayVar(&s.noRoute, "no-route", nil, "`PREFIX` does not (repeatable)")
	f.StringArrayVar(&s.dns, "dns", nil, "name server `ADDR` for clients (repeatable)")
	f.StringArrayVar(&s.searchDomain, "search-domain", nil, "`DOMAIN` that completes short names (repeatable)")
	f.StringArrayVar(&s.splitDNS, "split-dns", nil, "the name servers answer only for `DOMAIN` (repeatable)")
	f.BoolVar(&s.tunnelAllDNS, "tunnel-all-dns", false, "clients must ask no other name server")
	f.StringArrayVar(&s.groups, "group", nil, "users may choose the group `NAME` or NAME=LABEL (repeatable)")
	f.StringVar(&s.banner, "banner", "", "`TEXT` to show to users")
	f.StringArrayVar(&s.allowSpecial, "allow-special", nil, "clients may reach `PREFIX` although it is loopback, link-local, multicast or metadata (repeatable)")
	f.BoolVar(&s.clientToClient, "client-to-client", false, "clients may reach each other")

	f.BoolVar(&s.noDTLS, "no-dtls", false, "TLS only")
	f.IntVarP(&s.mtu, "mtu", "m", 0, "the path to clients carries packets of `BYTES` (default 1500)")
	f.BoolVar(&s.compression, "compression", false, "let clients ask for compression, which makes lengths tell about contents")
	f.IntVar(&s.maxSessions, "max-sessions", 0, "at most `N` sessions (default 1024)")
	f.IntVar(&s.perUser, "max-sessions-per-user", 0, "at most `N` sessions of one user (default 16)")
	f.Var(&s.dpd, "dpd", "clients look for a dead connection after `SECONDS` of silence (default 30)")
	f.Var(&s.keepalive, "keepalive", "clients send something every `SECONDS` (default 20)")
	f.Var(&s.rekey, "rekey-time", "clients connect anew after `SECONDS` (default 86400; -1: never)")
	f.Var(&s.sessionTimeout, "session-timeout", "a session ends after `SECONDS` (default 86400)")
	f.Var(&s.idleTimeout, "idle-timeout", "a session without traffic ends after `SECONDS` (default: never)")
	f.Var(&s.grace, "cookie-timeout", "a session without a connection ends after `SECONDS` (default 1800)")

	f.StringVar(&s.control, "control", "", "\"culvert sessions\" asks at `PATH` (default: /run/culvert for root, else $XDG_RUNTIME_DIR/culvert; \"none\": no)")
	f.StringVar(&s.pidFile, "pid-file", "", "write the process id to `FILE` once all is up, remove it at the end")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.runServe(cmd.Context(), &s) }
	return cmd
}

// farewell is how long the end of a server may take, for what its clients still do.
const farewell = 5 * time.Second

// runServe serves until the context ends.
func (a *app) runServe(ctx context.Context, s *serveFlags) error {
	a.endure()
	r := a.reporter()
	cfg, users, err := s.gatewayConfig()
	if err != nil {
		return err
	}
	cfg.Logger = r.logger(a.verbose)
	var current atomic.Pointer[tls.Certificate]
	cert, err := s.certificate()
	if err != nil {
		return err
	}
	current.Store(&cert)
	cfg.TLS.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil }
	gw, err := gateway.New(cfg)
	if err != nil {
		return &usageError{err: err}
	}
	defer gw.Close()

	ln, udp, err := listenBoth(s.listen, !s.noDTLS)
	if err != nil {
		return err
	}
	closeAll := func() {
		ln.Close()
		if udp != nil {
			udp.Close()
		}
	}
	ctl, err := a.serveControl(s.control, gw)
	if err != nil {
		closeAll()
		return err
	}
	defer ctl()
	remove, err := writePID(s.pidFile)
	if err != nil {
		closeAll()
		return err
	}
	defer remove()

	ended := make(chan error, 1)
	go func() { ended <- gw.Serve(ln, udp) }()
	also := ""
	if udp != nil {
		also = " and DTLS"
	}
	pin := gateway.Pin(cert.Leaf)
	r.say(event{Event: "listen", State: "listening", Address: ln.Addr().String(), Pin: pin}, "listening for TLS%s on %v; clients need --servercert %s unless they trust its authority", also, ln.Addr(), pin)

	hup, stop := reloadSignal()
	defer stop()
	tick := time.NewTicker(sessionInterval)
	defer tick.Stop()
	var seen sessionWatch
	for {
		select {
		case <-ctx.Done():
			bye, cancel := context.WithTimeout(context.Background(), farewell)
			err := gw.Shutdown(bye)
			cancel()
			if errors.Is(err, context.DeadlineExceeded) {
				err = nil // flows that were busy have been cut, as they must be in the end
			}
			return notCanceled(err)
		case err := <-ended:
			return notCanceled(err)
		case <-hup:
			s.reload(r, users, &current)
		case <-tick.C:
			seen.look(r, gw.Sessions())
		}
	}
}

// reload reads the users and the certificate again. What cannot be read stays as it was.
func (s *serveFlags) reload(r *reporter, users *gateway.Users, current *atomic.Pointer[tls.Certificate]) {
	if users != nil {
		if err := users.Reload(); err != nil {
			r.warn("the users stay as they were: %s", oneLine(err.Error()))
		} else {
			r.say(event{Event: "message", Message: "users read"}, "%s read from %s; sessions that are up go on", count(users.Len(), "user"), s.userFile)
		}
	}
	if s.cert == "" {
		return
	}
	cert, err := s.certificate()
	if err != nil {
		r.warn("the certificate stays as it was: %s", oneLine(err.Error()))
		return
	}
	current.Store(&cert)
	pin := gateway.Pin(cert.Leaf)
	r.say(event{Event: "message", Message: "certificate read", Pin: pin}, "certificate read from %s: %s", s.cert, pin)
}

// gatewayConfig makes the configuration of the gateway, but for the certificate.
func (s *serveFlags) gatewayConfig() (gateway.Config, *gateway.Users, error) {
	var err error
	cfg := gateway.Config{
		TLS: &tls.Config{MinVersion: tls.VersionTLS12}, MTU: s.mtu, Compression: s.compression, ClientToClient: s.clientToClient,
		MaxSessions: s.maxSessions, MaxSessionsPerUser: s.perUser, DPD: time.Duration(s.dpd), Keepalive: time.Duration(s.keepalive),
		Rekey: time.Duration(s.rekey), SessionTimeout: time.Duration(s.sessionTimeout), IdleTimeout: time.Duration(s.idleTimeout),
		DisconnectedTimeout: time.Duration(s.grace),
		Network:             gateway.Network{SearchDomains: s.searchDomain, SplitDNS: s.splitDNS, TunnelAllDNS: s.tunnelAllDNS, Banner: s.banner},
	}
	if len(s.pool) == 0 {
		s.pool = []string{"10.20.0.0/24"}
	}
	for _, list := range []struct {
		flag string
		from []string
		to   *[]netip.Prefix
	}{
		{"pool", s.pool, &cfg.Pools}, {"route", s.route, &cfg.Network.Routes}, {"no-route", s.noRoute, &cfg.Network.NoRoutes},
		{"allow-special", s.allowSpecial, &cfg.AllowSpecial},
	} {
		if *list.to, err = prefixes(list.flag, list.from); err != nil {
			return cfg, nil, err
		}
	}
	for _, v := range s.dns {
		addr, err := netip.ParseAddr(v)
		if err != nil {
			return cfg, nil, usagef("--dns %s: want an address, such as 10.0.0.53", oneLine(v))
		}
		cfg.Network.DNS = append(cfg.Network.DNS, addr)
	}
	for _, g := range s.groups {
		name, label, _ := strings.Cut(g, "=")
		if name == "" {
			return cfg, nil, usagef("--group %s: want NAME or NAME=LABEL", oneLine(g))
		}
		cfg.Groups = append(cfg.Groups, gateway.Group{Name: name, Label: label})
	}

	var users *gateway.Users
	if s.userFile != "" {
		if users, err = gateway.LoadUsers(s.userFile); err != nil {
			return cfg, nil, &usageError{err: fmt.Errorf("--user-file: %w", err)}
		}
		if users.Len() == 0 {
			return cfg, nil, usagef("--user-file %s: it holds no user; write one with: htpasswd -B %s NAME", s.userFile, s.userFile)
		}
		cfg.Auth = gateway.Passwords(users)
	}
	if s.clientCA != "" {
		b, err := readSmall(s.clientCA)
		if err != nil {
			return cfg, nil, &usageError{err: fmt.Errorf("--client-ca: %w", err)}
		}
		cfg.TLS.ClientCAs = x509.NewCertPool()
		if !cfg.TLS.ClientCAs.AppendCertsFromPEM(b) {
			return cfg, nil, usagef("--client-ca %s: it holds no certificate in PEM", s.clientCA)
		}
		cfg.TLS.ClientAuth = tls.VerifyClientCertIfGiven
		cfg.Auth = gateway.Certificates{And: cfg.Auth}
	}
	if cfg.Auth == nil {
		return cfg, nil, usagef("nobody could log in: give --user-file FILE with lines NAME:HASH (htpasswd -cB FILE NAME), or --client-ca FILE")
	}
	return cfg, users, nil
}

// prefixes parses the values of a flag. A single address is a prefix of one.
func prefixes(flag string, values []string) ([]netip.Prefix, error) {
	var ps []netip.Prefix
	for _, v := range values {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			addr, err2 := netip.ParseAddr(v)
			if err2 != nil {
				return nil, usagef("--%s %s: want ADDRESS/LENGTH, such as 10.20.0.0/24", flag, oneLine(v))
			}
			p = netip.PrefixFrom(addr, addr.BitLen())
		}
		ps = append(ps, p.Masked())
	}
	return ps, nil
}

// certificate reads or makes the certificate.
func (s *serveFlags) certificate() (tls.Certificate, error) {
	have := func(file string) bool { _, err := os.Stat(file); return err == nil }
	switch {
	case s.cert == "" && s.key != "":
		return tls.Certificate{}, usagef("--key needs --cert")
	case s.selfSigned && s.cert == "":
		cert, _, err := gateway.SelfSigned(s.hosts()...)
		return cert, err
	case s.selfSigned && s.key == "":
		return tls.Certificate{}, usagef("--self-signed with --cert needs --key, to keep the key there")
	case s.selfSigned && !have(s.cert) && !have(s.key):
		cert, _, err := gateway.SelfSigned(s.hosts()...)
		if err == nil {
			err = writePair(cert, s.cert, s.key)
		}
		return cert, err
	case s.cert == "":
		return tls.Certificate{}, usagef("the gateway has no certificate: give --cert FILE and --key FILE, or --self-signed")
	}
	cert, err := loadCertificate(s.cert, s.key, func() (string, error) {
		if s.keyPass == "" {
			return "", errors.New("the key is encrypted: give --key-password-file FILE")
		}
		return firstLine(s.keyPass)
	})
	if err != nil {
		return cert, &usageError{err: fmt.Errorf("--cert: %w", orKey(err, "--key FILE"))}
	}
	return cert, nil
}

// hosts are who a made certificate is for.
func (s *serveFlags) hosts() []string {
	if len(s.names) > 0 {
		return s.names
	}
	var hosts []string
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	host, _, _ := net.SplitHostPort(s.listen)
	if addr, err := netip.ParseAddr(host); err == nil && !addr.IsUnspecified() {
		return append(hosts, addr.WithZone("").String())
	} else if err != nil && host != "" {
		return append(hosts, host)
	}
	as, _ := net.InterfaceAddrs()
	for _, a := range as {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			hosts = append(hosts, p.Addr().String())
		}
	}
	return hosts
}

// listenBoth listens on one port for TLS and, if wanted, DTLS.
func listenBoth(address string, dtls bool) (net.Listener, *net.UDPConn, error) {
	const attempts = 8 // a port that the system has picked may be taken for UDP
	for i := 1; ; i++ {
		ln, err := net.Listen("tcp", address)
		if err != nil {
			return nil, nil, badAddress(fmt.Errorf("--listen: %w", err))
		}
		if !dtls {
			return ln, nil, nil
		}
		// The UDP socket must be of the same families as the TCP one.
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(ln.Addr().(*net.TCPAddr).AddrPort()))
		if err == nil {
			return ln, udp, nil
		}
		ln.Close()
		if _, port, _ := net.SplitHostPort(address); port != "0" || i == attempts {
			return nil, nil, fmt.Errorf("--listen: %w (--no-dtls does without UDP)", err)
		}
	}
}

// serveControl serves "culvert sessions" and returns what stops it.
func (a *app) serveControl(path string, gw controlled) (stop func(), err error) {
	if path == "none" {
		return func() {}, nil
	}
	if path == "" {
		paths := controlPaths(a.getenv, serveSocket)
		if len(paths) == 0 {
			a.reporter().warn("\"culvert sessions\" will not find this gateway: there is no $XDG_RUNTIME_DIR, so give --control PATH")
			return func() {}, nil
		}
		path = paths[0]
	}
	l, err := listenControl("serve", path)
	if err != nil {
		return nil, err
	}
	srv := controlServer(controlHandler(gw))
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	return func() { srv.Close(); <-done }, nil
}

// sessionInterval is how often the sessions are looked at for changes to report.
const sessionInterval = 500 * time.Millisecond

// A sessionWatch reports what has changed since it last looked.
type sessionWatch struct {
	last map[string]gateway.SessionInfo
}

func (w *sessionWatch) look(r *reporter, now []gateway.SessionInfo) {
	next := make(map[string]gateway.SessionInfo, len(now))
	for _, s := range now {
		next[s.ID] = s
		old, known := w.last[s.ID]
		state := sessionState(s)
		switch {
		case known && sessionState(old) == state && old.Path == s.Path && old.Remote == s.Remote && slices.Equal(old.Addresses, s.Addresses):
			continue
		case state == "login":
			r.say(sessionEvent(s, state), "%s logs in from %s", cell(s.User), from(s))
		case state == "connected":
			r.say(sessionEvent(s, state), "%s is connected from %s over %s; address %s", cell(s.User), from(s), pathName(s.Path), join(s.Addresses))
		default:
			r.say(sessionEvent(s, state), "%s has left, or lost the connection; the session waits", cell(s.User))
		}
	}
	for id, s := range w.last {
		if _, ok := next[id]; !ok {
			r.say(sessionEvent(s, "closed"), "the session of %s has ended", cell(s.User))
		}
	}
	w.last = next
}

// sessionState names what a session is doing.
func sessionState(s gateway.SessionInfo) string {
	switch {
	case s.Path != "":
		return "connected"
	case s.Connects == 0:
		return "login"
	}
	return "disconnected"
}

func sessionEvent(s gateway.SessionInfo, state string) event {
	e := event{Event: "session", State: state, Session: s.ID, User: s.User, Addresses: s.Addresses}
	if state == "connected" {
		e.Path = s.Path
	}
	if len(s.Addresses) > 0 {
		e.Address = s.Addresses[0].String()
	}
	if s.Remote.IsValid() {
		e.Remote = s.Remote.String()
	}
	return e
}
