package certs

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"strings"
)

// Right is what somebody may do.
type Right string

// Readers may see everything, keys included, because proxies must. Writers may change it, too.
const (
	Reader Right = "reader"
	Writer Right = "writer"
)

// Clients are who may come, and what they may do.
type Clients struct {
	tokens       []token
	certificates map[string]Right
}

type token struct {
	name  string
	right Right
	sum   [sha256.Size]byte
}

// ReadClients reads a file of lines
//
//	NAME reader|writer token SHA-256-OF-THE-TOKEN
//	NAME reader|writer certificate
//
// where the second kind is who shows a certificate with NAME as its common name. Empty lines and those that begin
// with # do not count. All that is wrong is told at once.
func ReadClients(path string) (*Clients, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("clients: %w", err)
	}
	clients := &Clients{certificates: map[string]Right{}}
	var problems Problems
	for i, line := range strings.Split(string(content), "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if err := clients.add(fields); err != nil {
			problems.add("clients %s line %d: %v", path, i+1, err)
		}
	}
	if len(clients.tokens)+len(clients.certificates) == 0 && len(problems) == 0 {
		problems.add("clients %s: names nobody, so nobody could come", path)
	}
	return clients, problems.orNil()
}

func (c *Clients) add(fields []string) error {
	if len(fields) < 3 {
		return fmt.Errorf("want NAME, reader or writer, and token with its SHA-256, or certificate")
	}
	right := Right(fields[1])
	if right != Reader && right != Writer {
		return fmt.Errorf("%q is neither reader nor writer", clip(fields[1]))
	}
	switch {
	case fields[2] == "certificate" && len(fields) == 3:
		c.certificates[fields[0]] = right
	case fields[2] == "token" && len(fields) == 4:
		sum, err := hex.DecodeString(fields[3])
		if err != nil || len(sum) != sha256.Size {
			return fmt.Errorf("want the SHA-256 of the token in %d hexadecimal digits, as `printf %%s TOKEN | sha256sum` writes it", 2*sha256.Size)
		}
		c.tokens = append(c.tokens, token{fields[0], right, [sha256.Size]byte(sum)})
	default:
		return fmt.Errorf("want token with its SHA-256, or certificate")
	}
	return nil
}

type whoKey struct{}

// who is the client's name, for the audit.
func who(ctx context.Context) string {
	name, _ := ctx.Value(whoKey{}).(string)
	return name
}

// identify returns who asks, and with which right; none when it is nobody known.
func (c *Clients) identify(r *http.Request) (name string, right Right) {
	if presented, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		sum := sha256.Sum256([]byte(presented))
		// All are compared, whichever fits, so that time tells nothing.
		for _, t := range c.tokens {
			if subtle.ConstantTimeCompare(t.sum[:], sum[:]) == 1 {
				name, right = t.name, t.right
			}
		}
		return name, right
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		name = r.TLS.VerifiedChains[0][0].Subject.CommonName
		return name, c.certificates[name]
	}
	return "", ""
}

// allow lets those pass who have a right.
func (c *Clients) allow(needed Right, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name, right := c.identify(r)
		switch {
		case right == "":
			w.Header().Set("WWW-Authenticate", "Bearer")
			writeError(w, http.StatusUnauthorized, "who are you? Send Authorization: Bearer TOKEN, or a client certificate")
		case needed == Writer && right != Writer:
			writeError(w, http.StatusForbidden, fmt.Sprintf("%s may read, not write", name))
		default:
			next(w, r.WithContext(context.WithValue(r.Context(), whoKey{}, name)))
		}
	}
}
