package router

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
)

var errFull = errors.New("too many connections")

// limiter counts connections, all of them and by where they come from: by address for IPv4, by /64 for IPv6, which is what one
// client has there. It remembers only those that are connected.
type limiter struct {
	total     atomic.Int64
	most      int64
	perSource int32
	shards    [64]struct {
		mu    sync.Mutex
		count map[netip.Addr]int32
	}
}

func newLimiter(most, perSource int) *limiter {
	l := &limiter{most: int64(most), perSource: int32(perSource)}
	for i := range l.shards {
		l.shards[i].count = map[netip.Addr]int32{}
	}
	return l
}

// full says whether new connections must wait in the kernel.
func (l *limiter) full() bool { return l.total.Load() >= l.most }

// source is what a client is counted under.
func source(client netip.Addr) netip.Addr {
	client = client.Unmap()
	if client.Is6() {
		prefix, err := client.WithZone("").Prefix(64)
		if err == nil {
			return prefix.Addr()
		}
	}
	return client
}

func (l *limiter) shard(s netip.Addr) int {
	b := s.As16()
	h := uint32(2166136261)
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	return int(h % uint32(len(l.shards)))
}

// take counts one connection of a source; it says no if that has too many.
func (l *limiter) take(s netip.Addr) bool {
	if l.perSource == 0 {
		return true
	}
	shard := &l.shards[l.shard(s)]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.count[s] >= l.perSource {
		return false
	}
	shard.count[s]++
	return true
}

// give ends what take began.
func (l *limiter) give(s netip.Addr) {
	if l.perSource == 0 {
		return
	}
	shard := &l.shards[l.shard(s)]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.count[s]--; shard.count[s] <= 0 {
		delete(shard.count, s)
	}
}
