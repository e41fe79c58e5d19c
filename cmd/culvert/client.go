package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"culvert.example/vpn"
	"culvert.example/vpn/policy/certificate"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/policy/profile"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/login/terminal"
	"culvert.example/vpn/transport/trust"
)

// clientFlags are the flags of the commands that connect to a gateway, with openconnect's names.
type clientFlags struct {
	server      string
	user        string
	passwdStdin bool
	authgroup   string
	usergroup   string
	formEntries []string
	nonInter    bool
	tokenMode   string
	tokenSecret string

	certificate     string
	sslkey          string
	keyPasswordFile string

	cafile        string
	noSystemTrust bool
	servercert    []string

	cookie      string
	cookieStdin bool

	noDTLS           bool
	mtu              int
	forceDPD         seconds
	reconnectTimeout seconds
	resolve          []string

	os            string
	useragent     string
	localHostname string

	upstream upstreamFlags

	documents documentFlags
	// plan is what the documents say of the connection, nil if there are none; see govern. Base is the configuration before the way
	// to a gateway is chosen, entry the name of the entry that is dialled, "" for the one that was chosen, and verifier what makes a
	// gateway trusted besides pins, nil without a plan.
	plan  *plan.Plan
	base  *vpn.Config
	entry string
	// unlisted is the name of the gateway if it looks like that of an entry, and there are no profiles.
	unlisted string
	// thumbprint is that of the client certificate that a person has chosen, "" if none was.
	thumbprint string
	verifier   *certificate.Verifier

	pidFile string
	argv    *pflag.FlagSet
}

// platforms are the values of --os, as openconnect has them.
var platforms = []string{"linux", "linux-64", "win", "mac-intel", "android", "apple-ios"}

