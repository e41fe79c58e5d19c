package failover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"culvert.example/vpn/packet"
)

// A live is the connection of an open path.
type live struct {
	conn packet.Conn
	path int
	try  int

	unannounced atomic.Bool // Config.Announce has to be written before anything else

	delivery delivery

	retired atomic.Bool // another connection has taken its place, and another goroutine that of its goroutine

	closing atomic.Bool
	closed  chan struct{} // closed when conn.Close has returned
}

// close closes the connection and returns when it is closed, whoever began with it.
func (l *live) close() {
	if l.closing.CompareAndSwap(false, true) {
		_ = l.conn.Close() // it has failed already, or nobody is interested in it any more
		close(l.closed)
		return
	}
	<-l.closed
}

// A view is what readers and writers need to know of the state. A new one takes its place with each change.
type view struct {
	live    *live         // the path that carries the data; nil: none
	changed chan struct{} // closed when another view has taken the place of this one
}

// A Conn is one lasting connection over several paths: see the package comment. Its methods may be called from any goroutine, but for
// ReadBatch and Forward, which only one may call at a time. Its owner closes it.
type Conn struct {
	cfg    Config
	cancel context.CancelFunc // ends run

	events chan event // to run; it takes an event at once, or it has ended
	view   atomic.Pointer[view]
	ready  chan struct{} // closed when a path has been open
	done   chan struct{} // closed when the Conn has ended, after err was set
	err    error         // why
	wg     sync.WaitGroup

	// Writers take a turn, so that batches stay whole and an announcement comes before the data. A channel, since a turn lasts
	// as long as no path is open.
	turn     chan struct{}
	announce packet.Batch // the one packet of Config.Announce, or empty

	replacing chan struct{} // has an element while Replace runs

	read     reads
	sink     atomic.Pointer[sink] // where packets go instead of to ReadBatch; nil unless Forward runs
	tooBig   replies
	mtu      atomic.Int64 // of the active path, when last looked at
	oversize atomic.Uint64

	state  atomic.Pointer[State]
	notify notifier
}

var (
	_ packet.Conn      = (*Conn)(nil)
	_ packet.Forwarder = (*Conn)(nil)
)

// New returns a Conn that opens its paths now. It panics if there are none. Reads and writes wait until the first path is open, and so
// does [Conn.WaitReady].
func New(cfg Config) *Conn {
	if len(cfg.Paths) == 0 {
		panic("failover: no paths")
	}
	cfg = cfg.withDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	c := &Conn{
		cfg:    cfg,
		cancel: cancel,
		events: make(chan event),
		ready:  make(chan struct{}),
		done:   make(chan struct{}),
		turn:   make(chan struct{}, 1),

		replacing: make(chan struct{}, 1),
	}
	c.notify.call = cfg.OnChange
	c.view.Store(&view{changed: make(chan struct{})})
	c.read.init(len(cfg.Paths), max(cfg.MTU, packet.MinMTU6))
	c.tooBig.init()
	if len(cfg.Announce) > 0 {
		c.announce = packet.NewBatch(1, len(cfg.Announce))
		c.announce[0].Set(cfg.Announce)
	}
	d := &driver{Conn: c, m: newMachine(cfg, time.Now()), paths: make([]pathDriver, len(cfg.Paths))}
	c.state.Store(d.snapshot())
	for i := range d.paths {
		// At most one try is under way for each path, and a replacement beside one that is cancelled, so that run never waits
		// for the goroutine of a path.
		d.paths[i].open = make(chan attempt, 2)
		c.wg.Add(1)
		c.start(i, d.paths[i].open)
	}
	c.wg.Go(func() { d.run(ctx) })
	return c
}

// An attempt is an order to open a path, or to serve a connection that is there already.
type attempt struct {
	ctx    context.Context
	cancel context.CancelFunc
	try    int
	live   *live // what is there; nil: nothing
}

// A pathDriver is what run knows of a path beside its track.
type pathDriver struct {
	open   chan attempt
	cancel context.CancelFunc // of the try under way
	live   *live              // the connection, while it is open
	old    *live              // the retired one, until it is closed
}

// A driver drives the machine of a Conn. Its only goroutine is run, and only that one changes the state.
type driver struct {
	*Conn
	m     *machine
	paths []pathDriver
}

