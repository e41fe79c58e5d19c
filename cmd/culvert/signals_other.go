//go:build !unix

package main

import (
	"context"
	"os"

	"culvert.example/vpn"
)

// watchSignals does nothing: there are no such signals here.
func watchSignals(context.Context, *reporter, *vpn.Tunnel) {}

// survivePipes does nothing: there is no such signal here.
func survivePipes() {}

// reloadSignal returns a channel that gets nothing.
func reloadSignal() (signals chan os.Signal, stop func()) { return make(chan os.Signal), func() {} }

// hangupSignal returns a channel that gets nothing.
func hangupSignal(context.Context) <-chan struct{} { return nil }
