package system

import (
	"net/netip"
	"time"

	"culvert.example/vpn/flow"
	"culvert.example/vpn/host"
)

// Interpose puts something in front of the content filter of the tunnels to come.
func Interpose(s *System, f func(flow.Decider) flow.Decider) { s.interpose = f }

// SetApplyTime bounds each change of the machine by s that nobody has given a time for.
func SetApplyTime(s *System, d time.Duration) { s.applyTime = d }

// Peers returns the addresses that are in use where the device of s is.
func Peers(s *System) []netip.Addr { return s.inner.peers() }

// Happen has something happen to the machine of s.
func Happen(s *System, e host.Event) { s.happened(e) }
