package certrecord

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// profile is IDNA 2008 with the mapping of UTS 46, non-transitional, as browsers do it. Underscores are
// allowed, because names with them exist.
var profile = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false), idna.BidiRule(), idna.VerifyDNSLength(true))

var (
	errEmpty    = errors.New("is empty")
	errAddress  = errors.New("is an address, not a name")
	errWildcard = errors.New("has a * that is not its whole first label")
	errTop      = errors.New("has one label only")
)

// Name brings a host name to the form in which it is looked up: lower case, ASCII (RFC 5891), no dot at the
// end. A wildcard keeps its first label *. Names that cannot have a certificate are refused.
func Name(host string) (string, error) {
	name, err := lookupName(host)
	if err != nil {
		return "", fmt.Errorf("name %q %w", clip(host), err)
	}
	return name, nil
}

// LookupName is Name for handshakes: it makes no error texts, and ok says whether the name can have a certificate.
func LookupName(host string) (name string, ok bool) {
	if isPlain(host) {
		return host, true
	}
	name, err := lookupName(host)
	return name, err == nil && !strings.HasPrefix(name, "*.")
}

func lookupName(host string) (string, error) {
	host = strings.TrimSuffix(host, ".")
	rest, wildcard := strings.CutPrefix(host, "*.")
	switch {
	case rest == "":
		return "", errEmpty
	case strings.Contains(rest, "*"):
		return "", errWildcard
	case strings.ContainsAny(rest, "/:@ \t\r\n\x00"), !utf8.ValidString(rest):
		return "", errors.New("has a character that no host name has")
	}
	if _, err := netip.ParseAddr(strings.Trim(rest, "[]")); err == nil {
		return "", errAddress
	}
	ascii := rest
	if !isPlain(rest) {
		var err error
		if ascii, err = profile.ToASCII(rest); err != nil {
			return "", fmt.Errorf("is no host name: %w", err)
		}
	}
	if strings.HasSuffix(ascii, ".") {
		return "", errors.New("has two dots at its end")
	}
	if !strings.Contains(ascii, ".") {
		return "", errTop
	}
	if wildcard {
		ascii = "*." + ascii
	}
	if len(ascii) > maxName {
		return "", fmt.Errorf("has %d bytes, more than %d", len(ascii), maxName)
	}
	return ascii, nil
}

const (
	maxName  = 253
	maxLabel = 63
)

// isPlain says whether a name is in its final form already, which nearly all are, without allocating.
func isPlain(host string) bool {
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
	return dots > 0 && len(host) <= maxName && label > 0 && host[len(host)-1] > '9'
}

// Wildcard is the wildcard name that covers a name: its first label replaced (RFC 6125, 6.4.3). Empty when there
// is none, because it would cover a whole top-level domain.
func Wildcard(name string) string {
	_, parent, _ := strings.Cut(name, ".")
	if !strings.Contains(parent, ".") {
		return ""
	}
	return "*." + parent
}

func clip(text string) string {
	if len(text) > 100 {
		return strings.ToValidUTF8(text[:100], "") + "…"
	}
	return text
}
