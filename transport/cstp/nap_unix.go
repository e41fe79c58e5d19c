//go:build unix && !linux

package cstp

import "time"

func nap(d time.Duration) { time.Sleep(d) }
