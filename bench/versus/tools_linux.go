package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// packages are the Debian packages of the programs that are needed.
var packages = map[string]string{
	"go": "golang-go", "ip": "iproute2", "openssl": "openssl", "ocserv": "ocserv", "ocpasswd": "ocserv", "openconnect": "openconnect",
	"ocproxy": "ocproxy", "iperf3": "iperf3",
	"dnsmasq": "dnsmasq-base", "dnsperf": "dnsperf",
}

// errMissing is a program or a privilege that is missing.
var errMissing = errors.New("cannot begin")

// checkTools fails unless the pairs can be run here.
func checkTools(chosen []pair) error {
	needed := []string{"ip"}
	for _, p := range chosen {
		needed = append(needed, p.tools...)
		if slices.Contains(p.tools, "ocserv") {
			needed = append(needed, "openssl", "ocpasswd")
		}
	}
	slices.Sort(needed)
	var missing, install []string
	for _, tool := range slices.Compact(needed) {
		if _, err := exec.LookPath(tool); err != nil {
			missing, install = append(missing, tool), append(install, packages[tool])
		}
	}
	if len(missing) > 0 {
		slices.Sort(install)
		return fmt.Errorf("%w: %s not installed; on Debian: apt-get install %s", errMissing, strings.Join(missing, ", "),
			strings.Join(slices.Compact(install), " "))
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: making network namespaces needs root", errMissing)
	}
	for _, p := range chosen {
		if len(p.tools) == 0 && p.name == "d" {
			continue // all in the processes
		}
		if _, err := os.Stat("/dev/net/tun"); err != nil {
			return fmt.Errorf("%w: %w", errMissing, err)
		}
	}
	return nil
}

// buildCulvert builds our command, as the Makefile does.
func buildCulvert(file string) error {
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("%w: go is not installed; on Debian: apt-get install %s, or give the command with --culvert", errMissing, packages["go"])
	}
	dir, err := commandOutput("go", "list", "-m", "-f", "{{.Dir}}", "culvert.example/vpn/cmd/culvert")
	if err != nil {
		return fmt.Errorf("%w: finding the source of the command: %w: %s", errMissing, err, dir)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", file, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: building the command: %w: %s", errMissing, err, out)
	}
	return nil
}
