package main

import (
	"fmt"
	"strings"
	"testing"

	"culvert.example/vpn/policy/logon"
	"culvert.example/vpn/policy/network"
)

// TestLogonEvents: what the sessions of the machine mean to a manager, of which it is told one list after the other.
func TestLogonEvents(t *testing.T) {
	at := func(id, account string) logon.Session { return logon.Session{ID: id, Account: account} }
	ssh := func(id, account string) logon.Session { return logon.Session{ID: id, Account: account, Remote: true} }
	closing, greeter := at("9", "eve"), at("8", "gdm")
	closing.Closing, greeter.Class = true, logon.Greeter
	known := map[string]bool{}
	for _, c := range []struct {
		row      string
		sessions []logon.Session
		want     string
	}{
		{"nobody but a greeter", []logon.Session{greeter, closing}, ""},
		{"somebody over the network", []logon.Session{ssh("1", "ann")}, "on ann remote"},
		{"and at the machine", []logon.Session{ssh("1", "ann"), at("2", "ann")}, "on ann"},
		{"another one, in whatever order", []logon.Session{at("3", "bob"), at("2", "ann"), ssh("4", "bob")}, "on ann, on bob"},
		{"one goes as another comes", []logon.Session{at("3", "bob"), at("5", "")}, "off ann, on bob, on session 5"},
		{"all are gone", nil, "off bob, off session 5"},
	} {
		var got []string
		for _, e := range logonEvents(known, c.sessions) {
			text := map[network.Kind]string{network.Logon: "on ", network.Logoff: "off "}[e.Kind] + e.User
			if e.Remote {
				text += " remote"
			}
			got = append(got, text)
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: %s, want %s", c.row, got, c.want)
		}
	}

	d := &doorkeeper{sessions: []logon.Session{at("1", "uid 1000"), ssh("2", "uid 1001"), greeter}}
	for _, c := range []struct {
		request logon.Request
		want    string
	}{
		{logon.Request{Session: "2", Account: "uid 1001"}, "uid 1001"},
		{logon.Request{Account: "uid 1000"}, "uid 1000"},
		{logon.Request{Account: "uid 0"}, ""},
		{logon.Request{Session: "8", Account: "gdm"}, ""},
		{logon.Request{}, ""},
	} {
		d.request = c.request
		if got := d.owner(); got != c.want {
			t.Errorf("%s: owner %q, want %q", fmt.Sprint(c.request.Session, c.request.Account), got, c.want)
		}
	}
}
