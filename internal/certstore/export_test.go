package certstore

// Followed says whether changes reach memory.
func (s *Store) Followed() bool { return s.followed.Load() }

// Size returns how many domains are in memory, and their cost.
func (s *Store) Size() (entries, bytes int) { return s.cache.size() }

// Forget empties the memory.
func (s *Store) Forget() {
	for i := range s.cache.shards {
		shard := &s.cache.shards[i]
		shard.mu.Lock()
		for _, e := range shard.entries {
			shard.drop(e)
		}
		shard.mu.Unlock()
	}
	s.unknown.clear()
	s.covered.clear()
}
