// Package acme has certificates of managed domains issued and renewed by ACME (RFC 8555), proved by HTTP-01: the
// proxies answer with what the certificate API knows of a challenge.
//
// Each managed domain has a job in the storage, which says when it is due. An issuer claims jobs that are due, for
// longer than one may take, so that of several replicas one alone works on a domain, and another goes on when it
// dies. A certificate is renewed after two thirds of its life, each at another time of the following two per
// cent. A failure puts the next try off: a minute, doubled each time, a day at most. When the authority says that
// it is asked too often, nothing at all is asked until the time that it names.
package acme

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	randv2 "math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	acmezacme "github.com/mholt/acmez/v3/acme"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certs"
	"github.com/shopset/shopset/internal/certs/storage"
)

// Config of an issuer.
type Config struct {
	// Directory is the URL of the authority's directory.
	Directory string
	// Email that the authority writes to; it may be empty.
	Email string
	// Parallel is how many certificates are issued at once; 4 when zero.
	Parallel int
	// Client speaks HTTP; http.DefaultClient when nil.
	Client *http.Client
	// PollInterval is how often the authority is asked how far it is; the library's when zero.
	PollInterval time.Duration
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

// Issuer issues while Run runs.
type Issuer struct {
	config  Config
	storage storage.Storage
	service *certs.Service
	client  acmez.Client
	holder  string

	outcomes *prometheus.CounterVec

	mu sync.Mutex
	// pausedUntil is when the authority may be asked again.
	pausedUntil time.Time
}

const (
	// jobTime is how long one certificate may take, and leaseTime how long its job is the holder's.
	jobTime   = 5 * time.Minute
	leaseTime = 2 * jobTime
	pollJobs  = 5 * time.Second
	// firstRetry is doubled with each failure, up to lastRetry.
	firstRetry = time.Minute
	lastRetry  = 24 * time.Hour
)

// New makes an issuer.
func New(config Config, s storage.Storage, service *certs.Service) *Issuer {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Parallel == 0 {
		config.Parallel = 4
	}
	i := &Issuer{config: config, storage: s, service: service, holder: certrecord.Token(),
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "shopset_certs_jobs_total",
			Help: "Certificates of managed domains that were looked at: good (issued, or need not be yet), failed, limited (the authority is asked too often), unreachable (the authority)."}, []string{"outcome"})}
	base := http.DefaultTransport
	if config.Client != nil && config.Client.Transport != nil {
		base = config.Client.Transport
	}
	i.client = acmez.Client{
		Client: &acmezacme.Client{Directory: config.Directory, UserAgent: "shopset-certs", PollInterval: config.PollInterval, PollTimeout: jobTime,
			HTTPClient: &http.Client{Transport: &limits{base, i}, Timeout: time.Minute}},
		ChallengeSolvers: map[string]acmez.Solver{acmezacme.ChallengeTypeHTTP01: solver{service}},
	}
	return i
}

// Collectors are the issuer's metrics.
func (i *Issuer) Collectors() []prometheus.Collector {
	return []prometheus.Collector{i.outcomes, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "shopset_certs_paused",
		Help: "1 while the authority is left alone, because it said that it is asked too often."}, func() float64 {
		if _, yes := i.paused(); yes {
			return 1
		}
		return 0
	})}
}

// limits sees when the authority says that it is asked too often.
type limits struct {
	base   http.RoundTripper
	issuer *Issuer
}

func (l *limits) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := l.base.RoundTrip(request)
	if err == nil && response.StatusCode == http.StatusTooManyRequests {
		until := l.issuer.retryAfter(response.Header.Get("Retry-After"))
		if job, ok := request.Context().Value(limitKey{}).(*jobLimit); ok {
			job.until = until
		}
		l.issuer.pause(until)
	}
	return response, err
}

// jobLimit is what the authority said to a job.
type jobLimit struct{ until time.Time }

type limitKey struct{}

// retryAfter reads the header (RFC 9110, 10.2.3): a day at most, longestPause when it says nothing.
func (i *Issuer) retryAfter(text string) time.Time {
	now := i.config.Now()
	if seconds, err := strconv.Atoi(text); err == nil && seconds > 0 {
		return now.Add(time.Duration(min(seconds, int(lastRetry/time.Second))) * time.Second)
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return now.Add(min(at.Sub(now), lastRetry))
	}
	return now.Add(longestPause)
}

// longestPause bounds how long nothing is asked at all: most limits are those of one domain, whose own plan waits longer.
const longestPause = 5 * time.Minute

