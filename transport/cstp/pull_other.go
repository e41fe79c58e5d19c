//go:build !unix

package cstp

// A puller is nothing where package net alone can read.
type puller struct{}

func (*puller) init(*socket) {}

// pools reports whether nothing is held while nothing comes.
func (*puller) pools() bool { return false }

// pull waits until something has come, and reads it into buf.
func (s *socket) pull() (int, error) {
	s.borrow()
	return s.Conn.Read(s.buf[:])
}
