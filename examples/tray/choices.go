package main

import (
	"runtime"

	"culvert.example/vpn/policy/preferences"
	"culvert.example/vpn/policy/profile"
)

// choices are the user's preferences, where the profile lets him have any.
type choices struct {
	profile *profile.Profile
	prefs   *preferences.Preferences
	// path is where they are saved; empty keeps them in memory.
	path string
}

// The settings that this program acts upon.
const (
	settingConnectOnStart = "AutoConnectOnStart"
	settingReconnect      = "AutoReconnect"
)

// titles are the check boxes of AnyConnect's own window. A setting that has no effect here says why.
var titles = []struct{ setting, title, why string }{
	{settingConnectOnStart, "Connect when this program starts", ""},
	{settingReconnect, "Reconnect when the connection is lost", ""},
	{"LocalLanAccess", "Allow access to the local network", "Has no effect here: a tunnel inside a program leaves the routes of the machine alone."},
	{"MinimizeOnConnect", "Minimize when connected", "Has no effect here: there is no window."},
	{"DisableCaptivePortalDetection", "Do not look for captive portals", "Has no effect here: this program does not look for them."},
}

// effective returns the settings as they finally are.
func (c *choices) effective() *profile.Effective {
	return profile.Resolve(c.profile, c.prefs.Control, runtime.GOOS)
}

// on reports whether a setting is true. Settings have their defaults without a profile.
func (c *choices) on(setting string) bool {
	v, ok := c.effective().Get(setting)
	return ok && v.Value == "true"
}

// boxes returns the check boxes: of each setting that the user may choose, and of one that nobody can switch off.
func (c *choices) boxes() []box {
	var list []box
	e := c.effective()
	for _, t := range titles {
		if v, ok := e.Get(t.setting); ok && v.UserControllable {
			list = append(list, box{setting: t.setting, title: t.title, checked: v.Value == "true", why: t.why})
		}
	}
	return append(list, box{setting: preferences.BlockUntrustedServers, title: "Block connections to untrusted gateways", checked: true,
		why: "Always so: the certificate of a gateway is verified."})
}

// toggle changes a setting that the user may choose, and saves that.
func (c *choices) toggle(setting string) error {
	for _, b := range c.boxes() {
		if b.setting != setting || b.why != "" {
			continue
		}
		value := "true"
		if b.checked {
			value = "false"
		}
		if c.path == "" {
			return c.prefs.SetControl(setting, value)
		}
		err := preferences.Edit(c.path, preferences.UserMode, false, func(p *preferences.Preferences) error { return p.SetControl(setting, value) })
		if err != nil {
			return err
		}
		// What others have chosen meanwhile counts from now on as well.
		now, err := preferences.Load(c.path, false)
		if err == nil {
			c.prefs = now
		}
		return err
	}
	return nil
}
