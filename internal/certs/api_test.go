package certs_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certs"
	"github.com/shopset/shopset/internal/certs/certstest"
	"github.com/shopset/shopset/internal/certs/storage"
	"github.com/shopset/shopset/internal/certs/storage/sqlite"
)

func keyring(t testing.TB, seeds ...byte) *certrecord.Keyring {
	t.Helper()
	var secrets [][]byte
	for _, seed := range seeds {
		secrets = append(secrets, bytes.Repeat([]byte{seed}, 32))
	}
	keys, err := certrecord.NewKeyring(secrets...)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func store(t testing.TB, path string) storage.Storage {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // Some tests close it.
	return s
}

const readToken, writeToken = "read-me", "write-me"

func clients(t testing.TB) *certs.Clients {
	t.Helper()
	path := filepath.Join(t.TempDir(), "clients")
	sum := func(token string) string { s := sha256.Sum256([]byte(token)); return hex.EncodeToString(s[:]) }
	if err := os.WriteFile(path, []byte("# who may come\nproxy reader token "+sum(readToken)+"\n\nadmin writer token "+sum(writeToken)+"\nmachine writer certificate\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := certs.ReadClients(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// api is one that runs, and what it wrote to its audit.
type api struct {
	t       *testing.T
	server  *httptest.Server
	service *certs.Service
	audit   *bytes.Buffer
}

func newAPI(t *testing.T) *api {
	t.Helper()
	a := &api{t: t, audit: &bytes.Buffer{}}
	a.service = certs.NewService(store(t, filepath.Join(t.TempDir(), "db")), keyring(t, 1), slog.New(slog.NewJSONHandler(a.audit, nil)))
	a.server = httptest.NewServer(certs.NewAPI(a.service, clients(t)).Handler())
	t.Cleanup(a.server.Close)
	return a
}

// ask sends a request as a writer and wants a status and a text in the answer.
func (a *api) ask(method, path, body string, status int, want string, header ...string) (string, http.Header) {
	a.t.Helper()
	request, err := http.NewRequestWithContext(a.t.Context(), method, a.server.URL+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+writeToken)
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		a.t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	if response.StatusCode != status || !strings.Contains(string(content), want) {
		a.t.Errorf("%s %s: %d %s, want %d and %q", method, path, response.StatusCode, content, status, want)
	}
	return string(content), response.Header
}

func upload(chain, key []byte) string {
	content, _ := json.Marshal(map[string]string{"certificate": string(chain), "privateKey": string(key)})
	return string(content)
}

func TestAPI(t *testing.T) {
	a := newAPI(t)
	ca := certstest.New(t)
	chain, key := ca.Pair(t, "shop.example", "*.shop.example")
	input := `{"shop": "s1", "labels": {"team": "a"}, "options": {"plan": "big", "allow": ["192.0.2.7", "10.1.2.3/8"], "upstream": "https://old.example/x"}}`
	_, header := a.ask("PUT", "/v1/domains/Shop.Example", input, 200, `"name":"shop.example"`)
	a.ask("GET", "/v1/domains/shop.example", "", 200, `"allow":["192.0.2.7/32","10.0.0.0/8"]`)
	a.ask("PUT", "/v1/domains/shop.example", input, 200, "", "If-Match", header.Get("ETag"))
	a.ask("PUT", "/v1/domains/shop.example", input, 412, "read it again", "If-Match", header.Get("ETag"))
	a.ask("DELETE", "/v1/domains/shop.example", "", 412, "changed in the meantime", "If-Match", `"1"`)
	a.ask("PUT", "/v1/domains/shop.example/certificate", upload(chain, key), 200, `"source":"upload"`)
	a.ask("PUT", "/v1/domains/none.example/certificate", upload(ca.Pair(t, "none.example")), 404, "none.example: not found")
	a.ask("PUT", "/v1/domains/other.example", `{"shop": "s2", "managed": true}`, 200, `"issuing":{"next":`)
	a.ask("PUT", "/v1/domains/*.shop.example", `{"shop": "s1"}`, 200, `"name":"*.shop.example"`)
	a.ask("PUT", "/v1/domains/*.shop.example/certificate", upload(ca.Pair(t, "*.shop.example")), 200, `"kind":"ecdsa"`)
	a.ask("GET", "/v1/domains?limit=2", "", 200, `"next":"other.example"`)
	a.ask("GET", "/v1/domains?limit=2&after=other.example", "", 200, `"domains":[{"name":"shop.example"`)
	if page, _ := a.ask("GET", "/v1/domains?shop=s2", "", 200, "other.example"); strings.Contains(page, "shop.example\"") && !strings.Contains(page, "other") {
		t.Error(page)
	}
	a.ask("GET", "/v1/domains?label=team%3Da", "", 200, `[{"name":"shop.example"`)
	answer, _ := a.ask("GET", "/v1/certificates/shop.example", "", 200, `"domain":"shop.example"`)
	var served struct{ Certificate, PrivateKey string }
	if err := json.Unmarshal([]byte(answer), &served); err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair([]byte(served.Certificate), []byte(served.PrivateKey)); err != nil || served.Certificate != string(chain) {
		t.Errorf("what is served is not what was uploaded: %v", err)
	}
	a.ask("GET", "/v1/certificates/a.shop.example", "", 200, `"domain":"*.shop.example"`)
	a.ask("GET", "/v1/certificates/a.b.shop.example", "", 404, "not found")
	a.ask("GET", "/v1/certificates/shop.example?kind=rsa", "", 404, "certificate for shop.example: not found")
	sealed, header := a.ask("GET", "/v1/records/a.shop.example", "", 200, "")
	record, err := certrecord.Open(keyring(t, 1), header.Get("Shopset-Name"), []byte(sealed))
	if err != nil || record.Name != "*.shop.example" || len(record.Certificates) != 1 {
		t.Errorf("record %+v %v", record, err)
	}
	a.ask("GET", "/v1/changes?after=0", "", 200, `{"last":6,"changes":[{"number":1,"name":"shop.example"},{"number":2,"name":"shop.example"},`)
	a.ask("GET", "/v1/changes?after=99", "", 410, "trust nothing")
	a.ask("GET", "/v1/changes?after=6", "", 200, `{"last":6,"changes":[]}`)
	a.ask("GET", "/v1/changes", "", 200, `{"last":6,"changes":[]}`)
	time.AfterFunc(20*time.Millisecond, func() { a.ask("DELETE", "/v1/domains/shop.example/certificates/ecdsa", "", 204, "") })
	a.ask("GET", "/v1/changes?after=6&wait=30s", "", 200, `{"number":7,"name":"shop.example"}`)
	a.ask("DELETE", "/v1/domains/shop.example", "", 204, "")
	a.ask("DELETE", "/v1/domains/shop.example", "", 404, "shop.example: not found")
	a.ask("GET", "/v1/challenges/none", "", 404, "challenge none: not found")
	a.ask("GET", "/openapi.yaml", "", 200, "openapi: 3")

	lines := strings.Split(strings.TrimSpace(a.audit.String()), "\n")
	if len(lines) != 8 || !strings.Contains(lines[0], `"msg":"audit","who":"admin","action":"put domain","change":1,"domain":"shop.example","shop":"s1"`) || !strings.Contains(lines[7], "delete domain") {
		t.Errorf("audit: %d lines\n%s", len(lines), a.audit)
	}
	if strings.Contains(a.audit.String(), "PRIVATE") {
		t.Error("a key is in the audit")
	}
}

// TestWrongInput: what is wrong is told, all at once, and nothing is changed.
func TestWrongInput(t *testing.T) {
	a := newAPI(t)
	for _, test := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"PUT", "/v1/domains/shop.example", `{`, 422, "the request's JSON: unexpected EOF"},
		{"PUT", "/v1/domains/shop.example", `{"shop": "s", "x": 1}`, 422, `unknown field \"x\"`},
		{"PUT", "/v1/domains/shop.example", `{"shop": "s"} {}`, 422, "more than one value"},
		{"PUT", "/v1/domains/shop.example", `{"name": "other.example", "shop": "s"}`, 422, "in its path"},
		{"PUT", "/v1/domains/localhost", `{}`, 422, `2 things are wrong","problems":["name \"localhost\" has one label only","shop \"\": want`},
		{"PUT", "/v1/domains/*.shop.example", `{"shop": "s", "managed": true}`, 422, "a wildcard cannot be managed"},
		{"PUT", "/v1/domains/shop.example", `{"shop": "s", "options": {"allow": ["x"], "upstream": "ftp://x", "plan": "a b"}, "labels": {"a b": ""}}`, 422, "4 things are wrong"},
		{"PUT", "/v1/domains/shop.example", `{"shop": "` + strings.Repeat("x", 300<<10) + `"}`, 413, "more than 262144 bytes"},
		{"PUT", "/v1/domains/shop.example/certificate", `{}`, 422, "2 things are wrong"},
		{"DELETE", "/v1/domains/shop.example/certificates/dsa", "", 422, `kind is \"dsa\", want ecdsa or rsa`},
		{"GET", "/v1/domains?limit=0&label=x&page=2", "", 422, "3 things are wrong"},
		{"GET", "/v1/domains?limit=1001", "", 422, "want 1 to 1000"},
		{"GET", "/v1/changes?after=", "", 422, "want the number of a change"},
		{"GET", "/v1/changes?after=1&wait=1h", "", 422, "want up to 55s"},
		{"GET", "/v1/domains/shop.example", "", 404, "not found"},
		{"GET", "/v1/challenges/a.b", "", 422, "is no token of ACME"},
		{"POST", "/v1/domains/shop.example", "", 405, ""},
		{"GET", "/v2", "", 404, ""},
	} {
		a.ask(test.method, test.path, test.body, test.status, test.want)
	}
	a.ask("PUT", "/v1/domains/shop.example", `{"shop": "s"}`, 422, "If-Match", "If-Match", "x")
	if a.audit.Len() > 0 {
		t.Errorf("something was changed: %s", a.audit)
	}
}

func TestWhoMayCome(t *testing.T) {
	a := newAPI(t)
	a.ask("PUT", "/v1/domains/shop.example", `{"shop": "s"}`, 403, "proxy may read, not write", "Authorization", "Bearer "+readToken)
	a.ask("GET", "/v1/domains", "", 200, "", "Authorization", "Bearer "+readToken)
	for _, header := range []string{"", "Bearer ", "Bearer x", "Basic " + writeToken, writeToken} {
		a.ask("GET", "/v1/domains", "", 401, "who are you?", "Authorization", header)
	}
	// By certificate: the common name says who it is.
	ca := certstest.New(t)
	server := httptest.NewUnstartedServer(certs.NewAPI(a.service, clients(t)).Handler())
	server.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: ca.Pool()}
	server.StartTLS()
	t.Cleanup(server.Close)
	for name, want := range map[string]int{"machine": 200, "stranger": 401, "": 401} {
		client := server.Client()
		transport := client.Transport.(*http.Transport).Clone()
		if name != "" {
			template := certstest.Template(name)
			template.ExtKeyUsage = nil
			key := certstest.NewKey(t)
			pair, err := tls.X509KeyPair(ca.Chain(t, ca.Issue(t, template, key)), certstest.KeyPEM(t, key))
			if err != nil {
				t.Fatal(err)
			}
			transport.TLSClientConfig.Certificates = []tls.Certificate{pair}
		}
		response, err := (&http.Client{Transport: transport}).Get(server.URL + "/v1/domains")
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("with the certificate of %q: %d, want %d", name, response.StatusCode, want)
		}
	}
}

