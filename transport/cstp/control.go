package cstp

import (
	"sync"

	"culvert.example/vpn/transport/wire"
)

// maxAnswers is how many answers to probes may wait to be sent. Of more, the oldest are forgotten: one answer is as good a sign of life as
// the other.
const maxAnswers = 4

// maxSpare is the largest memory of an answer that is kept for another, in bytes.
const maxSpare = 4096

// A control is the frames without data that wait to be sent. Whoever wants one sent never waits.
type control struct {
	mu               sync.Mutex
	sending, closed  bool // a goroutine sends, none may begin any more
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
	o := &c.out
	o.mu.Lock()
	defer o.mu.Unlock()
	change(o)
	if !o.sending && !o.closed {
		o.sending = true
		c.wg.Go(c.sendControl)
	}
	return nil
}

// close keeps post from starting goroutines.
func (o *control) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
}

// sendControl sends what is posted until there is nothing more.
func (c *Conn) sendControl() {
	o := &c.out
	var answers [][]byte
	for {
		c.wmu.Lock()
		// Only now, so that what was posted while a batch was written is seen as it is at the end.
		o.mu.Lock()
		for _, a := range answers {
			if len(o.spare) < maxAnswers && cap(a) <= maxSpare {
				o.spare = append(o.spare, a)
			}
		}
		probe, keepalive := o.probe, o.keepalive
		o.probe, o.keepalive = false, false
		answers, o.answers = o.answers, nil
		o.sending = (probe || keepalive || len(answers) > 0) && c.Err() == nil
		again := o.sending
		o.mu.Unlock()
		var err error
		if again {
			err = c.writeControl(probe, keepalive, answers)
		}
		c.wmu.Unlock()
		if !again {
			return
		}
		if err != nil {
			_ = c.failed("send", err)
			continue
		}
		c.beat.Sent(false)
	}
}

// writeControl writes frames without data, in one piece. It needs wmu.
func (c *Conn) writeControl(probe, keepalive bool, answers [][]byte) (err error) {
	c.sock.hold()
	var frame []byte
	send := func(t wire.Type, payload []byte) {
		if err != nil || c.Err() != nil {
			return
		}
		frame = append(frame[:0], make([]byte, wire.HeaderLen)...)
		wire.PutHeader(frame, t, len(payload))
		frame = append(frame, payload...)
		_, err = c.w.Write(frame)
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
	if e := c.sock.flush(); err == nil {
		err = e
	}
	return err
}