// pause asks nothing until then, or for longestPause.
func (i *Issuer) pause(until time.Time) {
	if longest := i.config.Now().Add(longestPause); until.After(longest) {
		until = longest
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if until.After(i.pausedUntil) {
		i.pausedUntil = until
		slog.Warn("the authority is asked too often; nothing is issued until then", "until", until)
	}
}

func (i *Issuer) paused() (until time.Time, yes bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.pausedUntil, i.config.Now().Before(i.pausedUntil)
}

// Run issues until the context ends.
func (i *Issuer) Run(ctx context.Context) {
	for ctx.Err() == nil {
		n, err := i.Once(ctx)
		if err != nil && ctx.Err() == nil {
			slog.Error("certificates are not issued", "error", err)
		}
		if n > 0 && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(pollJobs):
		}
	}
}

// Once works on jobs that are due, as many as may run at once, and returns how many there were.
func (i *Issuer) Once(ctx context.Context) (int, error) {
	if _, yes := i.paused(); yes {
		return 0, nil
	}
	// The account comes first: an authority that is away is no failure of the domains that are due.
	account, err := i.account(ctx)
	if err != nil {
		return 0, fmt.Errorf("account at the authority: %w", err)
	}
	now := i.config.Now()
	jobs, err := i.storage.Claim(ctx, i.holder, now, now.Add(leaseTime), i.config.Parallel)
	if err != nil || len(jobs) == 0 {
		return 0, err
	}
	var group sync.WaitGroup
	for _, job := range jobs {
		group.Go(func() { i.work(ctx, job, account) })
	}
	group.Wait()
	return len(jobs), nil
}

// work issues one certificate and plans the job anew.
func (i *Issuer) work(ctx context.Context, job storage.Job, account acmezacme.Account) {
	limit := &jobLimit{}
	due, err := i.issue(context.WithValue(ctx, limitKey{}, limit), job.Domain, account)
	until, limited := i.paused()
	var problem acmezacme.Problem
	own := errors.As(err, &problem) && problem.Type == acmezacme.ProblemTypeRateLimited
	switch {
	case err == nil:
		i.outcomes.WithLabelValues("good").Inc()
		job.Failures, job.LastError, job.Due = 0, "", due
	case limited && !own: // No failure of this domain.
		i.outcomes.WithLabelValues("limited").Inc()
		job.LastError, job.Due = "the authority is asked too often", until.Add(jitter(firstRetry))
	case errors.As(err, new(*url.Error)): // The authority cannot be reached, which is no failure of this domain either.
		i.outcomes.WithLabelValues("unreachable").Inc()
		job.LastError, job.Due = clip(err.Error()), i.config.Now().Add(firstRetry+jitter(firstRetry))
		slog.Error("the authority cannot be reached", "domain", job.Domain, "error", err)
	default:
		i.outcomes.WithLabelValues("failed").Inc()
		job.Failures++
		job.LastError = clip(err.Error())
		wait := min(lastRetry, firstRetry<<min(job.Failures-1, 12))
		job.Due = i.config.Now().Add(wait + jitter(wait/4))
		if limit.until.After(job.Due) {
			job.Due = limit.until.Add(jitter(firstRetry))
		}
		slog.Error("a certificate was not issued", "domain", job.Domain, "failures", job.Failures, "next", job.Due, "error", err)
	}
	// The job is told even when the program is to end.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := i.storage.Finish(ctx, i.holder, job); err != nil && !errors.Is(err, storage.ErrConflict) {
		slog.Error("the plan for a certificate is not stored; it is tried again", "domain", job.Domain, "error", err)
	}
}

func jitter(most time.Duration) time.Duration {
	return time.Duration(randv2.Int64N(int64(most) + 1)) //nolint:gosec // No secret.
}

func clip(text string) string {
	const most = 500
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}

// issue has a certificate issued, unless there is one that need not be renewed yet, and returns when the next is due.
func (i *Issuer) issue(ctx context.Context, domain string, account acmezacme.Account) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, jobTime)
	defer cancel()
	known, have, err := i.storage.Domain(ctx, domain)
	if err != nil {
		return time.Time{}, err
	}
	for _, c := range have {
		if c.Kind == certrecord.ECDSA && i.config.Now().Before(twoThirds(c.NotBefore, c.NotAfter)) {
			return renewal(c.NotBefore, c.NotAfter), nil
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return time.Time{}, err
	}
	issued, err := i.client.ObtainCertificateForSANs(ctx, account, key, []string{domain})
	if err != nil {
		return time.Time{}, err
	}
	if len(issued) == 0 {
		return time.Time{}, errors.New("the authority issued nothing")
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return time.Time{}, err
	}
	chain := issued[0].ChainPEM
	// Only if the domain is what it was: its owner may have uploaded a certificate meanwhile, or manages it alone.
	if err := i.service.PutCertificate(ctx, "acme", domain, "acme", known.Version, chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return time.Time{}, err
	}
	block, _ := pem.Decode(chain) // It was read just now.
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, err
	}
	return renewal(leaf.NotBefore, leaf.NotAfter), nil
}

