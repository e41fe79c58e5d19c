package stack

import "gvisor.dev/gvisor/pkg/waiter"

// readEvents are what ends the waiting of a reader.
const readEvents = waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp

// WaitRead returns nil when Read would return at once, and otherwise what Read would fail with, its deadline among that. Who waits so
// needs no memory for a datagram until one is there. The connections of [UDPRequest.Accept] and the UDP connections of
// [Stack.DialContext] have it, to be found by a type assertion.
func (c *datagramConn) WaitRead() error {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for {
		if err := c.usable(&c.readBy); err != nil {
			return c.error("read", err)
		}
		if c.isEnded() || c.ep.Readiness(readEvents)&readEvents != 0 {
			return nil
		}
		if err := c.wait(c.readable, &c.readBy); err != nil {
			return c.error("read", err)
		}
	}
}
