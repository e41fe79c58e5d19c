package stack

// Waiting reports whether packets wait to be read from the Link.
func (s *Stack) Waiting() bool { return s.link.queue.waiting() }
