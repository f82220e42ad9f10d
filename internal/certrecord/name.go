package certrecord

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/shopset/shopset/internal/hostname"
)

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
	if hostname.Plain(host) {
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
	}
	ascii, err := hostname.ASCII(rest)
	if err != nil {
		return "", err
	}
	if _, err := netip.ParseAddr(ascii); err == nil {
		return "", errAddress
	}
	if !strings.Contains(ascii, ".") {
		return "", errTop
	}
	if wildcard {
		ascii = "*." + ascii
	}
	if len(ascii) > hostname.Max {
		return "", fmt.Errorf("has %d bytes, more than %d", len(ascii), hostname.Max)
	}
	return ascii, nil
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
