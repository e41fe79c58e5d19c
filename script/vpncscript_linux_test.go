package script

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"culvert.example/vpn/internal/leak"
	"culvert.example/vpn/internal/netns"
)

// vpncScript is where Debian's package vpnc-scripts has it.
const vpncScript = "/usr/share/vpnc-scripts/vpnc-script"

// TestVPNCScript runs the real vpnc-script on a host of its own with a TUN device, and has it undo all.
func TestVPNCScript(t *testing.T) {
	leak.Check(t)
	if _, err := os.Stat(vpncScript); err != nil {
		if os.Getenv("CULVERT_INTEROP") == "1" {
			t.Fatalf("CULVERT_INTEROP=1, but %v", err)
		}
		t.Skip(err)
	}
	lab := netns.New(t)
	client, router := lab.Host("client"), lab.Host("router")
	lab.Join(client, "192.0.2.2/24 2001:db8::2/64", router, "192.0.2.1/24 2001:db8::1/64")
	client.IP("route", "add", "default", "via", "192.0.2.1")
	client.IP("-6", "route", "add", "default", "via", "2001:db8::1")
	client.IP("tuntap", "add", "dev", "tun0", "mode", "tun")

	// The script writes into /etc and /run, and would rather give resolvconf its work. It has a mount namespace each time, in which these
	// are others.
	dir := t.TempDir()
	const before = "# as it was\nnameserver 192.0.2.53\nsearch home.example\n"
	resolv := filepath.Join(dir, "resolv.conf")
	for name, text := range map[string]string{"resolv.conf": before, "off": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	wrapper := write(t, filepath.Join(dir, "wrapper"), `set -e
mount --bind $1/resolv.conf /etc/resolv.conf
mount --bind $1/run /run
for f in /usr/sbin/resolvconf /usr/bin/resolvectl; do [ ! -e $f ] || mount --bind $1/off $f; done
exec `+vpncScript)
	log := new(safeBuffer)
	s, err := New(Config{
		Path: "/usr/bin/unshare", Args: []string{"--mount", wrapper, dir},
		Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	settings := FromLease(lease(), "tun0")
	run := func(r Reason) {
		t.Helper()
		// The child belongs to the namespace of the thread that starts it.
		client.Do(func() {
			if err := s.Run(t.Context(), r, settings); err != nil {
				t.Fatalf("%v\n%s", err, log)
			}
		})
	}
	// snapshot is all that the script may have changed.
	snapshot := func() string {
		return client.Run("ip", "-4", "route") + client.Run("ip", "-6", "route", "show", "scope", "global") +
			client.Run("ip", "-o", "address", "show", "dev", "tun0") + read(t, resolv)
	}
	routes := func(family string) []string {
		t.Helper()
		var list []struct{ Dst, Dev, Gateway string }
		if err := json.Unmarshal([]byte(client.Run("ip", "-j", family, "route")), &list); err != nil {
			t.Fatal(err)
		}
		var text []string
		for _, r := range list {
			text = append(text, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Dst, r.Dev, r.Gateway)))
		}
		return text
	}
	expect := func(list []string, want ...string) {
		t.Helper()
		for _, w := range want {
			found := false
			for _, l := range list {
				found = found || strings.HasPrefix(l, w)
			}
			if !found {
				t.Errorf("%q is not in %q\n%s", w, list, log)
			}
		}
	}
	state := snapshot()
	run(PreInit)

	run(Connect)
	expect(routes("-4"), "10.0.0.0/8 tun0", "10.0.0.0/8 tun0", "192.0.2.77 tun0", "10.9.0.0/16 ", "198.51.100.7 ", "default ")
	expect(routes("-6"), "fd00::/16 tun0", "fd00:9::/32 ")
	if a := client.Run("ip", "-o", "address", "show", "dev", "tun0"); !strings.Contains(a, "10.1.2.3") || !strings.Contains(a, "fd00:1::3/64") {
		t.Errorf("addresses: %s", a)
	}
	if mtu := client.Run("ip", "link", "show", "tun0"); !strings.Contains(mtu, "mtu 1380") {
		t.Errorf("link: %s", mtu)
	}
	if got := read(t, resolv); !strings.Contains(got, "nameserver 10.1.0.53\nnameserver 10.1.0.54\nsearch home.example corp.example lab.example\n") {
		t.Errorf("resolv.conf: %s", got)
	}
	if !strings.Contains(log.String(), "Don’t pay ＄5.") {
		t.Errorf("no banner:\n%s", log)
	}

	run(AttemptReconnect)
	run(Reconnect)
	run(Disconnect)
	if got := snapshot(); got != state {
		t.Errorf("after disconnecting:\n%s\nwant\n%s\nlog:\n%s", got, state, log)
	}
	client.IP("tuntap", "del", "dev", "tun0", "mode", "tun")
}
