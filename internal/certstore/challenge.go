package certstore

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/redis/rueidis"

	"github.com/shopset/shopset/internal/certrecord"
)

// maxAuthorization bounds a key authorization: a token of 128 characters, a dot and a thumbprint of 43.
const maxAuthorization = 256

// ErrNoChallenge says that no ACME challenge has this token.
var ErrNoChallenge = errors.New("no challenge has this token")

// Challenge returns the key authorization for the token of an ACME challenge (RFC 8555, 8.3): from Redis, else from
// the certificate API. ErrNoChallenge means that both, as far as they answer, know none.
func (s *Store) Challenge(ctx context.Context, token string) (string, error) {
	if !isToken(token) {
		return "", ErrNoChallenge
	}
	// Whoever asks may leave at once, and is nobody known: neither says anything of the sources, nor gets what handshakes need.
	ctx = context.WithoutCancel(ctx)
	if !s.challenges.Allow() {
		return "", ErrBusy
	}
	if s.redis != nil && s.redisBreaker.allows(s.config.Now()) {
		answer, err := s.redisChallenge(ctx, token)
		if err == nil && isAuthorization(token, answer) {
			return answer, nil
		}
	}
	if s.api == nil || !s.apiBreaker.allows(s.config.Now()) {
		return "", ErrNoChallenge
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.APITimeout)
	defer cancel()
	status, _, body, err := s.api.get(ctx, "/v1/challenges/"+url.PathEscape(token), maxAuthorization)
	s.apiBreaker.tell(s.config.Now(), err == nil && status < http.StatusInternalServerError)
	if err == nil && status == http.StatusOK && isAuthorization(token, string(body)) {
		return string(body), nil
	}
	return "", ErrNoChallenge
}

func (s *Store) redisChallenge(ctx context.Context, token string) (string, error) {
	client, err := s.redis.redis.Client()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.RedisTimeout)
	defer cancel()
	answer, err := client.Do(ctx, client.B().Get().Key(certrecord.ChallengeKey(token)).Build()).ToString()
	s.redisBreaker.tell(s.config.Now(), err == nil || rueidis.IsRedisNil(err))
	if err != nil {
		return "", err
	}
	plain, err := s.config.Keys.Open([]byte(answer), certrecord.ChallengeKey(token))
	return string(plain), err
}

// isToken says whether a text can be a token: base64url (RFC 8555, 8.3).
func isToken(text string) bool {
	for _, c := range []byte(text) {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return text != "" && len(text) <= 128
}

// isAuthorization says whether a text is a key authorization for a token (RFC 8555, 8.1): whoever can write to Redis
// should not write on every domain's pages.
func isAuthorization(token, text string) bool {
	thumbprint, ok := strings.CutPrefix(text, token+".")
	return ok && isToken(thumbprint)
}
