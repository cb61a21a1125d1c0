package blob

// Small is how many small blobs the store knows.
func (s *Store) Small() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.index)
}
