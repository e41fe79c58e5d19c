package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"culvert.example/vpn"
	"culvert.example/vpn/proxy"
	"culvert.example/vpn/split"
)

// proxyFlags are the flags of the proxy command that are not about the gateway.
type proxyFlags struct {
	listen     []string
	listenAuth string
	allowOpen  bool
	noDirect   bool
	forwards   []string
}

func (a *app) proxy() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "proxy [flags] GATEWAY",
		Short: "Connect to a gateway and serve a SOCKS5 and HTTP proxy to what is behind it",
		Long: `Proxy connects to an AnyConnect-compatible gateway, without root, and serves a proxy for what lies behind it: SOCKS5 with
TCP and UDP, SOCKS4a, and HTTP with CONNECT and plain requests, all on one port. Names are resolved inside the tunnel.
For programs that know no proxy, --local-forward binds a port of this machine to one destination, as ssh and ocproxy do.
The tunnel prefers DTLS, falls back to TLS, and reconnects by itself; connections through it wait meanwhile. What the gateway's
split rules leave outside the tunnel is reached directly from this machine, which the command tells once; --no-direct refuses it.

SIGINT and SIGTERM log out and end the command. SIGUSR1 prints the state, SIGUSR2 checks the paths to the gateway at once.

GATEWAY may be the name of an entry of a VPN profile, --profile or one in the usual places. Its address, group, backup servers and
settings count then, but for those that are about the whole machine, which are named. The local policy counts whenever there is one.

` + exitHelp,
		Example: `  culvert proxy --user alice vpn.example.com
  printf '%s\n' "$PASSWORD" | culvert proxy -u alice --passwd-on-stdin --listen 127.0.0.1:1080 https://vpn.example.com/group
  curl --socks5-hostname 127.0.0.1:1080 http://intranet.corp.example/
  https_proxy=http://127.0.0.1:1080 git fetch
  culvert proxy -L 5432:db.corp.example:5432 -L 8022:[fd00:20::7]:22 vpn.example.com`,
		Args: gatewayArg, ValidArgsFunction: a.completeGateway,
	}
	c := a.addClientFlags(cmd)
	var p proxyFlags
	f := cmd.Flags()
	f.StringArrayVar(&p.listen, "listen", []string{"127.0.0.1:1080"}, "serve the proxy on `ADDR:PORT` (repeatable)")
	f.StringVar(&p.listenAuth, "listen-auth", "", "clients of the proxy must give a user and password that `FILE` has as a line USER:PASSWORD")
	f.BoolVar(&p.allowOpen, "allow-open", false, "let everybody who reaches the port use the proxy")
	f.BoolVar(&p.noDirect, "no-direct", false, "refuse destinations that the gateway leaves outside the tunnel, instead of reaching them directly")
	f.StringArrayVarP(&p.forwards, "local-forward", "L", nil, "carry connections to local PORT through the tunnel to HOST:HOSTPORT, as `[BIND:]PORT:HOST:HOSTPORT` says (repeatable); BIND is 127.0.0.1 unless given, * stands for all addresses")
	c.documents.add(f)
	cmd.RegisterFlagCompletionFunc("local-forward", cobra.NoFileCompletions)
	cmd.RegisterFlagCompletionFunc("listen", cobra.NoFileCompletions)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.runProxy(cmd.Context(), c, &p, args)
	}
	return cmd
}

