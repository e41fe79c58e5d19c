package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/transport/login/terminal"
)

// A state is what the tunnel is doing, as the user sees it.
type state uint8

const (
	disconnected state = iota
	connecting
	connected
	reconnecting
	disconnecting
)

// String returns the word that the menu shows.
func (s state) String() string {
	switch s {
	case connecting:
		return "Connecting"
	case connected:
		return "Connected"
	case reconnecting:
		return "Reconnecting"
	case disconnecting:
		return "Disconnecting"
	}
	return "Disconnected"
}

// A symbol is what the icon shows.
type symbol uint8

const (
	symbolOff symbol = iota
	symbolBusy
	symbolDTLS
	symbolTLS
	symbolWaiting
	symbolAttention
)

// A model is everything that is shown, and nothing else: menu, icon, tooltip and notices are functions of it and of the time.
// It is a value; a change makes a new one.
type model struct {
	state state
	// hosts are the names of the gateways in their order, host is the one that is meant now, or was the last time.
	hosts []string
	host  string
	// asking says that a question of the gateway waits for an answer.
	asking bool
	// problem is why the last tunnel ended or did not come about, if nobody here wanted that.
	problem string
	// status is that of the tunnel while there is one.
	status vpn.Status
	// expiring says that the gateway will end the session soon.
	expiring bool
	// proxy is the address that programs use the tunnel through.
	proxy string
	boxes []box
	// machine is the tunnel of the whole machine, which another program has, and leaving says that it is being ended.
	machine machineTunnel
	leaving bool
	// faults are those of the demonstration: nil without one.
	faults *faults
}

// A box is a preference with a check box.
type box struct {
	setting, title string
	checked        bool
	// why says why the box cannot be changed, or is empty.
	why string
}

// faults are what the demonstration can do to the network.
type faults struct {
	udp, all, cycling bool
}

// up reports whether there is a tunnel.
func (m model) up() bool { return m.state == connected || m.state == reconnecting }

// attention reports whether the user has to do something.
func (m model) attention() bool { return m.asking || m.problem != "" && m.state == disconnected }

// symbol returns what the icon shows.
func (m model) symbol() symbol {
	switch {
	case m.attention():
		return symbolAttention
	case m.state == connecting || m.state == disconnecting:
		return symbolBusy
	case m.state == reconnecting:
		return symbolWaiting
	case m.state == connected && m.status.Path == "tls":
		return symbolTLS
	case m.state == connected:
		return symbolDTLS
	}
	return symbolOff
}

// headline says in a line how it stands.
func (m model) headline() string {
	switch {
	case m.asking:
		return m.host + " has a question"
	case m.state == connected && m.status.Path != "":
		return "Connected to " + m.host + " over " + strings.ToUpper(m.status.Path)
	case m.state == connected:
		return "Connected to " + m.host
	case m.state == disconnected && m.problem != "":
		return "Disconnected: " + m.problem
	case m.state == disconnected:
		return "Disconnected"
	}
	return m.state.String() + ", " + m.host
}

// tooltip returns the text beside the icon.
func (m model) tooltip() string {
	if !m.up() {
		return "Culvert: " + m.headline()
	}
	return "Culvert: " + m.headline() + ", " + join(m.status.Addresses)
}

// An entry is one line of the menu. An entry without title is a separator. Menus of one model differ from those of another only in
// the fields from title on, as long as the hosts, the boxes and whether there are faults stay the same.
type entry struct {
	// id says which command is meant.
	id       string
	children []entry
	check    bool // it has a check box

	title, hint      string
	checked          bool
	disabled, hidden bool
}

// The commands, as identifiers of entries. The ones that end in a slash are followed by a number or a name.
const (
	cmdConnect    = "connect/"
	cmdDisconnect = "disconnect"
	cmdMachine    = "machine/disconnect"
	cmdAnswer     = "answer"
	cmdBanner     = "banner"
	cmdPreference = "preference/"
	cmdFault      = "fault/"
	cmdQuit       = "quit"
)

