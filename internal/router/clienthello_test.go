package router

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// hello returns the bytes that crypto/tls sends first with a configuration.
func hello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() { _ = tls.Client(client, config).Handshake(); client.Close() }()
	header := make([]byte, recordHeader)
	if _, err := io.ReadFull(server, header); err != nil {
		t.Fatal(err)
	}
	record := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(server, record); err != nil {
		t.Fatal(err)
	}
	return append(header, record...)
}

// fragmented splits a hello of one record into records of the given size.
func fragmented(hello []byte, size int) []byte {
	var out []byte
	for part := range slices.Chunk(hello[recordHeader:], size) {
		out = append(out, recordHandshake, 3, 1, byte(len(part)>>8), byte(len(part)))
		out = append(out, part...)
	}
	return out
}

// ours reads a hello that arrives in chunks.
func ours(b []byte, chunk int) (name string, done bool, err error) {
	var c clientHello
	for n := min(chunk, len(b)); ; n = min(n+chunk, len(b)) {
		done, err := c.feed(b[:n])
		if err != nil {
			return "", false, err
		}
		if done {
			name, err := c.name(b[:n])
			return string(name), true, err
		}
		if n == len(b) {
			return "", false, nil
		}
	}
}

var errSeen = errors.New("seen")

// theirs is what crypto/tls finds; ok is false if it refuses the hello before it looks at the name.
func theirs(b []byte) (name string, ok bool) {
	config := &tls.Config{MinVersion: tls.VersionTLS10, GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
		name, ok = info.ServerName, true
		return nil, errSeen
	}}
	_ = tls.Server(&bytesConn{Reader: bytes.NewReader(b)}, config).Handshake()
	return name, ok
}

type bytesConn struct {
	*bytes.Reader
	net.Conn
}

func (c *bytesConn) Read(b []byte) (int, error)       { return c.Reader.Read(b) }
func (c *bytesConn) Write(b []byte) (int, error)      { return len(b), nil }
func (c *bytesConn) Close() error                     { return nil }
func (c *bytesConn) SetDeadline(time.Time) error      { return nil }
func (c *bytesConn) SetWriteDeadline(time.Time) error { return nil }
func (c *bytesConn) SetReadDeadline(time.Time) error  { return nil }
func (c *bytesConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *bytesConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

func clientConfigs(t testing.TB) map[string]*tls.Config {
	configs := map[string]*tls.Config{}
	names := []string{"", "a.example", "xn--bcher-kva.example", "UPPER.Example", strings.Repeat("a", 63) + "." + strings.Repeat("b", 63) + ".example"}
	for _, name := range names {
		for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13} {
			configs[name+"/"+tls.VersionName(version)] = &tls.Config{ServerName: name, MinVersion: tls.VersionTLS10, MaxVersion: version, InsecureSkipVerify: true}
		}
		configs[name+"/alpn"] = &tls.Config{ServerName: name, NextProtos: []string{"h2", "http/1.1", strings.Repeat("x", 255)}, InsecureSkipVerify: true}
		configs[name+"/curves"] = &tls.Config{ServerName: name, CurvePreferences: []tls.CurveID{tls.CurveP521}, InsecureSkipVerify: true}
		configs[name+"/suites"] = &tls.Config{ServerName: name, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, InsecureSkipVerify: true}
		configs[name+"/large"] = &tls.Config{ServerName: name, NextProtos: slices.Repeat([]string{strings.Repeat("y", 250)}, 55), InsecureSkipVerify: true}
	}
	configs["ech"] = &tls.Config{ServerName: "secret.example", MinVersion: tls.VersionTLS13, EncryptedClientHelloConfigList: echConfigs(t, "outer.example")}
	return configs
}

// echConfigs are the parameters of Encrypted ClientHello (draft-ietf-tls-esni) that a server of that public name would publish.
func echConfigs(t testing.TB, public string) []byte {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var b cryptobyte.Builder
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint16(0xfe0d)
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint8(1)
			b.AddUint16(0x20) // X25519, HKDF-SHA256
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(key.PublicKey().Bytes()) })
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint16(1); b.AddUint16(1) })
			b.AddUint8(32)
			b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(public)) })
			b.AddUint16(0)
		})
	})
	return b.BytesOrPanic()
}

