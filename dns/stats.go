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
	Queries   uint64 // questions that could be read
	Hits      uint64 // questions that were answered from the cache
	Misses    uint64 // questions that had to be asked, or decided
	Coalesced uint64 // questions that waited for the answer to an equal one
	Stale     uint64 // failures that an old answer stood in for
	Failures  uint64 // questions that could not be answered
	Malformed uint64 // packets that were no query
	Refused   uint64 // queries for what a proxy does not do, such as zone transfers
	Overload  uint64 // questions above ServerConfig.MaxQuestions
	Dropped   uint64 // records of upstreams that were about other names than the question
	Truncated uint64 // answers that did not fit over UDP
	Panics    uint64 // questions that failed because of a fault in this program
	ConnsFull uint64 // connections above their limit

	Active       int    // questions that are being asked
	Conns        int    // TCP connections that are open
	Flows        int    // UDP connections of ServeConn that are open
	CacheEntries int    // answers in the cache, those that are too old included
	CacheBytes   int    // memory that they use
	Evictions    uint64 // answers that went to make room, under the present rules

	Upstreams []UpstreamStats // in the order of the zones, under the present rules
}

// UpstreamStats are the counters of one upstream of one zone.
type UpstreamStats struct {
	Zone    string // its Name
	Way     Way
	Name    string        // what the Exchanger calls itself (fmt.Stringer), or its number in the zone
	Asked   uint64        // questions
	Failed  uint64        // questions without an answer that could be used
	Lost    uint64        // questions that a later upstream answered first
	RTT     time.Duration // moving average of the time that an answer took
	Healthy bool          // it is asked in its turn
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
