package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/host/certificates"
	"culvert.example/vpn/policy/certificate"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/policy/profile"
	"culvert.example/vpn/proxy"
	"culvert.example/vpn/transport/login"
	"culvert.example/vpn/transport/upstream"
)

// A host is a gateway of the menu.
type host struct {
	name string
	// entry is what the profiles call it, or would.
	entry string
	// servers are its address and those of its backups, as vpn.Dial takes them.
	servers []string
}

// A view shows the model. Only one call happens at a time.
type view interface{ show(m model, now time.Time) }

// A notifier brings up messages. It does not keep the caller waiting.
type notifier interface{ notify(n notice) }

// A network can be made worse, for the demonstration.
type network interface {
	set(f faults)
	end()
}

// An app connects and disconnects as the user wants, and tells the view and the notifier how it stands.
//
// One goroutine, that of run, has the model. Whatever happens elsewhere, clicks, answers, changes of the tunnel, comes to it through
// a channel, so that there is nothing to lock.
type app struct {
	hosts   []host
	config  vpn.Config
	asker   asker
	user    string
	prefs   *choices
	wallets map[*profile.Profile]*wallet // by the profile that is in force, so that its gateways share what is opened once
	getenv  func(string) string
	view    view
	notes   notifier
	machine machine // empty if it cannot be asked for
	faulty  network // nil without the demonstration
	step    time.Duration
	logger  *slog.Logger

	commands chan string
	events   chan func()
	stopped  chan struct{} // closed when run returns, so that nobody waits for it
	tunnel   atomic.Pointer[vpn.Tunnel]

	m, shown  model
	session   context.CancelCauseFunc // ends the session; nil if there is none
	quitting  bool
	cycleFrom time.Time
	work      sync.WaitGroup
}

// tick is how often the counters are shown.
const tick = time.Second

// expiryWarning is how long before the end of a session the user is told.
const expiryWarning = 10 * time.Minute

var errLost = errors.New("the connection was lost, and AutoReconnect is false")

// These are why sessions end that nobody has to be told about.
var (
	errUser = errors.New("the user disconnects")
	errQuit = errors.New("the program ends")
)

// newApp prepares an app whose other fields the caller completes before run. The proxy is the address that run will serve.
func newApp(hosts []host, prefs *choices, proxy string) *app {
	a := &app{
		hosts: hosts, prefs: prefs, logger: slog.New(slog.DiscardHandler), wallets: map[*profile.Profile]*wallet{}, getenv: environment(proxy),
		commands: make(chan string), events: make(chan func()), stopped: make(chan struct{}),
	}
	a.m.proxy, a.m.boxes = proxy, prefs.boxes()
	for _, h := range hosts {
		a.m.hosts = append(a.m.hosts, h.name)
	}
	return a
}

// do carries out a command of the menu. It may be called from any goroutine, also after run has returned.
func (a *app) do(command string) {
	select {
	case a.commands <- command:
	case <-a.stopped:
	}
}

// post runs f on the goroutine that has the model.
func (a *app) post(f func()) {
	select {
	case a.events <- f:
	case <-a.stopped:
	}
}

// run serves the proxy on l and carries out commands until one of them is to quit or ctx ends. All that it has started has ended when
// it returns.
func (a *app) run(ctx context.Context, l net.Listener) error {
	server := &proxy.Server{Dial: a.dial, Logger: a.logger}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	inner, cancel := context.WithCancel(ctx)
	defer func() {
		close(a.stopped)
		cancel()
		_ = server.Close() // it says why it could not have gone on, which matters no more
		<-served
		a.work.Wait()
	}()

	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	if len(a.machine) > 0 {
		a.work.Go(func() { a.watchMachine(inner) })
	}
	if len(a.hosts) > 0 {
		// One that is refused comes to nothing, and connect says why.
		if p, _ := a.prefs.plan(a.hosts[0].entry); p.Effective.Settings().AutoConnectOnStart {
			a.connect(inner, 0)
		}
	}
	quit := ctx.Done()
	for {
		a.show(time.Now())
		if a.quitting && a.session == nil {
			return nil
		}
		select {
		case command := <-a.commands:
			a.command(inner, command)
		case f := <-a.events:
			f()
		case now := <-ticks.C:
			a.tick(now)
		case <-quit:
			quit = nil
			a.quit()
		case err := <-served:
			served <- err
			return fmt.Errorf("the proxy has ended: %w", err)
		}
	}
}

