package proxy

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// users are those of a file. A right password is remembered by its hash: bcrypt takes a tenth of a second on purpose, and a
// browser sends it with every request.
type users struct {
	hashes map[string][]byte
	logins *logins

	mu    sync.Mutex
	known map[[sha256.Size]byte]bool
}

// logins bounds what passwords cost that are not remembered, of all files together: the rate limits come later, and who
// guesses must not get all processors.
type logins struct {
	checking chan struct{} // as many hashes are computed at once as it has places
	waiting  atomic.Int64
	failed   *limiter
}

const (
	// maxLogins may wait for a place; more are told to come again.
	maxLogins = 16
	// failedLogins of a client's network are allowed at once, and one more every failedLoginEvery.
	failedLogins     = 20
	failedLoginEvery = 6 * time.Second
	// failedLoginsLimit is its name in the metric of limits.
	failedLoginsLimit = "failed-logins"
)

func newLogins() *logins {
	failed := RateLimit{Name: failedLoginsLimit, Key: []string{"client/24"}, Requests: 1, Period: failedLoginEvery, Burst: failedLogins}
	failed.fill()
	made, _ := newLimiters([]RateLimit{failed}, nil, nil) // Its key is one.
	return &logins{checking: make(chan struct{}, max(1, min(2, runtime.GOMAXPROCS(0)/2))), failed: made[0]}
}

const maxUsersFile = 1 << 20

func readUsers(path string, logins *logins) (*users, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(content) > maxUsersFile {
		return nil, fmt.Errorf("%s has more than 1 MiB", path)
	}
	u := &users{hashes: map[string][]byte{}, known: map[[sha256.Size]byte]bool{}, logins: logins}
	lines := bufio.NewScanner(bytes.NewReader(content))
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, hash, _ := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); err != nil {
			return nil, fmt.Errorf("%s line %d: want NAME:HASH with bcrypt, as `htpasswd -B` writes it", path, number)
		}
		u.hashes[name] = []byte(hash)
	}
	if len(u.hashes) == 0 {
		return nil, fmt.Errorf("%s names nobody", path)
	}
	return u, lines.Err()
}

// lets says whether a request names somebody who may come, and with which status it is refused if not.
func (u *users) lets(e *exchange) (in bool, status int) {
	name, password, ok := e.request.BasicAuth()
	if !ok {
		return false, http.StatusUnauthorized
	}
	key := sha256.Sum256([]byte(name + "\x00" + password))
	u.mu.Lock()
	known := u.known[key]
	u.mu.Unlock()
	if known {
		return true, 0
	}
	hash, exists := u.hashes[name]
	if !exists {
		for _, hash = range u.hashes { // To say no takes as long as for a wrong password.
			break
		}
	}
	right, status := u.logins.check(e, hash, password)
	if !right || !exists {
		return false, status
	}
	u.logins.failed.refund(e)
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.known) < 4*len(u.hashes) {
		u.known[key] = true
	}
	return true, 0
}

// check compares a password with a hash. Every try counts as failed until somebody knows better.
func (l *logins) check(e *exchange, hash []byte, password string) (right bool, status int) {
	if wait, over := l.failed.take(e); over {
		e.Header().Set("Retry-After", retryAfter(wait))
		return false, http.StatusTooManyRequests
	}
	waiting := l.waiting.Add(1)
	defer l.waiting.Add(-1)
	if waiting > int64(maxLogins+cap(l.checking)) {
		l.failed.refund(e)
		e.Header().Set("Retry-After", "1")
		return false, http.StatusServiceUnavailable
	}
	select {
	case l.checking <- struct{}{}:
	case <-e.request.Context().Done():
		l.failed.refund(e)
		return false, statusClientGone
	}
	defer func() { <-l.checking }()
	return bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil, http.StatusUnauthorized
}

// retryAfter is a time in whole seconds, one at least.
func retryAfter(wait time.Duration) string {
	return strconv.Itoa(max(1, int((wait+time.Second-1)/time.Second)))
}
