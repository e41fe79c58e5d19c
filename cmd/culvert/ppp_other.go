//go:build !linux

package main

import "net/netip"

func pppServers() ([]netip.Addr, error) { return nil, nil }
