package selection

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

const (
	// MaxServers is how many servers a Plan may have; those beyond are left out.
	MaxServers = 256
	// MaxRedirects is how often one attempt may be sent on.
	MaxRedirects = 5

	// DefaultPause is the pause after the first round, and DefaultMaxPause what it grows to by doubling.
	DefaultPause    = 5 * time.Second
	DefaultMaxPause = 5 * time.Minute
)

// ErrRedirect is what the errors of Redirected match.
var ErrRedirect = errors.New("selection: redirect refused")

// A Plan says which servers are tried, and in which order. Servers are names or addresses, with a port if it is not 443.
type Plan struct {
	// Servers are the selected gateway and its backups. A gateway's own backup list takes the place of the profile's.
	Servers []string
	// Others are the further gateways with their backups, if they may be tried as well: nobody has chosen a gateway by name.
	Others []string
	// Members are servers that only redirects lead to.
	Members []string
	// ListedOnly refuses redirects to servers that are in none of the lists, as the firewall of always-on would do anyway.
	ListedOnly bool
	// Rounds is how often the list is walked; 0 means without end.
	Rounds int
	// Pause and MaxPause are the first and the longest pause between rounds; zero means the defaults.
	Pause, MaxPause time.Duration
	// Spread returns a number from 0 to 1, by which up to half of a pause is left out, so that not all clients of a gateway that
	// failed come back at the same moment. Nil means that nothing is left out.
	Spread func() float64
}

// A Sequence is a walk through a Plan. Make one with NewSequence.
type Sequence struct {
	plan    Plan
	list    []string // each once
	index   int      // of what is tried next
	round   int
	pause   time.Duration
	at      time.Time // not before
	tried   []string  // in this round
	current string    // what is being tried, "" for nothing
	hops    int
}

// NewSequence returns the walk, which has not begun.
func NewSequence(p Plan) *Sequence {
	if p.Pause <= 0 {
		p.Pause = DefaultPause
	}
	if p.MaxPause <= 0 {
		p.MaxPause = DefaultMaxPause
	}
	p.Pause = max(p.Pause, 10*time.Millisecond)
	p.MaxPause = max(p.MaxPause, p.Pause)
	s := &Sequence{plan: p}
	for _, server := range slices.Concat(p.Servers, p.Others) {
		if server != "" && len(s.list) < MaxServers && !contains(s.list, server) {
			s.list = append(s.list, server)
		}
	}
	s.Restart()
	return s
}

// Canonical returns a name under which a server is compared: in small letters, without the dot at the end of its name and
// without port 443.
func Canonical(server string) string {
	server = strings.ToLower(strings.TrimSpace(server))
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		return strings.TrimSuffix(strings.Trim(server, "[]"), ".")
	}
	if host = strings.TrimSuffix(host, "."); port == "443" {
		return host
	}
	return net.JoinHostPort(host, port)
}

func contains(list []string, server string) bool {
	c := Canonical(server)
	return slices.ContainsFunc(list, func(s string) bool { return Canonical(s) == c })
}

// Restart begins anew, at once and without the pauses of before, as is right when the network has changed.
func (s *Sequence) Restart() {
	s.index, s.round, s.pause, s.at, s.tried, s.current, s.hops = 0, 0, s.plan.Pause, time.Time{}, nil, "", 0
}

// Next returns which server to try and not before when, which is the zero time for at once. It reports false if all rounds are
// over, or the plan has no servers. Until the attempt has Failed, it returns the same one.
func (s *Sequence) Next() (server string, at time.Time, ok bool) {
	if len(s.list) == 0 || s.plan.Rounds > 0 && s.round >= s.plan.Rounds {
		return "", time.Time{}, false
	}
	if s.current == "" {
		s.current = s.list[s.index]
		s.tried = append(s.tried, s.current)
	}
	return s.current, s.at, true
}

// Failed says that the attempt has come to nothing.
func (s *Sequence) Failed(now time.Time) {
	if s.current == "" {
		return
	}
	s.current, s.hops, s.at = "", 0, time.Time{}
	for s.index++; s.index < len(s.list); s.index++ {
		if !contains(s.tried, s.list[s.index]) {
			return
		}
	}
	wait := s.pause
	if s.plan.Spread != nil {
		wait -= time.Duration(min(max(s.plan.Spread(), 0), 1) * float64(wait/2))
	}
	s.at = now.Add(wait)
	s.pause = min(2*s.pause, s.plan.MaxPause)
	s.index, s.tried, s.round = 0, nil, s.round+1
}

// Redirected says that the server of the attempt sends on to another one, which Next returns from then on. An error matches
// ErrRedirect; the attempt then is to be taken for Failed.
func (s *Sequence) Redirected(to string) error {
	switch {
	case s.current == "":
		return fmt.Errorf("%w: no server is being tried", ErrRedirect)
	case to == "" || len(to) > 260 || strings.ContainsFunc(to, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return fmt.Errorf("%w: %s sends on to something that is no server", ErrRedirect, s.current)
	case contains(s.tried, to):
		return fmt.Errorf("%w: %s sends on to %s, which was tried already", ErrRedirect, s.current, to)
	case s.hops >= MaxRedirects:
		return fmt.Errorf("%w: more than %d in a row", ErrRedirect, MaxRedirects)
	case s.plan.ListedOnly && !contains(s.list, to) && !contains(s.plan.Members, to):
		return fmt.Errorf("%w: %s sends on to %s, which is neither in the ServerList nor in a LoadBalancingServerList", ErrRedirect, s.current, to)
	}
	s.hops++
	s.current, s.at = to, time.Time{}
	s.tried = append(s.tried, to)
	return nil
}

// Round returns how many rounds have failed.
func (s *Sequence) Round() int { return s.round }

// Reachable returns all servers that the plan may lead to, each once: what a firewall has to let through.
func (s *Sequence) Reachable() []string {
	all := slices.Clone(s.list)
	for _, m := range s.plan.Members {
		if len(all) < MaxServers && m != "" && !contains(all, m) {
			all = append(all, m)
		}
	}
	return all
}
