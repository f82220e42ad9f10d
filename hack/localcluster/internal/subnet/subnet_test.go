package subnet

import (
	"net/netip"
	"strings"
	"testing"
)

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func TestPick(t *testing.T) {
	for _, test := range []struct {
		name string
		used []netip.Prefix
		want string // service range; empty: none is free
	}{
		{"nothing in use", nil, "10.96.0.0/16"},
		{"a default route is no obstacle", prefixes("0.0.0.0/0", "192.168.0.0/24"), "10.96.0.0/16"},
		{"the link is taken", prefixes("10.223.0.0/24"), "10.97.0.0/16"},
		{"Pods are taken", prefixes("10.244.0.128/25"), "10.97.0.0/16"},
		{"services are taken", prefixes("10.96.0.0/12"), ""},
		{"a single address is enough", prefixes("10.96.3.4/32", "10.97.1.1/32"), "10.98.0.0/16"},
		{"a private network takes all", prefixes("10.0.0.0/8"), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			plan, err := Pick(test.used)
			if test.want == "" {
				if err == nil || !strings.Contains(err.Error(), "ip route") {
					t.Fatalf("plan %+v, error %v; want an error that says where to look", plan, err)
				}
				return
			}
			if err != nil || plan.Services.String() != test.want {
				t.Fatalf("services %s, error %v; want %s", plan.Services, err, test.want)
			}
		})
	}
}

func TestPlanAddresses(t *testing.T) {
	plan, err := Pick(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, have, want string }{
		{"host", plan.Host.String(), "10.223.0.1"},
		{"node", plan.Node.String(), "10.223.0.2"},
		{"API", plan.API().String(), "10.96.0.1"},
		{"DNS", plan.DNS().String(), "10.96.0.10"},
	} {
		if test.have != test.want {
			t.Errorf("%s: %s, want %s", test.name, test.have, test.want)
		}
	}
}

// TestCandidatesAreApart guards that many clusters can run side by side.
func TestCandidatesAreApart(t *testing.T) {
	var used []netip.Prefix
	for i := range candidates {
		plan, err := Pick(used)
		if err != nil {
			t.Fatalf("cluster %d: %v", i, err)
		}
		used = append(used, plan.Link, plan.Pods, plan.Services)
	}
	if name := HostLink("01234567"); len(name) > 15 {
		t.Errorf("interface name %s has more than 15 bytes", name)
	}
}
