package env_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/shopset/shopset/examples/platform/internal/env"
)

func reader(values map[string]string) *env.Reader {
	return env.New(func(name string) string { return values[name] })
}

func TestAllProblemsAtOnceWithoutSecrets(t *testing.T) {
	r := reader(map[string]string{
		"LISTEN": "8080", "SEED": "yes", "N": "0", "API_TIMEOUT": "2", "API_URL": "api:8080",
		"DATABASE_URL": "hunter2", "KEYS": "c2hvcnQ=,!!hunter2!!",
	})
	r.Listen("LISTEN", ":8080")
	r.Bool("SEED", false)
	r.Int("N", 5, 1, 9)
	r.Duration("API_TIMEOUT", time.Second, time.Millisecond, time.Minute)
	r.HTTP("API_URL", "http://HOST:PORT of the api")
	r.HTTP("OTHER_URL", "http://HOST:PORT of the other")
	r.Secret("DATABASE_URL", "a URL", func(string) error { return errors.New("hunter2 is no URL") })
	r.Keys("KEYS", 32)
	want := `LISTEN is "8080": want an address such as :8080
SEED is "yes": want true or false
N is "0": want a whole number from 1 to 9
API_TIMEOUT is "2": want a duration such as 2s, from 1ms to 1m0s
API_URL is "api:8080": want http://HOST:PORT of the api
OTHER_URL is not set: want http://HOST:PORT of the other
DATABASE_URL is not valid (its value is not shown): want a URL
KEYS: key 1 has 5 bytes: want 32 or more
KEYS: key 2 is neither base64 nor hexadecimal`
	if err := r.Err(); err == nil || err.Error() != want {
		t.Fatalf("got\n%v\nwant\n%s", err, want)
	}
}

func TestGoodValues(t *testing.T) {
	r := reader(map[string]string{"URL": "http://a:1/", "KEYS": strings.Repeat("ab", 32) + "," + strings.Repeat("QUJD", 11), "EMPTY": ""})
	if got := r.HTTP("URL", ""); got != "http://a:1" {
		t.Error(got)
	}
	if keys := r.Keys("KEYS", 32); len(keys) != 2 || keys[0][0] != 0xab || keys[1][0] != 'A' {
		t.Error(keys)
	}
	if got := r.String("EMPTY", "fallback"); got != "fallback" {
		t.Error(got)
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
}
