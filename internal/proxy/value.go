package proxy

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Size is a number of bytes: 65536, 64KiB, 32MiB, 1GiB.
type Size int64

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *Size) UnmarshalYAML(node *yaml.Node) error {
	text, factor := node.Value, int64(1)
	for unit, bytes := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if number, ok := strings.CutSuffix(text, unit); ok {
			text, factor = strings.TrimSpace(number), bytes
		}
	}
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil || number < 0 || number > math.MaxInt64/factor {
		return lineError(node, "%q is no size: want bytes or a number with KiB, MiB or GiB", node.Value)
	}
	*s = Size(number * factor)
	return nil
}

// Network is a set of addresses: 10.0.0.0/8, 2001:db8::/32, or one address.
type Network struct{ netip.Prefix }

// UnmarshalYAML implements yaml.Unmarshaler.
func (n *Network) UnmarshalYAML(node *yaml.Node) error {
	prefix, err := netip.ParsePrefix(node.Value)
	if err != nil {
		address, addressErr := netip.ParseAddr(node.Value)
		if addressErr != nil || address.Zone() != "" {
			return lineError(node, "%q is no network: want one like 10.0.0.0/8 or an address", node.Value)
		}
		prefix = netip.PrefixFrom(address, address.BitLen())
	}
	if prefix != prefix.Masked() {
		return lineError(node, "%q has bits set behind the mask: write %s", node.Value, prefix.Masked())
	}
	n.Prefix = prefix
	return nil
}

// lineError is an error that the decoder collects with all others instead of ending at it.
func lineError(node *yaml.Node, format string, arguments ...any) error {
	return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: ", node.Line) + fmt.Sprintf(format, arguments...)}}
}
