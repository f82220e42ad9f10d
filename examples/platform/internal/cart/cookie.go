package cart

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// cookieName begins with __Host-, by which browsers promise that the cookie was set by this host,
// over TLS and for all paths, so no neighbour below the same domain can plant one.
const cookieName = "__Host-cart"

// cookies signs and verifies session cookies: SESSION.MAC, where the MAC is over the shop too.
type cookies struct {
	keys [][]byte
	ttl  time.Duration
}

var sessionForm = regexp.MustCompile(`^[A-Z2-7]{26}$`)

func (c *cookies) mac(key []byte, shop, session string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("shopset cart session 1\x00" + shop + "\x00" + session))
	return h.Sum(nil)
}

// The ways a request can come with a session.
const (
	cookieNone    = "none"
	cookieValid   = "valid"
	cookieOldKey  = "old_key"
	cookieInvalid = "invalid"
)

// session returns the session of a request, empty unless its cookie is valid for the shop.
func (c *cookies) session(r *http.Request, shop string) (session, state string) {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return "", cookieNone
	}
	session, text, _ := strings.Cut(cookie.Value, ".")
	mac, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || !sessionForm.MatchString(session) {
		return "", cookieInvalid
	}
	for i, key := range c.keys {
		if hmac.Equal(mac, c.mac(key, shop, session)) {
			if i > 0 {
				return session, cookieOldKey
			}
			return session, cookieValid
		}
	}
	return "", cookieInvalid
}

// newSession makes a session that nobody can guess.
func newSession() string { return rand.Text() }

// set gives the browser the cookie, signed with the first key.
func (c *cookies) set(w http.ResponseWriter, shop, session string) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: session + "." + base64.RawURLEncoding.EncodeToString(c.mac(c.keys[0], shop, session)),
		Path: "/", MaxAge: int(c.ttl.Seconds()), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}
