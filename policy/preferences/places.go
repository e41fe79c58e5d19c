package preferences

import (
	"os"
	"path"
	"strings"
)

// A Files is where preferences are on a system.
type Files struct {
	// User are the files of the user, and Global those of the machine. The first one that exists is read, and if none does,
	// the first one is written.
	User, Global []string
}

// Paths returns where preferences are on a system, as Go calls it: this client's own on Linux, then those of Secure Client 5.x
// and AnyConnect 4.x, whose directory has been called both AnyConnect VPN Client and AnyConnect Secure Mobility Client on
// Windows. The environment is asked for HOME, XDG_CONFIG_HOME, LOCALAPPDATA and ProgramData; files whose variables are not
// known are left out. The root, usually "", comes in front of all paths, for tests and images of systems.
func Paths(system string, env func(name string) string, root string) Files {
	var f Files
	switch system {
	case "windows":
		for _, product := range []string{`Cisco Secure Client\VPN`, `Cisco AnyConnect Secure Mobility Client`, `Cisco AnyConnect VPN Client`} {
			if dir := env("LOCALAPPDATA"); dir != "" {
				f.User = append(f.User, strings.TrimSuffix(dir, `\`)+`\Cisco\`+product+`\preferences.xml`)
			}
			if dir := env("ProgramData"); dir != "" {
				f.Global = append(f.Global, strings.TrimSuffix(dir, `\`)+`\Cisco\`+product+`\preferences_global.xml`)
			}
		}
	case "linux":
		if dir := env("XDG_CONFIG_HOME"); path.IsAbs(dir) {
			f.User = append(f.User, path.Join(dir, "culvert/preferences.xml"))
		} else if home := env("HOME"); home != "" {
			f.User = append(f.User, path.Join(home, ".config/culvert/preferences.xml"))
		}
		f.Global = append(f.Global, "/etc/culvert/preferences_global.xml")
		fallthrough
	case "darwin":
		if home := env("HOME"); home != "" {
			f.User = append(f.User, path.Join(home, ".vpn/.anyconnect"), path.Join(home, ".anyconnect"))
		}
		f.Global = append(f.Global, "/opt/cisco/secureclient/vpn/.anyconnect_global", "/opt/cisco/anyconnect/.anyconnect_global")
	}
	for _, list := range [][]string{f.User, f.Global} {
		for i, p := range list {
			if root != "" {
				list[i] = path.Join(root, strings.NewReplacer(`\`, "/", ":", "").Replace(p))
			}
		}
	}
	return f
}

// First returns the first of the files that exists, or else the first one, or "" if there is none.
func First(paths []string) string {
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	if len(paths) == 0 {
		return ""
	}
	return paths[0]
}
