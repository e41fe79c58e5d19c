package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"

	"culvert.example/vpn/host/proxysettings"
	"culvert.example/vpn/policy/profile"
	"culvert.example/vpn/system"
	"culvert.example/vpn/transport/upstream"
)

// heedDesktop has the gateway be reached through the proxy that the desktop of the user names, behind that of the environment. It
// does so only for a profile that says Native in as many words: that is the default too, and whoever has no profile has not asked
// for it. As root it must be called after what a dead process has left on desktops is undone.
func (c *clientFlags) heedDesktop(a *app) {
	if c.plan == nil {
		return
	}
	if v, ok := c.plan.Effective.Get("ProxySettings"); !ok || v.Profile == nil || c.plan.Proxy.Choice != profile.ProxyNative {
		return
	}
	session, ok := desktopSession(a.getenv)
	if !ok {
		return
	}
	now, err := proxysettings.Open(proxysettings.Options{Session: session}).Current(context.Background())
	if err != nil {
		a.reporter().warn("the proxy settings of the desktop are not used: %s", oneLine(err.Error()))
		return
	}
	d := upstream.Desktop{Name: "the desktop", Except: now.Except}
	switch now.Mode {
	case "auto":
		d.Automatic, d.PAC = true, now.PAC
	case "manual":
		d.HTTPS, d.SOCKS = now.HTTPS, now.SOCKS
	}
	c.upstream.sources.Desktop = d
}

// desktopText says what became of the gateway's web proxy on the desktop of a user.
func desktopText(d system.DesktopStatus) string {
	text := fmt.Sprintf("the desktop of user %d has the gateway's", d.User)
	if !d.Applied {
		text = fmt.Sprintf("the desktop of user %d has its own", d.User)
	}
	switch {
	case d.Err != "":
		text += ": " + d.Err
	case d.Locked:
		text += ", which the user cannot change"
	case d.NotLocked != "":
		text += ", which the gateway wants to be locked, and is not: " + d.NotLocked
	}
	for _, note := range d.Notes {
		text += "; " + note
	}
	return text
}

// desktopSession returns the session of the user who runs the command: of root, the one that sudo or pkexec names, and else the
// only one that there is.
func desktopSession(getenv func(string) string) (proxysettings.Session, bool) {
	if os.Geteuid() != 0 {
		s, err := proxysettings.Own(getenv)
		return s, err == nil
	}
	all, err := proxysettings.Sessions()
	if err != nil {
		return proxysettings.Session{}, false
	}
	for _, name := range []string{"SUDO_UID", "PKEXEC_UID"} {
		if uid, err := strconv.Atoi(getenv(name)); err == nil {
			all = slices.DeleteFunc(all, func(s proxysettings.Session) bool { return s.UID != uid })
			break
		}
	}
	if len(all) != 1 {
		return proxysettings.Session{}, false
	}
	return all[0], true
}
