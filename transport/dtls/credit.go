package dtls

import (
	"encoding/binary"
	"math"
	"runtime"
	"sync/atomic"
	"time"

	"culvert.example/vpn/transport/wire"
)

const (
	// recordCost is what Linux counts for a datagram in a socket beside its bytes: its descriptor, its headers, and what is lost
	// by rounding up.
	recordCost = 900

	// creditFloor is how large a packet must be to be counted, in bytes. Acknowledgements, which come in numbers without anybody's
	// sending much, are smaller. Many small packets of another kind may still overrun the peer.
	creditFloor = 512

	// creditLen is the size of the payload of a request, in bytes: less than any probe for the MTU has.
	creditLen   = 12
	requestCost = creditLen + recordCost

	// A path is near if an answer takes less than nearPath, and far if it takes farPath. On a far path more is on its way at any
	// moment than the socket of the peer holds.
	nearPath = time.Millisecond
	farPath  = 2 * nearPath

	// How often it is looked whether a near path has become far, and the other way round.
	nearPace = time.Second
	farPace  = 100 * time.Millisecond

	// patience is how long one call waits, and how long a datagram is taken to lie unread at most. After so many calls in a row
	// that wait in vain the path is far. They are many, because a busy machine may not let the peer run for some of them, and the
	// queue that then grows hides how near it is.
	patience = 5 * time.Millisecond
	vainMost = 40
)

// A credit keeps a sender from overrunning the socket of its peer. A gateway that reads one datagram at a time is slower than a
// batch that comes in one piece, and loses what its socket has no room for: ocserv lost a sixth of an upload over a near path.
// Datagrams have no flow control, but DPD requests are answered in the order in which they come, between the packets. A request
// behind every few packets shows what has been read, and only so much is sent ahead of the last answer as the socket holds. The
// rest waits in front, where the device keeps it.
//
// Wait, settle, add and request are for the writer, answer is for the reader. There is no lock between them.
type credit struct {
	limit uint64 // what may lie unread, as Linux counts it; 0 for no bound
	token uint32 // in front of each request
	start time.Time

	// Of the writer.
	asked uint64        // what had been sent with the last request
	last  time.Duration // when wait was called last, or waited in vain
	timer *time.Timer
	vain  int
	frame [1 + creditLen]byte
	clock time.Duration // when a request was timed last

	sent, read atomic.Uint64 // in all, and of that what the peer has read
	near       atomic.Bool
	timed      atomic.Uint64 // the request whose answer is timed, 0 for none
	timedAt    atomic.Int64  // when it was sent; only written while timed is 0
	news       chan struct{} // has room for one
}

// init makes a credit for a peer whose socket holds so many bytes, as Linux counts them.
func (k *credit) init(buffer int, token uint32) {
	// The clock of Windows stands still for longer than answers take.
	if buffer <= 0 || runtime.GOOS == "windows" {
		return
	}
	k.limit = uint64(buffer) / 8 * 7
	k.token = token
	k.start = time.Now()
	k.clock = -nearPace
	k.frame[0] = byte(wire.DPDRequest)
	binary.BigEndian.PutUint32(k.frame[1:], token)
	k.timer = time.NewTimer(time.Hour)
	k.timer.Stop()
	k.news = make(chan struct{}, 1)
}

// wait waits until the peer has room, and reports how much, in bytes as Linux counts them. It does not wait for longer than
// patience, nor after ended is closed.
func (k *credit) wait(ended <-chan struct{}) uint64 {
	if k.limit == 0 {
		return math.MaxUint64
	}
	now := time.Since(k.start)
	if now-k.last > patience {
		k.settle()
		k.vain = 0
	}
	k.last = now
	if !k.near.Load() {
		return math.MaxUint64
	}
	limit := k.limit
	if k.due(nearPace) {
		// How long an answer takes shows how long the path is if there is no queue before it.
		limit /= 16
	}
	before := k.read.Load()
	for waiting := false; ; {
		read := k.read.Load()
		out := k.sent.Load() - read
		if out < limit {
			if waiting {
				k.timer.Stop()
				k.vain = 0
			}
			return limit - out
		}
		if k.asked <= read {
			// Nothing is under way that could be answered.
			k.settle()
			continue
		}
		if !waiting {
			waiting = true
			k.timer.Reset(patience)
		}
		select {
		case <-k.news:
		case <-ended:
			k.timer.Stop()
			return math.MaxUint64
		case <-k.timer.C:
			// Requests or answers are lost, or the peer is slow or has stopped. The packets shall not stop for that.
			if k.read.Load() == before {
				k.vain++
			}
			k.settle()
			k.last = time.Since(k.start) // so that the next call does not take the wait for a pause of the writer
			if k.vain == vainMost {
				k.vain = 0
				k.near.Store(false)
			}
			return limit
		}
	}
}

// due reports whether it is time to look again how long the path is.
func (k *credit) due(pace time.Duration) bool { return k.last-k.clock >= pace }

// settle takes it that the peer has read everything, and that no answer is under way.
func (k *credit) settle() {
	k.timed.Store(0)
	k.advance(k.sent.Load())
}

// advance takes note that the peer has read the first n bytes, and reports whether that is news.
func (k *credit) advance(n uint64) bool {
	for {
		old := k.read.Load()
		if n <= old {
			return false
		}
		if k.read.CompareAndSwap(old, n) {
			return true
		}
	}
}

// add counts a packet of n bytes that is about to be sent, and returns what it costs.
func (k *credit) add(n int) uint64 {
	if k.limit == 0 || n < creditFloor {
		return 0
	}
	cost := uint64(n + recordCost)
	k.sent.Add(cost)
	return cost
}

// request returns the frame to send behind the packets that have been added, or nil if it is not time for one. The frame costs
// requestCost.
func (k *credit) request() []byte {
	sent := k.sent.Load()
	if k.limit == 0 || sent == k.asked {
		return nil
	}
	near := k.near.Load()
	timed := near && k.due(nearPace) || !near && k.due(farPace)
	if !timed && (!near || sent-k.asked < k.limit/10 || sent-k.read.Load() < k.limit/4) {
		return nil
	}
	sent = k.sent.Add(requestCost)
	k.asked = sent
	binary.BigEndian.PutUint64(k.frame[5:], sent)
	if timed {
		k.clock = k.last
		k.timed.Store(0)
		k.timedAt.Store(int64(time.Since(k.start)))
		k.timed.Store(sent)
	}
	return k.frame[:]
}

// answer takes note of the payload of an answer, and reports whether it belongs to a request from here.
func (k *credit) answer(p []byte) bool {
	if k.limit == 0 || len(p) != creditLen || binary.BigEndian.Uint32(p) != k.token {
		return false
	}
	n := binary.BigEndian.Uint64(p[4:])
	if n > k.sent.Load() {
		return true // nothing like that was sent
	}
	if n == k.timed.Load() {
		// The writer writes timedAt only after it has changed timed, which the exchange would notice.
		if at := k.timedAt.Load(); k.timed.CompareAndSwap(n, 0) {
			k.took(time.Since(k.start) - time.Duration(at))
		}
	}
	if k.advance(n) {
		select {
		case k.news <- struct{}{}:
		default:
		}
	}
	return true
}

// took takes note of how long an answer took.
func (k *credit) took(d time.Duration) {
	if d < nearPath {
		k.near.Store(true)
	} else if d >= farPath {
		k.near.Store(false)
	}
}
