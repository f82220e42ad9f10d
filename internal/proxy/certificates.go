package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certstore"
)

// DomainCertificates says where certificates and options of domains come from; see package certstore. Redis or API may
// be missing, not both.
type DomainCertificates struct {
	// Keyring is the file of the keys that records are sealed with, the same as shopset-certs has. Required.
	Keyring string                  `yaml:"keyring"`
	Redis   *certrecord.RedisConfig `yaml:"redis"`
	API     *CertificateAPI         `yaml:"api"`
	// Memory bounds what records may take. Default 256MiB.
	Memory Size `yaml:"memory"`
	// UnknownTime is for how long a name is remembered that nobody has. Default 1m.
	UnknownTime time.Duration `yaml:"unknownTime"`
	// UnknownHosts says what becomes of a request for a host that no record covers: "serve" or "refuse", with 421. Default
	// "serve".
	UnknownHosts string `yaml:"unknownHosts"`
	// WithoutRecord says what becomes of a request whose host's record is not in memory while neither Redis nor the API can
	// be asked: "serve", as if the host had none, or "refuse", with 503. Served means without the record's allow-list,
	// maintenance, labels and upstream: who may not come, comes. Default "serve".
	WithoutRecord string `yaml:"withoutRecord"`
}

// CertificateAPI is how the certificate API is reached.
type CertificateAPI struct {
	// URL without a path, like https://certs.internal:8443. Required.
	URL string `yaml:"url"`
	// TokenFile holds a reader's token.
	TokenFile string `yaml:"tokenFile"`
	// CA verifies the API, a file; the system's authorities when empty.
	CA string `yaml:"ca"`
	// Certificate and Key show who asks, instead of a token.
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
}

// The values of UnknownHosts and WithoutRecord.
const (
	HostsServe  = "serve"
	HostsRefuse = "refuse"
)

func (d *DomainCertificates) fill() {
	fallback(&d.Memory, 256<<20)
	fallback(&d.UnknownTime, time.Minute)
	fallback(&d.UnknownHosts, HostsServe)
	fallback(&d.WithoutRecord, HostsServe)
}

func (d *DomainCertificates) problems(p *problems) {
	p.required("certificates.keyring", d.Keyring, "the path of a keyring")
	p.atLeast("certificates.memory", d.Memory, 1<<20)
	p.positive("certificates.unknownTime", d.UnknownTime)
	p.oneOf("certificates.unknownHosts", d.UnknownHosts, HostsServe, HostsRefuse)
	p.oneOf("certificates.withoutRecord", d.WithoutRecord, HostsServe, HostsRefuse)
	if d.Redis == nil && d.API == nil {
		p.add("certificates", "wants redis, api, or both")
	}
	if d.Redis != nil && len(d.Redis.Addresses) == 0 {
		p.add("certificates.redis.addresses", "is empty: want host:port")
	}
	if api := d.API; api != nil {
		p.baseURL("certificates.api.url", api.URL)
		if (api.Certificate == "") != (api.Key == "") {
			p.add("certificates.api", "wants certificate and key, or neither")
		}
		if (api.TokenFile == "") == (api.Certificate == "") {
			p.add("certificates.api", "wants tokenFile or a certificate: the API lets nobody in without")
		}
	}
}

// open makes the store; everything that is wrong with the files that the section names is told at once. close ends
// the connections.
func (d *DomainCertificates) open(standard *tls.Certificate) (store *certstore.Store, closeAll func(), err error) {
	config := certstore.Config{Default: standard, MaxBytes: int(d.Memory), UnknownTime: d.UnknownTime}
	keys, errKeys := certrecord.ReadKeyring(d.Keyring)
	if errKeys != nil {
		errKeys = fmt.Errorf("certificates.keyring: %w", errKeys)
	}
	config.Keys = keys
	var errRedis, errAPI error
	if d.API != nil {
		config.API, errAPI = d.API.open()
	}
	closeAll = func() {}
	if d.Redis != nil {
		options, err := d.Redis.Options("certificates.redis")
		if errRedis = err; err == nil {
			config.Redis = certrecord.NewRedis(options)
			closeAll = config.Redis.Close
		}
	}
	if err := errors.Join(errKeys, errRedis, errAPI); err != nil {
		closeAll()
		return nil, nil, err
	}
	store, err = certstore.New(config)
	return store, closeAll, err
}

func (a *CertificateAPI) open() (*certstore.API, error) {
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	api := &certstore.API{URL: strings.TrimSuffix(a.URL, "/")}
	var errToken, errCA, errPair error
	if a.TokenFile != "" {
		var token []byte
		if token, errToken = os.ReadFile(a.TokenFile); errToken != nil {
			errToken = fmt.Errorf("certificates.api.tokenFile: %w", errToken)
		}
		api.Token = strings.TrimSpace(string(token))
	}
	if a.CA != "" {
		settings.RootCAs, errCA = certrecord.ReadPool("certificates.api.ca", a.CA)
	}
	if a.Certificate != "" {
		if _, errPair = tls.LoadX509KeyPair(a.Certificate, a.Key); errPair != nil {
			errPair = fmt.Errorf("certificates.api: %w", errPair)
		}
		// Read anew for each connection: who rotates it should not have to restart the proxies.
		settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(a.Certificate, a.Key)
			return &pair, err
		}
	}
	api.Client = &http.Client{
		Transport:     &http.Transport{TLSClientConfig: settings, MaxIdleConnsPerHost: 32, MaxConnsPerHost: 64, IdleConnTimeout: 30 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return api, errors.Join(errToken, errCA, errPair)
}

// challengePath is where an ACME authority asks (RFC 8555, 8.3).
const challengePath = "/.well-known/acme-challenge/"

// answerChallenge answers an ACME authority; other askers, and tokens that are a shop's own, go on.
func (p *pipeline) answerChallenge(e *exchange) bool {
	token, ok := strings.CutPrefix(e.request.URL.Path, challengePath)
	if !ok || p.domains == nil || e.request.Method != http.MethodGet && e.request.Method != http.MethodHead {
		return false
	}
	ctx, cancel := context.WithTimeout(e.request.Context(), 5*time.Second)
	defer cancel()
	authorization, err := p.domains.Challenge(ctx, token)
	if err != nil {
		return false
	}
	e.answer(http.StatusOK, "application/octet-stream", authorization)
	return true
}

// answer is a short answer of the proxy's own.
func (e *exchange) answer(status int, contentType, body string) {
	header := e.Header()
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	if header.Get("Cache-Control") == "" {
		header.Set("Cache-Control", "no-store")
	}
	if e.body != nil && e.request.ProtoMajor == 1 {
		header.Set("Connection", "close") // The rest of the body is of no use to anybody.
	}
	e.WriteHeader(status)
	if e.request.Method != http.MethodHead {
		_, _ = e.Write([]byte(body)) // Who is gone needs no page.
	}
	_ = e.FlushError() // Before a slow client is waited for.
}

var _ admin.Validator = (*Config)(nil)