func TestReadClients(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clients")
	if err := os.WriteFile(path, []byte("a reader\nb boss token x\nc reader token zz\nd reader key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := certs.ReadClients(path)
	for _, want := range []string{"line 1: want NAME", `line 2: "boss" is neither`, "line 3: want the SHA-256", "line 4: want token"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := os.WriteFile(path, []byte("# nobody\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := certs.ReadClients(path); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("nobody: %v", err)
	}
}

// TestDocument: the document has every route, and no other.
func TestDocument(t *testing.T) {
	var document struct {
		Paths map[string]map[string]any
	}
	if err := yaml.Unmarshal(certs.Document, &document); err != nil {
		t.Fatal(err)
	}
	described := map[string]bool{}
	for path, methods := range document.Paths {
		for method := range methods {
			if method != "parameters" {
				described[strings.ToUpper(method)+" "+path] = true
			}
		}
	}
	routes := certs.Routes()
	for _, route := range routes {
		if !described[route] {
			t.Errorf("%s is not in the document", route)
		}
		delete(described, route)
	}
	for route := range described {
		t.Errorf("%s is in the document alone", route)
	}
	for _, reference := range regexp.MustCompile(`"#/components/(\w+)/(\w+)"`).FindAllStringSubmatch(string(certs.Document), -1) {
		if !regexp.MustCompile(`(?m)^    ` + reference[2] + `:`).Match(certs.Document) {
			t.Errorf("%s is nowhere", reference[0])
		}
	}
}

func TestRotate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := store(t, path)
	quiet := slog.New(slog.DiscardHandler)
	old := certs.NewService(s, keyring(t, 1), quiet)
	ca := certstest.New(t)
	for i := range 3 {
		name := fmt.Sprintf("shop%d.example", i)
		if _, err := old.PutDomain(t.Context(), "t", certs.Domain{Name: name, Shop: "s"}, 0); err != nil {
			t.Fatal(err)
		}
		chain, key := ca.Pair(t, name)
		if err := old.PutCertificate(t.Context(), "t", name, "upload", 0, chain, key); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{3, 0} {
		if n, err := certs.NewService(s, keyring(t, 2, 1), quiet).Rotate(t.Context()); n != want || err != nil {
			t.Errorf("%d keys are sealed anew, want %d: %v", n, want, err)
		}
	}
	if _, err := old.Record(t.Context(), "shop1.example"); err == nil || !strings.Contains(err.Error(), "not in the keyring") {
		t.Errorf("with the old key alone: %v", err)
	}
	if record, err := certs.NewService(s, keyring(t, 2), quiet).Record(t.Context(), "shop1.example"); err != nil || len(record.Certificates) != 1 {
		t.Errorf("with the new key alone: %v", err)
	}
	if _, err := old.Rotate(t.Context()); err == nil || !strings.Contains(err.Error(), "the key of shop0.example is sealed with a key that is not in the keyring") {
		t.Errorf("with a key missing: %v", err)
	}
}