// show brings the model to the view, and what has changed to the notifier.
func (a *app) show(now time.Time) {
	a.view.show(a.m, now)
	for _, n := range notices(a.shown, a.m) {
		if !a.quitting {
			a.notes.notify(n)
		}
	}
	a.shown = a.m
}

func (a *app) command(ctx context.Context, command string) {
	if n, ok := strings.CutPrefix(command, cmdConnect); ok {
		if i, err := strconv.Atoi(n); err == nil && i >= 0 && i < len(a.hosts) {
			a.connect(ctx, i)
		}
		return
	}
	if name, ok := strings.CutPrefix(command, cmdPreference); ok {
		if err := a.prefs.toggle(name); err != nil {
			a.notes.notify(notice{topic: topicTrouble, title: "The preference is not saved", body: line(err.Error()), urgent: true})
		}
		a.m.boxes = a.prefs.boxes()
		return
	}
	if name, ok := strings.CutPrefix(command, cmdFault); ok {
		a.fault(name)
		return
	}
	switch command {
	case cmdDisconnect:
		a.disconnect(errUser)
	case cmdMachine:
		a.leaveMachine(ctx)
	case cmdAnswer:
		a.asker.again()
	case cmdBanner:
		if title, banner := "Message from "+a.m.host, text(a.m.status.Banner); banner != "" {
			a.work.Go(func() {
				if err := a.asker.show(ctx, title, banner); err != nil && ctx.Err() == nil {
					a.post(func() {
						a.notes.notify(notice{topic: topicTrouble, title: "The banner cannot be shown", body: line(err.Error())})
					})
				}
			})
		}
	case cmdQuit:
		a.quit()
	}
}

func (a *app) quit() {
	a.quitting = true
	a.disconnect(errQuit)
}

func (a *app) disconnect(cause error) {
	if a.session == nil {
		return
	}
	a.session(cause)
	a.m.state = disconnecting
}

// connect starts a session with a host, unless there is one.
func (a *app) connect(ctx context.Context, i int) {
	if a.session != nil || a.quitting {
		return
	}
	h := a.hosts[i]
	ctx, a.session = context.WithCancelCause(ctx)
	a.m.state, a.m.host, a.m.problem, a.m.status, a.m.asking = connecting, h.name, "", vpn.Status{}, false
	p, err := a.prefs.plan(h.entry)
	if a.wallets[p.Profile] == nil {
		a.wallets[p.Profile] = &wallet{}
	}
	config, w := a.configFor(p), a.wallets[p.Profile]
	a.work.Go(func() {
		if err == nil {
			err = a.hold(ctx, h, p, config, w)
		}
		a.tunnel.Store(nil)
		a.post(func() { a.ended(ctx, err) })
	})
}

// configFor returns the configuration that a plan demands, but for what differs between a gateway and the proxy on the way to it.
func (a *app) configFor(p *plan.Plan) vpn.Config {
	c := a.config
	c.Login = login.PrompterFunc(a.ask)
	if a.user != "" {
		c.Login = login.Chain(login.Fixed{Username: a.user}, c.Login)
	}
	c.TLS, c.NoDTLS = p.TLS.Config(c.TLS), c.NoDTLS || p.NoDTLS
	if p.Profile != nil {
		c.LoginTimeout, c.IPProtocols = p.AuthenticationTimeout, p.IPProtocols
	}
	return c
}

