package heartbeat

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"culvert.example/vpn/transport/liveness"
)

// TestCoarse has idle channels that were opened at different moments send in the same ones, and none too late.
func TestCoarse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const beats, keepalive = 100, 20 * time.Second
		var mu sync.Mutex
		moments := map[time.Time]int{}
		total := 0
		for i := range beats {
			last := time.Now()
			b := Start(liveness.Config{Load: -1, Keepalive: keepalive}, Actions{Keepalive: func() error {
				mu.Lock()
				defer mu.Unlock()
				now := time.Now()
				if d := now.Sub(last); d < keepalive || d >= keepalive+coarse {
					t.Errorf("beat %d: keepalive after %v", i, d)
				}
				last = now
				moments[now]++
				total++
				return nil
			}})
			defer b.Close()
			b.Sent(false)
			time.Sleep(7 * time.Millisecond)
		}
		time.Sleep(10 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if total < beats*25 || len(moments) > 10*60*int(time.Second/coarse)/8 {
			t.Errorf("%d keepalives at %d moments", total, len(moments))
		}
	})
}

func TestPutOff(t *testing.T) {
	now := time.Unix(1_000_000, 1)
	for d, want := range map[time.Duration]time.Duration{
		0:                      0,
		far - 1:                far - 1,
		far:                    far + coarse - 1,
		far + coarse - 1:       far + coarse - 1,
		time.Hour - 5:          time.Hour - 1,
		24 * time.Hour:         24*time.Hour + coarse - 1,
		liveness.Never / 2:     putOff(liveness.Never/2, now),
		far + 100*coarse + 100: far + 101*coarse - 1,
	} {
		if got := putOff(d, now); got != want || got < d || got >= d+coarse {
			t.Errorf("putOff(%v) = %v, want %v", d, got, want)
		}
	}
	// A clock before 1970 must do no harm either.
	if got := putOff(time.Minute, time.Unix(-5000, 77)); got < time.Minute || got >= time.Minute+2*coarse {
		t.Errorf("putOff = %v before the epoch", got)
	}
}
