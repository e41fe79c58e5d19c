package host

import (
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

// sysfs returns a directory such as /sys/class/net.
func sysfs(files map[string]string) fstest.MapFS {
	m := make(fstest.MapFS)
	for name, text := range files {
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			m[name] = &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink}
			continue
		}
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

func TestKinds(t *testing.T) {
	sys := sysfs(map[string]string{
		"eth0/ifindex": "2\n", "eth0/device/vendor": "", "eth0/uevent": "INTERFACE=eth0\nIFINDEX=2\n", "eth0/device/driver": "-> ../../bus/pci/drivers/e1000e",
		"wlan0/ifindex": "3\n", "wlan0/uevent": "DEVTYPE=wlan\n", "wlan0/device/vendor": "",
		"wlan1/ifindex": "4\n", "wlan1/phy80211/name": "phy1", "wlan1/device/vendor": "",
		"wwan0/ifindex": "5\n", "wwan0/uevent": "DEVTYPE=wwan\n", "wwan0/device/vendor": "",
		"usb0/ifindex": "6\n", "usb0/device/driver": "-> ../../bus/usb/drivers/rndis_host", "usb0/device/vendor": "",
		"bnep0/ifindex": "7\n", "bnep0/uevent": "DEVTYPE=bluetooth\n",
		"eth9/ifindex": "99\n", "eth9/device/vendor": "", // another namespace's
	})
	links := []rawLink{
		{index: 1, name: "lo", kind: "device", hardware: "loopback", loopback: true},
		{index: 2, name: "eth0", kind: "device", hardware: "ether"},
		{index: 3, name: "wlan0", kind: "device", hardware: "ether"},
		{index: 4, name: "wlan1", kind: "device", hardware: "ether"},
		{index: 5, name: "wwan0", kind: "device", hardware: "ether"},
		{index: 6, name: "usb0", kind: "device", hardware: "ether"},
		{index: 7, name: "bnep0", kind: "device", hardware: "ether"},
		{index: 8, name: "ppp0", kind: "device", hardware: "ppp"},
		{index: 9, name: "eth9", kind: "device", hardware: "ether"},
		{index: 10, name: "tun0", kind: "tuntap", hardware: "none"},
		{index: 11, name: "veth0", kind: "veth", hardware: "ether", parent: 12, master: 13},
		{index: 13, name: "docker0", kind: "bridge", hardware: "ether"},
		{index: 14, name: "br0", kind: "bridge", hardware: "ether"},
		{index: 15, name: "eth0.5", kind: "vlan", hardware: "ether", parent: 2, master: 14}, // listed after the bridge it is in
		{index: 16, name: "bond0", kind: "bond", hardware: "ether"},
		{index: 17, name: "wlan0.5", kind: "vlan", hardware: "ether", parent: 3, master: 16},
		{index: 18, name: "wwan1", kind: "wwan", hardware: "none"},
		{index: 19, name: "wg0", kind: "wireguard", hardware: "none"},
		{index: 20, name: "br1", kind: "bridge", hardware: "ether"},
		{index: 21, name: "self", kind: "vlan", hardware: "ether", parent: 21},
	}
	got := kindsOf(links, sys)
	for index, want := range map[int]Kind{
		1: Loopback, 2: Wired, 3: WiFi, 4: WiFi, 5: Mobile, 6: Mobile, 7: Mobile, 8: Mobile, 9: Unknown, 10: Tunnel, 11: Virtual, 13: Virtual,
		14: Wired, 15: Wired, 16: WiFi, 17: WiFi, 18: Mobile, 19: Tunnel, 20: Virtual, 21: Virtual,
	} {
		if got[index] != want {
			t.Errorf("interface %d is %v, want %v", index, got[index], want)
		}
	}
}

// TestRank is row D117: wired before Wi-Fi before mobile broadband.
func TestRank(t *testing.T) {
	order := []Kind{Wired, WiFi, Mobile, Unknown, Virtual, Tunnel, Loopback}
	for i := 1; i < len(order); i++ {
		if order[i-1].Rank() >= order[i].Rank() {
			t.Errorf("%v is not better than %v", order[i-1], order[i])
		}
	}
	exit := func(name string, k Kind, route string, metric int) Exit {
		return Exit{Interface: name, Kind: k, Route: pfx(route), Metric: metric}
	}
	exits := []Exit{
		exit("wwan0", Mobile, "0.0.0.0/0", 1),
		exit("wlan0", WiFi, "0.0.0.0/0", 600),
		exit("eth1", Wired, "0.0.0.0/0", 200),
		exit("eth0", Wired, "0.0.0.0/0", 100),
		exit("lab0", Mobile, "198.51.100.0/24", 900),
	}
	sortExits(exits)
	for i, want := range []string{"lab0", "eth0", "eth1", "wlan0", "wwan0"} {
		if exits[i].Interface != want {
			t.Errorf("number %d is %s, want %s", i, exits[i].Interface, want)
		}
	}
}
