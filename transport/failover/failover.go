// Package failover makes one lasting packet.Conn out of paths that come and go.
//
// A gateway can be reached in several ways: over DTLS, which is fast but which many networks block, and over TLS, which
// is slow but gets through. A [Conn] opens all of its paths and keeps them open, writes to the most preferred of those
// that work, and reads from all. When the path that carries the data fails, the rest of the batch goes on to the next; when a
// better one opens, the data moves over. While no path is open, writers wait: the connections inside the tunnel stand still
// and are not reset.
//
// When the host moves to another network, [Conn.Replace] makes a connection over that one before the old ones are given up.
//
// Data goes to one path at a time, and never to two in turn, because gateways answer where the last data came from. For the
// same reason the packet [Config.Announce] is sent when the data moves to another path: a gateway that has nothing but the
// direction of our data to go by then follows at once, even when the client only receives.
//
// Which path is opened, used or given up is decided by a state machine without clock or I/O, and only one goroutine
// drives it.
package failover

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"culvert.example/vpn/packet"
)

// ErrNotReady is what the error of a Path matches that cannot be opened until another one is open, as DTLS without a session
// made over TLS. It is tried again when another path has opened, and does not count as a failure. It is never terminal, whatever
// else it matches.
var ErrNotReady = errors.New("path is not ready")

// A Path is one way to the gateway, such as DTLS or TLS.
type Path interface {
	// Name returns a short name for logs and states, such as "dtls".
	Name() string

	// Open opens the path. It is called again each time its Conn has failed, after a pause, from one goroutine at a time. The context
	// bounds only the opening. The Conn belongs to the caller, who closes it, from any goroutine and while others read
	// and write. It fails for good with the first error from ReadBatch, or from WriteBatch other than
	// [packet.ErrTooBig]. If it has a method Check(), that is called when the network has changed.
	Open(ctx context.Context) (packet.Conn, error)
}

// Defaults of [Config].
const (
	DefaultMTU              = 1500
	DefaultRetryMin         = time.Second
	DefaultRetryMax         = 30 * time.Second
	DefaultReconnectTimeout = 300 * time.Second
	DefaultOpenTimeout      = 60 * time.Second
)

// A Config says which paths there are and how patient to be. It must not change after it was given to [New].
type Config struct {
	// Paths are the ways to the gateway, the most preferred first.
	Paths []Path

	// MTU is the largest packet in bytes that Conn.MTU allows; zero means DefaultMTU.
	MTU int

	// RetryMin and RetryMax bound the pause between two tries to open a path. The pause doubles with each failure, less a random
	// part of up to a half. There is no pause after a connection that worked for a while, and at most a quarter of RetryMax
	// while no path is open. Zero means the default.
	RetryMin, RetryMax time.Duration

	// ReconnectTimeout is how long no path may be open before the Conn gives up. Zero means the default, and negative means
	// that it never does.
	ReconnectTimeout time.Duration

	// OpenTimeout bounds one try to open a path. Zero means the default.
	OpenTimeout time.Duration

	// Terminal reports whether an error of a path, from Open or from its Conn, ends the Conn for good. Nil means that none does.
	// It must return at once, without using the Conn.
	Terminal func(error) bool

	// Announce is a packet that is written to a path when the data moves to it. Nil means none.
	Announce []byte

	// OnChange is called after changes of the state, with the state at that time: never two at a time, in order, and
	// always for the last change. Changes in between may be skipped. It may block and may call any method of the Conn,
	// which does not hold up the Conn. Close does not wait for it.
	OnChange func(State)

	// Logger gets what happens to paths. Nil means that nothing is logged.
	Logger *slog.Logger

	// random returns numbers in [0, 1) for the pauses.
	random func() float64
}

// withDefaults returns a copy of cfg without zeros.
func (cfg Config) withDefaults() Config {
	if cfg.MTU <= 0 {
		cfg.MTU = DefaultMTU
	}
	cfg.MTU = min(cfg.MTU, packet.MaxSize)
	if cfg.RetryMin <= 0 {
		cfg.RetryMin = DefaultRetryMin
	}
	if cfg.RetryMax <= 0 {
		cfg.RetryMax = max(DefaultRetryMax, cfg.RetryMin)
	}
	cfg.RetryMin = min(cfg.RetryMin, cfg.RetryMax)
	if cfg.ReconnectTimeout == 0 {
		cfg.ReconnectTimeout = DefaultReconnectTimeout
	}
	if cfg.OpenTimeout <= 0 {
		cfg.OpenTimeout = DefaultOpenTimeout
	}
	if cfg.Terminal == nil {
		cfg.Terminal = func(error) bool { return false }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.random == nil {
		cfg.random = rand.Float64
	}
	return cfg
}

// A State is what a [Conn] is doing. It is a snapshot; nobody may change it.
type State struct {
	// Paths are in the order of Config.Paths.
	Paths []PathState

	// Active is the name of the path that carries the data, and empty while there is none.
	Active string

	// MTU is what Conn.MTU returns, in bytes.
	MTU int

	// Down is since when no path has been open; zero if one is.
	Down time.Time

	// Switches counts how often data has moved to another path, the first one included. TooBig counts packets that were
	// larger than the active path takes.
	Switches, TooBig uint64

	// Replaced counts the connections that Conn.Replace has put in the place of others. Kept is why the last call of it left
	// the old one in place; nil if it did not.
	Replaced uint64
	Kept     error

	// Err is why the Conn has ended, and nil while it lives.
	Err error
}

// A PathState is what one path is doing.
type PathState struct {
	Name string

	// Open says that the path can carry data, Active that it does.
	Open, Active bool

	// Since is when the path was opened last, or failed last if it is not open; zero if neither has happened.
	Since time.Time

	// Opens and Failures count successes and failures to open it, and Failures also its Conns that failed.
	Opens, Failures uint64

	// LastError is the last failure; it stays when the path has been opened again.
	LastError error

	// NextTry is when the path is opened next; zero if it is open or being opened, or waits for another path.
	NextTry time.Time
}
