package gateway
type Form struct{}
type session struct{}
func (s *session) info() SessionInfo { return SessionInfo{} }
