package selection

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	// DefaultImprovement is by how many percent another gateway must be faster to be changed to.
	DefaultImprovement = 20
	// DefaultSuspend is for how long the machine must have been disconnected or asleep before the choice is made again.
	DefaultSuspend = 4 * time.Hour
	// TTL is how long the choice for a place holds.
	TTL = 14 * 24 * time.Hour

	// MaxLocations is how many places a Cache remembers; the oldest is forgotten for a new one.
	MaxLocations = 64
)

// A Config says when a Selector changes its mind. Zero values mean the defaults.
type Config struct {
	// Improvement is AutoServerSelectionImprovement in percent, from 10 to 100.
	Improvement int
	// Suspend is AutoServerSelectionSuspendTime, from 1 to 100 hours.
	Suspend time.Duration
}

// A Location stands for a place that the machine comes to, so that nobody who reads the cache learns which places those were.
type Location string

// LocationOf returns the Location with these DNS suffixes and DNS servers, in whatever order.
func LocationOf(suffixes []string, servers []netip.Addr) Location {
	var parts []string
	for _, s := range suffixes {
		parts = append(parts, strings.ToLower(strings.TrimSuffix(s, ".")))
	}
	for _, s := range servers {
		parts = append(parts, s.Unmap().WithZone("").String())
	}
	slices.Sort(parts)
	h := sha256.Sum256([]byte(strings.Join(slices.Compact(parts), "\x00")))
	return Location(hex.EncodeToString(h[:16]))
}

// A Cache is what a Selector knows, to be kept in a file between runs.
type Cache struct {
	// Current is the gateway that was used last, "" for none.
	Current string `json:"current,omitempty"`
	// Ended is when the machine was last disconnected or fell asleep.
	Ended time.Time `json:"ended,omitzero"`
	// Places are the choices, the oldest first.
	Places []Place `json:"places,omitempty"`
}

// A Place is a choice that was made.
type Place struct {
	Location Location  `json:"location"`
	Server   string    `json:"server"`
	At       time.Time `json:"at"`
}

// A Choice is what to do.
type Choice struct {
	// Server is the gateway to dial. It is also set where Measure is, as the one to take if nothing can be measured.
	Server string
	// Measure says that the gateways have to be measured first, and that Measured has to be told what came out.
	Measure bool
	// Why says it in words.
	Why string
}

// A Sample is what measuring one gateway brought.
type Sample struct {
	Server string        `json:"server"`
	Delay  time.Duration `json:"delay,omitempty"`
	// OK says that it answered at least once; Delay is the shortest time that it took.
	OK bool `json:"ok"`
}

// A Selector chooses gateways. Make one with NewSelector.
type Selector struct {
	cfg   Config
	cache Cache
}

// NewSelector returns a Selector that knows what an earlier one did. Nothing in the cache is believed without a look: entries from
// the future, too many and too long ones are forgotten, and a gateway that is no candidate any more is never chosen.
func NewSelector(cfg Config, cache Cache, now time.Time) *Selector {
	s := &Selector{cache: Cache{Current: cache.Current, Ended: cache.Ended}}
	s.Configure(cfg)
	if len(s.cache.Current) > 260 {
		s.cache.Current = ""
	}
	if s.cache.Ended.After(now) {
		s.cache.Ended = now
	}
	for _, p := range cache.Places[max(0, len(cache.Places)-MaxLocations):] {
		if !p.At.After(now) && len(p.Server) <= 260 && len(p.Location) <= 64 {
			s.cache.Places = append(s.cache.Places, p)
		}
	}
	return s
}

// Configure changes the Config.
func (s *Selector) Configure(cfg Config) {
	if cfg.Improvement <= 0 {
		cfg.Improvement = DefaultImprovement
	}
	if cfg.Suspend <= 0 {
		cfg.Suspend = DefaultSuspend
	}
	cfg.Improvement = min(cfg.Improvement, 100)
	s.cfg = cfg
}

// Cache returns what is to be kept.
func (s *Selector) Cache() Cache {
	c := s.cache
	c.Places = slices.Clone(c.Places)
	return c
}

// Used says that a tunnel to the gateway is up.
func (s *Selector) Used(server string) { s.cache.Current = server }

// Ended says that the tunnel went down, or the machine asleep, at that time.
func (s *Selector) Ended(at time.Time) { s.cache.Ended = at }

// Choose says which of the candidates is to be dialled. Those are the primary gateways of the profiles, in their order, without
// backup servers and without those that are to be left out.
func (s *Selector) Choose(now time.Time, at Location, candidates []string) Choice {
	if len(candidates) == 0 {
		return Choice{Why: "there is no gateway"}
	}
	current := s.candidate(s.cache.Current, candidates)
	fallback := current
	if fallback == "" {
		fallback = candidates[0]
	}
	switch {
	case len(candidates) == 1:
		return Choice{Server: fallback, Why: "there is only one gateway"}
	case current != "" && now.Sub(s.cache.Ended) < s.cfg.Suspend:
		return Choice{Server: current, Why: fmt.Sprintf("the last tunnel ended less than %v ago", s.cfg.Suspend)}
	}
	for _, p := range s.cache.Places {
		if p.Location == at && now.Sub(p.At) < TTL {
			if server := s.candidate(p.Server, candidates); server != "" {
				return Choice{Server: server, Why: "it was chosen for this place on " + p.At.Format(time.DateOnly)}
			}
		}
	}
	return Choice{Server: fallback, Measure: true, Why: "the gateways have to be measured"}
}

// candidate returns the candidate that is the server, or "".
func (s *Selector) candidate(server string, candidates []string) string {
	c := Canonical(server)
	if i := slices.IndexFunc(candidates, func(o string) bool { return Canonical(o) == c }); i >= 0 && server != "" {
		return candidates[i]
	}
	return ""
}

// Measured chooses by what was measured, and remembers the choice for the place. If no candidate has answered, the gateway stays
// the one that it was, and nothing is remembered.
func (s *Selector) Measured(now time.Time, at Location, candidates []string, samples []Sample) Choice {
	if len(candidates) == 0 {
		return Choice{Why: "there is no gateway"}
	}
	current := s.candidate(s.cache.Current, candidates)
	var best, old *Sample
	for _, c := range candidates {
		for i, m := range samples {
			if !m.OK || m.Delay < 0 || Canonical(m.Server) != Canonical(c) {
				continue
			}
			if best == nil || m.Delay < best.Delay {
				best = &samples[i]
			}
			if c == current && (old == nil || m.Delay < old.Delay) {
				old = &samples[i]
			}
		}
	}
	var choice Choice
	switch {
	case best == nil:
		if current == "" {
			current = candidates[0]
		}
		return Choice{Server: current, Why: "no gateway has answered"}
	case old != nil && s.candidate(best.Server, candidates) != current && best.Delay.Seconds() > old.Delay.Seconds()*float64(100-s.cfg.Improvement)/100:
		choice = Choice{Server: current, Why: fmt.Sprintf("%s takes %v, and %s with %v is not %d %% faster", current, old.Delay, best.Server, best.Delay, s.cfg.Improvement)}
	default:
		choice = Choice{Server: s.candidate(best.Server, candidates), Why: fmt.Sprintf("it is the fastest with %v", best.Delay)}
	}
	s.cache.Places = slices.DeleteFunc(s.cache.Places, func(p Place) bool { return p.Location == at })
	s.cache.Places = append(s.cache.Places, Place{at, choice.Server, now})
	s.cache.Places = s.cache.Places[max(0, len(s.cache.Places)-MaxLocations):]
	return choice
}