// run tells the machine what happens and does what it says, until the end.
func (d *driver) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	opened := false
	for {
		ev := event{kind: evTick}
		select {
		case ev = <-d.events:
		case <-timer.C:
		case <-ctx.Done():
			ev.kind = evClose
		}
		d.note(ev)
		now := time.Now()
		next, do := d.m.step(now, ev)
		for _, a := range do {
			d.perform(ctx, a, ev)
		}
		if d.m.ended {
			d.cancel()
			return
		}
		d.publish()
		if ev.seen != nil {
			close(ev.seen)
		}
		if !opened && d.m.active >= 0 {
			// Whoever waited for this sees the path in the state.
			opened = true
			close(d.ready)
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(next.Sub(now))
		}
	}
}

// note takes over the connection of a path that has opened, and logs.
func (d *driver) note(ev event) {
	switch ev.kind {
	case evOpened:
		if !d.m.expects(ev) {
			// A replacement has come meanwhile.
			d.wg.Go(ev.live.close)
			return
		}
		d.paths[ev.path].live = ev.live
		d.cfg.Logger.Info("path opened", "path", d.cfg.Paths[ev.path].Name(), "mtu", ev.live.conn.MTU())
	case evReplaced:
		d.cfg.Logger.Info("path replaced", "path", d.cfg.Paths[ev.path].Name(), "mtu", ev.live.conn.MTU())
	case evKept:
		d.cfg.Logger.Info("path not replaced, the old one stays", "path", d.cfg.Paths[ev.path].Name(), "err", ev.err)
	case evFailed:
		level := slog.LevelInfo
		if d.m.asking || !d.m.current(ev) || ev.notReady || d.m.paths[ev.path].phase != open && d.m.paths[ev.path].strikes > 0 {
			level = slog.LevelDebug // nothing new
		}
		d.cfg.Logger.Log(context.Background(), level, "path failed", "path", d.cfg.Paths[ev.path].Name(), "err", ev.err)
	}
}

// perform does what the machine says to ev. It never waits.
func (d *driver) perform(ctx context.Context, a action, ev event) {
	switch a.kind {
	case doOpen:
		try, cancel := context.WithTimeout(ctx, d.cfg.OpenTimeout)
		d.paths[a.path].cancel = cancel
		d.paths[a.path].open <- attempt{ctx: try, cancel: cancel, try: a.try}
	case doCancel:
		d.paths[a.path].cancel()
	case doClose:
		d.release(a.path)
	case doActivate:
		d.activate(a.path)
	case doCheck:
		if c, ok := d.paths[a.path].live.conn.(interface{ Check() }); ok {
			d.wg.Go(c.Check)
		}
	case doRetire:
		d.retire(a.path)
	case doDrop:
		d.drop(a.path)
	case doTake:
		ev.live.try = a.try
		d.paths[a.path].live = ev.live
		d.paths[a.path].open <- attempt{live: ev.live, try: a.try}
	case doEnd:
		d.end()
	}
}

// retire has the connection of a path read from only. Its goroutine goes on with that, and a new one takes its place.
func (d *driver) retire(path int) {
	p := &d.paths[path]
	p.old, p.live = p.live, nil
	p.old.retired.Store(true)
	d.wg.Add(1)
	d.start(path, p.open)
}

// drop closes the retired connection of a path, if there is one.
func (d *driver) drop(path int) {
	l := d.paths[path].old
	if l == nil {
		return
	}
	d.paths[path].old = nil
	d.wg.Go(func() {
		l.close()
		if l.delivery.close() {
			d.wg.Done() // nobody waits for its goroutine, which is with dst
		}
	})
}

// release closes the connection of a path, if there is one.
func (d *driver) release(path int) {
	l := d.paths[path].live
	if l == nil {
		return
	}
	d.paths[path].live = nil
	d.wg.Go(func() {
		l.close()
		if l.delivery.close() {
			d.start(path, d.paths[path].open)
		}
	})
}

// activate sends data to a path, or to none if it is -1.
func (d *driver) activate(path int) {
	v := &view{changed: make(chan struct{})}
	if path >= 0 {
		v.live = d.paths[path].live
		v.live.unannounced.Store(len(d.announce) > 0)
		d.mtu.Store(int64(v.live.conn.MTU()))
		d.cfg.Logger.Info("data takes path", "path", d.cfg.Paths[path].Name())
	} else {
		d.cfg.Logger.Info("no path is open")
	}
	close(d.view.Swap(v).changed)
	if v.live != nil && len(d.announce) > 0 {
		// A writer may be on the way, and would do it; or there is none for a long time.
		d.wg.Go(func() { d.announceNow(v) })
	}
}