func TestClientHelloAgreesWithCryptoTLS(t *testing.T) {
	for name, config := range clientConfigs(t) {
		t.Run(name, func(t *testing.T) {
			b := hello(t, config)
			want, ok := theirs(b)
			if !ok {
				t.Fatal("crypto/tls does not read its own hello")
			}
			if name == "ech" && want != "outer.example" {
				t.Fatalf("outer name %q", want)
			}
			for _, size := range []int{len(b), 1000, 100, 7, 1} {
				split := fragmented(b, min(size, maxRecord))
				for _, chunk := range []int{len(split), 1400, 3} {
					got, done, err := ours(split, chunk)
					if err != nil && len(split) >= maxHelloBytes && errors.Is(err, errHelloSize) {
						continue // One byte to a record makes six of one.
					}
					if err != nil || !done || got != want {
						t.Fatalf("records of %d, packets of %d: got %q %v %v, want %q", size, chunk, got, done, err, want)
					}
				}
			}
		})
	}
}

// TestClientHelloMutated changes bytes at random: whatever both understand they must understand alike.
func TestClientHelloMutated(t *testing.T) {
	random := mathrand.New(mathrand.NewPCG(1, 2))
	both := 0
	for _, config := range clientConfigs(t) {
		original := hello(t, config)
		for range 200 {
			b := slices.Clone(original)
			for range 1 + random.IntN(3) {
				b[random.IntN(len(b))] = byte(random.Uint32())
			}
			if agree(t, b) {
				both++
			}
		}
	}
	if both < 1000 {
		t.Fatalf("only %d of the hellos were understood by both", both)
	}
}

// agree fails the test if crypto/tls finds another name than we do.
func agree(t *testing.T, b []byte) (both bool) {
	want, ok := theirs(b)
	got, done, err := ours(b, len(b))
	again, doneAgain, errAgain := ours(b, 5)
	if got != again || done != doneAgain || (err == nil) != (errAgain == nil) {
		t.Fatalf("at once %q %v %v, in pieces %q %v %v", got, done, err, again, doneAgain, errAgain)
	}
	if !ok || err != nil || !done {
		return false
	}
	if got != want {
		t.Fatalf("ours %q, crypto/tls %q of %x", got, want, b)
	}
	return true
}

func FuzzClientHello(f *testing.F) {
	for _, config := range clientConfigs(f) {
		b := hello(f, config)
		f.Add(b)
		f.Add(fragmented(b, 50))
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte{0x80, 0x2e, 1, 0, 2})
	f.Fuzz(func(t *testing.T, b []byte) { agree(t, b) })
}

// withExtensions makes a hello with extensions of the test's own.
func withExtensions(extensions func(*cryptobyte.Builder)) []byte {
	var b cryptobyte.Builder
	b.AddUint8(recordHandshake)
	b.AddUint16(0x0301)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint8(typeClientHello)
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint16(0x0303)
			b.AddBytes(make([]byte, 32))
			b.AddUint8LengthPrefixed(func(*cryptobyte.Builder) {})
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint16(0x0a0a); b.AddUint16(0x1301) })
			b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddUint8(0) })
			b.AddUint16LengthPrefixed(extensions)
		})
	})
	return b.BytesOrPanic()
}

func extension(b *cryptobyte.Builder, kind uint16, value func(*cryptobyte.Builder)) {
	b.AddUint16(kind)
	b.AddUint16LengthPrefixed(value)
}

func names(list ...string) func(*cryptobyte.Builder) {
	return func(b *cryptobyte.Builder) {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			for _, name := range list {
				b.AddUint8(0)
				b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
			}
		})
	}
}

