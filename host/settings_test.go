package host

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	good := Settings{Device: "culvert0", Addresses: pfxs("10.8.0.5/24", "fd00::5/64"), MTU: 1400, Tunnel: pfxs("0.0.0.0/0")}
	if err := good.validate(); err != nil {
		t.Error(err)
	}
	if err := (Settings{}).validate(); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		change func(*Settings)
		says   string
	}{
		{func(s *Settings) { s.Device = "" }, "Device"},
		{func(s *Settings) { s.Device = "../etc" }, "Device"},
		{func(s *Settings) { s.Device = "a b" }, "Device"},
		{func(s *Settings) { s.Device = "-x" }, "Device"},
		{func(s *Settings) { s.Device = strings.Repeat("x", 16) }, "Device"},
		{func(s *Settings) { s.Addresses = []netip.Prefix{{}} }, "Addresses"},
		{func(s *Settings) { s.Addresses = pfxs("0.0.0.0/24") }, "Addresses"},
		{func(s *Settings) { s.Addresses = pfxs("127.0.0.1/24") }, "Addresses"},
		{func(s *Settings) { s.Addresses = pfxs("224.0.0.1/24") }, "Addresses"},
		{func(s *Settings) { s.Addresses = pfxs("10.0.0.1/0") }, "prefix length"},
		{func(s *Settings) { s.Addresses = pfxs("::ffff:10.0.0.1/128") }, "form of IPv6"},
		{func(s *Settings) { s.Addresses = make([]netip.Prefix, 100) }, "at most"},
		{func(s *Settings) { s.Tunnel = []netip.Prefix{{}} }, "Tunnel"},
		{func(s *Settings) { s.Direct = []netip.Prefix{{}} }, "Direct"},
		{func(s *Settings) { s.Blocked = pfxs("::ffff:10.0.0.0/120") }, "Blocked"},
		{func(s *Settings) { s.Tunnel = make([]netip.Prefix, maxPrefixes+1) }, "at most"},
		{func(s *Settings) { s.Gateways = []netip.Addr{{}} }, "Gateways"},
		{func(s *Settings) { s.Gateways = make([]netip.Addr, 2000) }, "Gateways"},
		{func(s *Settings) { s.MTU = 100 }, "MTU"},
		{func(s *Settings) { s.MTU = 1200 }, "1280"},
		{func(s *Settings) { s.MTU = 70000 }, "MTU"},
		{func(s *Settings) { s.Table = 254 }, "Table"},
		{func(s *Settings) { s.Table = -1 }, "Table"},
		{func(s *Settings) { s.Priority = 1 }, "Priority"},
		{func(s *Settings) { s.Priority = 32766 }, "Priority"},
		{func(s *Settings) { s.Mark, s.Mask = 3, 1 }, "Mask"},
		{func(s *Settings) { s.Local = 9 }, "Local"},
	} {
		s := good
		c.change(&s)
		err := s.validate()
		if !errors.Is(err, ErrSettings) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v, want an error about %s", err, c.says)
		}
	}
	if err := (Settings{Tunnel: pfxs("10.0.0.0/8")}).validate(); !errors.Is(err, ErrSettings) {
		t.Errorf("a tunnel without a device: %v", err)
	}
	if err := (Settings{Blocked: pfxs("::/0"), Direct: pfxs("10.0.0.0/8")}).validate(); err != nil {
		t.Errorf("what needs no device: %v", err)
	}
}
