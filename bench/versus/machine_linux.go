package main

import (
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// A machineReport is where and with what something was measured.
type machineReport struct {
	Date       time.Time         `json:"date"`
	Processor  string            `json:"processor"`
	Processors int               `json:"processors"`
	Memory     string            `json:"memory"`
	Kernel     string            `json:"kernel"`
	System     string            `json:"system"`
	Go         string            `json:"go"`
	Commit     string            `json:"commit"`
	LoadBefore string            `json:"load_before"`
	Versions   map[string]string `json:"versions"`
}

// describeMachine collects what can be found out.
func describeMachine() machineReport {
	m := machineReport{
		Date: time.Now().UTC().Truncate(time.Second), Processors: runtime.NumCPU(), Go: runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH,
		Processor: find("/proc/cpuinfo", `(?m)^model name\s*:\s*(.+)$`), Memory: find("/proc/meminfo", `(?m)^MemTotal:\s*(.+)$`),
		Kernel: find("/proc/sys/kernel/osrelease", `(?m)^(.+)$`), System: find("/etc/os-release", `(?m)^PRETTY_NAME="?([^"\n]+)`),
		LoadBefore: find("/proc/loadavg", `^(\S+ \S+ \S+)`), Versions: make(map[string]string),
	}
	if out, err := commandOutput("git", "describe", "--always", "--dirty"); err == nil {
		m.Commit = out
	}
	for tool, args := range map[string][]string{
		"openconnect": {"--version"}, "ocserv": {"--version"}, "iperf3": {"--version"},
		"dnsmasq": {"--version"},
		"ocproxy": nil, "dnsperf": nil, // they have no such option; the package says
	} {
		if args == nil {
			if out, err := commandOutput("dpkg-query", "-W", "-f", "${Version}", tool); err == nil {
				m.Versions[tool] = out
			}
			continue
		}
		if out, err := commandOutput(tool, args...); err == nil {
			if v := regexp.MustCompile(`\d+\.\d[-\w.]*`).FindString(out); v != "" {
				m.Versions[tool] = v
			}
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "golang.zx2c4.com/wireguard" || d.Path == "gvisor.dev/gvisor" {
				m.Versions[d.Path] = d.Version
			}
		}
	}
	return m
}

// find returns what the expression finds in a file, or "".
func find(file, expression string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	m := regexp.MustCompile(expression).FindSubmatch(b)
	if m == nil {
		return ""
	}
	return strings.TrimSpace(string(m[1]))
}
