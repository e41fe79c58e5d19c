package host

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestSlept(t *testing.T) {
	const s = time.Second
	for name, c := range map[string]struct {
		after reading
		want  time.Duration
	}{
		"nothing":                     {reading{5 * s, 5 * s, 5 * s}, 0},
		"suspended":                   {reading{3605 * s, 3605 * s, 5 * s}, 3600 * s},
		"suspended, then set":         {reading{3615 * s, 3605 * s, 5 * s}, 3610 * s},
		"a stopped virtual machine":   {reading{65 * s, 5 * s, 5 * s}, 60 * s},
		"slewed by NTP":               {reading{7 * s, 5 * s, 5 * s}, 0},
		"set back":                    {reading{-100 * s, 5 * s, 5 * s}, 0},
		"suspended for a blink":       {reading{5 * s, 5*s + s/2, 5 * s}, 0},
		"suspended, and was set back": {reading{-9 * s, 65 * s, 5 * s}, 60 * s},
	} {
		if got := slept(reading{}, c.after); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// A script is a source that tells what it was told to, when it was told to.
type script struct {
	news chan news
	err  error
}

func (s *script) next(ctx context.Context, wait time.Duration) (news, error) {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case n := <-s.news:
		return n, nil
	case <-t.C:
		return news{}, s.err
	case <-ctx.Done():
		return news{}, ctx.Err()
	}
}

func (s *script) close() {}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{news: make(chan news)}
		start := time.Now()
		var asleep atomic.Int64
		clock := func() reading {
			d := time.Since(start)
			slept := time.Duration(asleep.Load())
			return reading{wall: d + slept, boot: d + slept, awake: d}
		}
		type event struct {
			news
			asleep time.Duration
			at     time.Duration
		}
		var mu sync.Mutex
		var list []event
		take := func() []event {
			mu.Lock()
			defer mu.Unlock()
			defer func() { list = nil }()
			return list
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- watch(ctx, src, clock, func(n news, asleep time.Duration) {
				if !n.empty() || asleep > 0 {
					mu.Lock()
					defer mu.Unlock()
					list = append(list, event{n, asleep, time.Since(start)})
				}
			})
		}()
		// What comes together is told together, once it is quiet.
		time.Sleep(time.Second)
		src.news <- news{changed: Links, interfaces: []string{"eth1"}}
		src.news <- news{changed: Links, interfaces: []string{"eth0"}}
		src.news <- news{changed: Addresses, interfaces: []string{"eth1"}, ours: true}
		time.Sleep(time.Second)
		events := take()
		if len(events) != 1 || events[0].changed != Links|Addresses || !events[0].ours || events[0].at != time.Second+settle ||
			len(events[0].interfaces) != 2 || events[0].interfaces[0] != "eth0" {
			t.Errorf("%+v", events)
		}
		// What never becomes quiet is told nonetheless.
		for range 100 {
			src.news <- news{changed: Routes}
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(time.Second)
		if events = take(); len(events) < 3 || len(events) > 6 {
			t.Errorf("%d events in two restless seconds", len(events))
		}
		// Sleep is noticed though nothing happens.
		asleep.Store(int64(time.Hour))
		time.Sleep(tick + time.Second)
		if events = take(); len(events) != 1 || events[0].asleep != time.Hour {
			t.Errorf("%+v", events)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}

		broken := errors.New("broken")
		if err := watch(t.Context(), &script{err: broken}, clock, nil); !errors.Is(err, broken) {
			t.Errorf("it ended with %v", err)
		}
	})
}

// TestPoller is how changes are seen on systems that do not tell.
func TestPoller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eth := Interface{Name: "eth0", Up: true, Addrs: pfxs("192.0.2.2/24")}
		now := []Interface{eth, {Name: "ours"}}
		p := &poller{interfaces: func() ([]Interface, error) { return now, nil }, skip: func(name string) bool { return name == "ours" }}
		last, err := p.look()
		if err != nil {
			t.Fatal(err)
		}
		p.last = last
		for _, c := range []struct {
			now  []Interface
			want Change
		}{
			{[]Interface{eth}, 0}, // only ours has gone
			{[]Interface{{Name: "eth0", Up: true, Addrs: pfxs("192.0.2.3/24")}}, Addresses},
			{[]Interface{{Name: "eth0", Addrs: pfxs("192.0.2.3/24")}}, Links | Addresses},
			{nil, Links},
			{[]Interface{eth}, Links | Addresses},
			{[]Interface{eth, {Name: "ours"}}, 0},
		} {
			now = c.now
			n, err := p.next(t.Context(), time.Minute)
			if err != nil || n.changed != c.want || len(n.interfaces) != min(1, int(c.want)) {
				t.Errorf("%v: %+v, %v, want %v", c.now, n, err, c.want)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.next(ctx, time.Minute); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestLimiter(t *testing.T) {
	l := limiter{burst: 2, every: time.Minute}
	now := time.Unix(1000, 0)
	for i, c := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {time.Second, true}, {time.Second, false}, {50 * time.Second, false}, {10 * time.Second, true}, {-time.Hour, true}} {
		now = now.Add(c.after)
		if got := l.allow(now); got != c.want {
			t.Errorf("number %d is allowed: %t", i, got)
		}
	}
}

func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		(Links | Rules | Overrun).String(): "links,rules,overrun",
		Change(0).String():                 "",
		Wired.String() + Kind(99).String(): "wiredKind(99)",
		LocalNetworks.String():             "networks",
		Local(77).String():                 "Local(77)",
		tunnel.String() + way(0).String():  "tunnelway(0)",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