// runProxy opens the port, then the tunnel, and carries connections until one of them or the command ends.
func (a *app) runProxy(ctx context.Context, c *clientFlags, p *proxyFlags, args []string) error {
	a.endure()
	if err := c.govern(a, args, false); err != nil {
		return err
	}
	server, err := c.target(args)
	if err != nil {
		return err
	}
	auth, err := a.proxyAuth(p.listenAuth)
	if err != nil {
		return err
	}
	// What is wrong on this side shows before a password is asked for or a one-time code is spent.
	forwards, err := parseForwards(p.forwards)
	if err != nil {
		return err
	}
	listeners, err := listen("listen", p.listen)
	if err != nil {
		return err
	}
	defer closeAll(listeners)
	srv := &proxy.Server{Auth: auth, AllowOpen: p.allowOpen}
	for _, l := range listeners {
		if err := srv.Permits(l.Addr()); err != nil {
			return &usageError{err: err, hint: "Listen on 127.0.0.1, give --listen-auth FILE with a line USER:PASSWORD, or, where a firewall protects the port, --allow-open."}
		}
	}
	entrances, err := listenForwards(forwards)
	if err != nil {
		return err
	}
	defer closeAll(entrances)
	c.remind(a)
	c.sayUnapplied(a)
	r := a.reporter()
	keeper := newDoorkeeper(c.plan, split.Rules{}, r.logger(a.verbose))
	if err := keeper.admit(ctx); err != nil {
		return err
	}
	cfg, ask, err := c.vpnConfig(ctx, a)
	if err != nil {
		return err
	}
	outside := direct(r, p.noDirect)
	var t *vpn.Tunnel
	if err := c.each(ctx, a, server, func(server string, cfg *vpn.Config) (err error) {
		cfg.Direct = outside
		t, err = vpn.Dial(ctx, server, cfg)
		return err
	}); err != nil {
		return err
	}
	defer t.Close()
	ask.leaveAlone()
	c.remember(a)
	if banner := oneLine(t.Status().Banner); banner != "" {
		r.say(event{Event: "message", Message: banner}, "the gateway says: %s", banner)
	}

	dial := dialer(t)
	srv.Dial, srv.Logger = dial, cfg.Logger
	defer srv.Close()
	fwd := a.forwarder(dial, cfg.Logger)
	defer fwd.Close()
	ended := make(chan error, len(listeners)+len(entrances))
	for _, l := range listeners {
		go func() { ended <- srv.Serve(l) }()
	}
	for i, l := range entrances {
		go func() { ended <- fwd.Forward(l, forwards[i].target) }()
	}
	watching, unwatch := context.WithCancel(context.Background())
	defer unwatch()
	states := tell(r, t)
	go watchNetwork(watching, t)
	go watchSignals(watching, r, t)
	over := make(chan error, 1)
	go keeper.watch(watching, over)
	for _, l := range listeners {
		r.say(event{Event: "listen", State: "listening", Address: l.Addr().String()}, "listening for SOCKS5 and HTTP on %v", l.Addr())
	}
	for i, l := range entrances {
		to := forwards[i].target
		r.say(event{Event: "forward", State: "listening", Address: l.Addr().String(), Target: to}, "%v leads to %s", l.Addr(), to)
	}
	defer states.stop(t)
	remove, err := writePID(c.pidFile)
	if err != nil {
		return err
	}
	defer remove()

	select {
	case <-ctx.Done():
		err = nil
	case <-t.Done():
		err = t.Err()
	case err = <-ended:
	case err = <-over:
	}
	states.stop(t)
	srv.Close()
	fwd.Close()
	select {
	case <-t.Done():
	default:
		t.Close()
		r.say(event{Event: "tunnel", State: "closed"}, "logged out")
	}
	return notCanceled(err)
}

// A dialFunc connects through the tunnel.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// dialer lets the proxy tell its clients why something is not reached.
func dialer(t *vpn.Tunnel) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := t.DialContext(ctx, network, address)
		switch {
		case errors.Is(err, vpn.ErrDenied), errors.Is(err, errNoDirect):
			return nil, fmt.Errorf("%w: %w", proxy.ErrNotAllowed, err)
		case errors.Is(err, vpn.ErrNoRoute):
			return nil, fmt.Errorf("%w: %w", syscall.ENETUNREACH, err)
		}
		return conn, err
	}
}

// listen opens the ports that a flag names, all or none. There must be at least one.
func listen(flag string, addresses []string) ([]net.Listener, error) {
	var ls []net.Listener
	for _, addr := range addresses {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			closeAll(ls)
			return nil, badAddress(fmt.Errorf("--%s: %w", flag, err))
		}
		ls = append(ls, l)
	}
	if len(ls) == 0 {
		return nil, usagef("--%s: no address to listen on", flag)
	}
	return ls, nil
}

// badAddress makes an error of listening a mistake of the command line if the address is none.
func badAddress(err error) error {
	if invalid := (*net.AddrError)(nil); errors.As(err, &invalid) {
		return usagef("%w; want ADDR:PORT, such as 127.0.0.1:1080, or :PORT", err)
	}
	return err
}

func closeAll(ls []net.Listener) {
	for _, l := range ls {
		l.Close()
	}
}

// proxyAuth reads the file of --listen-auth.
func (a *app) proxyAuth(file string) (func(user, password string) bool, error) {
	if file == "" {
		return nil, nil
	}
	b, err := readSmall(file)
	if err != nil {
		return nil, &usageError{err: fmt.Errorf("--listen-auth: %w", err)}
	}
	var users []func(user, password string) bool
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimRight(lines.Text(), "\r")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		user, password, ok := strings.Cut(line, ":")
		if !ok || user == "" || password == "" {
			return nil, usagef("--listen-auth %s:%d: want USER:PASSWORD", file, n)
		}
		if len(user) > 255 || len(password) > 255 {
			return nil, usagef("--listen-auth %s:%d: SOCKS5 has room for 255 bytes of user and of password", file, n)
		}
		users = append(users, proxy.Password(user, password))
	}
	if err := lines.Err(); err != nil {
		return nil, &usageError{err: fmt.Errorf("--listen-auth %s: %w", file, err)}
	}
	if len(users) == 0 {
		return nil, usagef("--listen-auth %s: it holds no line USER:PASSWORD", file)
	}
	a.checkPrivate(file, "listen-auth")
	return func(user, password string) bool {
		ok := false
		for _, check := range users { // all of them, so that the time tells nothing
			if check(user, password) {
				ok = true
			}
		}
		return ok
	}, nil
}
