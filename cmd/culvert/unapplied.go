package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"culvert.example/vpn/policy/plan"
	"culvert.example/vpn/policy/profile"
)

// unavailable are the settings of profiles that this command does not carry out, by their paths, with the reasons. Machine says that
// the tunnel is for the whole machine.
func unavailable(machine bool) map[string]string {
	without := map[string]string{
		"AutoConnectOnStart":                      "this command connects when it is started, whatever this says",
		"CaptivePortalRemediationBrowserFailover": "this command opens no browser; it names the page of the portal",
	}
	if machine {
		return without
	}
	const whole = "only a tunnel for the whole machine does this; see culvert connect"
	for _, path := range []string{
		"UseStartBeforeLogon", "DisableCaptivePortalDetection", "AutoReconnect/AutoReconnectBehavior", "EnableScripting", "EnableAutomaticServerSelection",
		"AutomaticVPNPolicy", "AutomaticVPNPolicy/TrustedDNSDomains", "AutomaticVPNPolicy/TrustedDNSServers",
		"AutomaticVPNPolicy/TrustedNetworkPolicy", "AutomaticVPNPolicy/UntrustedNetworkPolicy",
	} {
		without[path] = whole
	}
	return without
}

// unapplied says which settings of the profile have no effect here, those with the same reason in one line. With all it names those
// too that have their default, which nobody misses.
func unapplied(settings []plan.Effect, all bool) []string {
	var reasons []string
	names := map[string][]string{}
	for _, e := range settings {
		if e.Usual && !all {
			continue
		}
		if names[e.Says] == nil {
			reasons = append(reasons, e.Says)
		}
		names[e.Says] = append(names[e.Says], fmt.Sprintf("%s%s (line %d)", e.Path, orNothing(" = ", e.Value), e.Line))
	}
	for i, why := range reasons {
		reasons[i] = strings.Join(names[why], ", ") + ": " + why
	}
	return reasons
}

// printUnapplied prints which settings of a profile have no effect on a system.
func printUnapplied(w io.Writer, p *profile.Profile, system string) error {
	docs := plan.Documents{Profiles: &profile.Collection{Profiles: []*profile.Profile{p}}}
	// What refuses the plan does not matter here.
	made, _ := plan.New("", docs, plan.Environment{System: system, WholeMachine: true, Unavailable: unavailable(true)})
	lines := unapplied(made.Ignored, true)
	if len(lines) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nWITHOUT EFFECT HERE")
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, oneLine(line)); err != nil {
			return err
		}
	}
	return nil
}

// sayUnapplied tells which settings of the documents have no effect here that somebody may miss.
func (c *clientFlags) sayUnapplied(a *app) {
	if c.plan == nil {
		return
	}
	tell := func(text string) {
		a.reporter().say(event{Event: "message", Kind: "unapplied", Message: oneLine(text)}, "%s", oneLine(text))
	}
	say := func(document string, settings []plan.Effect) {
		for _, line := range unapplied(settings, false) {
			tell(document + " has settings without effect here: " + line)
		}
	}
	inForce := c.plan.InForce().Profiles
	for _, other := range c.plan.Documents.Profiles.Profiles {
		if !slices.Contains(inForce, other) {
			tell("profile " + other.Name() + " has no effect here: profile " + inForce[0].Name() + " demands Always-On, and takes the place of those that do not")
		}
	}
	say(c.plan.Document(false), c.plan.Ignored)
	say(c.plan.Document(true), slices.DeleteFunc(slices.Clone(c.plan.Local), func(e plan.Effect) bool { return e.State != plan.NotApplicable }))
}

// profileFile returns the file of a profile that was named: a path, or the name of a file in one of the usual directories, whose
// ending may be left out.
func (a *app) profileFile(f *documentFlags) string {
	if strings.ContainsRune(f.profileFile, filepath.Separator) || exists(f.profileFile) {
		return f.profileFile
	}
	for _, dir := range profile.Directories(runtime.GOOS, profile.VPN, a.getenv, f.root, f.machine) {
		for _, ending := range []string{"", ".xml"} {
			if file := filepath.Join(dir, f.profileFile+ending); exists(file) {
				return file
			}
		}
	}
	return f.profileFile
}

// exists reports whether there is a file.
func exists(file string) bool {
	fi, err := os.Stat(file)
	return err == nil && fi.Mode().IsRegular()
}
