package shopapi

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"
)

const (
	// directoryFresh is how long an answer is used without asking again.
	directoryFresh = 30 * time.Second
	// directoryAbsent is that for the answer that there is no such shop.
	directoryAbsent = 5 * time.Second
	// directoryStale is how long an old answer is used when the api is down.
	directoryStale = 15 * time.Minute
	// directorySize bounds the remembered answers: many scanners ask for unknown names.
	directorySize = 20_000
)

// Directory answers which shop a host name belongs to. Make one with NewDirectory.
type Directory struct {
	lookup func(context.Context, string) (Shop, error)
	now    func() time.Time

	mu      sync.Mutex
	entries map[string]directoryEntry
}

type directoryEntry struct {
	shop Shop
	err  error
	at   time.Time
}

// NewDirectory returns an empty directory over the client.
func NewDirectory(c *Client) *Directory {
	return &Directory{lookup: c.ShopByHost, now: time.Now, entries: map[string]directoryEntry{}}
}

// Shop returns the shop of a request's Host header.
func (d *Directory) Shop(ctx context.Context, hostHeader string) (Shop, error) {
	host := NormalHost(hostHeader)
	if !validHost(host) {
		return Shop{}, &Error{Status: 404, Problem: Problem{Code: CodeNotFound, Message: "no shop has this host name"}}
	}
	d.mu.Lock()
	entry, known := d.entries[host]
	d.mu.Unlock()
	age := d.now().Sub(entry.at)
	if known && (entry.err == nil && age < directoryFresh || entry.err != nil && age < directoryAbsent) {
		return entry.shop, entry.err
	}
	shop, err := d.lookup(ctx, host)
	switch {
	case err == nil || NotFound(err):
		d.remember(host, directoryEntry{shop, err, d.now()})
	case known && entry.err == nil && age < directoryStale:
		return entry.shop, nil
	}
	return shop, err
}

func (d *Directory) remember(host string, entry directoryEntry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.entries[host]; !known && len(d.entries) >= directorySize {
		// Some entry has to go; which one matters little, as each can be asked for again.
		for victim := range d.entries {
			delete(d.entries, victim)
			break
		}
	}
	d.entries[host] = entry
}

// NormalHost takes the port and the final dot off a Host header and makes it lower case.
func NormalHost(header string) string {
	host := header
	if name, _, err := net.SplitHostPort(header); err == nil {
		host = name
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

func validHost(host string) bool {
	if host == "" || len(host) > 253 {
		return false
	}
	for _, c := range host {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return true
}
