package certstore_test

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certs"
	"github.com/shopset/shopset/internal/certstore"
)

// TestEveryCombinationOfFaults: whatever both sources do, a warm domain is served, a cold one if one source
// works, and never a wrong certificate; when they work again, so does everything.
func TestEveryCombinationOfFaults(t *testing.T) {
	t.Parallel()
	faults := []fault{works, slow, refuses, hangs, garbage, resets}
	for _, redis := range faults {
		for _, api := range faults {
			t.Run(fmt.Sprintf("Redis %s, the API %s", redis, api), func(t *testing.T) {
				t.Parallel()
				testFaults(t, redis, api)
			})
		}
	}
}

func testFaults(t *testing.T, redis, api fault) {
	const limit = 1 << 20
	w := newWorld(t, func(c *certstore.Config) { c.MaxBytes, c.Trust = limit, time.Second })
	w.register("warm.example", "*.warm.example", "cold.example")
	w.published()
	w.followed(true)
	w.serves("warm.example")
	w.serves("a.warm.example")
	w.redisWay.set(t, redis)
	w.apiWay.set(t, api)
	usable := func(f fault) bool { return f == works || f == slow }
	for range 4 {
		w.serves("warm.example")
		w.serves("a.warm.example")
	}
	cold := func() error { _, err := w.handshake("cold.example"); return err }
	if usable(redis) || usable(api) {
		eventually(t, cold)
	} else if cold() == nil {
		t.Error("a domain that nobody could tell of is served")
	}
	if _, err := w.domain("none.example"); err == nil {
		t.Error("an unknown domain is served")
	}
	// A change while they fail: the old or the new, never none.
	old := w.serves("warm.example")
	w.renew("warm.example")
	for range 4 {
		w.serves("warm.example")
	}
	w.redisWay.set(t, works)
	w.apiWay.set(t, works)
	eventually(t, func() error {
		serial, err := w.handshake("warm.example")
		if err == nil && serial == old {
			err = errors.New("still the old certificate")
		}
		return errors.Join(err, cold())
	})
	w.followed(true)
	if _, bytes := w.store.Size(); bytes > limit {
		t.Errorf("%d bytes of memory, more than %d", bytes, limit)
	}
}

// TestSourcesLie: a record of another domain, of an older time, or a broken one is not served; the other source
// is asked.
func TestSourcesLie(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.register("a.example", "b.example", "c.example")
	w.published()
	w.followed(true)
	set := func(name, value string) {
		t.Helper()
		if err := w.direct.Do(t.Context(), w.direct.B().Set().Key(certrecord.RedisKey(name)).Value(value).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	of := func(name string) string {
		t.Helper()
		value, err := w.direct.Do(t.Context(), w.direct.B().Get().Key(certrecord.RedisKey(name)).Build()).ToString()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	// A record that is sealed for the name, but whose certificate is another's.
	record, err := w.service.Record(t.Context(), "b.example")
	if err != nil {
		t.Fatal(err)
	}
	record.Name = "a.example"
	sealed, err := certrecord.Seal(w.keys, record)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"that of another domain": of("b.example"), "nothing": "", "garbage": strings.Repeat("x", 100), "cut off": of("a.example")[:50],
		"too large": strings.Repeat("0", 100<<10), "another's certificate": string(sealed),
	} {
		set("a.example", value)
		w.store.Forget()
		before := w.apiCalls.Load()
		w.serves("a.example")
		if w.apiCalls.Load() == before {
			t.Errorf("with %s in Redis the API was not asked", name)
		}
	}
	for name, lie := range map[string]http.HandlerFunc{
		"another domain": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Shopset-Name", "b.example")
			_, _ = rw.Write([]byte(of("b.example")))
		},
		"another record": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Shopset-Name", "a.example")
			_, _ = rw.Write([]byte(of("b.example")))
		},
		"garbage":      func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("hello")) },
		"an error":     func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusInternalServerError) },
		"no such page": http.NotFound,
		"not allowed":  func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusUnauthorized) },
		"no end": func(rw http.ResponseWriter, _ *http.Request) {
			for _, err := rw.Write(make([]byte, 1<<16)); err == nil; _, err = rw.Write(make([]byte, 1<<16)) {
			}
		},
		"a redirect": func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "http://127.0.0.1:1/", http.StatusFound)
		},
		"nothing for ages": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		w.lies.Store(&lie)
		set("a.example", "")
		w.store.Forget()
		if _, err := w.handshake("a.example"); err == nil {
			t.Errorf("when the API answers with %s: served", name)
		}
		w.serves("c.example") // Redis has that one.
	}
	w.lies.Store(nil)
	eventually(t, func() error { _, err := w.handshake("a.example"); return err })
}

