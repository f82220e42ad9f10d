package main_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/certs/certstest"
	"github.com/shopset/shopset/internal/testservers"
)

// program is built once.
var program string

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "shopset-certs-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(folder, "shopset-certs")
	if output, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, output)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(folder)
	os.Exit(code)
}

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func key(seed byte) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{seed}, 32)) + "\n"
}

// setup writes a configuration and returns its file, and the addresses of API and admin port.
func setup(t *testing.T, folder, more string) (config, address, admin string) {
	t.Helper()
	address, admin = freePort(t), freePort(t)
	sum := sha256.Sum256([]byte("token"))
	write(t, filepath.Join(folder, "clients"), "admin writer token "+hex.EncodeToString(sum[:])+"\n")
	write(t, filepath.Join(folder, "token"), "token\n")
	write(t, filepath.Join(folder, "keys"), key(1))
	config = write(t, filepath.Join(folder, "config.yaml"), fmt.Sprintf("listen: %s\nadmin: %s\nstorage: sqlite:%s/certs.db\nkeyring: %s/keys\nclients: %s/clients\n%s",
		address, admin, folder, folder, folder, more))
	return config, address, admin
}

// serving starts the program and waits until it is ready. stop ends it and returns its log.
func serving(t *testing.T, config, admin string) (stop func() string) {
	t.Helper()
	var log bytes.Buffer
	command := exec.CommandContext(context.WithoutCancel(t.Context()), program, "serve", "--config", config)
	command.Stdout, command.Stderr = &log, &log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	deadline := time.Now().Add(20 * time.Second)
	for {
		response, err := http.Get("http://" + admin + "/readyz")
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				break
			}
		}
		select {
		case <-ended:
			t.Fatalf("it ended: %s", log.String())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is not ready: %v", err)
		}
	}
	stopped := false
	stop = func() string {
		if !stopped {
			stopped = true
			_ = command.Process.Signal(syscall.SIGTERM)
			if err := <-ended; err != nil {
				t.Errorf("it ended with %v:\n%s", err, log.String())
			}
		}
		return log.String()
	}
	t.Cleanup(func() { stop() })
	return stop
}

func run(t *testing.T, arguments ...string) (output string, code int) {
	t.Helper()
	text, err := exec.CommandContext(t.Context(), program, arguments...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		code = exit.ExitCode()
	}
	return string(text), code
}

func TestServeImportRotate(t *testing.T) {
	t.Parallel()
	const certificates = 40
	folder := t.TempDir()
	redis := testservers.NewRedis(t)
	redis.Down(t) // It need not be there at the start.
	config, address, admin := setup(t, folder, "redis: {addresses: ["+redis.Address()+"]}\n")
	if output, code := run(t, "check", "--config", config); code != 0 || !strings.Contains(output, "configuration: ok") {
		t.Fatalf("check: %d %s", code, output)
	}
	stop := serving(t, config, admin)
	ca := certstest.New(t)
	files := filepath.Join(folder, "files")
	for i := range certificates {
		name := fmt.Sprintf("shop%02d.example", i)
		chain, key := ca.Pair(t, name)
		if i%2 == 0 {
			write(t, filepath.Join(files, name, "fullchain.pem"), string(chain))
			write(t, filepath.Join(files, name, "privkey.pem"), string(key))
		} else {
			write(t, filepath.Join(files, name+".crt"), string(chain))
			write(t, filepath.Join(files, name+".key"), string(key))
		}
	}
	chain, wildKey := ca.Pair(t, "*.shop.example")
	write(t, filepath.Join(files, "_.shop.example.crt"), string(chain))
	write(t, filepath.Join(files, "_.shop.example.key"), string(wildKey))
	shops := write(t, filepath.Join(folder, "shops"), "# domain, shop\nshop01.example, one\n")
	arguments := []string{"import", "--server", "http://" + address, "--token-file", filepath.Join(folder, "token"), "--shops", shops, "--shop", "many", files}
	output, code := run(t, arguments...)
	if code != 0 || !strings.Contains(output, "41 certificates: 41 imported, 0 were there, 0 failed") {
		t.Fatalf("import: %d %s", code, output)
	}
	// Again: only what is new, and what cannot be imported is told, the rest is done.
	write(t, filepath.Join(files, "shop99.example.crt"), string(chain))
	write(t, filepath.Join(files, "shop99.example.key"), string(wildKey))
	if output, code := run(t, arguments...); code == 0 || !strings.Contains(output, "42 certificates: 0 imported, 41 were there, 1 failed") ||
		!strings.Contains(output, "shop99.example: the certificate is for *.shop.example, not for shop99.example") {
		t.Errorf("import again: %d %s", code, output)
	}
	ask := func(path string) string {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer token")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		content, _ := io.ReadAll(response.Body)
		return string(content)
	}
	if answer := ask("/v1/domains/shop01.example"); !strings.Contains(answer, `"shop":"one"`) {
		t.Error(answer)
	}
	redis.Up(t)
	wait(t, func() bool { return strings.Contains(metrics(t, admin), "shopset_certs_redis_lag_changes 0") })
	wait(t, func() bool {
		return strings.Contains(metrics(t, admin), `shopset_certs_requests_total{code="200",route="PUT /v1/domains/{name}"}`)
	})
	if text := metrics(t, admin); !strings.Contains(text, `shopset_certs_certificates_expiring{state="late"} 0`) || !strings.Contains(text, `shopset_certs_certificates_expiring{state="expired"} 0`) {
		t.Errorf("certificates near their end are not told: %s", text)
	}
	log := stop()
	if strings.Contains(log, "PRIVATE") || !strings.Contains(log, `"action":"put certificate"`) {
		t.Errorf("log: %.2000s", log)
	}

	// Another key: put first, rotate, and the old one can go.
	write(t, filepath.Join(folder, "keys"), key(2)+key(1))
	if output, code := run(t, "rotate", "--config", config); code != 0 || !strings.Contains(output, `"keys":41`) {
		t.Fatalf("rotate: %d %s", code, output)
	}
	write(t, filepath.Join(folder, "keys"), key(2))
	serving(t, config, admin)
	if answer := ask("/v1/certificates/shop02.example"); !strings.Contains(answer, "BEGIN PRIVATE KEY") {
		t.Error(answer)
	}
}

