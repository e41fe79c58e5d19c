package main

import (
	"cmp"
	"crypto/fips140"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"

	"culvert.example/vpn/policy/local"
	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/policy/preferences"
	"culvert.example/vpn/policy/profile"
)

// choices are what the documents of this machine demand, and what the user prefers where they let him.
type choices struct {
	// The Profiles and the Preferences.User of docs are never nil.
	docs plan.Documents
	env  plan.Environment
	// pinned says that the user trusts a key of his own choice.
	pinned bool
	// path is where the preferences of the user are saved; empty keeps them in memory.
	path string
}

// newChoices returns those of a machine that has nothing but the profiles.
func newChoices(profiles ...*profile.Profile) *choices {
	return &choices{
		docs: plan.Documents{Profiles: &profile.Collection{Profiles: profiles}, Preferences: preferences.Pair{User: preferences.New()}},
		env:  plan.Environment{System: runtime.GOOS, Administrator: os.Geteuid() == 0, FIPS: fips140.Enabled()},
	}
}

// readChoices reads the documents of this machine. The profiles are those in the usual places unless the user has named one.
func readChoices(o *options, logger *slog.Logger) (*choices, error) {
	c := newChoices()
	c.pinned = o.pin != ""
	var err error
	if c.docs.Local, c.docs.LocalPath, _, err = local.LoadFirst(local.Paths(runtime.GOOS, os.Getenv, o.root), false); err != nil {
		return nil, err
	}
	if o.profile != "" {
		p, err := profile.Load(o.profile, false)
		if err != nil {
			return nil, err
		}
		c.docs.Profiles.Profiles = []*profile.Profile{p}
	} else if c.docs.Profiles, err = profile.LoadDirectories(o.directories(profile.VPN), false); err != nil {
		return nil, err
	}
	for _, r := range c.docs.Profiles.Rejected {
		logger.Warn("a profile is not used", "path", r.Path, "error", r.Err)
	}
	files := preferences.Paths(runtime.GOOS, os.Getenv, o.root)
	if c.path = preferences.First(files.User); c.path != "" {
		if c.docs.Preferences.User, err = preferences.Load(c.path, false); err != nil {
			return nil, err
		}
	}
	if path := preferences.First(files.Global); path != "" {
		// The user cannot mend this file, and without it nothing is allowed that would not be otherwise.
		if c.docs.Preferences.Global, err = preferences.Load(path, false); err != nil {
			logger.Warn("the preferences of the machine are not used", "error", err)
			c.docs.Preferences.Global = nil
		}
	}
	c.env.Message, err = preConnectText(o)
	return c, err
}

// directories returns where documents of a kind are.
func (o *options) directories(kind profile.Kind) []string {
	return profile.Directories(runtime.GOOS, kind, os.Getenv, o.root, false)
}

// preConnectText returns the text to show before connecting: that of the command line, or else that which an administrator has put
// beside the pictures and texts of the user interface. It is empty if there is neither.
func preConnectText(o *options) (string, error) {
	const most = 16 << 10
	if o.message != "" {
		return o.message, nil
	}
	dirs := o.directories(profile.Resources)
	if runtime.GOOS == "linux" {
		dirs = append([]string{filepath.Join("/", o.root, "etc/culvert")}, dirs...)
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, "preconnect.txt")
		b, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return "", fmt.Errorf("the message before connecting: %w", err)
		case len(b) > most:
			return "", fmt.Errorf("the message before connecting: %s has more than %d bytes", path, most)
		}
		return string(b), nil
	}
	return "", nil
}

// plan returns what the documents say of a gateway, which is the name or the address of an entry, and fails if they refuse it.
func (c *choices) plan(gateway string) (*plan.Plan, error) {
	p, err := plan.New(gateway, c.docs, c.env)
	return p, cmp.Or(err, p.CheckTrust(c.pinned, false))
}

// The settings that have a box here and an effect.
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

// boxes returns the check boxes: of each setting that the user may choose, and of one that nobody can switch off. A preference
// counts for the gateways of every profile that leaves the setting to the user, and the box shows what it is in the first of those.
func (c *choices) boxes() []box {
	var all []*profile.Effective
	for _, p := range c.docs.Profiles.Profiles {
		all = append(all, profile.Resolve(p, c.docs.Preferences.Control, c.env.System))
	}
	if len(all) == 0 {
		all = append(all, profile.Resolve(nil, c.docs.Preferences.Control, c.env.System))
	}
	var list []box
	for _, t := range titles {
		for _, e := range all {
			v, ok := e.Get(t.setting)
			if !ok || !v.UserControllable {
				continue
			}
			if global := c.docs.Preferences.Global; global != nil && preferences.Global(t.setting) {
				if _, decided := global.Control(t.setting); decided {
					t.why = "The preferences of this machine decide, in a file that is not the user's."
				}
			}
			list = append(list, box{setting: t.setting, title: t.title, checked: v.Value == "true", why: t.why})
			break
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
		return c.edit(func(p *preferences.Preferences) error { return p.SetControl(setting, value) })
	}
	return nil
}

// edit has change change the preferences of the user, and saves them.
func (c *choices) edit(change func(*preferences.Preferences) error) error {
	if c.path == "" {
		return change(c.docs.Preferences.User)
	}
	if err := preferences.Edit(c.path, preferences.UserMode, false, change); err != nil {
		return err
	}
	// What others have chosen meanwhile counts from now on as well.
	now, err := preferences.Load(c.path, false)
	if err == nil {
		c.docs.Preferences.User = now
	}
	return err
}
