package host

import (
	"bytes"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// netlinkKinds are the kinds of interfaces as their drivers register them (IFLA_INFO_KIND), under the names that the netlink
// library has for them.
var netlinkKinds = map[string]Kind{
	"tuntap": Tunnel, "tun": Tunnel, "wireguard": Tunnel, "ovpn": Tunnel,
	"gre": Tunnel, "gretap": Tunnel, "ip6gre": Tunnel, "ip6gretap": Tunnel, "erspan": Tunnel,
	"ipip": Tunnel, "ip6tnl": Tunnel, "sit": Tunnel, "vti": Tunnel, "vti6": Tunnel, "xfrm": Tunnel, "gtp": Tunnel, "bareudp": Tunnel,
	"veth": Virtual, "netkit": Virtual, "dummy": Virtual, "ifb": Virtual, "vxlan": Virtual, "geneve": Virtual, "vrf": Virtual,
	"nlmon": Virtual, "can": Virtual, "vcan": Virtual, "macvtap": Virtual, "ipvtap": Virtual,
	// A modem driven by pppd, seldom PPP over Ethernet.
	"ppp": Mobile, "wwan": Mobile,
}

// stacked are the kinds of interfaces that are made of others, and are as good as those.
var stacked = map[string]bool{
	"bridge": true, "bond": true, "team": true, "vlan": true, "macvlan": true, "ipvlan": true, "macsec": true,
}

// mobileDrivers are the drivers of mobile broadband, and of phones connected by a cable that share theirs.
var mobileDrivers = map[string]bool{
	"qmi_wwan": true, "cdc_mbim": true, "huawei_cdc_ncm": true, "sierra_net": true, "hso": true, "kalmia": true, "lg-vl600": true,
	"mhi_net": true, "mhi_wwan_mbim": true, "iosm": true, "t7xx": true, "rndis_host": true, "ipheth": true,
}

// rawLink is what netlink tells about an interface, as far as its kind depends on it.
type rawLink struct {
	index, parent, master int
	name, kind, hardware  string // kind: of its driver; hardware: as in ARPHRD_
	loopback              bool
}

// kindsOf returns the kinds of interfaces by index. Sys is /sys/class/net, which may be that of another network namespace.
func kindsOf(links []rawLink, sys fs.FS) map[int]Kind {
	kinds := make(map[int]Kind, len(links))
	var pending []rawLink
	for _, l := range links {
		if stacked[l.kind] {
			pending = append(pending, l)
			continue
		}
		kinds[l.index] = l.own(sys)
	}
	// Those made of others can be made of each other, but not in circles, so each round settles at least one.
	for range pending {
		for _, l := range pending {
			best, found := Virtual, false
			for _, below := range links {
				if below.master != l.index && below.index != l.parent || below.index == l.index {
					continue
				}
				if k, ok := kinds[below.index]; ok && (!found || k.Rank() < best.Rank()) {
					best, found = k, true
				}
			}
			if found {
				kinds[l.index] = best
			}
		}
	}
	for _, l := range pending {
		if _, ok := kinds[l.index]; !ok {
			kinds[l.index] = Virtual
		}
	}
	return kinds
}

// own returns the kind of an interface that does not consist of others.
func (l rawLink) own(sys fs.FS) Kind {
	if l.loopback {
		return Loopback
	}
	if k, ok := netlinkKinds[l.kind]; ok {
		return k
	}
	if l.hardware == "ppp" {
		return Mobile
	}
	// Another namespace may have another interface of that name.
	if text, err := fs.ReadFile(sys, path.Join(l.name, "ifindex")); err != nil || strings.TrimSpace(string(text)) != strconv.Itoa(l.index) {
		return Unknown
	}
	exists := func(name string) bool {
		_, err := fs.Stat(sys, path.Join(l.name, name))
		return err == nil
	}
	if exists("wireless") || exists("phy80211") {
		return WiFi
	}
	if text, err := fs.ReadFile(sys, path.Join(l.name, "uevent")); err == nil {
		for line := range bytes.Lines(text) {
			switch strings.TrimSpace(string(line)) {
			case "DEVTYPE=wlan":
				return WiFi
			case "DEVTYPE=wwan", "DEVTYPE=bluetooth":
				return Mobile
			case "DEVTYPE=bridge", "DEVTYPE=dsa":
				return Virtual
			}
		}
	}
	if driver, err := fs.ReadLink(sys, path.Join(l.name, "device/driver")); err == nil && mobileDrivers[path.Base(driver)] {
		return Mobile
	}
	if exists("device") && l.hardware == "ether" {
		return Wired
	}
	return Unknown
}
