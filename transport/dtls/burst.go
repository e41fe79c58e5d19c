package dtls

import (
	"io"
	"math/bits"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// burstRecords and burstBytes bound what is handed to the system in one call.
	burstRecords = 64
	burstBytes   = 128 << 10

	// loneBytes is room for a record alone and its plaintext, on most paths.
	loneBytes = 4 << 10

	// defaultBurst is how many datagrams go to the network in one piece. 45 instead of 8 cost a quarter less to send, but the
	// channel as a whole is slower by a third and uses no less of the processors, since the other side begins later. How many
	// datagrams ocserv loses depends on neither, nor on pauses between pieces.
	defaultBurst = 8

	// maxPlain is the largest plaintext of a record, in bytes (RFC 5246 section 6.2.1): the type and a packet.
	maxPlain = 1 << 14

	// maxDatagram is the largest datagram there is, in bytes.
	maxDatagram = 65535
)

// A burst is memory for sealed records that leave in one call, each as a datagram of its own.
type burst struct {
	mem   []byte
	ends  []int // where each record ends in mem, with room for all that the burst may hold
	count int
	asks  uint64 // which records hold no packet but a request of the credit: a bit for each of burstRecords
	sys   burstSys

	// The records with packets that the system did not take, and their bytes.
	lost, lostBytes int
}

func newBurst(records, size int) *burst {
	b := &burst{mem: make([]byte, size), ends: make([]int, records)}
	b.sys.init(records)
	return b
}

// A burstPool keeps bursts for later. Many sessions of a gateway share one, since few of them send at any moment. What a
// silent session sends now and then is a record alone, and that shall not cost the memory of a batch.
type burstPool struct{ whole, lone sync.Pool }

func newBurstPool() *burstPool {
	p := &burstPool{}
	p.whole.New = func() any { return newBurst(burstRecords, burstBytes) }
	p.lone.New = func() any { return newBurst(1, loneBytes) }
	return p
}

// get returns an empty burst for a batch.
func (p *burstPool) get() *burst {
	b := p.whole.Get().(*burst)
	b.reset()
	return b
}

// one returns an empty burst for a record alone, whose memory has at least size bytes.
func (p *burstPool) one(size int) *burst {
	b := p.lone.Get().(*burst)
	b.reset()
	if len(b.mem) < size {
		b.mem = make([]byte, size)
	}
	return b
}

func (p *burstPool) put(b *burst) {
	if len(b.ends) == 1 {
		p.lone.Put(b)
	} else {
		p.whole.Put(b)
	}
}

// reset empties the burst.
func (b *burst) reset() { b.count, b.asks, b.lost, b.lostBytes = 0, 0, 0, 0 }

// lose notes that the records from i up to j, without j, will not leave.
func (b *burst) lose(i, j int) {
	for ; i < j; i++ {
		if b.asks>>i&1 == 0 {
			b.lost++
			b.lostBytes += len(b.record(i))
		}
	}
}

// requests returns how many of the first n records are requests.
func (b *burst) requests(n int) int { return bits.OnesCount64(b.asks & (1<<n - 1)) }

// start returns where the record with index i begins.
func (b *burst) start(i int) int {
	if i == 0 {
		return 0
	}
	return b.ends[i-1]
}

// record returns the record with index i.
func (b *burst) record(i int) []byte { return b.mem[b.start(i):b.ends[i]] }

// room returns the memory for the next record, which has size bytes, or nil if the burst is full.
func (b *burst) room(size int) []byte {
	at := b.start(b.count)
	if b.count == len(b.ends) || at+size > len(b.mem) {
		return nil
	}
	return b.mem[at:]
}

// added says that the memory from room holds a record of n bytes now.
func (b *burst) added(n int) {
	b.ends[b.count] = b.start(b.count) + n
	b.count++
}

// An outlet sends datagrams to one peer.
type outlet interface {
	// send sends the records of b as datagrams, in order and each at most once. It waits for room only if wait is true;
	// without, what there is no room for is lost, and so is what the system refuses for a passing reason. The burst counts
	// that. It returns how many records are dealt with, which is fewer than b.count only with an error. The error is errTooBig
	// if the next record is larger than what the system sends there.
	send(b *burst, wait bool) (int, error)

	// segments reports whether the system, or the device, cuts long messages into datagrams.
	segments() bool

	// pathMTU returns what the system believes the MTU of the path to be, headers of IP included, in bytes, or 0.
	pathMTU() int
}

// An inbox holds the datagrams from one peer. One goroutine at a time uses next and wait.
type inbox interface {
	// next returns a datagram that is there already, or nil. It is valid until the next call of next or wait.
	next() []byte
	// wait blocks until there may be a datagram.
	wait() error
	// interrupt makes wait return os.ErrDeadlineExceeded, now and from now on; resume ends that.
	interrupt()
	resume()
	// close ends the inbox and the outlet beside it. release comes after it, when nobody reads any more.
	close() error
	release()
}

// A streamless is a channel over any net.Conn that keeps datagrams apart: one call for each datagram.
type streamless struct {
	conn   net.Conn
	linger time.Duration
	buf    []byte
	got    []byte
}

func newStreamless(conn net.Conn, linger time.Duration) *streamless {
	return &streamless{conn: conn, linger: linger, buf: make([]byte, maxDatagram)}
}

func (s *streamless) next() []byte {
	d := s.got
	s.got = nil
	return d
}

func (s *streamless) wait() error {
	n, err := s.conn.Read(s.buf)
	if err != nil {
		if isRefused(err) {
			return errRefused
		}
		return err
	}
	s.got = s.buf[:n]
	return nil
}

func (s *streamless) send(b *burst, _ bool) (int, error) {
	for i := range b.count {
		n, err := s.conn.Write(b.record(i))
		switch {
		case err == nil && n < len(b.record(i)):
			return i, io.ErrShortWrite
		case err == nil:
		case isRefused(err), isTransient(err):
			b.lose(i, i+1)
		case isMessageSize(err):
			return i, errTooBig
		default:
			return i, err
		}
	}
	return b.count, nil
}

func (s *streamless) pathMTU() int { return 0 }

func (s *streamless) segments() bool { return false }

func (s *streamless) interrupt() { s.conn.SetReadDeadline(time.Unix(1, 0)) }

func (s *streamless) resume() { s.conn.SetReadDeadline(time.Time{}) }

func (s *streamless) close() error { return retire(s.conn, s.linger) }

func (s *streamless) release() {}

// isTimeout reports whether a wait was interrupted.
func isTimeout(err error) bool {
	ne, ok := err.(net.Error)
	return ok && ne.Timeout() || err == os.ErrDeadlineExceeded
}