// end closes everything.
func (d *driver) end() {
	d.err = d.m.err
	d.cfg.Logger.Info("ended", "err", d.err)
	d.publish()
	old := d.view.Swap(&view{changed: make(chan struct{})})
	close(d.done)
	close(old.changed)
	for i := range d.paths {
		d.release(i)
		d.drop(i)
	}
}

// start starts the goroutine of a path, which wg counts already: the place of one that is held up passes to the next.
func (c *Conn) start(path int, open <-chan attempt) {
	go func() {
		if c.serve(path, open) {
			c.wg.Done()
		}
	}()
}

// serve is the goroutine of a path: it opens it, reads from it and closes it, over and over. It reports false if another one has taken
// its place meanwhile.
func (c *Conn) serve(path int, open <-chan attempt) bool {
	var r reader
	r.init()
	defer r.release()
	for {
		var a attempt
		select {
		case a = <-open:
		case <-c.done:
			return true
		}
		l := a.live
		if l == nil {
			conn, err := c.open(path, a)
			if err != nil {
				if !c.tell(c.failure(path, a.try, err)) {
					return true
				}
				continue
			}
			l = &live{conn: conn, path: path, try: a.try, closed: make(chan struct{})}
			if !c.tell(event{kind: evOpened, path: path, try: a.try, live: l}) {
				l.close()
				return true
			}
		}
		err := c.pump(&r, l)
		if err == errReplaced {
			return false
		}
		r.release()
		ended := !c.tell(c.failure(path, a.try, err))
		l.close()
		if ended || l.retired.Load() {
			return true
		}
	}
}

// open opens a path.
func (c *Conn) open(path int, a attempt) (packet.Conn, error) {
	defer a.cancel()
	conn, err := c.cfg.Paths[path].Open(a.ctx)
	if err == nil && conn == nil {
		err = errors.New("path opened without a connection")
	}
	if err != nil && a.ctx.Err() == context.DeadlineExceeded {
		err = fmt.Errorf("not open within %v: %w", c.cfg.OpenTimeout, err)
	}
	return conn, err
}

// failure returns the event of an error of a path.
func (c *Conn) failure(path, try int, err error) event {
	err = fmt.Errorf("%s: %w", c.cfg.Paths[path].Name(), err)
	notReady := errors.Is(err, ErrNotReady)
	return event{
		kind: evFailed, path: path, try: try, err: err,
		terminal: !notReady && c.cfg.Terminal(err), notReady: notReady,
	}
}

// tell hands ev to run. It reports false if the Conn has ended.
func (c *Conn) tell(ev event) bool {
	select {
	case c.events <- ev:
		return true
	case <-c.done:
		return false
	}
}

// MTU returns the size in bytes of the largest packet that the active path takes, and at most Config.MTU. It is Config.MTU while no
// path is open.
func (c *Conn) MTU() int {
	if l := c.view.Load().live; l != nil {
		return min(c.cfg.MTU, l.conn.MTU())
	}
	return c.cfg.MTU
}

// NetworkChanged tells that the addresses or routes of the host have changed: paths that are open are checked, and paths that are not
// are tried at once.
func (c *Conn) NetworkChanged() { c.tell(event{kind: evNetwork}) }

// WaitReady waits until a path has been open for the first time. It returns the error that has ended the Conn, or the cause of ctx,
// if that comes first.
func (c *Conn) WaitReady(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	default:
	}
	select {
	case <-c.ready:
		return nil
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Done is closed when the Conn has ended, by Close or by itself.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns why the Conn has ended, and nil while it lives: an error that matches net.ErrClosed if Close ended it,
// one that matches transport.ErrUnreachable if no path was open for too long, and the error that Config.Terminal chose otherwise.
func (c *Conn) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// ended returns what reads and writes return at the end.
func (c *Conn) ended() error {
	if errors.Is(c.err, net.ErrClosed) {
		return c.err
	}
	return fmt.Errorf("%w: %w", net.ErrClosed, c.err)
}

// Close ends the Conn, closes all paths, and returns when all its goroutines have ended, but for those that Forward waits for because
// its dst blocks. A call of Config.OnChange may still be under way then. It may be called more than once, and its error is nil.
func (c *Conn) Close() error {
	c.cancel()
	c.wg.Wait()
	return nil
}
