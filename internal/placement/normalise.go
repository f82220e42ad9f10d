package placement

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/shopset/shopset/internal/hostname"
)

// maxHost bounds what Normalise reads: a name, brackets and a port.
const maxHost = 1100

// Normalise brings a host, as it comes in SNI or in a Host header, to the form that Place takes: a name in lower
// case and ASCII without a dot at its end, or an address in its shortest form; no port, no brackets. Two spellings
// of one host give one result, and a result is its own normal form. Usual names cost no allocation.
func Normalise(host string) (string, error) {
	if hostname.Plain(host) {
		return host, nil
	}
	name, err := normalise(host)
	if err != nil {
		return "", fmt.Errorf("host %q %w", clip(host), err)
	}
	return name, nil
}

func normalise(host string) (string, error) {
	if len(host) > maxHost {
		return "", fmt.Errorf("has %d bytes, more than %d", len(host), hostname.Max)
	}
	name := host
	if inside, bracket := strings.CutPrefix(host, "["); bracket {
		address, rest, closed := strings.Cut(inside, "]")
		if port, isPort := strings.CutPrefix(rest, ":"); !closed || rest != "" && (!isPort || !isPortNumber(port)) {
			return "", errors.New("has brackets that are not those of [address] or [address]:port")
		}
		if parsed, err := netip.ParseAddr(address); err != nil || parsed.Is4() || parsed.Zone() != "" {
			return "", errors.New("has something else than an IPv6 address in its brackets")
		}
		name = address
	} else if before, port, found := strings.Cut(host, ":"); found && !strings.Contains(port, ":") {
		if !isPortNumber(port) {
			return "", errors.New("has a port that is not a number up to 65535")
		}
		name = before
	}
	if address, err := netip.ParseAddr(name); err == nil && address.Zone() == "" {
		return address.Unmap().String(), nil
	}
	if name == "" || name == "." {
		return "", errors.New("is empty")
	}
	return hostname.ASCII(name)
}

// isPortNumber takes an empty port too, which RFC 3986 (3.2.3) allows.
func isPortNumber(port string) bool {
	if port == "" {
		return true
	}
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil && port[0] != '+'
}

// NormalisePin is Normalise for the host of a Pin: "*." in front is kept.
func NormalisePin(host string) (string, error) {
	suffix, wildcard := strings.CutPrefix(host, "*.")
	if !wildcard {
		return Normalise(host)
	}
	name, err := Normalise(suffix)
	if err != nil {
		return "", err
	}
	return "*." + name, nil
}
