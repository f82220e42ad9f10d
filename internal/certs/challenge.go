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

// PutChallenge makes a challenge known: in the database, and in Redis as soon as it can, because an authority
// asks within seconds.
func (s *Service) PutChallenge(ctx context.Context, token, keyAuthorization string) error {
	if !tokenPattern.MatchString(token) {
		return fmt.Errorf("%q is no token of ACME", clip(token))
	}
	if err := s.storage.PutValue(ctx, challengeKey(token), []byte(keyAuthorization), s.now().Add(challengeTime)); err != nil {
		return err
	}
	s.challenge(ctx, token, keyAuthorization)
	return nil
}

// DeleteChallenge forgets one that is over.
func (s *Service) DeleteChallenge(ctx context.Context, token string) error {
	s.challenge(ctx, token, "")
	return s.storage.DeleteValue(ctx, challengeKey(token))
}

// Seal keeps something secret in the storage; Open is the opposite. context says what it is for.
func (s *Service) Seal(plain []byte, context string) []byte { return s.keys.Seal(nil, plain, context) }

// Open is the opposite of Seal.
func (s *Service) Open(sealed []byte, context string) ([]byte, error) {
	return s.keys.Open(sealed, context)
}
