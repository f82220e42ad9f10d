// Package env reads the configuration of a program from its environment.
//
// It promises that every problem is found at once: the readers never fail, they note a problem and
// return the zero value, and Err returns all problems, one line each, every line with the name of
// the variable, what is wrong and what is wanted. Values that may be secret are never repeated.
//
// A variable that is set to the empty string counts as not set, as Kubernetes users expect.
//
// Limit: a variable that nobody reads is no problem, because the environment of a cell is shared by
// all its components.
package env

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Reader reads variables and notes problems. Make one with New.
type Reader struct {
	lookup   func(string) string
	problems []error
}

// New returns a Reader over lookup, for example os.Getenv.
func New(lookup func(string) string) *Reader { return &Reader{lookup: lookup} }

// Err returns all problems, one line each, or nil.
func (r *Reader) Err() error { return errors.Join(r.problems...) }

func (r *Reader) problem(format string, arguments ...any) {
	r.problems = append(r.problems, fmt.Errorf(format, arguments...))
}

// String reads any text.
func (r *Reader) String(name, fallback string) string {
	if value := r.lookup(name); value != "" {
		return value
	}
	return fallback
}

// Bool reads true or false.
func (r *Reader) Bool(name string, fallback bool) bool {
	value := r.lookup(name)
	switch value {
	case "":
		return fallback
	case "true":
		return true
	case "false":
		return false
	}
	r.problem("%s is %q: want true or false", name, value)
	return false
}

// Int reads a whole number from low to high.
func (r *Reader) Int(name string, fallback, low, high int) int {
	value := r.lookup(name)
	if value == "" {
		return fallback
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < low || n > high {
		r.problem("%s is %q: want a whole number from %d to %d", name, value, low, high)
		return 0
	}
	return n
}

// Duration reads a duration such as 2s, from low to high.
func (r *Reader) Duration(name string, fallback, low, high time.Duration) time.Duration {
	value := r.lookup(name)
	if value == "" {
		return fallback
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < low || d > high {
		r.problem("%s is %q: want a duration such as 2s, from %s to %s", name, value, low, high)
		return 0
	}
	return d
}

// Listen reads the address of a listener, host:port or :port.
func (r *Reader) Listen(name, fallback string) string {
	value := r.String(name, fallback)
	if _, port, err := net.SplitHostPort(value); err != nil || !isPort(port) {
		r.problem("%s is %q: want an address such as :8080", name, value)
	}
	return value
}

func isPort(port string) bool {
	n, err := strconv.Atoi(port)
	return err == nil && n >= 0 && n <= 65535
}

// HTTP reads the required base URL of another program, http://host[:port].
func (r *Reader) HTTP(name, hint string) string {
	value := r.lookup(name)
	if value == "" {
		r.problem("%s is not set: want %s", name, hint)
		return ""
	}
	u, err := url.Parse(value)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		r.problem("%s is %q: want %s", name, value, hint)
		return ""
	}
	return strings.TrimRight(value, "/")
}

// Secret reads a required value that parse checks. Neither the value nor the error of parse, which
// may hold a part of it, is repeated.
func (r *Reader) Secret(name, want string, parse func(string) error) string {
	value := r.lookup(name)
	if value == "" {
		r.problem("%s is not set: want %s", name, want)
		return ""
	}
	if err := parse(value); err != nil {
		r.problem("%s is not valid (its value is not shown): want %s", name, want)
		return ""
	}
	return value
}

// Keys reads a required list of keys, separated by commas, each of at least size bytes in base64
// or hexadecimal.
func (r *Reader) Keys(name string, size int) [][]byte {
	value := r.lookup(name)
	if value == "" {
		r.problem("%s is not set: want one or more keys separated by commas, each of %d bytes or more in base64 or hexadecimal", name, size)
		return nil
	}
	var keys [][]byte
	for i, text := range strings.Split(value, ",") {
		key, err := decodeKey(strings.TrimSpace(text))
		switch {
		case err != nil:
			r.problem("%s: key %d is neither base64 nor hexadecimal", name, i+1)
		case len(key) < size:
			r.problem("%s: key %d has %d bytes: want %d or more", name, i+1, len(key), size)
		default:
			keys = append(keys, key)
		}
	}
	return keys
}

func decodeKey(text string) ([]byte, error) {
	if key, err := hex.DecodeString(text); err == nil {
		return key, nil
	}
	unpadded := strings.TrimRight(text, "=")
	if key, err := base64.RawStdEncoding.DecodeString(unpadded); err == nil {
		return key, nil
	}
	return base64.RawURLEncoding.DecodeString(unpadded)
}

// Check notes a problem that is not about one variable alone.
func (r *Reader) Check(ok bool, format string, arguments ...any) {
	if !ok {
		r.problem(format, arguments...)
	}
}
