package packet

import "sync"

const (
	// loanBatch is how many Bufs a Loan has memory for.
	loanBatch = 128

	// Brisk is how many packets in one batch mean that more follow at once: then asking a [Waiter] first costs more than it
	// saves. A connection that falls silent with such a batch owns it until the next packet.
	Brisk = 16

	// loanSmall and loanJumbo are the Sizes of the Bufs of a Loan: any Ethernet frame, and any jumbo frame.
	loanSmall, loanJumbo = 1536, 9216
)

// A Loan is a Batch for the time in which packets come. Who waits for packets gives it back, so that of a thousand
// connections only those that carry something need memory.
type Loan struct {
	Batch Batch

	whole Batch
	from  *sync.Pool
}

// The memory that nobody uses just now is shared by the whole process, since connections of one do not know of each other.
// The garbage collector frees what stays unused.
var loansSmall, loansJumbo sync.Pool

// Borrow returns a Loan whose Batch has n Bufs with room for packets of at least size bytes each. What the Bufs hold is undefined.
// Up to 128 Bufs of up to 9216 bytes come from memory that others have given back.
func Borrow(n, size int) *Loan {
	var from *sync.Pool
	switch {
	case n > loanBatch || size > loanJumbo:
		b := NewBatch(n, size)
		return &Loan{Batch: b, whole: b}
	case size > loanSmall:
		from, size = &loansJumbo, loanJumbo
	default:
		from, size = &loansSmall, loanSmall
	}
	l, _ := from.Get().(*Loan)
	if l == nil {
		l = &Loan{whole: NewBatch(loanBatch, size), from: from}
	}
	l.Batch = l.whole[:n]
	return l
}

// Return gives the Loan back. Neither it nor its Batch may be used afterwards, but the memory of a Buf that was exchanged for other
// memory of at least the same Size belongs to whom it was exchanged with.
func (l *Loan) Return() {
	l.Batch = nil
	if l.from != nil {
		l.from.Put(l)
	}
}
