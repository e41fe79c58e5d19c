package dtls

import (
	"encoding/binary"
	"math"
	"sync/atomic"
	"time"

	"culvert.example/vpn/transport/wire"
)

const (
	// recordCost is what Linux counts for a datagram in a socket beside its bytes: its descriptor, its headers, and what is lost
	// by rounding up.
	recordCost = 900

	// creditFloor is how large a packet must be to be counted, in bytes. Smaller ones come in numbers as acknowledgements, whose
	// sender is slow by nature.
	creditFloor = 512

	// creditLen is the size of the payload of a request, in bytes: less than any probe for the MTU has.
	creditLen = 12

	// A path is near while answers come within nearPath, and no more when the fastest one of a creditSpan takes farPath. Further
	// away, more is on its way at any moment than the socket of the peer holds, and its queue cannot be told from the path.
	nearPath   = time.Millisecond
	farPath    = 2 * nearPath
	creditSpan = time.Second

	// samplePace is how often it is looked whether a path has become near.
	samplePace = 100 * time.Millisecond

	// patience is how long an answer is waited for, and how long a datagram lies unread at most. After so many waits in vain
	// in a row the path is not near any more.
	patience = 5 * time.Millisecond
	vainMost = 3
)

// A credit keeps a sender from overrunning the socket of its peer. A gateway that reads one datagram at a time is slower than a
// batch that comes in one piece, and loses what its socket has no room for: ocserv lost a sixth of an upload over a near path.
// Datagrams have no flow control, but DPD requests are answered in the order in which they come, between the packets. A request behind
// every few packets shows what has been read, and only so much is sent ahead of the last answer as the socket holds. The rest
// waits in front, where the device or the netstack keeps it.
//
// Room, add and request are for the writer, answer is for the reader. There is no lock between them.
type credit struct {
	limit uint64 // what may lie unread, as Linux counts it; 0 for no bound
	token uint32 // in front of each request
	start time.Time

	// Of the writer.
	marked  uint64        // what had been sent with the last request
	last    time.Duration // when room was called last
	sampled time.Duration // when a request was sent to a path that is not near
	vain    int
	frame   [1 + creditLen]byte
	timer   *time.Timer

	sent, read atomic.Uint64 // in all, and of that what the peer has read
	near       atomic.Bool
	timed      atomic.Uint64 // the request whose answer is timed, 0 for none
	timedAt    atomic.Int64  // when that was sent
	answered   chan struct{} // has room for one

	// Of the reader.
	least     time.Duration // the fastest answer since spanStart
	spanStart time.Duration
}

func (k *credit) init(buffer int, token uint32) {
	if buffer <= 0 {
		return
	}
	k.limit = uint64(buffer) / 8 * 7
	k.token = token
	k.start = time.Now()
	k.least = math.MaxInt64
	k.frame[0] = byte(wire.DPDRequest)
	binary.BigEndian.PutUint32(k.frame[1:], token)
	k.timer = time.NewTimer(time.Hour)
	k.timer.Stop()
	k.answered = make(chan struct{}, 1)
}

// room waits until the peer has room, and reports how much, in bytes as Linux counts them. It does not wait for long, and not
// after ended is closed.
func (k *credit) room(ended <-chan struct{}) uint64 {
	if k.limit == 0 {
		return math.MaxUint64
	}
	now := time.Since(k.start)
	if now-k.last > patience {
		k.settle()
	}
	for {
		k.last = now
		if !k.near.Load() {
			return math.MaxUint64
		}
		if out := k.sent.Load() - k.read.Load(); out < k.limit {
			return k.limit - out
		}
		k.timer.Reset(patience)
		select {
		case <-k.answered:
			k.timer.Stop()
			k.vain = 0
		case <-ended:
			return math.MaxUint64
		case <-k.timer.C:
			// The request or its answer is lost, or the peer has stopped. The packets shall not stop for that.
			k.settle()
			if k.vain++; k.vain == vainMost {
				k.vain = 0
				k.near.Store(false)
			}
		}
		now = time.Since(k.start)
	}
}

// settle takes it that the peer has read everything.
func (k *credit) settle() { k.advance(k.sent.Load()) }

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

// add counts a packet of n bytes that is about to be sent and returns what it costs.
func (k *credit) add(n int) uint64 {
	if k.limit == 0 || n < creditFloor {
		return 0
	}
	cost := uint64(n + recordCost)
	k.sent.Add(cost)
	return cost
}

// request returns the frame to send behind the packets that have been added, or nil if it is not time for one.
func (k *credit) request() []byte {
	sent := k.sent.Load()
	if k.limit == 0 || sent-k.marked < k.limit/10 || sent-k.read.Load() < k.limit/4 {
		return nil
	}
	if !k.near.Load() {
		if k.last-k.sampled < samplePace {
			return nil
		}
		k.sampled = k.last
		k.timed.Store(0) // an answer that has not come by now is lost
	}
	sent = k.sent.Add(creditLen + recordCost)
	k.marked = sent
	binary.BigEndian.PutUint64(k.frame[5:], sent)
	if k.timed.Load() == 0 {
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
	if t := k.timed.Load(); t != 0 && n >= t {
		now := time.Since(k.start)
		k.sample(now, now-time.Duration(k.timedAt.Load()))
		k.timed.Store(0)
	}
	if k.advance(n) {
		select {
		case k.answered <- struct{}{}:
		default:
		}
	}
	return true
}

// sample takes note of how long an answer took.
func (k *credit) sample(now, took time.Duration) {
	k.least = min(k.least, took)
	if k.least < nearPath {
		k.near.Store(true)
	}
	if now-k.spanStart >= creditSpan {
		if k.least >= farPath {
			k.near.Store(false)
		}
		k.least, k.spanStart = math.MaxInt64, now
	}
}
