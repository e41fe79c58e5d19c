package profile

import (
	"path"
	"strings"
)

// A Place is a directory where documents of a kind are looked for on a system.
type Place struct {
	// System is the system as Go calls it: windows, darwin or linux.
	System string `json:"system"`
	// Generation is 4.x for AnyConnect, 5.x for Secure Client, and xdg for the directories of the XDG base directory
	// specification, which are this client's own.
	Generation string `json:"generation"`
	// Kind is what the directory holds, such as vpn.
	Kind Kind `json:"kind"`
	// Path is the directory, with %NAME% and $NAME for variables of the environment.
	Path string `json:"path"`
	// User says that the directory belongs to a user, who could write anything into it. A service must not act upon what it
	// finds there.
	User bool `json:"user,omitempty"`
}

// A Kind is what a [Place] holds.
type Kind string

const (
	// VPN are the profiles that this package reads.
	VPN Kind = "vpn"
	// NAM are those of the Network Access Manager.
	NAM Kind = "nam"
	// Feedback are those of the customer experience feedback.
	Feedback Kind = "feedback"
	// ISEPosture are those of the ISE posture agent.
	ISEPosture Kind = "iseposture"
	// AMPEnabler are those of the AMP enabler.
	AMPEnabler Kind = "amp"
	// NVM are those of the Network Visibility Module.
	NVM Kind = "nvm"
	// Umbrella holds OrgInfo.json, which keeps that name.
	Umbrella Kind = "umbrella"
	// Localization holds translations, Resources pictures and texts, Help help files.
	Localization Kind = "l10n"
	// Resources holds the pictures and texts of the user interface.
	Resources Kind = "resources"
	// Help holds help files.
	Help Kind = "help"
	// OPSWAT holds the libraries that posture modules share.
	OPSWAT Kind = "opswat"
	// Scripts holds OnConnect and OnDisconnect.
	Scripts Kind = "script"
	// Binaries holds programs.
	Binaries Kind = "bin"
	// Libraries holds libraries.
	Libraries Kind = "lib"
)

// Places returns the directories of all systems. Of one kind on one system, the ones to be preferred come first.
func Places() []Place {
	const (
		win4 = `%ProgramData%\Cisco\Cisco AnyConnect Secure Mobility Client\`
		win5 = `%ProgramData%\Cisco\Cisco Secure Client\`
		opt4 = "/opt/cisco/anyconnect/"
		opt5 = "/opt/cisco/secureclient/"
	)
	all := []Place{
		{"windows", "5.x", VPN, win5 + `VPN\Profile`, false},
		{"windows", "4.x", VPN, win4 + `Profile`, false},
		{"windows", "4.x", NAM, win4 + `Network Access Manager\newConfigFiles`, false},
		{"windows", "4.x", Feedback, win4 + `CustomerExperienceFeedback`, false},
		{"windows", "4.x", ISEPosture, win4 + `ISE Posture`, false},
		{"windows", "4.x", AMPEnabler, win4 + `AMP Enabler`, false},
		{"windows", "4.x", AMPEnabler, win4 + `AMPEnabler`, false},
		{"windows", "4.x", NVM, win4 + `NVM`, false},
		{"windows", "4.x", Umbrella, win4 + `Umbrella`, false},
		{"windows", "4.x", Localization, `%ALLUSERSPROFILE%\Cisco\Cisco AnyConnect Secure Mobility Client\l10n`, false},
		{"windows", "4.x", Resources, `%PROGRAMFILES%\Cisco\Cisco AnyConnect Secure Mobility Client\res`, false},
		{"windows", "4.x", Help, `%ALLUSERSPROFILE%\Cisco\Cisco AnyConnect Secure Mobility Client\Help`, false},
		{"windows", "4.x", OPSWAT, `%PROGRAMFILES%\Cisco\Cisco AnyConnect Secure Mobility Client\OPSWAT`, false},
		{"darwin", "5.x", VPN, opt5 + "vpn/profile", false},
		{"darwin", "4.x", VPN, opt4 + "profile", false},
		{"darwin", "4.x", ISEPosture, opt4 + "iseposture", false},
		{"darwin", "4.x", AMPEnabler, opt4 + "AMPEnabler", false},
		{"darwin", "4.x", NVM, opt4 + "NVM", false},
		{"darwin", "4.x", Umbrella, opt4 + "umbrella", false},
		{"darwin", "4.x", Resources, "/Applications/Cisco/Cisco Secure Mobility Client.app/Contents/Resources", false},
		{"darwin", "4.x", OPSWAT, opt4 + "lib/opswat", false},
		{"linux", "xdg", VPN, "$XDG_CONFIG_HOME/culvert/profile", true},
		{"linux", "xdg", VPN, "$XDG_CONFIG_DIRS/culvert/profile", false},
		{"linux", "5.x", VPN, opt5 + "vpn/profile", false},
		{"linux", "4.x", VPN, opt4 + "profile", false},
		{"linux", "4.x", NVM, opt4 + "NVM", false},
	}
	for _, system := range []string{"darwin", "linux"} {
		all = append(all,
			Place{system, "5.x", Scripts, opt5 + "vpn/script", false},
			Place{system, "4.x", Scripts, opt4 + "script", false},
			Place{system, "4.x", Localization, opt4 + "l10n", false},
			Place{system, "5.x", Resources, opt5 + "resources", false},
			Place{system, "4.x", Resources, opt4 + "resources", false},
			Place{system, "4.x", Help, opt4 + "help", false},
			Place{system, "4.x", Binaries, opt4 + "bin", false},
			Place{system, "4.x", Libraries, opt4 + "lib", false})
	}
	return all
}

// Directories returns the directories of a kind on a system, the ones to be preferred first. The environment is asked for the
// variables of Windows and those of XDG, where the specification's defaults take the place of missing ones; a place whose
// variables are not known is left out. The root, usually "", comes in front of all paths, for tests and images of systems.
// With service, directories that belong to a user are left out.
func Directories(system string, kind Kind, env func(name string) string, root string, service bool) []string {
	var dirs []string
	for _, p := range Places() {
		if p.System != system || p.Kind != kind || service && p.User {
			continue
		}
		for _, dir := range expand(p, env) {
			if root != "" {
				dir = path.Join(root, strings.NewReplacer(`\`, "/", ":", "").Replace(dir))
			}
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// expand resolves the variables of a place, which may stand for several directories.
func expand(p Place, env func(name string) string) []string {
	if rest, ok := strings.CutPrefix(p.Path, "%"); ok {
		name, rest, _ := strings.Cut(rest, "%")
		value := env(name)
		if value == "" {
			return nil
		}
		return []string{strings.TrimSuffix(value, `\`) + rest}
	}
	rest, ok := strings.CutPrefix(p.Path, "$")
	if !ok {
		return []string{p.Path}
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
	var dirs []string
	for dir := range strings.SplitSeq(value, ":") {
		// The specification wants relative paths to be ignored.
		if path.IsAbs(dir) {
			dirs = append(dirs, path.Join(dir, rest))
		}
	}
	return dirs
}
