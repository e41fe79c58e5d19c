package dns

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

const (
	cacheShards = 16

	// entryCost is what an entry costs beside its bytes: itself, and its place in a map.
	entryCost = 256

	defaultCacheBytes = 4 << 20
)

// A cache holds entries up to a number of bytes. It is cut into shards, so that those who look at one rarely meet those who
// write into it, and both hold the lock for well under a microsecond. Which entry goes when there is no more room is decided
// as by SIEVE (Zhang and others, NSDI 2024): an entry that was used since the hand last came by is passed over once. So a hit
// moves nothing.
type cache struct {
	seed      maphash.Seed
	shards    [cacheShards]shard
	evictions atomic.Uint64
}

type shard struct {
	mu             sync.RWMutex
	entries        map[string]*entry
	newest, oldest *entry
	hand           *entry // the next to be looked at, or nil for the oldest
	bytes, limit   int
}

// newCache returns a cache of so many bytes: the default for 0, none for a negative number.
func newCache(bytes int) *cache {
	if bytes == 0 {
		bytes = defaultCacheBytes
	}
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].limit = max(bytes, 0) / cacheShards
		c.shards[i].entries = make(map[string]*entry)
	}
	return c
}

func (c *cache) shard(key []byte) *shard {
	return &c.shards[maphash.Bytes(c.seed, key)%cacheShards]
}

// get returns the entry with this key, however old it is. It does not allocate.
func (c *cache) get(key []byte) *entry {
	s := c.shard(key)
	s.mu.RLock()
	e := s.entries[string(key)]
	s.mu.RUnlock()
	if e != nil && !e.visited.Load() {
		e.visited.Store(true)
	}
	return e
}

func (e *entry) cost() int {
	n := len(e.key) + len(e.body) + 2*len(e.ttls) + entryCost
	if e.told != nil {
		// The names share the memory of the records only in part, and an address takes 24 bytes.
		n += entryCost + 24*len(e.told.Addrs)
		for _, name := range e.told.Names {
			n += 16 + len(name)
		}
	}
	return n
}

// put stores e instead of what has the same key, unless it alone would fill a shard.
func (c *cache) put(e *entry) {
	s := c.shard([]byte(e.key))
	s.mu.Lock()
	defer s.mu.Unlock()
	if was := s.entries[e.key]; was != nil {
		s.remove(was)
	}
	if e.cost() > s.limit {
		return
	}
	for s.bytes+e.cost() > s.limit {
		s.evict()
		c.evictions.Add(1)
	}
	s.entries[e.key] = e
	s.bytes += e.cost()
	e.older = s.newest
	if s.newest != nil {
		s.newest.newer = e
	} else {
		s.oldest = e
	}
	s.newest = e
}

// evict removes one entry. There is one.
func (s *shard) evict() {
	e := s.hand
	for {
		if e == nil {
			e = s.oldest
		}
		if !e.visited.Swap(false) {
			break
		}
		e = e.newer
	}
	s.hand = e
	s.remove(e)
}

func (s *shard) remove(e *entry) {
	if s.hand == e {
		s.hand = e.newer
	}
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		s.oldest = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		s.newest = e.older
	}
	e.newer, e.older = nil, nil
	delete(s.entries, e.key)
	s.bytes -= e.cost()
}

// size returns how many entries there are, and their bytes.
func (c *cache) size() (entries, bytes int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		entries += len(s.entries)
		bytes += s.bytes
		s.mu.RUnlock()
	}
	return entries, bytes
}
