package dtls

import (
	"encoding/binary"
	"fmt"
	"time"
)

const (
	// smallProbe is the size of a probe that arrives on any path: large enough to carry its mark, so that an answer of
	// this size shows that the peer repeats what it is sent.
	smallProbe = 64

	// markLen is how long the mark in front of a probe is, in bytes.
	markLen = 4

	// fanOut is how many sizes are tried at once. Eight of them find the MTU of any path in three rounds.
	fanOut = 8

	// nearEnough is how many bytes of the MTU may be lost to end the search.
	nearEnough = 8

	firstWait  = 250 * time.Millisecond // for an answer while the round-trip time is unknown
	leastWait  = 50 * time.Millisecond
	mostWait   = 2 * time.Second
	quietWait  = 500 * time.Millisecond
	mostTime   = 6 * time.Second // for the whole search
	mostRounds = 3               // of probes into silence
)

// A search finds the largest packet that a path carries, from probes of different sizes and the answers to them. It has no
// clock and sends nothing.
//
//	          ┌──────────┐ the largest is echoed, or nothing ever comes,
//	start ──► │  greet   │ or all is answered briefly        ┌──────┐
//	          │ max+small│ ────────────────────────────────► │ done │
//	          └──────────┘                                   └──────┘
//	 small echoed │   │ a brief answer, and not two              ▲
//	              ▼   ▼                                          │ narrow enough
//	       ┌────────┐ ┌────────┐                                 │
//	       │ fan:   │ │ halve: │ ────────────────────────────────┘
//	       │ 8 sizes│ │ 1 size │
//	       └────────┘ └────────┘
//
// Peers that repeat the whole probe are searched with eight sizes at once. Others answer with one byte whatever came; they are
// sent one size at a time, so that the number of answers shows whether it arrived.
//
// Each round has a small probe as well. If that is not answered either, the peer is busy or the path is down for a moment,
// and nothing follows about sizes: openconnect, for one, answers nobody while it searches itself.
type search struct {
	floor, ceiling int
	lo, hi         int // the largest size known to pass, 0 for none; the smallest known not to, ceiling+1 for none

	stage    stage
	out      []int // sizes whose answer is awaited, ascending
	short    int   // brief answers in this round
	tries    int   // rounds with the same probes that were answered in part
	quiet    int   // rounds in succession without any answer
	sent     time.Duration
	deadline time.Duration
	end      time.Duration
	rtt      time.Duration
	answered bool // anything was ever answered
	echoes   bool // the peer repeats probes
	finished bool
}

type stage uint8

const (
	greet stage = iota
	fan
	halve
)

// newSearch returns a search for a size between floor and ceiling that begins now. rtt is the round-trip time, or 0.
func newSearch(floor, ceiling int, rtt, now time.Duration) *search {
	s := &search{floor: min(floor, ceiling), ceiling: ceiling, hi: ceiling + 1, rtt: rtt, end: now + mostTime}
	s.deadline = now
	return s
}

// wait is how long to wait for an answer.
func (s *search) wait() time.Duration {
	if s.rtt == 0 {
		return min(firstWait<<s.tries, mostWait)
	}
	once := min(max(2*s.rtt, s.rtt+leastWait), mostWait)
	return max(once, min(once<<min(s.tries+s.quiet, 4), quietWait))
}

// step returns the sizes to send probes of now, and when to call step again if no answer comes. It reports done when the
// search is over.
func (s *search) step(now time.Duration) (send []int, next time.Duration, done bool) {
	if s.finished {
		return nil, 0, true
	}
	if now < s.deadline && !s.settled() {
		return nil, s.deadline, false
	}
	s.conclude(now)
	if s.finished {
		return nil, 0, true
	}
	s.sent, s.short = now, 0
	s.deadline = now + s.wait()
	return append([]int(nil), s.out...), s.deadline, false
}

// settled reports whether the round needs no more time.
func (s *search) settled() bool {
	switch s.stage {
	case greet:
		return s.lo == s.ceiling || s.short >= 2
	case fan:
		return len(s.out) == 0
	}
	return s.short >= 2 || s.short == 1 && s.out[1] >= s.hi
}

