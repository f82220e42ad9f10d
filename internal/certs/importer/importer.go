// Package importer gives many certificates, which are there as files, to the certificate API. What the API has
// already is left alone, so that an import that was interrupted goes on where it was.
package importer

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certs"
)

// Config of an import.
type Config struct {
	// Folder with NAME.crt (or .pem) and NAME.key, or folders NAME with fullchain.pem and privkey.pem, as certbot
	// keeps them. A name begins with _. for a wildcard, where * cannot be in a file name.
	Folder string
	// URL and Token of the API; the token is a writer's.
	URL, Token string
	// Client speaks HTTP; http.DefaultClient when nil.
	Client *http.Client
	// Shop that new domains belong to, unless Shops says another.
	Shop string
	// Shops by domain.
	Shops map[string]string
	// Parallel is how many are sent at once; 8 when zero.
	Parallel int
	// Progress is told now and then how far it is; nil for nobody.
	Progress func(Result)
}

// Result is how far an import is.
type Result struct {
	// Total there are; Imported were new, Present there already, Failed could not be imported.
	Total, Imported, Present, Failed int
}

// Done are those that were looked at.
func (r Result) Done() int { return r.Imported + r.Present + r.Failed }

type source struct{ name, chain, key string }

// maxFile bounds a file of a certificate or a key.
const maxFile = 128 << 10

