package devcluster

import (
	"context"
	"crypto/rand"
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
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/internal/certs/importer"
)

// managed is where the stand-ins for managed services are.
const managed = "managed"

// CustomerDomain is the name of one of the customers' domains, 1 to 10,000; see the demo's api.
func CustomerDomain(n int) string { return fmt.Sprintf("d-%05d.customers.example", n) }

// ensureCertsSecrets makes what the certificate API needs, and what proxies need to read from it.
func (t *Target) ensureCertsSecrets(ctx context.Context, namespace string) error {
	kept, err := t.keptCertsSecret(ctx)
	if err != nil {
		return err
	}
	a, err := t.authority()
	if err != nil {
		return err
	}
	if !usableFor(a.pem, kept["tls.crt"], kept["tls.key"], "certs."+managed) {
		if kept["tls.crt"], kept["tls.key"], err = a.issue("certs."+managed, "certs."+managed+".svc"); err != nil {
			return err
		}
	}
	hash := func(token []byte) string { sum := sha256.Sum256(token); return hex.EncodeToString(sum[:]) }
	kept["clients"] = fmt.Appendf(nil, "admin writer token %s\nproxy reader token %s\n", hash(kept["writer"]), hash(kept["reader"]))
	api := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: managed, Name: "certs"}, Data: kept}
	proxies := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "certs"},
		Data: map[string][]byte{"keyring": kept["keyring"], "token": kept["reader"], "ca.crt": a.pem, "redis-password": []byte("redis-dev")}}
	for _, secret := range []*corev1.Secret{api, proxies} {
		if err := t.ensureSecret(ctx, secret); err != nil {
			return fmt.Errorf("Secret %s/%s: %w", secret.Namespace, secret.Name, err)
		}
	}
	return nil
}

// keptCertsSecret are the keys and tokens that are there, or new ones.
func (t *Target) keptCertsSecret(ctx context.Context) (map[string][]byte, error) {
	secret := &corev1.Secret{}
	err := t.Client.Get(ctx, client.ObjectKey{Namespace: managed, Name: "certs"}, secret)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, err
	}
	data := secret.Data
	if data == nil {
		data = map[string][]byte{}
	}
	for name, encoding := range map[string]func([]byte) string{"keyring": base64.StdEncoding.EncodeToString, "writer": hex.EncodeToString, "reader": hex.EncodeToString} {
		if len(data[name]) == 0 {
			key := make([]byte, 32)
			_, _ = rand.Read(key) // It never fails (crypto/rand).
			data[name] = []byte(encoding(key))
		}
	}
	return data, nil
}

// certsPort is the node port of the certificate API.
const certsPort = 30444

// RegisterDomains gives the platform's own wildcard and the domains of n customers to the certificate API, with certificates
// of the demo's authority. What it has already is left alone.
func (t *Target) RegisterDomains(ctx context.Context, n int, say func(string)) error {
	folder, shops, err := t.domainFiles(n)
	if err != nil {
		return err
	}
	certs, err := t.certs(ctx)
	if err != nil {
		return err
	}
	defer certs.client.CloseIdleConnections()
	last := time.Now()
	var mu sync.Mutex
	config := importer.Config{Folder: folder, URL: certs.url, Token: certs.token, Shops: shops, Parallel: 16, Client: certs.client,
		Progress: func(r importer.Result) {
			mu.Lock()
			defer mu.Unlock()
			if now := time.Now(); now.Sub(last) > 2*time.Second {
				last = now
				say(fmt.Sprintf("%d of %d domains registered", r.Done(), r.Total))
			}
		}}
	// The API's Pod may have no address yet.
	return until(ctx, func() (bool, error) {
		if err := reachable(ctx, config.Client, config.URL); err != nil {
			return false, &passing{err}
		}
		_, err := importer.Run(ctx, config)
		return err == nil, err
	})
}

// certsAPI is the certificate API as a writer reaches it from this machine.
type certsAPI struct {
	client     *http.Client
	url, token string
}

func (t *Target) certs(ctx context.Context) (*certsAPI, error) {
	secret := &corev1.Secret{}
	if err := t.Client.Get(ctx, client.ObjectKey{Namespace: managed, Name: "certs"}, secret); err != nil {
		return nil, err
	}
	roots, err := t.Roots()
	if err != nil {
		return nil, err
	}
	address, err := t.nodeAddress(ctx, certsPort)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 16,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, address)
		}}
	return &certsAPI{&http.Client{Transport: transport, Timeout: 30 * time.Second}, "https://certs." + managed, string(secret.Data["writer"])}, nil
}

// PutDomain gives the certificate API a domain's record, as JSON; see its openapi.yaml.
func (t *Target) PutDomain(ctx context.Context, name, record string) error {
	certs, err := t.certs(ctx)
	if err != nil {
		return err
	}
	defer certs.client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, certs.url+"/v1/domains/"+name, strings.NewReader(record))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+certs.token)
	request.Header.Set("Content-Type", "application/json")
	response, err := certs.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err == nil && response.StatusCode/100 != 2 {
		err = fmt.Errorf("put domain %s: %s: %s", name, response.Status, body)
	}
	return err
}

func reachable(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/openapi.yaml", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<20))
	return response.Body.Close()
}

// domainFiles writes the certificates that are to be registered into the state folder; those of the same authority that are
// there stay.
func (t *Target) domainFiles(n int) (folder string, shops map[string]string, err error) {
	a, err := t.authority()
	if err != nil {
		return "", nil, err
	}
	sum := sha256.Sum256(a.pem)
	base := filepath.Join(t.State, "demo-domains")
	folder = filepath.Join(base, hex.EncodeToString(sum[:4])+"-"+strconv.Itoa(n))
	if entries, err := os.ReadDir(base); err == nil {
		for _, entry := range entries { // Of other authorities and numbers.
			if entry.Name() != filepath.Base(folder) {
				if err := os.RemoveAll(filepath.Join(base, entry.Name())); err != nil {
					return "", nil, err
				}
			}
		}
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", nil, err
	}
	shops = map[string]string{"*." + Domain: "platform"}
	names := []string{"*." + Domain}
	for i := 1; i <= n; i++ {
		shops[CustomerDomain(i)] = fmt.Sprintf("shop-%02d", 1+i%50)
		names = append(names, CustomerDomain(i))
	}
	var next atomic.Int64
	var failures []error
	var mu sync.Mutex
	var group sync.WaitGroup
	for range runtime.NumCPU() {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(names) {
					return
				}
				if err := a.writePair(folder, names[i]); err != nil {
					mu.Lock()
					failures = append(failures, err)
					mu.Unlock()
					return
				}
			}
		})
	}
	group.Wait()
	return folder, shops, errors.Join(failures...)
}

// writePair writes a certificate as `shopset-certs import` wants it, if it is not there.
func (a *authority) writePair(folder, name string) error {
	base := filepath.Join(folder, strings.Replace(name, "*", "_", 1))
	if _, err := os.Stat(base + ".crt"); err == nil {
		return nil
	}
	certificate, key, err := a.issue(name)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(base+".key", key, 0o600), os.WriteFile(base+".crt.new", certificate, 0o600), os.Rename(base+".crt.new", base+".crt"))
}
