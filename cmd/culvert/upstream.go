package main

import (
	"errors"
	"net"
	"net/url"

	"github.com/spf13/pflag"

	"culvert.example/vpn"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/transport"
	"culvert.example/vpn/transport/upstream"
)

// upstreamFlags say through which proxy the gateway is reached, with openconnect's names.
type upstreamFlags struct {
	proxy   string
	noProxy bool
	auth    string
	file    string

	gateway *url.URL
	// sources is what else has a say: the profile and the desktop. Whoever knows them sets it before vpnConfig.
	sources upstream.Sources
	// dialer is the one in use, or nil. Its Dial may be set before the tunnel is opened, such as to mark the socket.
	dialer *upstream.Dialer
	// dial reaches the proxy, such as past the tunnel. Nil means vpn.Config.Dial.
	dial vpn.DialFunc
	// warned says that the warning about the password was given, and choice which proxy was chosen and why.
	warned bool
	choice string
}

// add adds the flags to a command.
func (u *upstreamFlags) add(f *pflag.FlagSet) {
	f.StringVarP(&u.proxy, "proxy", "P", "", "reach the gateway through the proxy `URL`: [http://|https://|socks5://][USER[:PASSWORD]@]HOST[:PORT] (default: https_proxy and all_proxy of the environment)")
	f.BoolVar(&u.noProxy, "no-proxy", false, "reach the gateway directly, whatever the environment says")
	f.StringVar(&u.auth, "proxy-auth", "", "show a password to the proxy only by these `METHODS`: digest, basic or both, with a comma (default: digest, else basic)")
	f.StringVar(&u.file, "proxy-password-file", "", "the first line of `FILE` is the password for the proxy, so that other users of this machine cannot see it")
	f.Bool("libproxy", false, "refused: see --proxy")
	f.MarkHidden("libproxy")
	markSecret(f, "proxy")
}

// apply makes cfg reach the gateway through the proxy that is chosen, if any.
func (u *upstreamFlags) apply(a *app, argv *pflag.FlagSet, cfg *vpn.Config) error {
	if argv.Changed("libproxy") {
		return usagef("--libproxy is refused: it may run PAC files, which are programs from the network; name the proxy with --proxy")
	}
	methods, err := upstream.ParseMethods(u.auth)
	if err != nil {
		return usagef("--proxy-auth: %w", err)
	}
	u.dialer = nil
	s := u.sources
	s.Explicit, s.None, s.Getenv = u.proxy, u.noProxy, a.getenv
	if s.Explicit != "" && s.None {
		return usagef("--proxy and --no-proxy exclude each other")
	}
	s.Gateway = gatewayAddress(u.gateway)
	choice, err := upstream.Choose(s)
	switch {
	case errors.Is(err, upstream.ErrPAC):
		return &usageError{err: err, hint: "Name the proxy with --proxy URL, or go without one with --no-proxy."}
	case err != nil:
		return &usageError{err: err, hint: "See --proxy and --no-proxy in --help."}
	}
	u.choice = choice.String()
	if choice.Proxy == nil {
		if u.file != "" {
			return usagef("--proxy-password-file: no proxy is used (%s)", choice.Reason)
		}
		return nil
	}
	p := *choice.Proxy
	if p.Password != "" && u.proxy != "" && !a.fromFile("proxy") && !u.warned {
		u.warned = true
		a.reporter().warn("other users of this machine can read the password of the proxy from the command line; use --proxy-password-file")
	}
	if u.file != "" {
		if p.User == "" || p.Password != "" {
			return usagef("--proxy-password-file: the proxy must be named as USER@HOST:PORT, without a password")
		}
		line, err := firstLine(u.file)
		if err != nil {
			return &usageError{err: err}
		}
		p.Password = transport.Secret(line)
	}
	if cfg.Logger != nil {
		cfg.Logger.Info("the gateway is reached through a proxy, so by TLS only", "proxy", p.String(), "reason", choice.Reason)
	}
	u.dialer = &upstream.Dialer{Proxy: p, TLS: cfg.TLS, Methods: methods, NoLocal: s.NoLocal, UserAgent: cfg.UserAgent, Logger: cfg.Logger, Dial: cfg.Dial}
	if u.dial != nil {
		u.dialer.Dial = u.dial
	}
	cfg.Dial = u.dialer.DialContext
	return nil
}

// forbiddenProxy returns the error of apply as the refusal of a setting of the profile that it is, if it is one.
func forbiddenProxy(p *plan.Plan, err error) error {
	path := ""
	switch {
	case p == nil || p.Profile == nil:
		return err
	case errors.Is(err, upstream.ErrLocal):
		path = "AllowLocalProxyConnections"
	case errors.Is(err, upstream.ErrLocked):
		path = "ProxySettings"
	default:
		return err
	}
	r := p.Refuse(path, err.Error())
	r.Err = err
	return r
}

// gatewayAddress returns the host:port of the gateway's URL.
func gatewayAddress(u *url.URL) string {
	if u == nil {
		return "gateway.invalid:443"
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
}
