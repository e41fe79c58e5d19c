package cstp

import (
	"sync"

	"culvert.example/vpn/transport/wire"
)

// maxAnswers is how many answers to probes may wait to be sent. Of more, the oldest are forgotten: one answer is as good a sign of life as
// the other.
const maxAnswers = 4

// A control is the frames without data that wait to be sent. Whoever wants one sent never waits.
type control struct {
	kick chan struct{} // holds one token while there may be something

	mu               sync.Mutex
	probe, keepalive bool
	answers          [][]byte // payloads, the oldest first
	spare            [][]byte // memory for more
}

// answer adds an answer to a probe. Its payload is copied. One that is too large for a frame of one record is left out, as many peers
// leave out any.
func (o *control) answer(payload []byte) {
	if len(payload) > wire.MaxPayload {
		payload = nil
	}
	var mem []byte
	switch {
	case len(o.answers) == maxAnswers:
		mem = o.answers[0]
		copy(o.answers, o.answers[1:])
		o.answers = o.answers[:maxAnswers-1]
	case len(o.spare) > 0:
		mem = o.spare[len(o.spare)-1]
		o.spare = o.spare[:len(o.spare)-1]
	}
	o.answers = append(o.answers, append(mem[:0], payload...))
}

// post changes what is to be sent, and has it sent.
func (c *Conn) post(change func(*control)) error {
	if err := c.Err(); err != nil {
		return err
	}
	c.out.mu.Lock()
	change(&c.out)
	c.out.mu.Unlock()
	select {
	case c.out.kick <- struct{}{}:
	default:
	}
	return nil
}

// sendControl sends what is posted until the Conn ends.
func (c *Conn) sendControl() {
	var answers [][]byte
	var frame []byte
	for {
		select {
		case <-c.done:
			return
		case <-c.out.kick:
		}
		c.wmu.Lock()
		// Only now, so that what was posted while a batch was written is seen as it is at the end.
		o := &c.out
		o.mu.Lock()
		probe, keepalive := o.probe, o.keepalive
		o.probe, o.keepalive = false, false
		answers, o.answers = o.answers, answers[:0]
		o.mu.Unlock()

		c.sock.hold()
		var failure error
		send := func(t wire.Type, payload []byte) {
			if failure != nil || c.Err() != nil {
				return
			}
			frame = append(frame[:0], make([]byte, wire.HeaderLen)...)
			wire.PutHeader(frame, t, len(payload))
			frame = append(frame, payload...)
			_, failure = c.w.Write(frame)
		}
		for _, a := range answers {
			send(wire.DPDResponse, a)
		}
		if probe {
			c.stats.probes.Add(1)
			send(wire.DPDRequest, nil)
		}
		if keepalive {
			send(wire.Keepalive, nil)
		}
		if err := c.sock.release(); failure == nil {
			failure = err
		}
		c.wmu.Unlock()

		if failure != nil {
			_ = c.failed("send", failure)
			return
		}
		c.beat.Sent(false)
		o.mu.Lock()
		for _, a := range answers {
			if len(o.spare) < maxAnswers && cap(a) <= 4096 {
				o.spare = append(o.spare, a)
			}
		}
		o.mu.Unlock()
	}
}
