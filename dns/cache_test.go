package dns

import (
	"fmt"
	"sync"
	"testing"
)

func entryOf(i, size int) *entry {
	return &entry{key: fmt.Sprintf("key %d", i), body: make([]byte, size)}
}

// check compares the lists and sums of all shards with their maps.
func (c *cache) check(t *testing.T) {
	t.Helper()
	for i := range c.shards {
		s := &c.shards[i]
		n, bytes := 0, 0
		var last *entry
		hand := s.hand == nil
		for e := s.newest; e != nil; e = e.older {
			if e.newer != last || s.entries[e.key] != e {
				t.Fatalf("shard %d: the list is broken at %s", i, e.key)
			}
			hand = hand || s.hand == e
			n++
			bytes += e.cost()
			last = e
		}
		if s.oldest != last || n != len(s.entries) || bytes != s.bytes || bytes > s.limit || !hand {
			t.Fatalf("shard %d: %d entries of %d, %d bytes of %d, limit %d", i, n, len(s.entries), bytes, s.bytes, s.limit)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache(64 << 10)
	for i := range 5000 {
		c.put(entryOf(i%3000, i%1500))
		if i%100 == 0 {
			c.check(t)
		}
		c.get([]byte(fmt.Sprintf("key %d", i%7)))
	}
	c.check(t)
	if n, bytes := c.size(); n == 0 || bytes > 64<<10 || c.evictions.Load() == 0 {
		t.Errorf("%d entries of %d bytes, %d evictions", n, bytes, c.evictions.Load())
	}
}

// TestCacheKeepsWhatIsUsed: entries that are used survive many that are not.
func TestCacheKeepsWhatIsUsed(t *testing.T) {
	c := newCache(64 << 10)
	const used = 16
	lost := 0
	for i := range 5000 {
		c.put(entryOf(used+i, 100))
		for j := range used {
			if c.get([]byte(fmt.Sprintf("key %d", j))) == nil {
				lost++
				c.put(entryOf(j, 100))
			}
		}
	}
	if lost > 2*used {
		t.Errorf("entries that are used all the time were lost %d times", lost)
	}
}

func TestCacheReplaces(t *testing.T) {
	c := newCache(0)
	c.put(entryOf(1, 10))
	e := entryOf(1, 20)
	c.put(e)
	if n, bytes := c.size(); n != 1 || bytes != e.cost() || c.get([]byte("key 1")) != e {
		t.Errorf("%d entries, %d bytes", n, bytes)
	}
	// What is too large is not kept, nor is what it replaces.
	c.put(entryOf(1, defaultCacheBytes))
	if n, bytes := c.size(); n != 0 || bytes != 0 || c.get([]byte("key 1")) != nil {
		t.Errorf("%d entries, %d bytes", n, bytes)
	}
	off := newCache(-1)
	off.put(entryOf(1, 0))
	if n, _ := off.size(); n != 0 {
		t.Error("a cache of no size keeps something")
	}
}

func TestCacheConcurrency(t *testing.T) {
	c := newCache(64 << 10)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				key := (i*7 + g) % 500
				if c.get([]byte(fmt.Sprintf("key %d", key))) == nil {
					c.put(entryOf(key, i%800))
				}
			}
		})
	}
	wg.Wait()
	c.check(t)
}
