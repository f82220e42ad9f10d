// Package hostname brings host names to the one form in which everything compares and looks them up: lower
// case, ASCII (RFC 5891), no dot at the end.
package hostname

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// profile is IDNA 2008 with the mapping of UTS 46, non-transitional, as browsers do it. Underscores are
// allowed, because names with them exist.
var profile = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false), idna.BidiRule(), idna.VerifyDNSLength(true))

// Bounds of RFC 1035, 2.3.4: a name in text without the dot at its end, and one label.
const (
	Max      = 253
	maxLabel = 63
)

// maxInput bounds what is read at all: no name in another alphabet that fits into Max is longer.
const maxInput = 1024

// ASCII is the final form of a name without wildcard, port or brackets. One dot at the end is taken off. The
// error says what is wrong, to be put after the name.
func ASCII(host string) (string, error) {
	host = strings.TrimSuffix(host, ".")
	if Plain(host) {
		return host, nil
	}
	if len(host) > maxInput {
		return "", fmt.Errorf("has %d bytes, more than %d", len(host), Max)
	}
	if strings.ContainsAny(host, "/:@* \t\r\n\x00") || !utf8.ValidString(host) {
		return "", errors.New("has a character that no host name has")
	}
	ascii, err := profile.ToASCII(host)
	if err != nil {
		return "", fmt.Errorf("is no host name: %w", err)
	}
	if strings.HasSuffix(ascii, ".") {
		return "", errors.New("has two dots at its end")
	}
	if len(ascii) > Max {
		return "", fmt.Errorf("has %d bytes, more than %d", len(ascii), Max)
	}
	return ascii, nil
}

// Plain says whether a name is in its final form already, which nearly all are, without allocating. It says no to
// names of one label and to those that may be addresses: they want a closer look.
func Plain(host string) bool {
	label, dots := 0, 0
	for i := range len(host) {
		c := host[i]
		switch {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_':
		case c == '-' && label > 0:
			if label == 3 && host[i-1] == '-' && host[i-3] == 'x' && host[i-2] == 'n' {
				return false // Punycode is looked at closely.
			}
		case c == '.' && label > 0 && host[i-1] != '-':
			dots++
			label = -1
		default:
			return false
		}
		if label++; label > maxLabel {
			return false
		}
	}
	// A last label of digits may be an address.
	return dots > 0 && len(host) <= Max && label > 0 && host[len(host)-1] > '9'
}
