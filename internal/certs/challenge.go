package certs

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/shopset/shopset/internal/certs/storage"
)

// tokenPattern is base64url (RFC 8555, 8.3).
var tokenPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// challengeTime is how long a challenge can be answered: authorities ask within a minute.
const challengeTime = 15 * time.Minute

func challengeKey(token string) string { return "acme challenge " + token }

// Challenge returns the key authorization of an ACME challenge (RFC 8555, 8.1), which the proxies answer with.
func (s *Service) Challenge(ctx context.Context, token string) (string, error) {
	if !tokenPattern.MatchString(token) {
		return "", Problems{fmt.Sprintf("%q is no token of ACME", clip(token))}
	}
	value, err := s.storage.Value(ctx, challengeKey(token), s.now())
	if errors.Is(err, storage.ErrNotFound) {
		return "", fmt.Errorf("challenge %s: %w", token, storage.ErrNotFound)
	}
	return string(value), err
}
