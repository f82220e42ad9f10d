package certstore

import (
	"crypto/tls"
	"testing"
)

// TestPick: what the client can do, and what has not ended.
func TestPick(t *testing.T) {
	ecdsa, rsa := &tls.Certificate{}, &tls.Certificate{}
	modern := &tls.ClientHelloInfo{SupportedVersions: []uint16{tls.VersionTLS13}, SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256, tls.PSSWithSHA256}}
	rsaOnly := &tls.ClientHelloInfo{SupportedVersions: []uint16{tls.VersionTLS13}, SignatureSchemes: []tls.SignatureScheme{tls.PSSWithSHA256}}
	const now, past, future = 1000, 900, 2000
	for name, test := range map[string]struct {
		e     *entry
		hello *tls.ClientHelloInfo
		want  *tls.Certificate
		ended bool
	}{
		"both":                     {&entry{ecdsa: ecdsa, rsa: rsa, ecdsaEnds: future, rsaEnds: future, scheme: tls.ECDSAWithP256AndSHA256}, modern, ecdsa, false},
		"the client has no ECDSA":  {&entry{ecdsa: ecdsa, rsa: rsa, ecdsaEnds: future, rsaEnds: future, scheme: tls.ECDSAWithP256AndSHA256}, rsaOnly, rsa, false},
		"the ECDSA one has ended":  {&entry{ecdsa: ecdsa, rsa: rsa, ecdsaEnds: past, rsaEnds: future, scheme: tls.ECDSAWithP256AndSHA256}, modern, rsa, false},
		"both have ended":          {&entry{ecdsa: ecdsa, rsa: rsa, ecdsaEnds: past, rsaEnds: past, scheme: tls.ECDSAWithP256AndSHA256}, modern, ecdsa, true},
		"the only one has ended":   {&entry{ecdsa: ecdsa, ecdsaEnds: past, scheme: tls.ECDSAWithP256AndSHA256}, modern, ecdsa, true},
		"on a curve it has not":    {&entry{ecdsa: ecdsa, rsa: rsa, ecdsaEnds: future, rsaEnds: future, scheme: tls.ECDSAWithP384AndSHA384}, modern, rsa, false},
		"the only one, on another": {&entry{ecdsa: ecdsa, ecdsaEnds: future, scheme: tls.ECDSAWithP384AndSHA384}, modern, ecdsa, false},
		"none":                     {&entry{}, modern, nil, true},
	} {
		got, ended, err := test.e.pick(test.hello, now)
		if got != test.want || ended != test.ended || (err == nil) != (test.want != nil) {
			t.Errorf("%s: ended %v, %v", name, ended, err)
		}
	}
}

// TestGap: a number that is missing is noticed.
func TestGap(t *testing.T) {
	for name, test := range map[string]struct {
		changes []change
		want    bool
	}{
		"none":                     {nil, false},
		"one by one":               {[]change{{8, "a"}, {9, "b"}}, false},
		"told again":               {[]change{{6, "a"}, {7, "b"}, {8, "c"}}, false},
		"one is missing":           {[]change{{8, "a"}, {10, "b"}}, true},
		"the first is missing":     {[]change{{9, "a"}}, true},
		"all may have changed":     {[]change{{20, "*"}, {21, "a"}}, false},
		"missing after everything": {[]change{{20, "*"}, {22, "a"}}, true},
	} {
		if got := gap(7, test.changes); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
