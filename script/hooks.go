package script

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// The names of the hooks: a file is one if its name begins so.
const (
	onConnect    = "OnConnect"
	onDisconnect = "OnDisconnect"
)

// maxWaiting is how many hooks may wait for their turn. A tunnel that comes and goes faster than its hooks run loses the oldest.
const maxWaiting = 8

// A HooksConfig says whether and how the scripts of the user run. Of the profile, EnableScripting decides whether there are
// [Hooks] at all.
type HooksConfig struct {
	// Dir is the directory of the scripts, as an absolute path. Of the files whose names begin with OnConnect, and of those whose
	// names begin with OnDisconnect, the first by name runs. There may be neither.
	Dir string

	// TerminateOnNextEvent ends a script that still runs at the next event (TerminateScriptOnNextEvent). Otherwise the next
	// one waits.
	TerminateOnNextEvent bool
	// BeforeLogon lets OnConnect run for a tunnel that was opened before the user logged on (EnablePostSBLOnConnectScript).
	BeforeLogon bool

	// User is whose rights the scripts have. A process of root must name one, who is not root.
	User *User

	// Timeout is how long a script may run. Zero means two minutes.
	Timeout time.Duration

	// Logger gets what the scripts print and how they end. Nil discards it.
	Logger *slog.Logger
}

// Hooks run the scripts OnConnect and OnDisconnect, one at a time, beside the tunnel. Their environment is that of a [Script]
// with the reasons Connect and Disconnect. How they end changes nothing.
type Hooks struct {
	cfg HooksConfig
	log *slog.Logger

	mu      sync.Mutex
	waiting []hook
	cancel  context.CancelCauseFunc // ends the one that runs
	idle    chan struct{}           // closed while none runs or waits
	closed  bool
}

type hook struct {
	name     string
	reason   Reason
	settings *Settings
}

// errNextEvent is why a hook is ended by the next one.
var errNextEvent = errors.New("the next event came")

// NewHooks returns Hooks, which must be closed. It fails on a configuration that would let scripts run as root.
func NewHooks(cfg HooksConfig) (*Hooks, error) {
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("script: the directory %q is not an absolute path", excerpt(cfg.Dir))
	}
	if cfg.Timeout < 0 {
		return nil, fmt.Errorf("script: a timeout of %v", cfg.Timeout)
	}
	if err := checkHookUser(cfg.User); err != nil {
		return nil, fmt.Errorf("script: %w", err)
	}
	h := &Hooks{cfg: cfg, log: cfg.Logger, idle: make(chan struct{})}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	close(h.idle)
	return h, nil
}

// Connected runs OnConnect and returns at once. BeforeLogon says that the tunnel was opened before the user logged on. The
// settings must not be changed any more.
func (h *Hooks) Connected(settings *Settings, beforeLogon bool) {
	if beforeLogon && !h.cfg.BeforeLogon {
		h.log.Debug("no script runs after a connection before the logon", "script", onConnect)
		return
	}
	h.add(hook{onConnect, Connect, settings})
}

// Disconnected runs OnDisconnect and returns at once. The settings must not be changed any more.
func (h *Hooks) Disconnected(settings *Settings) { h.add(hook{onDisconnect, Disconnect, settings}) }

// Wait waits until no script runs, or until ctx ends, and returns why that was.
func (h *Hooks) Wait(ctx context.Context) error {
	h.mu.Lock()
	idle := h.idle
	h.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close ends the script that runs and waits for it. Nothing runs after that.
func (h *Hooks) Close() error {
	h.mu.Lock()
	h.closed = true
	h.waiting = nil
	if h.cancel != nil {
		h.cancel(context.Canceled)
	}
	idle := h.idle
	h.mu.Unlock()
	<-idle
	return nil
}

// add lets a hook run when its turn has come.
func (h *Hooks) add(k hook) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	if len(h.waiting) == maxWaiting {
		h.log.Warn("too many scripts are waiting, one is left out", "script", h.waiting[0].name)
		h.waiting = h.waiting[1:]
	}
	h.waiting = append(h.waiting, k)
	select {
	case <-h.idle:
		h.idle = make(chan struct{})
		go h.run(h.idle)
	default:
		if h.cfg.TerminateOnNextEvent && h.cancel != nil {
			h.cancel(errNextEvent)
		}
	}
}

// run runs hooks until none waits, and closes idle.
func (h *Hooks) run(idle chan struct{}) {
	for {
		ctx, cancel := context.WithCancelCause(context.Background())
		h.mu.Lock()
		if len(h.waiting) == 0 {
			h.cancel = nil
			close(idle)
			h.mu.Unlock()
			cancel(nil)
			return
		}
		k := h.waiting[0]
		h.waiting = h.waiting[1:]
		h.cancel = cancel
		if h.cfg.TerminateOnNextEvent && len(h.waiting) > 0 {
			// The next event has come already.
			cancel(errNextEvent)
		}
		h.mu.Unlock()
		if err := h.one(ctx, k); err != nil {
			h.log.Warn("script failed", "script", k.name, "err", err)
		}
		cancel(nil)
	}
}

func (h *Hooks) one(ctx context.Context, k hook) error {
	path, err := findHook(h.cfg.Dir, k.name)
	if path == "" || err != nil {
		return err
	}
	p, err := newProgram(Config{Path: path, Timeout: h.cfg.Timeout, User: h.cfg.User, Logger: h.log})
	if err != nil {
		return err
	}
	env, omitted, err := k.settings.Environ(k.reason)
	if err != nil {
		return err
	}
	for _, o := range omitted {
		h.log.Warn("left out for the script", "variable", o.Variable, "err", o.Err)
	}
	return p.run(ctx, k.name, env)
}

// findHook returns the first file in dir whose name begins with name, or nothing if there is none. A link is not followed,
// since it may lead to where others than the administrator write.
func findHook(dir, name string) (string, error) {
	fi, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case worldWritable(fi):
		return "", fmt.Errorf("directory %q: every user of this machine may put scripts there; forbid that, with chmod o-w", dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), name) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		fi, err := os.Lstat(path)
		if err != nil {
			return "", err
		}
		if fi.IsDir() {
			continue
		}
		if err := checkFile(fi); err != nil {
			return "", fmt.Errorf("%q: %w", path, err)
		}
		return path, nil
	}
	return "", nil
}
