package system

import "culvert.example/vpn/flow"

// Interpose puts something in front of the content filter of the tunnels to come.
func Interpose(s *System, f func(flow.Decider) flow.Decider) { s.interpose = f }
