package router

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shopset/shopset/internal/admin"
)

func TestConfigProblems(t *testing.T) {
	for _, test := range []struct{ name, content, want string }{
		{"nothing to serve", "table: {file: t, publicKeys: k}\n", "c.yaml: no port to serve: add a section tls or http"},
		{"no table", "tls: {}\ntable: {publicKeys: k}\n", "c.yaml: line 2: table: no source: want file, configMap or cache"},
		{"all at once", "tls: {address: x, backlog: -1, defaultHost: \"a b\"}\ntable: {file: t, cache: t, configMap: x, publicKeys: k}\ndial: {timeout: 0s, replays: 99}\nhealth: {tls: x, http: tls, path: x, fall: 0}\nlimits: {connections: 100000000}\nengine: x\nshutdown: {delay: 1m}\n",
			"c.yaml: line 1: tls.address: want an address to listen on, like \":8443\"|tls.backlog: want|tls.defaultHost: want a host name|table.cache: must be another file|table.configMap: want NAMESPACE/NAME|dial.timeout: want a time above 0|dial.replays: want 0 to 7|health.tls: want tls, tcp or http|health.http: want http or tcp|health.path: want a path|health.fall: want at least 1|limits.connections: is more than the limit of file descriptors allows|engine: want|shutdown.delay: want a time from 0s"},
		{"unknown field", "tls: {}\ntable: {file: t, publicKeys: k}\nfailover: {maxShare: 1}\n", "line 3: unknown field maxShare"},
		{"no network", "tls: {proxyProtocol: [10.0.0.0/8, x]}\ntable: {file: t, publicKeys: k}\n", `line 1: "x" is no network`},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := admin.ParseConfig("c.yaml", []byte(test.content), DefaultConfig())
			if err == nil {
				t.Fatal("no error")
			}
			for want := range strings.SplitSeq(test.want, "|") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in\n%v", want, err)
				}
			}
		})
	}
}

func TestConfigDefaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte("tls: {}\nhttp: {address: \":80\"}\ntable: {configMap: shops/main-routes, publicKeys: /keys.pem}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.TLS.Address != ":8443" || c.HTTP.Address != ":80" || c.TLS.Backlog != 4096 || !c.SendProxy || c.Loops < 1 || c.Limits.Connections < 1 {
		t.Fatalf("%+v", c)
	}
}