// ask puts a question to the user, which the model shows.
func (a *app) ask(ctx context.Context, f *login.Form) error {
	a.post(func() { a.m.asking = true })
	defer a.post(func() { a.m.asking = false })
	return a.asker.Answer(ctx, f)
}

// hold opens a tunnel to the host and follows it until it ends or ctx does. It returns why it has ended.
func (a *app) hold(ctx context.Context, h host, p *plan.Plan, c vpn.Config, w *wallet) error {
	if p.Message.Show {
		if err := a.asker.confirm(ctx, "Before you connect to "+h.name, p.Message.Text); err != nil {
			return err
		}
		a.post(func() {
			if err := a.prefs.edit(p.Shown); err != nil {
				a.notes.notify(notice{topic: topicTrouble, title: "The message will be shown again", body: line(err.Error())})
			}
		})
	}
	outer := c.TLS // a proxy is asked for no pinned key, and gets no certificate
	c.TLS = &tls.Config{}
	if outer != nil {
		c.TLS = outer.Clone()
	}
	c.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return w.open(ctx, p.Certificates, login.PrompterFunc(a.ask), func(text string) {
			a.post(func() { a.notes.notify(notice{topic: topicTrouble, title: "Client certificates", body: text}) })
		})
	}
	if pins := p.Certificates.Pins; pins != nil {
		checked, err := (&certificate.Verifier{Pins: pins}).Config(c.TLS)
		if err != nil {
			return err
		}
		c.TLS = checked
	}
	var t *vpn.Tunnel
	var err error
	for i, server := range h.servers {
		to := c
		if to.Dial, err = a.through(p, server, outer); err != nil {
			return err
		}
		if t, err = vpn.Dial(ctx, server, &to); err == nil || ctx.Err() != nil || !elsewhere(err) {
			break
		}
		if i+1 < len(h.servers) {
			a.logger.Info("trying the next gateway", "server", h.servers[i+1], "error", err)
		}
	}
	if err != nil {
		return err
	}
	a.tunnel.Store(t)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	// The tunnel says when it ends, so that the only error is that of the context.
	_ = t.Watch(watching, func(s vpn.Status) {
		if !p.Reconnect.Automatic && (s.State == vpn.Reconnecting || s.Reconnects > 0) {
			// A short ReconnectTimeout would not do, as it bounds the first connection too.
			err = errLost
			stop()
			return
		}
		a.post(func() { a.follow(ctx, s) })
	})
	return errors.Join(cmp.Or(err, t.Err()), t.Close())
}

// through returns what dials the proxy that the plan wants on the way to a server, nil if it wants none.
func (a *app) through(p *plan.Plan, server string, outer *tls.Config) (vpn.DialFunc, error) {
	_, rest, found := strings.Cut(server, "://")
	if !found {
		rest = server
	}
	u, err := url.Parse("https://" + strings.TrimSpace(rest))
	if err != nil {
		return nil, errors.New("the address of the gateway is none: want https://host[:port][/group]")
	}
	choice, err := upstream.Choose(upstream.Sources{
		Gateway: net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443")), Mode: upstream.Mode(p.Proxy.Choice), Public: p.Proxy.Public,
		NoLocal: !p.Proxy.AllowLocal, Getenv: a.getenv,
	})
	if err != nil || choice.Proxy == nil {
		return a.config.Dial, err
	}
	a.logger.Info("the gateway is reached through a proxy, so by TLS only", "proxy", choice.Proxy.String(), "reason", choice.Reason)
	d := &upstream.Dialer{Proxy: *choice.Proxy, Dial: a.config.Dial, TLS: outer, NoLocal: !p.Proxy.AllowLocal, Logger: a.logger}
	return d.DialContext, nil
}

