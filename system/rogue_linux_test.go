package system_test

import (
	"net"
	"slices"
	"testing"
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/split"
	"culvert.example/vpn/system"
)

// A stranger's network whose DHCP server hands out routes to everywhere (TunnelVision) gets what was excluded from the tunnel, as it
// would without one, and attempts to connect to the gateway, who is not there. What belongs inside does not go there, and the tunnel
// neither ends nor leads through itself.
func TestRogueRoutes(t *testing.T) {
	t.Parallel()
	for _, path := range []system.DataPath{system.Packet, system.Flow} {
		t.Run(path.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.teach()
			gw := w.serveGateway(func(c *gateway.Config) { c.Network.Routes = nil })
			cfg := w.config()
			cfg.DataPath = path
			cfg.User = split.Rules{Exclude: prefixes("203.0.113.0/24")}
			s := w.open(cfg)
			tunnel := w.dialVPN(s, gw, gw.URL)
			page := "http://" + gw.Web.String() + "/"
			w.expect(map[string]string{"203.0.113.80": "outside"})

			stranger := w.lab.Host("stranger")
			there, here := w.lab.Join(w.client, "192.168.9.2/24", stranger, "192.168.9.1/24")
			stranger.IP("route", "add", "local", "default", "dev", "lo")
			stranger.IP("addr", "add", outsideDNS.Addr().String()+"/32", "dev", "lo")
			l, err := stranger.Listen("tcp", ":8080")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go greet(c, "stranger")
				}
			}()
			pc, err := stranger.ListenPacket("udp", outsideDNS.String())
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			go w.outside.serve(pc)
			air := stranger.Tap(here)
			for _, half := range []string{"0.0.0.0/1", "128.0.0.0/1"} {
				w.client.IP("route", "add", half, "via", "192.168.9.1", "dev", there)
			}

			w.expect(map[string]string{"203.0.113.80": "stranger"})
			if got := w.query(proxy, gatewaytest.WebName, false); got != gw.Web.Addr().String() {
				t.Errorf("%s is %s", gatewaytest.WebName, got)
			}
			if got := w.query(proxy, "www.example.org", false); got != "203.0.113.80" {
				t.Errorf("www.example.org is %s", got)
			}
			// The tunnel tries the way that the routes prefer, and stays.
			eventually(t, 5*time.Second, "the stranger's network is tried", func() bool { return len(roams(s)) > 0 })
			if got, err := w.get(page); err != nil || got != gatewaytest.Page {
				t.Errorf("%s: %q, %v", page, got, err)
			}
			// Another connection, as for a reconnect, finds the gateway all the same: also if the stranger says nothing.
			for _, silent := range []bool{false, true} {
				if silent {
					stranger.Run("nft", "add table ip deaf; add chain ip deaf in { type filter hook input priority 0; policy drop; }")
				}
				for _, network := range []string{"tcp", "udp"} {
					c, err := s.DialContext(t.Context(), network, gatewayAddr.String())
					if err != nil {
						t.Fatalf("%s: %v", network, err)
					}
					if from, _, _ := net.SplitHostPort(c.LocalAddr().String()); from != clientAddr.String() {
						t.Errorf("%s to the gateway comes from %s", network, from)
					}
					c.Close()
				}
			}
			if st := tunnel.Status(); st.Reconnects != 0 || st.Roams != 0 || st.State != vpn.Connected {
				t.Errorf("status %+v", st)
			}
			may := append(slices.Clone(gatewayOnly), "tcp 203.0.113.80 8080", "udp "+outsideDNS.Addr().String()+" 53")
			if got := leaks(air, may...); len(got) > 0 {
				t.Errorf("the stranger got %v", got)
			}
			for _, name := range w.outside.heard() {
				if name == gatewaytest.WebName {
					t.Errorf("%s was asked for outside", name)
				}
			}
		})
	}
}
