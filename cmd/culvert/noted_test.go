package main

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"culvert.example/vpn/flow"
	"culvert.example/vpn/flow/owner"
)

// TestNotedFlows: a flow that a rule notes is told of without -v, to a person and to a program, with who and where; and a reader that is
// slow loses some, is told how many, and keeps nobody waiting.
func TestNotedFlows(t *testing.T) {
	n := flow.Note{
		Flow: flow.Flow{Network: "tcp", Destination: netip.MustParseAddrPort("192.0.2.25:25"), Name: "mail.example",
			Owner: owner.Owner{UID: 1000, User: "ann", Program: "/usr/bin/mail\x1b[31m"}},
		Verdict: flow.Verdict{Allow: true, Rule: "default", Log: true, LogRule: "see mail"},
		Skipped: 3,
	}
	var out bytes.Buffer
	noted, end := tellFlows(&reporter{w: &out})
	noted(n)
	end()
	for _, want := range []string{`rule "see mail"`, "/usr/bin/mail", "user ann", "to 192.0.2.25:25/tcp mail.example", `allowed by "default"`, "3 others"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in %q", want, out.String())
		}
	}
	if strings.Contains(out.String(), "\x1b") || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("%q", out.String())
	}

	out.Reset()
	n.Flow.Owner, n.Verdict.Allow = owner.Owner{UID: 1000}, false
	r := &reporter{w: &out, json: true}
	noted, end = tellFlows(r)
	r.mu.Lock() // nobody reads
	const sent = 3 * maxNotes
	for range sent {
		noted(n)
	}
	r.mu.Unlock()
	end()
	noted(n) // comes too late, and is no trouble
	told := 0
	for d := json.NewDecoder(&out); d.More(); told++ {
		var e event
		if err := d.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if e.Event != "flow" || e.Rule != "see mail" || e.Decided != "default" || e.User != "1000" || e.Target != "192.0.2.25:25" || e.Action != "block" || e.Skipped < 3 {
			t.Errorf("%+v", e)
		}
	}
	if told < maxNotes || told > maxNotes+1 {
		t.Errorf("%d flows are told of", told)
	}
}
