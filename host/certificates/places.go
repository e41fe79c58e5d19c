package certificates

import (
	"path"
	"strings"
)

// A Kind is a kind of certificate store.
type Kind string

const (
	// System is what the system comes with: the bundle of the distribution on Linux, the keychains of macOS, the certificate
	// stores of Windows. Only crypto/x509 reads it, and only for authorities.
	System Kind = "system"
	// PEMMachine are directories with PEM files that belong to the machine.
	PEMMachine Kind = "pem-machine"
	// PEMUser are directories with PEM files that belong to the user.
	PEMUser Kind = "pem-user"
	// Firefox is the store of the user's Firefox.
	Firefox Kind = "firefox"
)

// A Place is a directory where a store is looked for.
type Place struct {
	// System is the operating system, as Go calls it.
	System string `json:"system"`
	// Kind is the kind of store.
	Kind Kind `json:"kind"`
	// Path is the directory, with $NAME for variables of the environment: for PEM the one that holds ca and client, and for
	// Firefox the one that holds profiles.ini.
	Path string `json:"path"`
}

// Places returns the directories of all systems. Of one kind on one system, the ones to be preferred come first: this client's own
// ones, which follow the XDG base directory specification, and then those of AnyConnect 4.x and Secure Client 5.x, which share
// theirs. On Windows there are none, since everything is in the system's own store.
func Places() []Place {
	return []Place{
		{"linux", PEMMachine, "$XDG_CONFIG_DIRS/culvert/certificates"},
		{"linux", PEMMachine, "/opt/.cisco/certificates"},
		{"linux", PEMUser, "$XDG_CONFIG_HOME/culvert/certificates"},
		{"linux", PEMUser, "$HOME/.cisco/certificates"},
		{"linux", Firefox, "$XDG_CONFIG_HOME/mozilla/firefox"}, // newer versions
		{"linux", Firefox, "$HOME/.mozilla/firefox"},
		{"linux", Firefox, "$HOME/snap/firefox/common/.mozilla/firefox"},
		{"linux", Firefox, "$HOME/.var/app/org.mozilla.firefox/.mozilla/firefox"}, // Flatpak
		{"darwin", PEMMachine, "/opt/.cisco/certificates"},
		{"darwin", PEMUser, "$HOME/.cisco/certificates"},
		{"darwin", Firefox, "$HOME/Library/Application Support/Firefox"},
	}
}

// Directories returns the directories of a kind on a system, the ones to be preferred first. The environment is asked for HOME
// and the variables of XDG, where the specification's defaults take the place of missing ones; a place whose variables are not
// known is left out. The root, usually "", comes in front of all paths, for tests and images of systems.
func Directories(system string, kind Kind, env func(name string) string, root string) []string {
	var dirs []string
	for _, p := range Places() {
		if p.System != system || p.Kind != kind {
			continue
		}
		for _, dir := range expand(p.Path, env) {
			dirs = append(dirs, path.Join(root, dir))
		}
	}
	return dirs
}

// expand resolves the variable of a path, which may stand for several directories.
func expand(pattern string, env func(name string) string) []string {
	rest, ok := strings.CutPrefix(pattern, "$")
	if !ok {
		return []string{pattern}
	}
	name, rest, _ := strings.Cut(rest, "/")
	value := env(name)
	switch {
	case value != "":
	case name == "XDG_CONFIG_HOME" && env("HOME") != "":
		value = path.Join(env("HOME"), ".config")
	case name == "XDG_CONFIG_DIRS":
		value = "/etc/xdg"
	}
	values := []string{value}
	if name == "XDG_CONFIG_DIRS" {
		values = strings.Split(value, ":")
	}
	var dirs []string
	for _, v := range values {
		// The specification wants relative paths to be ignored.
		if path.IsAbs(v) {
			dirs = append(dirs, path.Join(v, rest))
		}
	}
	return dirs
}