func metrics(t *testing.T, admin string) string {
	t.Helper()
	response, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, _ := io.ReadAll(response.Body)
	return string(content)
}

func wait(t *testing.T, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come")
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	folder, ca := t.TempDir(), certstest.New(t)
	chain, serverKey := ca.Pair(t, "certs.example")
	write(t, filepath.Join(folder, "crt"), string(chain))
	write(t, filepath.Join(folder, "key"), string(serverKey))
	config, address, admin := setup(t, folder, fmt.Sprintf("tls: {certificate: %s/crt, key: %s/key}\n", folder, folder))
	serving(t, config, admin)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: ca.Pool(), ServerName: "certs.example"}}).DialContext(ctx, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

// TestWrongUse: everything that is wrong is told, at once, and nothing is left.
func TestWrongUse(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	bad := write(t, filepath.Join(folder, "bad.yaml"), "listen: x\nstorage: mysql:x\ntls: {certificate: a}\nredis: {}\nacme: {directory: http://x, parallel: 100}\nunknown: 1\n")
	files := write(t, filepath.Join(folder, "files.yaml"), fmt.Sprintf("keyring: %s/none\nclients: %s/none\nstorage: sqlite:%s/bad.yaml/x\ntls: {certificate: %s/c, key: %s/k}\nadmin: 127.0.0.1:0\n", folder, folder, folder, folder, folder))
	empty := filepath.Join(folder, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(folder, "half")
	write(t, filepath.Join(half, "a.example.crt"), "x")
	write(t, filepath.Join(half, "b.example.key"), "x")
	write(t, filepath.Join(half, "localhost.crt"), "x")
	write(t, filepath.Join(half, "localhost.key"), "x")
	token := write(t, filepath.Join(folder, "token"), "t")
	for _, test := range []struct {
		arguments []string
		want      []string
	}{
		{nil, []string{"want a command", "shopset-certs COMMAND"}},
		{[]string{"serv"}, []string{`"serv" is no command`}},
		{[]string{"serve", "--config", folder + "/none"}, []string{"no such file"}},
		{[]string{"serve", "--config", bad}, []string{"unknown field unknown", "keyring: is missing", "clients: is missing", "storage: is neither", "tls: wants certificate and key", "redis.addresses: is empty", "acme.directory: is no https", "acme.parallel: is out of range"}},
		{[]string{"check", "--config", files}, []string{"keyring: open", "clients: open", "tls: open", "sqlite: "}},
		{[]string{"check", "--config", files, "x"}, []string{`unknown argument "x"`}},
		{[]string{"import"}, []string{"want one folder", "want --server and --token-file"}},
		{[]string{"import", "--server", "http://127.0.0.1:1", "--token-file", token, empty}, []string{"there is no certificate; want NAME.crt"}},
		{[]string{"import", "--server", "http://127.0.0.1:1", "--token-file", token, half}, []string{"a.example.crt has no key", "b.example.key has no certificate beside it", "localhost.crt: name \"localhost\" has one label only"}},
	} {
		output, code := run(t, test.arguments...)
		if code == 0 {
			t.Errorf("%v: it succeeds", test.arguments)
		}
		for _, want := range test.want {
			if plain := regexp.MustCompile(`\\"`).ReplaceAllString(output, `"`); !strings.Contains(plain, want) {
				t.Errorf("%v: %q is not in\n%s", test.arguments, want, plain)
			}
		}
	}
}
