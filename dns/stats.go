package dns

import (
	"sync/atomic"
	"time"
)

// counters count since the Server was made.
type counters struct {
	queries, hits, misses, coalesced, stale  atomic.Uint64
	malformed, refused, overload, failures   atomic.Uint64
	dropped, truncated, panics, refusedConns atomic.Uint64
	active                                   atomic.Int64
}

// Stats are the counters of a [Server] since it was made, and what it holds now.
type Stats struct {
	Queries   uint64 `json:"queries"`    // questions that could be read
	Hits      uint64 `json:"hits"`       // questions that were answered from the cache
	Misses    uint64 `json:"misses"`     // questions that had to be asked, or decided
	Coalesced uint64 `json:"coalesced"`  // questions that waited for the answer to an equal one
	Stale     uint64 `json:"stale"`      // failures that an old answer stood in for
	Failures  uint64 `json:"failures"`   // questions that could not be answered
	Malformed uint64 `json:"malformed"`  // packets that were no query
	Refused   uint64 `json:"refused"`    // queries for what a proxy does not do, such as zone transfers
	Overload  uint64 `json:"overload"`   // questions above ServerConfig.MaxQuestions
	Dropped   uint64 `json:"dropped"`    // records of upstreams that were about other names than the question
	Truncated uint64 `json:"truncated"`  // answers that did not fit over UDP
	Panics    uint64 `json:"panics"`     // questions that failed because of a fault in this program
	ConnsFull uint64 `json:"conns_full"` // connections above their limit

	Active       int    `json:"active"`        // questions that are being asked
	Conns        int    `json:"conns"`         // TCP connections that are open
	Flows        int    `json:"flows"`         // UDP connections of ServeConn that are open
	CacheEntries int    `json:"cache_entries"` // answers in the cache, those that are too old included
	CacheBytes   int    `json:"cache_bytes"`   // memory that they use
	Evictions    uint64 `json:"evictions"`     // answers that went to make room, under the present rules

	Upstreams []UpstreamStats `json:"upstreams"` // in the order of the zones, under the present rules
}

// UpstreamStats are the counters of one upstream of one zone.
type UpstreamStats struct {
	Zone    string        `json:"zone"` // its Name
	Way     Way           `json:"way"`
	Name    string        `json:"name"`    // what the Exchanger calls itself (fmt.Stringer), or its number in the zone
	Asked   uint64        `json:"asked"`   // questions
	Failed  uint64        `json:"failed"`  // questions without an answer that could be used
	Lost    uint64        `json:"lost"`    // questions that a later upstream answered first
	RTT     time.Duration `json:"rtt"`     // moving average of the time that an answer took
	Healthy bool          `json:"healthy"` // it is asked in its turn
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	st, c := s.ruling.Load(), &s.count
	stats := Stats{
		Queries: c.queries.Load(), Hits: c.hits.Load(), Misses: c.misses.Load(), Coalesced: c.coalesced.Load(), Stale: c.stale.Load(),
		Failures: c.failures.Load(), Malformed: c.malformed.Load(), Refused: c.refused.Load(), Overload: c.overload.Load(),
		Dropped: c.dropped.Load(), Truncated: c.truncated.Load(), Panics: c.panics.Load(), ConnsFull: c.refusedConns.Load(),
		Active: int(c.active.Load()), Conns: int(s.conns.Load()), Flows: int(s.flows.Load()), Evictions: st.cache.evictions.Load(),
	}
	stats.CacheEntries, stats.CacheBytes = st.cache.size()
	now := time.Now()
	for _, g := range st.groups {
		for _, u := range g.ups {
			stats.Upstreams = append(stats.Upstreams, u.stats(g, now))
		}
	}
	return stats
}

func (u *upstream) stats(g *group, now time.Time) UpstreamStats {
	u.mu.Lock()
	defer u.mu.Unlock()
	return UpstreamStats{
		Zone: g.zone, Way: g.way, Name: u.name,
		Asked: u.asked.Load(), Failed: u.failed.Load(), Lost: u.lost.Load(), RTT: u.rtt, Healthy: !now.Before(u.until),
	}
}