// TestRestarts: Redis comes back empty, or with less than it had; the API is away as well.
func TestRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.register("a.example", "b.example")
	w.published()
	w.followed(true)
	w.serves("a.example")
	w.redis.Down(t)
	w.serves("a.example")
	eventually(t, func() error { _, err := w.handshake("b.example"); return err }) // From the API.
	old := w.serves("a.example")
	w.renew("a.example") // Told by the API, while Redis is away.
	eventually(t, func() error {
		if w.serves("a.example") == old {
			return errors.New("still the old certificate")
		}
		return nil
	})
	w.redis.Up(t)
	w.published()
	w.apiWay.set(t, refuses)
	eventually(t, func() error { return w.direct.Do(t.Context(), w.direct.B().Flushall().Build()).Error() }) // It has a connection that is gone.
	for range 20 {                                                                                           // Redis knows nobody for a moment.
		w.serves("a.example")
	}
	eventually(t, func() error { // Then everything is published anew.
		if lag, err := w.publisher.Lag(t.Context()); err != nil || lag > 0 {
			return fmt.Errorf("lag %d %w", lag, err)
		}
		w.store.Forget()
		_, err := w.handshake("b.example")
		return err
	})
	w.register("c.example")
	eventually(t, func() error { _, err := w.handshake("c.example"); return err })
}

// TestRedisIsFull: what cannot be written reaches the proxies by the API.
func TestRedisIsFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.register("a.example")
	w.published()
	w.followed(true)
	old := w.serves("a.example")
	limit := func(bytes string) {
		t.Helper()
		if err := w.direct.Do(t.Context(), w.direct.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", bytes).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	limit("1")
	w.renew("a.example")
	w.register("b.example")
	eventually(t, func() error { _, err := w.handshake("b.example"); return err })
	changes := func() {
		t.Helper()
		eventually(t, func() error {
			if w.serves("a.example") == old {
				return errors.New("still the old certificate")
			}
			return nil
		})
		old = w.serves("a.example")
	}
	changes()
	w.renew("a.example")
	changes()
	limit("0")
	w.published()
	w.renew("a.example")
	changes()
}

// TestOneSource: Redis alone, or the API alone, will do.
func TestOneSource(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*certstore.Config){
		"Redis": func(c *certstore.Config) { c.API = nil }, "the API": func(c *certstore.Config) { c.Redis = nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, edit)
			w.register("a.example")
			w.published()
			w.followed(true)
			old := w.serves("a.example")
			w.unknown("none.example")
			w.renew("a.example")
			eventually(t, func() error {
				if w.serves("a.example") == old {
					return errors.New("still the old certificate")
				}
				return nil
			})
			if err := w.direct.Do(t.Context(), w.direct.B().Flushall().Build()).Error(); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				w.serves("a.example")
			}
			if err := w.service.DeleteDomain(t.Context(), "t", "a.example", 0); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error {
				if _, err := w.handshake("a.example"); err == nil {
					return errors.New("a deleted domain is served")
				}
				return nil
			})
		})
	}
}

// TestNothingLeaks: handshakes that fail, in any way, leave no goroutine behind.
func TestNothingLeaks(t *testing.T) {
	w := newWorld(t, nil)
	w.register("a.example")
	w.published()
	w.followed(true)
	before := runtime.NumGoroutine()
	w.redisWay.set(t, hangs)
	w.apiWay.set(t, hangs)
	for i := range 20 {
		_, _ = w.domain(fmt.Sprintf("x%d.example", i))
	}
	w.redisWay.set(t, works)
	w.apiWay.set(t, works)
	eventually(t, func() error {
		if now := runtime.NumGoroutine(); now > before+10 {
			return fmt.Errorf("%d goroutines, %d before", now, before)
		}
		return nil
	})
	if _, err := w.service.PutDomain(t.Context(), "t", certs.Domain{Name: "b.example", Shop: "s"}, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { _, err := w.domain("b.example"); return err })
}