// environment returns what reads the environment, without a proxy that is this program's own: no tunnel comes about through itself.
func environment(own string) func(string) string {
	_, port, _ := net.SplitHostPort(own)
	return func(name string) string {
		value := os.Getenv(name)
		if p, err := upstream.Parse(value); err == nil && p.Local() && fmt.Sprint(p.Port) == port {
			return ""
		}
		return value
	}
}

// elsewhere reports whether another gateway could do better.
func elsewhere(err error) bool {
	for _, kind := range []error{vpn.ErrLogin, vpn.ErrPrompt, vpn.ErrUntrusted, errDeclined, errNoAnswer, certificates.ErrPassword, upstream.ErrCredentials} {
		if errors.Is(err, kind) {
			return false
		}
	}
	return true
}

// follow takes over the status of the tunnel.
func (a *app) follow(ctx context.Context, s vpn.Status) {
	if ctx.Err() != nil || s.State == vpn.Closed {
		return // ended will come
	}
	if !a.m.up() {
		a.cycleFrom = time.Now()
		a.logger.Info("connected", "host", a.m.host, "status", s)
	}
	a.m.status = s
	a.m.state = connected
	if s.State == vpn.Reconnecting {
		a.m.state = reconnecting
	}
}

// ended takes note of the end of the session of ctx.
func (a *app) ended(ctx context.Context, err error) {
	cause := context.Cause(ctx)
	a.session(nil) // this frees the context
	a.session = nil
	a.m.state, a.m.asking, a.m.expiring = disconnected, false, false
	if cause == nil && !errors.Is(err, errDeclined) {
		a.m.problem = reason(err)
	}
	if a.faulty != nil {
		a.m.faults = &faults{cycling: a.m.faults.cycling}
		a.faulty.set(*a.m.faults)
	}
	a.logger.Info("disconnected", "reason", a.m.problem)
}

// reason returns an error as a person wants to read it: without the operation and the gateway, which the headline names.
func reason(err error) string {
	if err == nil {
		return "the tunnel has ended"
	}
	if op, ok := errors.AsType[*vpn.OpError](err); ok {
		err = op.Err
	}
	return line(err.Error())
}

func (a *app) tick(now time.Time) {
	t := a.tunnel.Load()
	if t == nil || !a.m.up() {
		return
	}
	a.m.status.Counters = t.Status().Counters
	a.expires(now)
	if a.faulty != nil && a.m.faults.cycling {
		a.cycle(now)
	}
}

// expires takes note of whether the session ends soon.
func (a *app) expires(now time.Time) {
	a.m.expiring = !a.m.status.Expires.IsZero() && now.After(a.m.status.Expires.Add(-expiryWarning))
}

// cycle goes on with the demonstration: a good network, one without UDP, none, a good one, and all over again.
func (a *app) cycle(now time.Time) {
	f := faults{cycling: true}
	switch now.Sub(a.cycleFrom) / a.step % 4 {
	case 1:
		f.udp = true
	case 2:
		f.all = true // alone, so that whoever unchecks it has a good network
	}
	if f != *a.m.faults {
		a.m.faults = &f
		a.faulty.set(f)
	}
}

// fault carries out a command of the demonstration.
func (a *app) fault(name string) {
	if a.faulty == nil {
		return
	}
	f := *a.m.faults
	switch name {
	case "cycle":
		f = faults{cycling: !f.cycling}
		a.cycleFrom = time.Now()
	case "udp":
		f.udp, f.cycling = !f.udp, false
	case "all":
		f.all, f.cycling = !f.all, false
	case "end":
		a.faulty.end()
	}
	a.m.faults = &f
	a.faulty.set(f)
}

// dial connects for the proxy.
func (a *app) dial(ctx context.Context, network, address string) (net.Conn, error) {
	t := a.tunnel.Load()
	if t == nil {
		return nil, fmt.Errorf("there is no tunnel: %w", syscall.ENETUNREACH)
	}
	return t.DialContext(ctx, network, address)
}
