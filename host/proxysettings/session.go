package proxysettings

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// A Session is a user who is logged in, as far as the settings of the desktop are concerned.
type Session struct {
	// UID and GID are whose settings they are.
	UID int `json:"uid"`
	GID int `json:"gid"`
	// Bus is the address of the session bus, unix:path=... or unix:abstract=...
	Bus string `json:"bus"`
	// Config is the directory of the user's configuration, absolute: XDG_CONFIG_HOME, or else ~/.config.
	Config string `json:"config"`
}

func (s Session) check() error {
	switch {
	case s.UID < 0 || s.GID < 0:
		return invalid("Session: the user is %d:%d", s.UID, s.GID)
	case !filepath.IsAbs(s.Config) || filepath.Clean(s.Config) != s.Config:
		return invalid("Session.Config is not a clean absolute path")
	}
	_, err := socketOf(s.Bus)
	return err
}

// socketOf returns the socket of an address of D-Bus, with @ for an abstract one.
func socketOf(address string) (string, error) {
	for one := range strings.SplitSeq(address, ";") {
		kind, rest, _ := strings.Cut(one, ":")
		if kind != "unix" {
			continue
		}
		for pair := range strings.SplitSeq(rest, ",") {
			key, value, _ := strings.Cut(pair, "=")
			if len(value) == 0 || len(value) > 107 || strings.ContainsAny(value, "%\x00") {
				continue
			}
			switch {
			case key == "path" && filepath.IsAbs(value):
				return value, nil
			case key == "abstract":
				return "@" + value, nil
			}
		}
	}
	return "", invalid("Session.Bus: %.120q is not unix:path=... or unix:abstract=...", address)
}

// Own returns the session that the environment of this process describes: DBUS_SESSION_BUS_ADDRESS, or else XDG_RUNTIME_DIR,
// and XDG_CONFIG_HOME, or else HOME. It fails with ErrUnavailable if that is none.
func Own(getenv func(string) string) (Session, error) {
	s := Session{UID: os.Getuid(), GID: os.Getgid(), Bus: getenv("DBUS_SESSION_BUS_ADDRESS"), Config: getenv("XDG_CONFIG_HOME")}
	if s.Bus == "" {
		dir := getenv("XDG_RUNTIME_DIR")
		if _, err := os.Stat(filepath.Join(dir, "bus")); dir == "" || err != nil {
			return s, fmt.Errorf("%w: this process belongs to no session with a bus", ErrUnavailable)
		}
		s.Bus = "unix:path=" + filepath.Join(dir, "bus")
	}
	if !filepath.IsAbs(s.Config) {
		s.Config = filepath.Join(getenv("HOME"), ".config")
	}
	s.Config = filepath.Clean(s.Config)
	return s, s.check()
}

// Sessions returns the users of this machine that have a session bus in /run/user, as systemd gives them one, with the
// directories of their configuration. A process that is not root sees only its own. Nobody being there is no error.
func Sessions() ([]Session, error) { return sessionsIn("/run/user", user.LookupId) }

func sessionsIn(root string, lookup func(string) (*user.User, error)) ([]Session, error) {
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("proxysettings: %w", err)
	}
	var list []Session
	for _, e := range entries {
		uid, err := strconv.Atoi(e.Name())
		if err != nil || uid < 0 || os.Geteuid() != 0 && uid != os.Geteuid() {
			continue
		}
		bus := filepath.Join(root, e.Name(), "bus")
		if fi, err := os.Lstat(bus); err != nil || fi.Mode()&fs.ModeSocket == 0 {
			continue
		}
		u, err := lookup(e.Name())
		if err != nil || !filepath.IsAbs(u.HomeDir) {
			continue
		}
		gid, err := strconv.Atoi(u.Gid)
		if err != nil {
			continue
		}
		list = append(list, Session{UID: uid, GID: gid, Bus: "unix:path=" + bus, Config: filepath.Join(filepath.Clean(u.HomeDir), ".config")})
	}
	return list, nil
}
