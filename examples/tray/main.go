// Command tray shows a tunnel in the tray of the desktop: an icon that says how it stands, a menu with the gateways of the user's
// profiles, notices when something happens, and the gateway's questions as a page in the browser. It is an example of a program
// with the tunnel inside: nothing of the machine is changed, and other programs use the tunnel through a proxy. A tunnel that the
// whole machine uses, that of "culvert connect", is shown beside it.
//
//	go run ./examples/tray --demo
//
// brings a gateway along and goes through what can happen. With gateways of one's own:
//
//	go run ./examples/tray --user alice https://vpn.example.com
//	go run ./examples/tray --profile corp.xml
//
// Without either, the gateways are those of the profiles where AnyConnect clients have them. What these profiles demand holds for
// an address too, unless --profile names another one.
//
// On Linux the tray is a StatusNotifierItem on the session bus, which KDE, Xfce, Cinnamon, LXQt and, with an extension, GNOME show, and
// it takes no cgo. Where there is none, the program says so, and offers the same at a terminal if it has one.
//
// The parts: model.go says what menu, icon and notices follow from a state, and is a pure function; app.go has the state and the
// tunnel; choices.go has the documents and the preferences, certify.go the user's certificates, and machine.go the tunnel of the
// machine; tray_systray.go, desktop_unix.go, pages.go and console.go show, tell and ask.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"culvert.example/vpn"
	"culvert.example/vpn/policy/profile"
)

// defaultStep is how long each state of the demonstration lasts.
const defaultStep = 8 * time.Second

// options are those of the command line.
type options struct {
	demo, terminal, verbose bool
	profile, user, pin      string
	group, listen, browser  string
	message, culvert        string
	step, wait              time.Duration
	servers                 []string
	// root comes in front of the usual places of documents, for tests.
	root string
}

func main() {
	err := run(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tray:", line(err.Error()))
		os.Exit(1)
	}
}

// parse reads the command line.
func parse(args []string, usage io.Writer) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("tray", flag.ContinueOnError)
	f.SetOutput(usage)
	f.Usage = func() {
		fmt.Fprintln(usage, "usage: tray [flags] [https://gateway ...]")
		f.PrintDefaults()
	}
	f.BoolVar(&o.demo, "demo", false, "bring a gateway along and go through what can happen")
	f.DurationVar(&o.step, "demo-step", defaultStep, "how long each state of the demonstration lasts; 0 leaves that to the menu")
	f.BoolVar(&o.terminal, "terminal", false, "use the terminal, even if there is a tray; the command help lists the others")
	f.StringVar(&o.profile, "profile", "", "the AnyConnect `file` with the gateways; without it, those in the usual places")
	f.StringVar(&o.user, "user", "", "the user `name`, to be asked for one thing less")
	f.StringVar(&o.group, "authgroup", "", "the `group` to choose at the gateway")
	f.StringVar(&o.pin, "servercert", "", "the `pin` of the gateways, such as pin-sha256:..., instead of authorities")
	f.StringVar(&o.listen, "listen", "127.0.0.1:1080", "the `address` of the proxy")
	f.StringVar(&o.browser, "browser", "", "the `command` that shows a page, to which the address is added (default "+strings.Join(defaultBrowser(runtime.GOOS), " ")+")")
	f.StringVar(&o.culvert, "culvert", "culvert", "the `command` that tells of the tunnel of the whole machine, such as \"sudo -n culvert\"; without it, none is shown")
	f.StringVar(&o.message, "message", "", "the `text` to show before connecting for the first time, if the profile wants one (default: that of the file preconnect.txt in the usual places)")
	f.DurationVar(&o.wait, "wait", 10*time.Second, "how long to wait for a tray that is not there yet")
	f.BoolVar(&o.verbose, "v", false, "log what happens to standard error")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.servers = f.Args()
	if o.step < 0 || o.step > 0 && o.step < 100*time.Millisecond {
		return nil, errors.New("--demo-step is 0 or at least 100ms")
	}
	if o.demo && (o.profile != "" || len(o.servers) > 0) {
		return nil, errors.New("--demo has a gateway of its own: leave out --profile and the addresses")
	}
	return o, nil
}

// defaultBrowser returns the command that shows an address to the user of a system.
func defaultBrowser(system string) []string {
	switch system {
	case "windows":
		return []string{"rundll32", "url.dll,FileProtocolHandler"}
	case "darwin":
		return []string{"open"}
	}
	return []string{"xdg-open"}
}

func run(args []string) error {
	o, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	logger := slog.New(slog.DiscardHandler)
	if o.verbose {
		logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}

	desk, err := findTray(ctx, o, logger)
	switch {
	case o.terminal:
	case err != nil && !term.IsTerminal(int(os.Stdin.Fd())):
		return fmt.Errorf("%w. With --terminal the program works at a terminal", err)
	case err != nil:
		fmt.Fprintf(os.Stderr, "tray: %s.\nGoing on at the terminal.\n", line(err.Error()))
	}

	a, l, end, err := prepare(o, logger)
	if err != nil {
		return err
	}
	defer end()
	if desk == nil {
		c := newConsole(os.Stdin, os.Stdout)
		a.view, a.notes, a.asker = c, c, consoleAsker{c}
		c.welcome(a.m.proxy)
		// The reading of a terminal cannot be interrupted: it ends with the process.
		go c.commands(a)
		return a.run(ctx, l)
	}
	command := strings.Fields(o.browser)
	if len(command) == 0 {
		command = defaultBrowser(runtime.GOOS)
	}
	a.asker = &pages{open: browser(command), same: sameUser, logger: logger}
	a.notes = desk
	desk.start(a.do)
	defer desk.close()
	err = runTray(a.m, a.do, func(v view) error {
		a.view = v
		return a.run(ctx, l)
	})
	return errors.Join(err, desk.err())
}