// Run imports everything. The error has a line for each certificate that failed.
func Run(ctx context.Context, config Config) (Result, error) {
	if config.Parallel == 0 {
		config.Parallel = 8
	}
	if config.Client == nil {
		config.Client = &http.Client{Timeout: time.Minute}
	}
	// What is sent holds private keys.
	client := *config.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	config.Client = &client
	if u, err := url.Parse(config.URL); err != nil || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
		return Result{}, fmt.Errorf("%q: want an https:// URL; http:// is for this machine alone", config.URL)
	}
	sources, err := find(config.Folder)
	if err != nil {
		return Result{}, err
	}
	i := &importing{config: config}
	result := func() Result {
		return Result{len(sources), int(i.imported.Load()), int(i.present.Load()), int(i.failed.Load())}
	}
	work := make(chan source)
	var group sync.WaitGroup
	for range config.Parallel {
		group.Go(func() {
			for s := range work {
				if err := i.one(ctx, s); err != nil {
					i.fail(s.name, err)
				}
				if config.Progress != nil {
					config.Progress(result())
				}
			}
		})
	}
	for _, s := range sources {
		select {
		case work <- s:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(work)
	group.Wait()
	slices.SortFunc(i.errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	if ctx.Err() != nil {
		i.errs = append(i.errs, errors.New("interrupted; the same command goes on where it was"))
	}
	return result(), errors.Join(i.errs...)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// find lists the certificates of a folder, sorted by name. What lacks its other half is told, all at once.
func find(folder string) ([]source, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var sources []source
	var problems []error
	exists := func(path string) bool { info, err := os.Stat(path); return err == nil && info.Mode().IsRegular() }
	for _, entry := range entries {
		path := filepath.Join(folder, entry.Name())
		extension := filepath.Ext(path)
		base := strings.TrimSuffix(path, extension)
		s := source{name: filepath.Base(base), chain: path, key: base + ".key"}
		switch {
		case strings.HasPrefix(entry.Name(), "."):
			continue
		case exists(filepath.Join(path, "fullchain.pem")):
			s = source{entry.Name(), filepath.Join(path, "fullchain.pem"), filepath.Join(path, "privkey.pem")}
		case extension == ".crt" || extension == ".pem":
		case extension == ".key" && !exists(base+".crt") && !exists(base+".pem"):
			problems = append(problems, fmt.Errorf("%s has no certificate beside it: %s.crt", path, base))
			continue
		default:
			continue
		}
		if !exists(s.key) {
			problems = append(problems, fmt.Errorf("%s has no key: %s", s.chain, s.key))
			continue
		}
		if rest, ok := strings.CutPrefix(s.name, "_."); ok {
			s.name = "*." + rest
		}
		if s.name, err = certrecord.Name(s.name); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", path, err))
			continue
		}
		sources = append(sources, s)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	if len(sources) == 0 {
		return nil, fmt.Errorf("%s: there is no certificate; want NAME.crt with NAME.key, or folders NAME with fullchain.pem and privkey.pem", folder)
	}
	slices.SortFunc(sources, func(a, b source) int { return strings.Compare(a.name, b.name) })
	return sources, nil
}

type importing struct {
	config                    Config
	imported, present, failed atomic.Int64

	mu   sync.Mutex
	errs []error
}

func (i *importing) fail(name string, err error) {
	i.failed.Add(1)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.errs = append(i.errs, fmt.Errorf("%s: %w", name, err))
}

func (i *importing) one(ctx context.Context, s source) error {
	chain, err := read(s.chain)
	if err != nil {
		return err
	}
	key, err := read(s.key)
	if err != nil {
		return err
	}
	var known certs.Domain
	path := "/v1/domains/" + url.PathEscape(s.name)
	status, err := i.send(ctx, http.MethodGet, path, nil, &known)
	switch {
	case status == http.StatusNotFound:
		shop := i.config.Shops[s.name]
		if shop == "" {
			shop = i.config.Shop
		}
		if shop == "" {
			return errors.New("it is a new domain, and nobody says which shop it belongs to")
		}
		if _, err := i.send(ctx, http.MethodPut, path, map[string]string{"shop": shop}, &known); err != nil {
			return err
		}
	case err != nil:
		return err
	case has(known.Certificates, chain):
		i.present.Add(1)
		return nil
	}
	if _, err := i.send(ctx, http.MethodPut, path+"/certificate", map[string]string{"certificate": string(chain), "privateKey": string(key)}, nil); err != nil {
		return err
	}
	i.imported.Add(1)
	return nil
}

func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(content) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return content, err
}

// has says whether the domain has this very certificate, by its serial number, or one of its kind that ends no earlier: what
// was renewed meanwhile must not be replaced by what is older.
func has(known []certs.CertificateState, chain []byte) bool {
	block, _ := pem.Decode(chain)
	if block == nil {
		return false
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	return err == nil && slices.ContainsFunc(known, func(c certs.CertificateState) bool {
		kind := certrecord.RSA
		if leaf.PublicKeyAlgorithm == x509.ECDSA {
			kind = certrecord.ECDSA
		}
		return c.Kind == kind && !c.NotAfter.Before(leaf.NotAfter)
	})
}

const (
	tries     = 5
	firstWait = 200 * time.Millisecond
)

// send asks the API, again for a while when it does not answer.
func (i *importing) send(ctx context.Context, method, path string, body, answer any) (status int, err error) {
	var content []byte
	if body != nil {
		if content, err = json.Marshal(body); err != nil {
			return 0, err
		}
	}
	wait := firstWait
	for try := 1; ; try++ {
		status, err = i.sendOnce(ctx, method, path, content, answer)
		if err == nil || try == tries || status > 0 && status != http.StatusServiceUnavailable {
			return status, err
		}
		select {
		case <-ctx.Done():
			return status, ctx.Err()
		case <-time.After(wait):
		}
		wait *= 2
	}
}

func (i *importing) sendOnce(ctx context.Context, method, path string, content []byte, answer any) (int, error) {
	request, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(i.config.URL, "/")+path, bytes.NewReader(content))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+i.config.Token)
	response, err := i.config.Client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return 0, err
	}
	if response.StatusCode >= http.StatusBadRequest {
		var failure struct {
			Error    string
			Problems []string
		}
		if json.Unmarshal(text, &failure) != nil || failure.Error == "" {
			return response.StatusCode, fmt.Errorf("the API answers %s", response.Status)
		}
		if len(failure.Problems) > 0 {
			failure.Error = strings.Join(failure.Problems, "; ")
		}
		return response.StatusCode, errors.New(failure.Error)
	}
	if answer == nil {
		return response.StatusCode, nil
	}
	return response.StatusCode, json.Unmarshal(text, answer)
}