// conclude draws the conclusions from a round and chooses the probes of the next, or finishes.
func (s *search) conclude(now time.Duration) {
	if s.lo == s.ceiling || now >= s.end {
		s.finished = true
		return
	}
	refused := s.hi <= s.ceiling // by the system
	switch s.stage {
	case greet:
		switch {
		case s.out == nil:
			s.out = []int{min(smallProbe, s.ceiling), s.ceiling}
		case s.short >= 2 && !refused:
			// Both came through, and the peer does not say how large they were.
			s.lo, s.finished = s.ceiling, true
		case s.echoes && (s.short > 0 || s.tries > 0 || refused):
			// The small one was repeated. If there was a brief answer as well, the peer cannot send one so large back.
			s.hi = min(s.hi, s.ceiling)
			s.stage, s.tries = fan, 0
			s.spread()
		case s.short > 0 && (s.tries > 0 || refused):
			s.stage, s.tries = halve, 0
			s.try(s.ceiling)
		case s.tries+1 >= mostRounds:
			s.finished = true
		default:
			s.tries++
		}
	case fan:
		if len(s.out) > 0 && s.out[0] == smallProbe {
			s.quiet++
			return
		}
		s.quiet = 0
		if len(s.out) > 0 && s.tries == 0 {
			s.tries++ // once more, in case that they were lost
			s.out = append([]int{smallProbe}, s.out...)
			return
		}
		for _, n := range s.out {
			s.hi = min(s.hi, n)
		}
		s.tries = 0
		s.spread()
	case halve:
		size := s.out[1]
		switch {
		case size >= s.hi: // refused
		case s.short >= 2:
			s.lo = max(s.lo, size)
		case s.short == 0:
			s.quiet++
			return
		case s.tries < 2:
			s.quiet = 0
			s.tries++
			return
		default:
			s.hi = min(s.hi, size)
		}
		s.tries, s.quiet = 0, 0
		switch {
		case s.hi <= s.floor, s.lo >= s.floor && s.hi-s.lo <= nearEnough:
			s.finished = true
		case s.lo < s.floor:
			s.try(s.floor)
		default:
			s.try((s.lo + s.hi) / 2)
		}
	}
}

// try makes the next round one of this size.
func (s *search) try(size int) { s.out = []int{smallProbe, size} }

// spread chooses the sizes of the next round between lo and hi, or finishes.
func (s *search) spread() {
	s.out = []int{smallProbe}
	if s.hi <= s.floor || s.lo >= s.floor && s.hi-s.lo <= nearEnough {
		s.finished = true
		return
	}
	from := s.lo
	if s.lo < s.floor {
		from = s.floor
		s.out = append(s.out, s.floor)
	}
	for i := 1; i <= fanOut; i++ {
		n := from + (s.hi-from)*i/(fanOut+1)
		if n > from && n < s.hi && n > s.out[len(s.out)-1] {
			s.out = append(s.out, n)
		}
	}
	if len(s.out) == 1 {
		s.finished = true
	}
}

// answer takes note of an answer with a payload of n bytes; echo says that it repeats one of the probes.
func (s *search) answer(now time.Duration, n int, echo bool) {
	s.answered = true
	s.measure(now)
	if !echo {
		s.short++
		return
	}
	s.echoes = true
	if n < s.hi && n >= s.floor {
		s.lo = max(s.lo, n)
	}
	rest := s.out[:0]
	for _, size := range s.out {
		if s.stage == greet || size > n {
			rest = append(rest, size)
		}
	}
	s.out = rest
	if s.stage == greet && n < s.ceiling {
		// The other one was sent in the same moment. It need not be waited for as long as while nothing was known.
		s.deadline = min(s.deadline, max(s.sent+s.wait(), now+s.rtt/2))
	}
}

// tooBig takes note that the system refuses to send packets of n bytes.
func (s *search) tooBig(n int) {
	s.hi = min(s.hi, n)
	rest := s.out[:0]
	for _, size := range s.out {
		if size < n || s.stage != fan {
			rest = append(rest, size)
		}
	}
	s.out = rest
}

// limit begins anew with packets of at most n bytes, since the system is known to send no larger ones.
func (s *search) limit(n int) {
	s.ceiling, s.hi = n, n+1
	s.lo, s.stage, s.out, s.tries, s.quiet, s.deadline = 0, greet, nil, 0, 0, 0
	s.finished = n < s.floor
}

func (s *search) measure(now time.Duration) {
	if d := now - s.sent; d > 0 && (s.rtt == 0 || d < s.rtt || s.tries == 0) {
		s.rtt = min(d, mostWait)
	}
}

// result returns the size that was found.
func (s *search) result() (int, error) {
	switch {
	case s.ceiling < s.floor:
	case s.lo >= s.floor:
		return s.lo, nil
	case !s.answered && s.hi > s.ceiling:
		return s.ceiling, nil // a peer that does not answer says nothing about sizes
	case s.hi > s.floor:
		return s.floor, nil // time ran out before the least size was tried
	}
	return 0, fmt.Errorf("%w: %d bytes", ErrPathTooNarrow, s.floor)
}

// putProbe writes the payload of a probe: a mark that holds its size, so that the answer to another probe is not taken for the
// answer to this one, and zeros.
func putProbe(p []byte, mark uint32) {
	clear(p)
	if len(p) >= markLen {
		binary.LittleEndian.PutUint32(p, mark+uint32(len(p)))
	}
}

// isEcho reports whether p is the payload of a probe with this mark.
func isEcho(p []byte, mark uint32) bool {
	return len(p) >= markLen && binary.LittleEndian.Uint32(p) == mark+uint32(len(p))
}