// findTray returns the desktop if it has a tray, and else why not. Nobody is asked with --terminal.
func findTray(ctx context.Context, o *options, logger *slog.Logger) (*desktop, error) {
	if o.terminal {
		return nil, nil
	}
	if err := trayError(); err != nil {
		return nil, err
	}
	desk, err := openDesktop(logger)
	if err != nil {
		return nil, err
	}
	if err := desk.hasTray(ctx, o.wait); err != nil {
		desk.close()
		return nil, err
	}
	return desk, nil
}

// prepare gathers what the app needs. The caller calls end when the app has ended; the app closes the listener.
func prepare(o *options, logger *slog.Logger) (a *app, l net.Listener, end func(), err error) {
	end = func() {}
	config := vpn.Config{Group: o.group}
	if o.pin != "" {
		config.Pins = []string{o.pin}
	}
	var prefs *choices
	var hosts []host
	var faulty network
	if o.demo {
		d, err := startDemo()
		if err != nil {
			return nil, nil, nil, err
		}
		end = func() { _ = d.gateway.Close() }
		config, faulty = d.config(), d
		p, err := d.profile()
		if err != nil {
			end()
			return nil, nil, nil, err
		}
		prefs, hosts = newChoices(p), hostsOf(p.Hosts())
		prefs.env.Message = demoMessage
	} else if hosts, prefs, err = findHosts(o, logger); err != nil {
		return nil, nil, nil, err
	}
	config.Logger = logger

	if l, err = net.Listen("tcp", o.listen); err != nil {
		end()
		return nil, nil, nil, fmt.Errorf("the proxy cannot listen (--listen chooses another address): %w", err)
	}
	a = newApp(hosts, prefs, l.Addr().String())
	a.config, a.user, a.logger, a.faulty = config, o.user, logger, faulty
	a.step = cmp.Or(o.step, defaultStep)
	if command := strings.Fields(o.culvert); len(command) > 0 {
		if _, err := exec.LookPath(command[0]); err == nil {
			a.machine = command
		}
	}
	if faulty != nil {
		a.m.faults = &faults{cycling: o.step > 0}
	}
	return a, l, end, nil
}

// findHosts returns the gateways of the command line, or those of the profiles, and what the documents say of them.
func findHosts(o *options, logger *slog.Logger) ([]host, *choices, error) {
	prefs, err := readChoices(o, logger)
	if err != nil {
		return nil, nil, err
	}
	var hosts []host
	for _, s := range o.servers {
		hosts = append(hosts, host{name: displayName(s), entry: entryName(s), servers: []string{s}})
	}
	if profiles := prefs.docs.Profiles; o.profile != "" || len(hosts) == 0 {
		hosts = append(hosts, hostsOf(profiles.Hosts())...)
		if len(hosts) == 0 && o.profile == "" {
			return nil, nil, fmt.Errorf("no gateway: name one, or a --profile, or try --demo; there is no profile in %s%s",
				strings.Join(o.directories(profile.VPN), ", "), rejected(profiles))
		}
	}
	if len(hosts) == 0 {
		return nil, nil, errors.New("the profile has no gateway")
	}
	return hosts, prefs, nil
}

// entryName returns the name by which profiles know a gateway that the user has typed in.
func entryName(server string) string {
	name, _, _ := strings.Cut(displayName(server), "/")
	return strings.TrimSuffix(name, ":443")
}

// displayName returns the name of a gateway as the menu shows it, without what may be secret in a URL.
func displayName(server string) string {
	s, _, _ := strings.Cut(server, "?")
	if _, rest, ok := strings.Cut(s, "://"); ok {
		s = rest
	}
	authority, path, slash := strings.Cut(s, "/")
	authority = authority[strings.LastIndexByte(authority, '@')+1:]
	if slash && path != "" {
		authority += "/" + path
	}
	return line(authority)
}

// rejected tells about the files that are no profiles, since one of them may be the one that was meant.
func rejected(c *profile.Collection) string {
	if len(c.Rejected) == 0 {
		return ""
	}
	return fmt.Sprintf(", and %s is not used: %s", c.Rejected[0].Path, c.Rejected[0].Message)
}

// hostsOf returns gateways of profiles for the menu.
func hostsOf(list []profile.Host) []host {
	var hosts []host
	for _, h := range list {
		out := host{name: line(h.Name), entry: h.Name, servers: h.Servers()}
		if url, err := h.URL(); err == nil && len(out.servers) > 0 {
			out.servers[0] = url // with the group
		}
		hosts = append(hosts, out)
	}
	return hosts
}