// menu returns the menu at a time, whose location is that of the clock to show.
func (m model) menu(now time.Time) []entry {
	s := m.status
	info := func(id, label, value string) entry {
		return entry{id: id, title: label + ": " + value, disabled: true, hidden: !m.up() || value == ""}
	}
	var hosts []entry
	for i, h := range m.hosts {
		hosts = append(hosts, entry{id: cmdConnect + strconv.Itoa(i), title: h, check: true, checked: h == m.host && m.state != disconnected,
			disabled: m.state != disconnected})
	}
	separator := func(id string) entry { return entry{id: id} }
	since := ""
	if m.up() {
		since = s.Started.In(now.Location()).Format("15:04") + " (" + period(now.Sub(s.Started)) + ")"
	}
	expires := ""
	if !s.Expires.IsZero() {
		expires = s.Expires.In(now.Location()).Format("Mon 15:04")
	}
	reconnects := ""
	if s.Reconnects > 0 {
		reconnects = strconv.Itoa(s.Reconnects)
	}
	gateway := ""
	if s.Gateway.IsValid() {
		gateway = s.Gateway.String()
	}
	entries := []entry{
		{id: "headline", title: m.headline(), disabled: true},
		{id: cmdAnswer, title: "Answer the question...", hint: "Opens the page with the question again.", hidden: !m.asking},
		separator("separator/hosts"),
		{id: "connect", title: "Connect to", children: hosts},
		{id: cmdDisconnect, title: "Disconnect", disabled: m.state == disconnected || m.state == disconnecting},
		separator("separator/info"),
		info("path", "Path", strings.ToUpper(s.Path)),
		info("address", "Address", join(s.Addresses)),
		info("gateway", "Gateway", gateway),
		info("since", "Since", since),
		info("bytes", "Traffic", size(s.Counters.ReceivedBytes)+" received, "+size(s.Counters.SentBytes)+" sent"),
		info("reconnects", "Reconnected", reconnects),
		info("expires", "Ends at the latest", expires),
		{id: "proxy", title: "Proxy: " + m.proxy, hint: "SOCKS5 and HTTP; what goes through it goes through the tunnel.", disabled: true},
		{id: cmdBanner, title: "Show banner...", disabled: !m.up() || s.Banner == ""},
		{id: "machine", title: m.machine.title(), hint: "The tunnel of culvert connect, which all programs use.", disabled: true, hidden: !m.machine.there()},
		{id: cmdMachine, title: "Disconnect this machine", disabled: m.leaving, hidden: !m.machine.there()},
	}
	if len(m.boxes) > 0 {
		var boxes []entry
		for _, b := range m.boxes {
			boxes = append(boxes, entry{id: cmdPreference + b.setting, title: b.title, hint: b.why, check: true, checked: b.checked, disabled: b.why != ""})
		}
		entries = append(entries, entry{id: "preferences", title: "Preferences", children: boxes})
	}
	if m.faults != nil {
		entries = append(entries, entry{id: "faults", title: "Network faults", children: []entry{
			{id: cmdFault + "cycle", title: "Go through the states", check: true, checked: m.faults.cycling},
			{id: cmdFault + "udp", title: "Block UDP", check: true, checked: m.faults.udp},
			{id: cmdFault + "all", title: "Block everything", check: true, checked: m.faults.all},
			{id: cmdFault + "end", title: "Let the gateway end the session", disabled: !m.up()},
		}})
	}
	return append(entries, separator("separator/quit"), entry{id: cmdQuit, title: "Quit"})
}

// A notice is a message that comes up by itself.
type notice struct {
	// topic says which earlier notice it takes the place of: the one with the same topic.
	topic       topic
	title, body string
	urgent      bool
	// command is what the button does, and button says so; empty without one.
	command, button string
}

// A topic is what a notice is about.
type topic uint8

const (
	topicState topic = iota
	topicBanner
	topicExpiry
	topicTrouble
)

// notices returns what the user should hear of a change. A change of the path is none: it is for nobody to act upon, and the icon
// shows it.
func notices(old, now model) []notice {
	var list []notice
	again := func(n notice) notice {
		for i, h := range now.hosts {
			if h == now.host {
				n.command, n.button = cmdConnect+strconv.Itoa(i), "Connect again"
			}
		}
		return n
	}
	if now.asking && !old.asking {
		list = append(list, notice{title: now.host + " has a question", body: "Answer it to connect.", command: cmdAnswer, button: "Answer"})
	}
	switch {
	case now.state == connected && old.state == reconnecting:
		list = append(list, notice{title: "Connected again to " + now.host, body: "Connections through the tunnel go on."})
	case now.state == connected && !old.up():
		list = append(list, notice{title: "Connected to " + now.host, body: "The address is " + join(now.status.Addresses) + "."})
	case now.state == reconnecting && old.state != reconnecting:
		list = append(list, notice{title: "The connection to " + now.host + " is lost", body: "Trying again. Connections through the tunnel wait."})
	case now.state == disconnected && old.state != disconnected && now.problem == "":
		list = append(list, notice{title: "Disconnected from " + now.host})
	case now.state == disconnected && old.state != disconnected && (old.up() || old.state == disconnecting):
		list = append(list, again(notice{title: "The tunnel to " + now.host + " has ended", body: now.problem, urgent: true}))
	case now.state == disconnected && old.state != disconnected:
		list = append(list, again(notice{title: "No tunnel to " + now.host, body: now.problem, urgent: true}))
	}
	if now.up() && now.status.Banner != "" && (!old.up() || now.status.Banner != old.status.Banner) {
		list = append(list, notice{topic: topicBanner, title: "Message from " + now.host, body: text(now.status.Banner), command: cmdBanner, button: "Show"})
	}
	if now.expiring && !old.expiring {
		list = append(list, notice{topic: topicExpiry, title: "The session ends soon", urgent: true,
			body: "The gateway will end it at " + now.status.Expires.Local().Format("15:04") + ", however busy it is."})
	}
	return list
}

// mostText is how much of a text of the gateway is shown in one place, in characters.
const mostText = 400

// text returns a text of the gateway without what could harm: control characters, and more than anybody reads.
func text(s string) string {
	s = terminal.Clean(strings.ToValidUTF8(s, "?"))
	if r := []rune(s); len(r) > mostText {
		return string(r[:mostText]) + "..."
	}
	return s
}

// line returns a text on one line.
func line(s string) string { return strings.Join(strings.Fields(text(s)), " ") }

func join(addresses []netip.Prefix) string {
	var list []string
	for _, a := range addresses {
		list = append(list, a.Addr().String())
	}
	return strings.Join(list, ", ")
}

// size returns a number of bytes with the unit that leaves at most three digits before the point.
func size(n uint64) string {
	if n < 1000 {
		return strconv.FormatUint(n, 10) + " B"
	}
	f, unit := float64(n), ""
	for _, unit = range []string{"kB", "MB", "GB", "TB"} {
		if f /= 1000; f < 999.95 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}

// period returns how long something has lasted, in whole minutes, since the menu is not drawn anew each second.
func period(d time.Duration) string {
	if d < time.Minute {
		return "less than a minute"
	}
	h, min := int(d/time.Hour), int(d%time.Hour/time.Minute)
	if h == 0 {
		return fmt.Sprintf("%d min", min)
	}
	return fmt.Sprintf("%d h %d min", h, min)
}
