package network

import (
	"testing"
	"time"

	"culvert.example/vpn/policy/network/portal"
	"culvert.example/vpn/policy/network/selection"
	"culvert.example/vpn/policy/network/trusted"
	"culvert.example/vpn/policy/profile"
)

// FuzzManager lets anything happen in any order. What must hold whatever happens: nothing panics, the Manager never asks to be
// told of a time that has come, it never does more than a few things at once, the tunnel is told what makes sense, and, with
// Always-On Closed, the firewall is closed whenever there is no tunnel in a network that is not known to be trusted, at every
// point of the actions, with a window only inside a closed firewall and only as long as it may be.
func FuzzManager(f *testing.F) {
	f.Add(uint16(0xffff), []byte{1, 4, 17, 9, 16, 10, 200, 250})
	f.Add(uint16(0x00ff), []byte{1, 0x44, 20, 0x34, 60, 200, 17, 18, 8, 10, 13})
	f.Add(uint16(0x0f3f), []byte{1, 4, 0x64, 19, 0x39, 20, 0x34, 14, 200, 240, 230, 5, 6, 7})
	f.Fuzz(func(t *testing.T, bits uint16, events []byte) {
		bit := func(n int) bool { return bits>>n&1 == 1 }
		cfg := Config{
			Automatic: true, Trusted: rules(), TrustedPolicy: profile.Disconnect,
			AlwaysOn:             AlwaysOn{On: true, Closed: true, AllowDisconnect: bit(0), Remediation: bit(1), Window: 5 * time.Minute},
			BypassSessionTimeout: bit(2), NoPortals: bit(3), ConnectOnStart: bit(4), DisconnectOnSuspend: bit(5),
			RetainOnLogoff: bit(6), AnyUser: bit(7), NeedUser: bit(8), Select: bit(9),
			Hosts: []Host{{Name: "One", Server: "a", Backups: []string{"b"}, Members: []string{"m"}}, {Name: "Two", Server: "c"}},
		}
		if bit(10) {
			cfg.TrustedPolicy = profile.Pause
		}
		if bit(11) {
			cfg.TrustedPolicy = profile.Connect
		}
		if bit(12) {
			cfg.Trusted.HTTPS = []trusted.Server{{Address: "proof", Hash: make([]byte, 32)}}
		}
		if bit(13) {
			cfg.UntrustedPolicy = profile.DoNothing
		}
		m, err := New(cfg, selection.Cache{}, epoch)
		if err != nil {
			t.Fatal(err)
		}
		now, mode, window, opened := epoch, Open, false, time.Time{}
		tunnel, attempt := false, uint64(0) // as the actions and the answers say
		asks := map[Do]uint64{}
		exempt := false
		if _, actions, _ := m.Step(now, Event{}); len(actions) == 1 && actions[0].Do == SetFirewall {
			mode = actions[0].Firewall.Mode
		}
		for i, b := range events {
			e := Event{Kind: Kind(int(b) % kinds), User: string('x' + rune(b>>6)), Run: attempt}
			if b >= 192 {
				e = Event{}
				now = now.Add(time.Duration(b-191) * 3 * time.Second)
			}
			reasons := []Reason{Unreachable, Untrusted, LoginFailed, SessionTimeout, IdleTimeout, ByGateway, LogonRules, Refused}
			switch e.Kind {
			case NetworkChanged, Start:
				e.Links = cafe
				if b>>5&1 == 1 {
					e.Links = office
				}
			case UserConnect:
				e.Host = []string{"", "One", "two", "nobody"}[b>>5&3]
			case Redirected:
				e.Server = []string{"m", "b", "evil", ""}[b>>5&3]
			case TunnelUp:
				e.Exempt = b == 0xa0
			case TunnelDown:
				e.Reason = reasons[b>>5]
			case Asked:
				e.Run, e.Answers = asks[AskTrusted], trusted.Answers{HTTPS: []trusted.Answer{trusted.Answer(b >> 5 % 3)}}
			case Looked:
				e.Run, e.Report = asks[AskPortal], portal.Report{Verdict: portal.Verdict(b >> 5 & 3)}
			case Measured:
				e.Run, e.Samples = asks[Measure], []selection.Sample{{Server: "c", Delay: 1, OK: b>>5&1 == 1}}
			case Reconfigured:
				other := cfg
				other.AlwaysOn.Window = time.Duration(b>>5) * time.Minute
				e.Config = &other
			}
			next, actions, err := m.Step(now, e)
			if err != nil && len(actions) > 0 && e.Kind != Redirected {
				t.Fatalf("%d: refused, and yet %v", i, actions)
			}
			if err == nil && !next.IsZero() && !next.After(now) {
				t.Fatalf("%d: due at %v, which is not after %v", i, next, now)
			}
			if len(actions) > 16 {
				t.Fatalf("%d: too much to do: %v", i, actions)
			}
			s := m.Status()
			exempt = exempt || s.AlwaysOn == "lifted"
			free := exempt || s.Network.Verdict == trusted.Trusted
			switch e.Kind {
			case TunnelUp:
				if e.Run == attempt && attempt != 0 {
					tunnel = s.Tunnel == string(up)
				}
			case TunnelDown:
				tunnel = tunnel && s.Tunnel == string(up)
			}
			for _, a := range actions {
				switch a.Do {
				case Connect, ResumeTunnel:
					attempt, tunnel = a.Run, false
				case Disconnect, Pause:
					if mode == Open && !free || mode == Tunnel && !free {
						t.Fatalf("%d: the tunnel goes down while the firewall is %v: %v", i, mode, actions)
					}
					tunnel = false
				case SetFirewall:
					mode = a.Firewall.Mode
				case OpenPortal:
					if mode != Closed || !cfg.AlwaysOn.Remediation {
						t.Fatalf("%d: a window in a firewall that is %v: %v", i, mode, actions)
					}
					if !window {
						window, opened = true, now
					}
					if a.For <= 0 || now.Add(a.For).After(opened.Add(7*time.Minute)) {
						t.Fatalf("%d: open for %v", i, a.For)
					}
				case ClosePortal:
					window = false
				case AskTrusted, AskPortal, Measure:
					asks[a.Do] = a.Run
				}
			}
			if !free && s.Tunnel != string(up) && mode != Closed {
				t.Fatalf("%d: no tunnel (%s), network %v, and the firewall is %v", i, s.Tunnel, s.Network.Verdict, mode)
			}
			if !free && mode == Open {
				t.Fatalf("%d: the firewall is open", i)
			}
			if tunnel != (s.Tunnel == string(up)) {
				t.Fatalf("%d: the tunnel is %s, which nobody has said", i, s.Tunnel)
			}
			if window != !s.PortalWindow.IsZero() || window && mode != Closed {
				t.Fatalf("%d: window %v in a firewall that is %v", i, window, mode)
			}
		}
	})
}