// renewal is when two thirds of a certificate's life are over, and up to two per cent later, by chance.
func renewal(notBefore, notAfter time.Time) time.Time {
	return twoThirds(notBefore, notAfter).Add(jitter(notAfter.Sub(notBefore) / 50))
}

func twoThirds(notBefore, notAfter time.Time) time.Time {
	return notBefore.Add(notAfter.Sub(notBefore) * 2 / 3)
}

const (
	accountLease = "acme account"
	accountWait  = 2 * time.Minute // longer than a request may take
)

// account returns ours at the authority; the first of all replicas makes it.
func (i *Issuer) account(ctx context.Context) (acmezacme.Account, error) {
	name := accountLease + " " + i.config.Directory
	deadline := i.config.Now().Add(accountWait)
	for {
		sealed, err := i.storage.Value(ctx, name, i.config.Now())
		if err == nil {
			return i.open(sealed, name)
		}
		if !errors.Is(err, storage.ErrNotFound) {
			return acmezacme.Account{}, err
		}
		mine, err := i.storage.Lease(ctx, name, i.holder, i.config.Now(), deadline)
		if err != nil {
			return acmezacme.Account{}, err
		}
		if mine {
			return i.register(ctx, name)
		}
		select {
		case <-ctx.Done():
			return acmezacme.Account{}, ctx.Err()
		case <-time.After(time.Second):
		}
		if i.config.Now().After(deadline) {
			return acmezacme.Account{}, errors.New("another replica has not made it in time")
		}
	}
}

func (i *Issuer) register(ctx context.Context, name string) (acmezacme.Account, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return acmezacme.Account{}, err
	}
	account := acmezacme.Account{TermsOfServiceAgreed: true, PrivateKey: key}
	if i.config.Email != "" {
		account.Contact = []string{"mailto:" + i.config.Email}
	}
	if account, err = i.client.NewAccount(ctx, account); err != nil {
		return acmezacme.Account{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return acmezacme.Account{}, err
	}
	// The account's address comes first, in a line of its own.
	sealed := i.service.Seal(append([]byte(account.Location+"\n"), der...), name)
	return account, i.storage.PutValue(ctx, name, sealed, time.Time{})
}

// Reseal seals the account's key with the first key of the keyring, as a rotation of keys has it.
func (i *Issuer) Reseal(ctx context.Context) error {
	name := accountLease + " " + i.config.Directory
	sealed, err := i.storage.Value(ctx, name, i.config.Now())
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	plain, err := i.service.Open(sealed, name)
	if err != nil {
		return fmt.Errorf("the key of the account at the authority %w", err)
	}
	return i.storage.PutValue(ctx, name, i.service.Seal(plain, name), time.Time{})
}

func (i *Issuer) open(sealed []byte, name string) (acmezacme.Account, error) {
	plain, err := i.service.Open(sealed, name)
	if err != nil {
		return acmezacme.Account{}, fmt.Errorf("its key %w", err)
	}
	for at, c := range plain {
		if c != '\n' {
			continue
		}
		parsed, err := x509.ParsePKCS8PrivateKey(plain[at+1:])
		if err != nil {
			return acmezacme.Account{}, err
		}
		key, ok := parsed.(crypto.Signer)
		if !ok {
			break
		}
		return acmezacme.Account{Status: acmezacme.StatusValid, Location: string(plain[:at]), PrivateKey: key, TermsOfServiceAgreed: true}, nil
	}
	return acmezacme.Account{}, errors.New("it is damaged")
}

// solver tells the proxies, through the service, what to answer.
type solver struct{ service *certs.Service }

func (s solver) Present(ctx context.Context, challenge acmezacme.Challenge) error {
	return s.service.PutChallenge(ctx, challenge.Token, challenge.KeyAuthorization)
}

func (s solver) CleanUp(ctx context.Context, challenge acmezacme.Challenge) error {
	// The challenge is over also when the program is to end.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return s.service.DeleteChallenge(ctx, challenge.Token)
}
