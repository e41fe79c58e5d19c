package main

import (
	"crypto/fips140"
	"strings"

	"culvert.example/vpn/policy/plan"
)

// fipsSetting is what puts the cryptography of a Go program in FIPS 140-3 mode, which it can be only from its start.
const fipsSetting = "fips140=on"

// fipsEnvironment returns the environment of a process in FIPS 140-3 mode, and false if env asks for a mode already.
func fipsEnvironment(env []string) ([]string, bool) {
	out := make([]string, 0, len(env)+1)
	debug := ""
	for _, kv := range env {
		value, ok := strings.CutPrefix(kv, "GODEBUG=")
		if !ok {
			out = append(out, kv)
			continue
		}
		debug = value // the last one counts
	}
	for setting := range strings.SplitSeq(debug, ",") {
		if strings.HasPrefix(strings.TrimSpace(setting), "fips140=") {
			return nil, false
		}
	}
	if debug != "" {
		debug += ","
	}
	return append(out, "GODEBUG="+debug+fipsSetting), true
}

// enterFIPS starts the command again, in the place of this process, if the local policy demands FIPS 140-3 mode and the process is not
// in it. It returns nil if there is nothing to do, the refusal of FipsMode if it cannot be done, and otherwise not at all. It must be
// called before anything has been changed or opened.
func enterFIPS(p *plan.Plan, exe string, args, env []string) error {
	if p == nil || !p.TLS.FIPS || fips140.Enabled() {
		return nil
	}
	again, ok := fipsEnvironment(env)
	if !ok {
		return p.TLS.Refuse("the cryptography of this process must be in FIPS 140-3 mode, and GODEBUG in the environment switches that off; remove fips140 from there")
	}
	if err := replaceProcess(exe, args, again); err != nil {
		r := p.TLS.Refuse("the command could not be started again in FIPS 140-3 mode: %v; set GODEBUG=%s in its environment", err, fipsSetting)
		r.Err = err
		return r
	}
	return nil
}