// addClientFlags adds the flags to a command.
func (a *app) addClientFlags(cmd *cobra.Command) *clientFlags {
	c := &clientFlags{reconnectTimeout: seconds(5 * time.Minute), argv: cmd.Flags()}
	f := cmd.Flags()
	f.SortFlags = false
	a.addConfig(f)
	f.StringVar(&c.server, "server", "", "the gateway, instead of the argument: `HOST[:PORT][/GROUP]` or https://...")

	f.StringVarP(&c.user, "user", "u", "", "log in as `NAME`")
	f.BoolVar(&c.passwdStdin, "passwd-on-stdin", false, "read the password from the first line of standard input")
	f.StringVar(&c.authgroup, "authgroup", "", "choose the connection profile `GROUP`, by name or label")
	f.StringVarP(&c.usergroup, "usergroup", "g", "", "choose the group by the path of the URL: https://host/`GROUP`")
	f.StringArrayVarP(&c.formEntries, "form-entry", "F", nil, "answer a field of a login form, as `FORM:OPT=VALUE` (repeatable)")
	f.BoolVar(&c.nonInter, "non-inter", false, "never ask a person; fail if an answer is missing")
	f.StringVar(&c.tokenMode, "token-mode", "", "make one-time passwords of this `MODE`: totp or hotp")
	f.StringVar(&c.tokenSecret, "token-secret", "", "their `SECRET`: base32:LETTERS, 0xHEX or plain text, or better @FILE with that in it; hotp takes ,COUNTER behind it")

	f.StringVarP(&c.certificate, "certificate", "c", "", "client certificate, PEM or PKCS#12 `FILE`")
	f.StringVarP(&c.sslkey, "sslkey", "k", "", "private key `FILE`, if it is not in that of the certificate")
	f.StringVar(&c.keyPasswordFile, "key-password-file", "", "the first line of `FILE` is the passphrase of the key (default: ask)")

	f.StringVar(&c.cafile, "cafile", "", "trust the certificate authorities in `FILE` (PEM) too")
	f.BoolVar(&c.noSystemTrust, "no-system-trust", false, "do not trust the machine's certificate authorities")
	f.StringArrayVar(&c.servercert, "servercert", nil, "trust only the gateway with the key `PIN`: pin-sha256:BASE64, sha256:HEX or sha1:HEX (repeatable)")

	f.StringVarP(&c.cookie, "cookie", "C", "", "use the session with this `COOKIE` instead of logging in; other users of this machine can see it, so prefer:")
	f.BoolVar(&c.cookieStdin, "cookie-on-stdin", false, "read the cookie from the first line of standard input")

	f.BoolVar(&c.noDTLS, "no-dtls", false, "use TLS only")
	f.IntVarP(&c.mtu, "mtu", "m", 0, "largest inner packet, in `BYTES`")
	f.Var(&c.forceDPD, "force-dpd", "look for a dead gateway after `SECONDS` of silence")
	f.Var(&c.reconnectTimeout, "reconnect-timeout", "give up after `SECONDS` without a connection (-1: never)")
	f.StringArrayVar(&c.resolve, "resolve", nil, "the gateway's address, as `HOST:IP`, instead of a look-up (repeatable)")

	c.upstream.add(f)

	f.StringVar(&c.os, "os", "", "report the operating system `OS`: "+strings.Join(platforms, ", "))
	f.StringVar(&c.useragent, "useragent", "", "report the client `NAME` in the User-Agent header")
	f.StringVar(&c.localHostname, "local-hostname", "", "report `NAME` as that of this machine (default: none)")
	f.StringVar(&c.pidFile, "pid-file", "", "write the process id to `FILE` once all is up, remove it at the end")

	f.Bool("no-cert-check", false, "refused: see --servercert")
	f.StringP("key-password", "p", "", "refused: see --key-password-file")
	f.MarkHidden("no-cert-check")
	f.MarkHidden("key-password")
	markSecret(f, "cookie")
	markSecret(f, "token-secret")
	markSecret(f, "form-entry")

	cmd.RegisterFlagCompletionFunc("os", cobra.FixedCompletions(platforms, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("token-mode", cobra.FixedCompletions([]string{"totp", "hotp"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// blame returns the error of a login, and says where the password came from that the gateway has refused.
func (c *clientFlags) blame(err error) error {
	if rejected := (*login.RejectedError)(nil); c.passwdStdin && errors.As(err, &rejected) {
		return &refusedError{rejected}
	}
	return err
}

// gatewayArg is the Args of a command that takes GATEWAY, which may also come from --server or a file.
func gatewayArg(_ *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("unexpected argument %q", args[1])
	}
	return nil
}

// completeGateway offers the entries of the profiles of this machine.
func (a *app) completeGateway(_ *cobra.Command, args []string, _ string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	dirs := profile.Directories(runtime.GOOS, profile.VPN, a.getenv, "", false)
	if all, err := profile.LoadDirectories(dirs, false); err == nil {
		for _, h := range all.Hosts() {
			names = append(names, cobra.CompletionWithDesc(h.Name, oneLine(h.Address)))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// target returns the URL of the gateway.
func (c *clientFlags) target(args []string) (string, error) {
	server := c.typed(args)
	if c.plan != nil && c.plan.Listed {
		var err error
		if server, err = listedURL(c.plan, c.plan.Servers[0], ""); err != nil {
			return "", err
		}
	}
	if server == "" {
		return "", usagef("GATEWAY is missing: give HOST[:PORT][/GROUP] or a URL")
	}
	return c.locate(server)
}

// typed returns the gateway as it was named, or "".
func (c *clientFlags) typed(args []string) string {
	if len(args) == 1 {
		return args[0]
	}
	return c.server
}

// locate returns the URL of a gateway that somebody has named, and makes it the one whose proxy is chosen.
func (c *clientFlags) locate(server string) (string, error) {
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil {
		return "", usagef("gateway: %w", err)
	}
	if u.Scheme != "https" {
		return "", usagef("gateway %s: only https is possible", oneLine(server))
	}
	if u.Hostname() == "" {
		return "", usagef("gateway %s: it has no host name", oneLine(server))
	}
	if u.User != nil {
		return "", usagef("gateway: give the user with --user and the password with --passwd-on-stdin, not in the URL")
	}
	if c.usergroup != "" {
		u.Path, u.RawPath = "/"+strings.TrimPrefix(c.usergroup, "/"), ""
	}
	c.upstream.gateway = u
	return u.String(), nil
}

// warnOfSecrets tells which secrets others can see on the command line, and refuses what is not safe.
func (c *clientFlags) warnOfSecrets(a *app, fromFile func(string) bool) error {
	if c.argv.Changed("no-cert-check") {
		return &usageError{
			err: errors.New("--no-cert-check is refused: without a check anybody between here and the gateway can read the password and the traffic"),
			hint: "Connect once without it: the error names the key of the gateway. If that is the right one, trust exactly this key with\n" +
				"    --servercert pin-sha256:...\n" +
				"or give its certificate authority with --cafile FILE.",
		}
	}
	if c.argv.Changed("key-password") {
		return usagef("--key-password is refused: other users of this machine could read it; use --key-password-file, or answer at the terminal")
	}
	if c.cookie != "" && !fromFile("cookie") {
		a.reporter().warn("other users of this machine can read the cookie from the command line; use --cookie-on-stdin")
	}
	if c.tokenSecret != "" && !strings.HasPrefix(c.tokenSecret, "@") && !fromFile("token-secret") {
		a.reporter().warn("other users of this machine can read the token secret from the command line; use --token-secret @FILE")
	}
	return nil
}

// config makes the configuration of the tunnel, and the switch by which the person is not asked any more.
func (c *clientFlags) vpnConfig(ctx context.Context, a *app) (*vpn.Config, *asker, error) {
	if err := c.warnOfSecrets(a, a.fromFile); err != nil {
		return nil, nil, err
	}
	cfg := &vpn.Config{
		Group: c.authgroup, Pins: c.servercert, NoDTLS: c.noDTLS, MTU: c.mtu, DPD: time.Duration(c.forceDPD),
		ReconnectTimeout: time.Duration(c.reconnectTimeout), UserAgent: c.useragent, OS: c.os, Hostname: c.localHostname,
		Logger: a.reporter().logger(a.verbose),
	}
	if err := trust.Pins(c.servercert).Check(); err != nil {
		return nil, nil, usagef("--servercert: %w", err)
	}
	if c.mtu != 0 && (c.mtu < 576 || c.mtu > 9000) {
		return nil, nil, usagef("--mtu %d: want 576 to 9000", c.mtu)
	}
	if c.os != "" && !contains(platforms, c.os) {
		return nil, nil, usagef("--os %s: want one of %s", oneLine(c.os), strings.Join(platforms, ", "))
	}
	var err error
	if cfg.Resolve, err = parseResolve(c.resolve); err != nil {
		return nil, nil, err
	}
	if cfg.Cookie, err = c.readCookie(a); err != nil {
		return nil, nil, err
	}
	ask, err := c.asker(a)
	if err != nil {
		return nil, nil, err
	}
	cfg.Login = ask
	if cfg.TLS, err = c.tls(ctx, ask); err != nil {
		return nil, nil, err
	}
	if c.plan != nil {
		if err := c.obey(ctx, a, cfg, ask); err != nil {
			return nil, nil, err
		}
	}
	c.base = cfg
	if cfg, err = c.reach(a); err != nil {
		return nil, nil, err
	}
	return cfg, ask, nil
}

// reach returns the configuration for the gateway that was located last.
func (c *clientFlags) reach(a *app) (*vpn.Config, error) {
	cfg := *c.base
	if c.plan != nil {
		var err error
		if cfg.TLS, err = c.trusted(cfg.TLS, c.plan.PinsOf(c.entry)); err != nil {
			return nil, err
		}
	}
	if err := c.upstream.apply(a, c.argv, &cfg); err != nil {
		return nil, forbiddenProxy(c.plan, err)
	}
	return &cfg, nil
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

// parseResolve parses the values of --resolve.
func parseResolve(values []string) (map[string]netip.Addr, error) {
	m := make(map[string]netip.Addr, len(values))
	for _, v := range values {
		host, ip, ok := strings.Cut(v, ":")
		addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]"))
		if !ok || host == "" || err != nil {
			return nil, usagef("--resolve %s: want HOST:IP", oneLine(v))
		}
		m[strings.ToLower(host)] = addr
	}
	return m, nil
}

// readCookie returns the cookie to connect with, or "".
func (c *clientFlags) readCookie(a *app) (transport.Secret, error) {
	s := c.cookie
	if c.cookieStdin {
		if s != "" {
			return "", usagef("--cookie and --cookie-on-stdin exclude each other")
		}
		var err error
		if s, err = a.line("cookie"); err != nil {
			return "", err
		}
	}
	return parseCookie(s)
}

// parseCookie takes what openconnect prints as COOKIE: the bare value, or several cookies of which webvpn is the one.
func parseCookie(s string) (transport.Secret, error) {
	s = strings.TrimSpace(s)
	s = strings.TrimPrefix(s, "COOKIE=")
	s = strings.Trim(s, "'\"")
	if v, ok := cutCookie(s); ok {
		s = v
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == ';' || c == ',' || c == '"' || c == '\\' {
			return "", usagef("the cookie has characters that no cookie has: give the value alone, as connect --cookieonly prints it")
		}
	}
	return transport.Secret(s), nil
}

func cutCookie(s string) (string, bool) {
	for part := range strings.SplitSeq(s, ";") {
		if v, ok := strings.CutPrefix(strings.TrimSpace(part), "webvpn="); ok {
			return v, true
		}
	}
	return "", false
}

// asker returns what answers the gateway's questions.
func (c *clientFlags) asker(a *app) (*asker, error) {
	fixed := login.Fixed{Username: c.user, Entries: make(map[string]transport.Secret)}
	for _, e := range c.formEntries {
		field, value, ok := strings.Cut(e, "=")
		if form, opt, ok2 := strings.Cut(field, ":"); !ok || !ok2 || form == "" || opt == "" {
			return nil, usagef("--form-entry: want FORM:OPT=VALUE; -v shows the names of the forms and their fields")
		}
		fixed.Entries[field] = transport.Secret(value)
	}
	if c.passwdStdin {
		p, err := a.line("password")
		if err != nil {
			return nil, err
		}
		fixed.Password = transport.Secret(p)
	}
	token, err := c.token(a.reporter())
	if err != nil {
		return nil, err
	}
	ask := &asker{auto: fixed, repeat: c.passwdStdin || c.certificate != "" || token != nil}
	if token != nil {
		ask.auto = login.Chain(token, fixed) // a challenge may ask for its code under the name password
	}
	if !c.nonInter {
		ask.person = terminal.New(nil, nil)
	}
	return ask, nil
}

// An asker answers from memory first, and asks a person for the rest as long as somebody waits for the command.
type asker struct {
	auto   login.Prompter
	person login.Prompter // nil with --non-inter
	repeat bool           // auto knows secrets, so a new login may succeed without a person
	alone  atomic.Bool
}

// Answer implements login.Prompter.
func (p *asker) Answer(ctx context.Context, f *login.Form) error {
	if p.person == nil || p.alone.Load() {
		return p.auto.Answer(ctx, f)
	}
	return login.Chain(p.auto, p.person).Answer(ctx, f)
}

// Unattended reports whether a new login may be tried when the session has expired.
func (p *asker) Unattended() bool { return p.repeat }

// leaveAlone keeps the person from being asked from now on, when the command is a service.
func (p *asker) leaveAlone() { p.alone.Store(true) }

// secret asks the person for a secret that is not the gateway's business.
func (p *asker) secret(ctx context.Context, label string) (string, error) {
	if p.person == nil {
		return "", fmt.Errorf("%s: %w", label, login.ErrCannot)
	}
	f := &login.Form{Gateway: "this machine", Attempt: 1, Fields: []login.Field{{Name: "passphrase", Label: label, Kind: login.Password}}}
	if err := p.person.Answer(ctx, f); err != nil {
		return "", err
	}
	return f.Fields[0].Value.Reveal(), nil
}

// tls makes the TLS configuration: authorities and the client's certificate. It returns nil if the defaults are wanted.
func (c *clientFlags) tls(ctx context.Context, ask *asker) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.cafile != "" || c.noSystemTrust {
		pool := x509.NewCertPool()
		if !c.noSystemTrust {
			if sys, err := x509.SystemCertPool(); err == nil {
				pool = sys
			}
		}
		if c.cafile != "" {
			b, err := readSmall(c.cafile)
			if err != nil {
				return nil, &usageError{err: fmt.Errorf("--cafile: %w", err)}
			}
			if !pool.AppendCertsFromPEM(b) {
				return nil, usagef("--cafile %s: it holds no certificate in PEM", c.cafile)
			}
		}
		cfg.RootCAs = pool
	}
	if c.certificate == "" && c.sslkey != "" {
		return nil, usagef("--sslkey needs --certificate")
	}
	if c.certificate != "" {
		passphrase := func() (string, error) {
			if c.keyPasswordFile != "" {
				return firstLine(c.keyPasswordFile)
			}
			return ask.secret(ctx, "Passphrase of "+c.certificate)
		}
		cert, err := loadCertificate(c.certificate, c.sslkey, passphrase)
		if errors.Is(err, login.ErrCannot) {
			return nil, err
		}
		if err != nil {
			return nil, &usageError{err: fmt.Errorf("--certificate: %w", orKey(err, "--sslkey FILE"))}
		}
		cfg.Certificates = []tls.Certificate{cert}
	}
	return cfg, nil
}

// firstLine returns the first line of a small file.
func firstLine(file string) (string, error) {
	b, err := readSmall(file)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimRight(line, "\r"), nil
}

// readSmall reads a file of at most 1 MiB.
func readSmall(file string) ([]byte, error) {
	fi, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if fi.Size() > maxConfig {
		return nil, fmt.Errorf("%s: larger than %d bytes", file, maxConfig)
	}
	return os.ReadFile(file)
}

// seconds is a duration that is written as a number of seconds, as openconnect does, or like 5m.
type seconds time.Duration

// Set implements pflag.Value.
func (s *seconds) Set(v string) error {
	if n, err := strconv.Atoi(v); err == nil {
		if n > 1<<30 || n < -1 {
			return errors.New("out of range")
		}
		*s = seconds(time.Duration(n) * time.Second)
		return nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		return errors.New("want a number of seconds, or a duration such as 5m")
	}
	*s = seconds(d)
	return nil
}

// String implements pflag.Value.
func (s *seconds) String() string {
	d := time.Duration(*s)
	if d%time.Second != 0 {
		return d.String()
	}
	return strconv.Itoa(int(d / time.Second))
}

// Type implements pflag.Value.
func (s *seconds) Type() string { return "seconds" }