func TestClientHelloByHand(t *testing.T) {
	grease := func(b *cryptobyte.Builder, kind uint16) {
		extension(b, kind, func(b *cryptobyte.Builder) { b.AddBytes([]byte{0}) })
	}
	good := withExtensions(func(b *cryptobyte.Builder) { extension(b, 0, names("a.example")) })
	for _, test := range []struct {
		name string
		b    []byte
		want string
		err  error
		more bool
	}{
		{"GREASE around the name", withExtensions(func(b *cryptobyte.Builder) {
			grease(b, 0x1a1a)
			extension(b, 0, names("a.example"))
			grease(b, 0xfafa)
		}), "a.example", nil, false},
		{"a dot at the end", withExtensions(func(b *cryptobyte.Builder) { extension(b, 0, names("a.example.")) }), "a.example.", nil, false},
		{"no name", withExtensions(func(b *cryptobyte.Builder) { grease(b, 0x2a2a) }), "", nil, false},
		{"two names in a list", withExtensions(func(b *cryptobyte.Builder) { extension(b, 0, names("a.example", "b.example")) }), "", errNameTwice, false},
		{"two lists", withExtensions(func(b *cryptobyte.Builder) { extension(b, 0, names("a.example")); extension(b, 0, names("b.example")) }), "", errNameTwice, false},
		{"an empty name", withExtensions(func(b *cryptobyte.Builder) { extension(b, 0, names("")) }), "", errHelloBroken, false},
		{"an empty list", withExtensions(func(b *cryptobyte.Builder) { extension(b, 0, names()) }), "", errHelloBroken, false},
		{"a NUL in the name", withExtensions(func(b *cryptobyte.Builder) { extension(b, 0, names("a.example\x00.b")) }), "", errNameInvalid, false},
		{"a long name", withExtensions(func(b *cryptobyte.Builder) { extension(b, 0, names(strings.Repeat("a", 300))) }), "", errNameInvalid, false},
		{"an extension longer than all", withExtensions(func(b *cryptobyte.Builder) { b.AddUint16(5); b.AddUint16(9) }), "", errHelloBroken, false},
		{"half of it", good[:len(good)/2], "", nil, true},
		{"nothing", nil, "", nil, true},
		{"SSLv2", []byte{0x80, 0x2e, 1, 3, 1}, "", errSSLv2, false},
		{"SSLv2, the first byte", []byte{0x80}, "", errSSLv2, false},
		{"HTTP", []byte("GET / HTTP/1.1\r\n"), "", errNotTLS, false},
		{"an alert", []byte{21, 3, 1, 0, 2, 2, 40}, "", errNotTLS, false},
		{"SSH", []byte("SSH-2.0-x\r\n"), "", errNotTLS, false},
		{"another version", []byte{22, 9, 1, 0, 1, 1}, "", errNotTLS, false},
		{"an empty record", []byte{22, 3, 1, 0, 0}, "", errHelloBroken, false},
		{"a record over its limit", []byte{22, 3, 1, 0x40, 1}, "", errHelloBroken, false},
		{"a ServerHello", []byte{22, 3, 1, 0, 4, 2, 0, 0, 0}, "", errNotHello, false},
		{"a message over the limit", []byte{22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff}, "", errHelloSize, false},
		{"data behind it", append(slices.Clone(good), 20, 3, 3, 0, 1, 1), "a.example", nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, chunk := range []int{max(len(test.b), 1), 1} {
				got, done, err := ours(test.b, chunk)
				if !errors.Is(err, test.err) || got != test.want || (err == nil && done == test.more) {
					t.Fatalf("pieces of %d: got %q %v %v", chunk, got, done, err)
				}
			}
		})
	}
}

func TestClientHelloAlone(t *testing.T) {
	good := withExtensions(func(b *cryptobyte.Builder) { extension(b, 0, names("a.example")) })
	for _, test := range []struct {
		b    []byte
		want bool
	}{{good, true}, {fragmented(good, 9), true}, {append(slices.Clone(good), 23), false}} {
		var c clientHello
		if done, err := c.feed(test.b); !done || err != nil {
			t.Fatal(done, err)
		}
		if got := c.alone(test.b); got != test.want {
			t.Errorf("alone is %v of %x", got, test.b)
		}
	}
}

// TestClientHelloIsBounded sends records that never end a message.
func TestClientHelloIsBounded(t *testing.T) {
	b := []byte{22, 3, 1, 0, 4, 1, 0, 0xff, 0}
	for len(b) < maxHelloBytes {
		b = append(b, 22, 3, 1, 0, 1, 0)
	}
	if _, done, err := ours(b, 1000); done || !errors.Is(err, errHelloSize) {
		t.Fatal(done, err)
	}
}
