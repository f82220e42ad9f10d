package testservers

// TryUp is Up for a test that wants an error.
func (s *Server) TryUp() error { return s.start() }
