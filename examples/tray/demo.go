package main

import (
	"time"

	"culvert.example/vpn"
	"culvert.example/vpn/gateway"
	"culvert.example/vpn/gateway/gatewaytest"
	"culvert.example/vpn/policy/profile"
)

// demoMessage is shown before the first attempt to connect, since no manual is at hand.
const demoMessage = "This is a demonstration: the gateway is inside this program, and knows one user.\n\n" +
	"User: " + gatewaytest.User + "\nPassword: " + gatewaytest.Password + "\n\n" +
	"Through the proxy that the menu names, http://" + gatewaytest.WebName + "/ leads to a page behind the gateway."

// A demo is the gateway of the demonstration, as a network that can be made worse.
type demo struct{ gateway *gatewaytest.Gateway }

// startDemo starts the gateway. The caller closes it.
func startDemo() (demo, error) {
	g, err := gatewaytest.Start(gatewaytest.Options{Config: func(c *gateway.Config) {
		c.Network.Banner = "Welcome to the <demonstration>.\nNobody is watching."
	}})
	return demo{g}, err
}

// profile returns a profile as an administrator would write it for the gateway.
func (d demo) profile() (*profile.Profile, error) {
	const nobody = "127.0.0.1:9" // the port of discard, where hardly anything listens
	p, err := profile.New(profile.NewOptions{
		Name: "demonstration",
		Hosts: []profile.Host{
			{Name: "Demonstration", Address: d.gateway.Addr.String()},
			{Name: "Demonstration, by its backup", Address: nobody, Backups: []string{d.gateway.Addr.String()}},
			{Name: "Nobody there", Address: nobody},
		},
		Settings: map[string]string{"ShowPreConnectMessage": "true"},
	})
	if err != nil {
		return nil, err
	}
	return p, p.SetUserControllable(settingReconnect, true)
}

// config returns what it takes to trust the gateway, and to notice soon when it cannot be reached.
func (d demo) config() vpn.Config {
	return vpn.Config{Pins: []string{d.gateway.Pin}, DPD: 2 * time.Second}
}

// set implements network.
func (d demo) set(f faults) {
	d.gateway.CutUDP(f.udp || f.all)
	d.gateway.CutTCP(f.all)
	if f.all {
		d.gateway.ResetTCP() // or it would take until the next probe that the loss is noticed
	}
}

// end implements network.
func (d demo) end() {
	for _, s := range d.gateway.Sessions() {
		_ = d.gateway.Disconnect(s.ID, "the demonstration is over") // it may have ended by itself
	}
}
