//go:build !linux

package nap

import "time"

// For sleeps for d, or for as long as the timers of the system need.
func For(d time.Duration) { time.Sleep(d) }
