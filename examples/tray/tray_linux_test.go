package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"

	"culvert.example/vpn/gateway/gatewaytest"
)

// asProgram makes the test binary the program itself, so that it runs as a process.
const asProgram = "CULVERT_TRAY_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) == "1" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// patience bounds each thing that is waited for.
const patience = 10 * time.Second

// busConfig is a session bus that starts no services: the desktop of the test is all there is.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
`

// startBus starts a D-Bus daemon of the test's own and returns its address, and how to end it.
func startBus(t *testing.T) (address string, end func()) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs dbus-daemon")
	}
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		if os.Getenv("CULVERT_INTEROP") == "1" {
			t.Fatalf("CULVERT_INTEROP=1, but %v", err)
		}
		t.Skip(err)
	}
	dir, err := os.MkdirTemp("", "tray") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket, conf := filepath.Join(dir, "bus"), filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, busConfig, socket), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config-file="+conf, "--nofork", "--nopidfile")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() && out.Len() > 0 {
			t.Logf("dbus-daemon: %s", &out)
		}
	})
	eventually(t, "the bus", func() bool {
		_, err := os.Stat(socket)
		return err == nil
	})
	return "unix:path=" + socket, func() { cmd.Process.Kill() }
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// A note is a notice as the desktop got it.
type note struct {
	id, replaces         uint32
	title, body, command string
	urgency              byte
}

// A panel is a desktop: the watcher that tray icons register with, and what shows notices.
type panel struct {
	t    *testing.T
	conn *dbus.Conn

	mu    sync.Mutex
	item  dbus.BusObject
	owner string
	notes []note
}

func newPanel(t *testing.T, address string) *panel {
	t.Helper()
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p := &panel{t: t, conn: conn}
	for path, iface := range map[dbus.ObjectPath]string{"/StatusNotifierWatcher": watcherName, notesPath: notesName} {
		if err := conn.Export(p, path, iface); err != nil {
			t.Fatal(err)
		}
	}
	_, err = prop.Export(conn, "/StatusNotifierWatcher", prop.Map{watcherName: {
		"IsStatusNotifierHostRegistered": {Value: true}, "ProtocolVersion": {Value: int32(0)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	p.own(notesName)
	return p
}

func (p *panel) own(name string) {
	p.t.Helper()
	if reply, err := p.conn.RequestName(name, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		p.t.Fatal(name, reply, err)
	}
}

// RegisterStatusNotifierItem is a method of the watcher. Items give a path or a bus name.
func (p *panel) RegisterStatusNotifierItem(service string, sender dbus.Sender) *dbus.Error {
	p.mu.Lock()
	defer p.mu.Unlock()
	path := dbus.ObjectPath("/StatusNotifierItem")
	if strings.HasPrefix(service, "/") {
		path = dbus.ObjectPath(service)
	}
	p.owner, p.item = string(sender), p.conn.Object(string(sender), path)
	return nil
}

// GetCapabilities is a method of the notifications.
func (p *panel) GetCapabilities() ([]string, *dbus.Error) {
	return []string{"actions", "body", "body-markup"}, nil
}

// Notify is a method of the notifications.
func (p *panel) Notify(_ string, replaces uint32, _, title, body string, actions []string, hints map[string]dbus.Variant, _ int32) (uint32, *dbus.Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := note{id: uint32(len(p.notes) + 1), replaces: replaces, title: title, body: body}
	n.urgency, _ = hints["urgency"].Value().(byte)
	if len(actions) == 2 {
		n.command = actions[0]
	}
	p.notes = append(p.notes, n)
	return n.id, nil
}

func (p *panel) registered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.item != nil
}

// noted waits for a notice with the title, of those after the first n.
func (p *panel) noted(after int, title string) note {
	p.t.Helper()
	var found note
	eventually(p.t, "the notice "+title, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		i := slices.IndexFunc(p.notes[min(after, len(p.notes)):], func(n note) bool { return n.title == title })
		if i >= 0 {
			found = p.notes[after+i]
		}
		return i >= 0
	})
	return found
}

func (p *panel) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.notes)
}

// property reads a property of the item.
func (p *panel) property(name string) any {
	p.t.Helper()
	v, err := p.item.GetProperty("org.kde.StatusNotifierItem." + name)
	if err != nil {
		p.t.Fatal(err)
	}
	return v.Value()
}

// symbol finds out what the icon shows.
func (p *panel) symbol() (symbol, bool) {
	p.t.Helper()
	pixmaps, _ := p.property("IconPixmap").([][]any)
	if len(pixmaps) != 1 || len(pixmaps[0]) != 3 {
		p.t.Fatalf("the icon is %v", pixmaps)
	}
	data, _ := pixmaps[0][2].([]byte)
	for s := symbolOff; s <= symbolAttention; s++ {
		img, err := png.Decode(bytes.NewReader(icon(s, "linux")))
		if err != nil {
			p.t.Fatal(err)
		}
		var want []byte // in the order of the specification: alpha, red, green, blue
		for y := range iconSize {
			for x := range iconSize {
				r, g, b, a := img.At(x, y).RGBA()
				want = append(want, byte(a>>8), byte(r>>8), byte(g>>8), byte(b>>8))
			}
		}
		if sameOpaque(data, want) {
			return s, true
		}
	}
	return 0, false
}

// sameOpaque compares pictures where they are opaque: opinions differ on whether half transparent colours are multiplied.
func sameOpaque(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i+3 < len(a); i += 4 {
		if (a[i] == 0xff) != (b[i] == 0xff) || a[i] == 0xff && !bytes.Equal(a[i:i+4], b[i:i+4]) {
			return false
		}
	}
	return true
}

func (p *panel) shows(want symbol) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("symbol %d", want), func() bool {
		s, ok := p.symbol()
		return ok && s == want
	})
}

// A menuItem is an entry of the menu as the desktop gets it.
type menuItem struct {
	id               int32
	label            string
	enabled, visible bool
	checked          bool
	children         []menuItem
}

// menu reads the menu.
func (p *panel) menu() menuItem {
	p.t.Helper()
	path, _ := p.property("Menu").(dbus.ObjectPath)
	var revision uint32
	var layout []any
	call := p.conn.Object(p.owner, path).Call("com.canonical.dbusmenu.GetLayout", 0, int32(0), int32(-1), []string{})
	if err := call.Store(&revision, &layout); err != nil {
		p.t.Fatal(err)
	}
	return p.parse(layout)
}

func (p *panel) parse(layout []any) menuItem {
	p.t.Helper()
	if len(layout) != 3 {
		p.t.Fatalf("not a layout: %v", layout)
	}
	id, _ := layout[0].(int32)
	props, _ := layout[1].(map[string]dbus.Variant)
	children, _ := layout[2].([]dbus.Variant)
	m := menuItem{id: id, enabled: true, visible: true}
	m.label, _ = props["label"].Value().(string)
	if v, ok := props["enabled"].Value().(bool); ok {
		m.enabled = v
	}
	if v, ok := props["visible"].Value().(bool); ok {
		m.visible = v
	}
	state, _ := props["toggle-state"].Value().(int32)
	m.checked = state == 1
	for _, c := range children {
		inner, _ := c.Value().([]any)
		m.children = append(m.children, p.parse(inner))
	}
	return m
}

// find returns the first visible entry with the label, of which the value behind ": " may be left out.
func (m menuItem) find(label string) (menuItem, bool) {
	for _, c := range m.children {
		if c.visible && (c.label == label || strings.Contains(label, ": ") && strings.HasPrefix(c.label, label)) {
			return c, true
		}
		if found, ok := c.find(label); ok {
			return found, true
		}
	}
	return menuItem{}, false
}

// entry waits for an entry of the menu.
func (p *panel) entry(label string, ok func(menuItem) bool) menuItem {
	p.t.Helper()
	var m menuItem
	eventually(p.t, "the entry "+label, func() bool {
		var found bool
		m, found = p.menu().find(label)
		return found && ok(m)
	})
	return m
}

func enabled(m menuItem) bool  { return m.enabled }
func disabled(m menuItem) bool { return !m.enabled }

// click chooses an entry of the menu as soon as it can be.
func (p *panel) click(label string) {
	p.t.Helper()
	m := p.entry(label, enabled)
	path, _ := p.property("Menu").(dbus.ObjectPath)
	err := p.conn.Object(p.owner, path).Call("com.canonical.dbusmenu.Event", 0, m.id, "clicked", dbus.MakeVariant(""), uint32(0)).Err
	if err != nil {
		p.t.Fatal(err)
	}
}

// press presses the button of a notice.
func (p *panel) press(n note) {
	p.t.Helper()
	if err := p.conn.Emit(notesPath, notesName+".ActionInvoked", n.id, n.command); err != nil {
		p.t.Fatal(err)
	}
}

// A program is the tray as a process.
type program struct {
	t     *testing.T
	cmd   *exec.Cmd
	dir   string
	pages string // the file that its browser writes addresses to
	read  int
	out   lockedBuffer
	ended chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// startProgram starts the tray on a bus. An empty address means none.
func startProgram(t *testing.T, address string, stdin io.Reader, args ...string) *program {
	t.Helper()
	return startProgramIn(t, t.TempDir(), address, stdin, args...)
}

// startProgramIn is startProgram for a user whose directory there is already.
func startProgramIn(t *testing.T, home, address string, stdin io.Reader, args ...string) *program {
	t.Helper()
	p := &program{t: t, dir: home, ended: make(chan error, 1)}
	p.pages = filepath.Join(t.TempDir(), "pages")
	show := filepath.Join(filepath.Dir(p.pages), "browser")
	if err := os.WriteFile(show, []byte("#!/bin/sh\nprintf '%s\\n' \"$2\" >>\"$1\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"-browser", show + " " + p.pages, "-listen", "127.0.0.1:0", "-v"}, args...)
	p.cmd = exec.Command(os.Args[0], args...)
	p.cmd.Env = []string{asProgram + "=1", "HOME=" + p.dir, "XDG_RUNTIME_DIR=" + p.dir, "PATH=" + os.Getenv("PATH"), "DBUS_SESSION_BUS_ADDRESS=" + address}
	p.cmd.Dir = p.dir
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("the program: %s", &p.out)
		}
	})
	return p
}

// page waits for the next page that the program shows.
func (p *program) page() string {
	p.t.Helper()
	var lines []string
	eventually(p.t, "a page", func() bool {
		b, err := os.ReadFile(p.pages)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			p.t.Fatal(err)
		}
		lines = strings.Split(string(b), "\n")
		return len(lines) > p.read+1
	})
	p.read++
	return lines[p.read-1]
}

// exit waits for the end of the program and returns its status.
func (p *program) exit() int {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatal("the program does not end")
		return 0
	}
}

// logIn answers the forms of the gateway as alice, however many there are.
func (p *program) logIn(r *reader) {
	p.t.Helper()
	for range 2 {
		address := p.page()
		_, page := r.get(address)
		values := url.Values{}
		for _, in := range regexp.MustCompile(`<input name="(\d+)" type="(\w+)"`).FindAllStringSubmatch(page, -1) {
			values.Set(in[1], map[string]string{"text": gatewaytest.User, "password": gatewaytest.Password}[in[2]])
		}
		r.post(address, page, values)
		if strings.Contains(page, `type="password"`) {
			return
		}
	}
	p.t.Fatal("no page asks for a password")
}

// TestTray uses the tray as a person does, by the bus, the browser and the proxy.
func TestTray(t *testing.T) {
	address, _ := startBus(t)
	desk := newPanel(t, address)
	p := startProgram(t, address, nil, "-demo", "-demo-step", "0")
	// The panel may be later than the program, at a login.
	time.Sleep(100 * time.Millisecond)
	desk.own(watcherName)
	eventually(t, "the item", desk.registered)
	r := newReader(t)

	desk.shows(symbolOff)
	if title := desk.property("Title"); title != "Culvert" {
		t.Errorf("the title is %v", title)
	}
	desk.entry("Disconnect", disabled)
	proxyEntry := desk.entry("Proxy: ", disabled)
	through := func(scheme string) error {
		transport := &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyURL(&url.URL{Scheme: scheme, Host: strings.TrimPrefix(proxyEntry.label, "Proxy: ")})}
		res, err := (&http.Client{Transport: transport, Timeout: patience}).Get("http://" + gatewaytest.WebName + "/")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		if err != nil || string(b) != gatewaytest.Page {
			return fmt.Errorf("got %q, %v", b, err)
		}
		return nil
	}
	if through("http") == nil {
		t.Error("the proxy works without a tunnel")
	}

	// The first gateway of this host is dead; its backup is not.
	desk.click("Demonstration, by its backup")
	first := p.page()
	if _, page := r.get(first); !strings.Contains(page, "This is a demonstration") {
		t.Errorf("no message before connecting: %s", page)
	} else {
		r.post(first, page, nil)
	}
	desk.noted(0, "Demonstration, by its backup has a question")
	desk.shows(symbolAttention)
	p.logIn(r)
	desk.noted(0, "Connected to Demonstration, by its backup")
	banner := desk.noted(0, "Message from Demonstration, by its backup")
	if banner.body != "Welcome to the &lt;demonstration&gt;.\nNobody is watching." {
		t.Errorf("the banner is %q", banner.body)
	}
	desk.shows(symbolDTLS)
	desk.entry("Connected to Demonstration, by its backup over DTLS", disabled)
	desk.entry("Path: DTLS", disabled)
	desk.entry("Address: ", disabled)
	desk.entry("Since: ", disabled)
	desk.entry("Gateway: 127.0.0.1:", disabled)
	desk.entry("Demonstration, by its backup", func(m menuItem) bool { return m.checked && !m.enabled })
	if tip, ok := desk.property("ToolTip").([]any); !ok || len(tip) != 4 || !strings.Contains(fmt.Sprint(tip[2]), "over DTLS") {
		t.Errorf("the tooltip is %v", desk.property("ToolTip"))
	}
	for _, scheme := range []string{"http", "socks5h"} {
		if err := through(scheme); err != nil {
			t.Errorf("%s: %v", scheme, err)
		}
	}
	desk.entry("Traffic: ", func(m menuItem) bool { return !strings.Contains(m.label, " 0 B") })

	// The banner once more, by the button of its notice and by the menu.
	desk.press(banner)
	if _, page := r.get(p.page()); !strings.Contains(page, "Welcome to the &lt;demonstration&gt;.") {
		t.Errorf("the banner is %s", page)
	}
	desk.click("Show banner...")
	if _, page := r.get(p.page()); !strings.Contains(page, "Nobody is watching.") {
		t.Errorf("the banner is %s", page)
	}

	// The network becomes worse and better.
	desk.click("Block UDP")
	desk.shows(symbolTLS)
	if err := through("http"); err != nil {
		t.Error(err)
	}
	before := desk.count()
	desk.click("Block everything")
	lost := desk.noted(before, "The connection to Demonstration, by its backup is lost")
	if connectedNote := desk.noted(0, "Connected to Demonstration, by its backup"); lost.replaces != connectedNote.id {
		t.Errorf("the notice takes the place of %d, want %d", lost.replaces, connectedNote.id)
	}
	desk.shows(symbolWaiting)
	desk.click("Block everything")
	desk.noted(before, "Connected again to Demonstration, by its backup")
	desk.entry("Reconnected: 1", disabled)

	// The gateway ends the session; the button of the notice starts another, without the message.
	before = desk.count()
	desk.click("Let the gateway end the session")
	ended := desk.noted(before, "The tunnel to Demonstration, by its backup has ended")
	if !strings.Contains(ended.body, "the demonstration is over") || ended.urgency != 2 {
		t.Errorf("the notice is %+v", ended)
	}
	desk.shows(symbolAttention)
	desk.entry("Disconnected: ", disabled)
	before = desk.count()
	desk.press(ended)
	p.logIn(r)
	desk.noted(before, "Connected to Demonstration, by its backup")
	if err := through("http"); err != nil {
		t.Error(err)
	}

	desk.click("Reconnect when the connection is lost")
	desk.entry("Reconnect when the connection is lost", func(m menuItem) bool { return !m.checked })

	// The end, by the user.
	before = desk.count()
	desk.click("Disconnect")
	desk.noted(before, "Disconnected from Demonstration, by its backup")
	desk.shows(symbolOff)
	if through("http") == nil {
		t.Error("the proxy works without a tunnel")
	}
	// A question is open when the program ends.
	desk.click("Demonstration")
	p.page()
	desk.click("Quit")
	if status := p.exit(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if _, err := net.DialTimeout("tcp", strings.TrimPrefix(proxyEntry.label, "Proxy: "), time.Second); err == nil {
		t.Error("the proxy is still there")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var there bool
	if err := desk.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, desk.owner).Store(&there); err != nil || there {
		t.Errorf("the item is still on the bus: %v, %v", there, err)
	}
	left, err := os.ReadDir(p.dir)
	if err != nil || len(left) > 0 {
		t.Errorf("the program has left %v, %v", left, err)
	}
	pages, err := os.ReadFile(p.pages)
	if err != nil {
		t.Fatal(err)
	}
	for address := range strings.Lines(string(pages)) {
		if u, err := url.Parse(strings.TrimSpace(address)); err != nil || strings.Contains(p.out.String(), strings.Trim(u.Path, "/")) {
			t.Errorf("the log has the token of a page: %v", err)
		}
	}
	for _, s := range []string{"level=ERROR", "systray error", "panic"} {
		if strings.Contains(p.out.String(), s) {
			t.Errorf("the program says %q: %s", s, &p.out)
		}
	}
}

// TestNoTray checks what the program says where it cannot have an icon.
func TestNoTray(t *testing.T) {
	address, _ := startBus(t)
	for name, c := range map[string]struct{ address, want string }{
		"no bus":     {"unix:path=/no/such/bus", "no D-Bus session bus"},
		"no watcher": {address, "org.kde.StatusNotifierWatcher"},
	} {
		t.Run(name, func(t *testing.T) {
			p := startProgram(t, c.address, nil, "-demo", "-wait", "200ms")
			if status := p.exit(); status != 1 || !strings.Contains(p.out.String(), c.want) || !strings.Contains(p.out.String(), "--terminal") {
				t.Errorf("exit status %d: %s", status, &p.out)
			}
		})
	}
}

// TestSignal checks that SIGTERM ends the program in good order while a tunnel is up, and that the demonstration goes on by itself.
func TestSignal(t *testing.T) {
	address, _ := startBus(t)
	desk := newPanel(t, address)
	desk.own(watcherName)
	p := startProgram(t, address, nil, "-demo", "-demo-step", "1s", "-user", gatewaytest.User)
	eventually(t, "the item", desk.registered)
	r := newReader(t)
	desk.click("Demonstration")
	first := p.page()
	_, page := r.get(first)
	r.post(first, page, nil)
	p.logIn(r)
	desk.noted(0, "Connected to Demonstration")
	desk.noted(0, "The connection to Demonstration is lost")
	desk.noted(0, "Connected again to Demonstration")
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := p.exit(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// TestBusEnds checks that the program ends with the session of its user, also while a tunnel is up.
func TestBusEnds(t *testing.T) {
	address, end := startBus(t)
	desk := newPanel(t, address)
	desk.own(watcherName)
	p := startProgram(t, address, nil, "-demo", "-demo-step", "0")
	eventually(t, "the item", desk.registered)
	r := newReader(t)
	desk.click("Demonstration")
	first := p.page()
	_, page := r.get(first)
	r.post(first, page, nil)
	p.logIn(r)
	desk.noted(0, "Connected to Demonstration")
	end()
	if status := p.exit(); status != 1 || !strings.Contains(p.out.String(), "session bus has ended") || strings.Contains(p.out.String(), "goroutine ") {
		t.Errorf("exit status %d: %s", status, &p.out)
	}
}
