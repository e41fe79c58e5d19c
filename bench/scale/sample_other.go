//go:build !linux

package main

import "time"

func resident() uint64 { return 0 }

func descriptors() int { return 0 }

func usage() (cpu time.Duration, switches uint64) { return 0, 0 }
