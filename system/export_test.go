package system

import (
	"culvert.example/vpn/flow"
	"culvert.example/vpn/host"
)

// Interpose puts something in front of the content filter of the tunnels to come.
func Interpose(s *System, f func(flow.Decider) flow.Decider) { s.interpose = f }

// Happen has something happen to the machine of s.
func Happen(s *System, e host.Event) { s.happened(e) }
