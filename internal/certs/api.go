package certs

import (
	"context"
	_ "embed"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certs/storage"
)

// Document describes the API (OpenAPI 3.1).
//
//go:embed openapi.yaml
var Document []byte

const (
	maxRequest  = 256 << 10
	maxPage     = 1000
	defaultPage = 100
	// maxWait is how long who asks for changes may wait for one.
	maxWait = 55 * time.Second
	// RecordType is the media type of a sealed record.
	RecordType = "application/vnd.shopset.record"
)

// API serves the service over HTTP.
type API struct {
	service *Service
	clients *Clients
	routes  []route
	metrics *metrics
}

type route struct {
	method, path string
	right        Right
	handle       func(http.ResponseWriter, *http.Request) error
}

// NewAPI makes one.
func NewAPI(service *Service, clients *Clients) *API {
	a := &API{service: service, clients: clients, metrics: newMetrics()}
	a.routes = []route{
		{"GET", "/v1/domains", Reader, a.listDomains},
		{"GET", "/v1/domains/{name}", Reader, a.getDomain},
		{"PUT", "/v1/domains/{name}", Writer, a.putDomain},
		{"DELETE", "/v1/domains/{name}", Writer, a.deleteDomain},
		{"PUT", "/v1/domains/{name}/certificate", Writer, a.putCertificate},
		{"DELETE", "/v1/domains/{name}/certificates/{kind}", Writer, a.deleteCertificate},
		{"GET", "/v1/certificates/{name}", Reader, a.getCertificate},
		{"GET", "/v1/records/{name}", Reader, a.getRecord},
		{"GET", "/v1/changes", Reader, a.getChanges},
		{"GET", "/v1/challenges/{token}", Reader, a.getChallenge},
	}
	return a
}

// Handler answers all requests.
func (a *API) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, route := range a.routes {
		pattern := route.method + " " + route.path
		mux.HandleFunc(pattern, a.metrics.observe(pattern, a.clients.allow(route.right, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
			if err := route.handle(w, r); err != nil {
				answerError(w, r, err)
			}
		})))
	}
	mux.HandleFunc("GET /openapi.yaml", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(Document) // Who asks has gone.
	})
	return mux
}

// failure is what users are told.
type failure struct {
	Error    string   `json:"error"`
	Problems []string `json:"problems,omitempty"`
}

func writeError(w http.ResponseWriter, status int, text string, problems ...string) {
	writeJSON(w, status, failure{text, problems})
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // Who asks has gone.
}

func answerError(w http.ResponseWriter, r *http.Request, err error) {
	var problems Problems
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &problems):
		text := problems[0]
		if len(problems) > 1 {
			text = fmt.Sprintf("%d things are wrong", len(problems))
		}
		writeError(w, http.StatusUnprocessableEntity, text, problems...)
	case errors.As(err, &large):
		writeError(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the request has more than %d bytes", maxRequest))
	case errors.Is(err, storage.ErrNotFound):
		writeError(w, http.StatusNotFound, err.Error())
	case errors.Is(err, storage.ErrConflict):
		writeError(w, http.StatusPreconditionFailed, err.Error()+"; read it again and decide anew")
	case r.Context().Err() != nil: // Nobody listens any more.
	default:
		slog.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		writeError(w, http.StatusServiceUnavailable, "the storage does not answer; try again")
	}
}

// name is that of the path, in its final form.
func name(r *http.Request) (string, error) {
	name, err := certrecord.Name(r.PathValue("name"))
	if err != nil {
		return "", Problems{err.Error()}
	}
	return name, nil
}

func readJSON(r *http.Request, into any) error {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	if err == nil && decoder.More() {
		err = errors.New("there is more than one value")
	}
	var large *http.MaxBytesError
	if err != nil && !errors.As(err, &large) {
		return Problems{"the request's JSON: " + strings.TrimPrefix(err.Error(), "json: ")}
	}
	return err
}

// ifVersion is the version that the domain must have, zero for any.
func ifVersion(r *http.Request) (uint64, error) {
	tag := r.Header.Get("If-Match")
	if tag == "" {
		return 0, nil
	}
	version, err := strconv.ParseUint(strings.Trim(tag, `"`), 10, 64)
	if err != nil || version == 0 {
		return 0, Problems{fmt.Sprintf("If-Match is %s, want the domain's version in quotes", clip(tag))}
	}
	return version, nil
}

func (a *API) listDomains(w http.ResponseWriter, r *http.Request) error {
	form := r.URL.Query()
	query := storage.Query{After: form.Get("after"), Shop: form.Get("shop"), Limit: defaultPage}
	var problems Problems
	if limit := form.Get("limit"); limit != "" {
		n, err := strconv.Atoi(limit)
		if err != nil || n < 1 || n > maxPage {
			problems.add("limit is %q, want 1 to %d", clip(limit), maxPage)
		}
		query.Limit = n
	}
	if label := form.Get("label"); label != "" {
		var ok bool
		if query.LabelKey, query.LabelVal, ok = strings.Cut(label, "="); !ok || query.LabelKey == "" {
			problems.add("label is %q, want NAME=VALUE", clip(label))
		}
	}
	for key := range form {
		if key != "after" && key != "shop" && key != "limit" && key != "label" {
			problems.add("%q is no parameter; there are after, limit, shop and label", clip(key))
		}
	}
	if err := problems.orNil(); err != nil {
		return err
	}
	domains, err := a.service.Domains(r.Context(), query)
	if err != nil {
		return err
	}
	page := struct {
		Domains []Domain `json:"domains"`
		Next    string   `json:"next,omitempty"`
	}{Domains: domains}
	if len(domains) == query.Limit {
		page.Next = domains[len(domains)-1].Name
	}
	writeJSON(w, http.StatusOK, page)
	return nil
}

func (a *API) writeDomain(w http.ResponseWriter, d *Domain) error {
	w.Header().Set("ETag", fmt.Sprintf("%q", strconv.FormatUint(d.Version, 10)))
	writeJSON(w, http.StatusOK, d)
	return nil
}

func (a *API) getDomain(w http.ResponseWriter, r *http.Request) error {
	name, err := name(r)
	if err != nil {
		return err
	}
	d, err := a.service.Domain(r.Context(), name)
	if err != nil {
		return err
	}
	return a.writeDomain(w, d)
}

func (a *API) putDomain(w http.ResponseWriter, r *http.Request) error {
	var input struct {
		Name    string             `json:"name"`
		Shop    string             `json:"shop"`
		Labels  map[string]string  `json:"labels"`
		Options certrecord.Options `json:"options"`
		Managed bool               `json:"managed"`
	}
	version, err := ifVersion(r)
	if err == nil {
		err = readJSON(r, &input)
	}
	if err != nil {
		return err
	}
	if input.Name != "" && input.Name != r.PathValue("name") {
		return Problems{fmt.Sprintf("name is %q in the request and %q in its path", clip(input.Name), clip(r.PathValue("name")))}
	}
	d, err := a.service.PutDomain(r.Context(), who(r.Context()), Domain{Name: r.PathValue("name"), Shop: input.Shop, Labels: input.Labels,
		Options: input.Options, Managed: input.Managed}, version)
	if err != nil {
		return err
	}
	return a.writeDomain(w, d)
}

func (a *API) deleteDomain(w http.ResponseWriter, r *http.Request) error {
	version, err := ifVersion(r)
	if err != nil {
		return err
	}
	name, err := name(r)
	if err == nil {
		err = a.service.DeleteDomain(r.Context(), who(r.Context()), name, version)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) putCertificate(w http.ResponseWriter, r *http.Request) error {
	var input struct {
		Certificate string `json:"certificate"`
		PrivateKey  string `json:"privateKey"`
	}
	name, err := name(r)
	if err == nil {
		err = readJSON(r, &input)
	}
	var version uint64
	if err == nil {
		version, err = ifVersion(r)
	}
	if err == nil {
		err = a.service.PutCertificate(r.Context(), who(r.Context()), name, "upload", version, []byte(input.Certificate), []byte(input.PrivateKey))
	}
	if err != nil {
		return err
	}
	d, err := a.service.Domain(r.Context(), name)
	if err != nil {
		return err
	}
	return a.writeDomain(w, d)
}

func kindFrom(text string) (certrecord.Kind, error) {
	kind := certrecord.Kind(text)
	if kind != certrecord.RSA && kind != certrecord.ECDSA {
		return "", Problems{fmt.Sprintf("kind is %q, want %s or %s", clip(text), certrecord.ECDSA, certrecord.RSA)}
	}
	return kind, nil
}

func (a *API) deleteCertificate(w http.ResponseWriter, r *http.Request) error {
	kind, err := kindFrom(r.PathValue("kind"))
	if err != nil {
		return err
	}
	name, err := name(r)
	var version uint64
	if err == nil {
		version, err = ifVersion(r)
	}
	if err == nil {
		err = a.service.DeleteCertificate(r.Context(), who(r.Context()), name, kind, version)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) getCertificate(w http.ResponseWriter, r *http.Request) error {
	name, err := name(r)
	if err != nil {
		return err
	}
	var wanted certrecord.Kind
	if text := r.URL.Query().Get("kind"); text != "" {
		if wanted, err = kindFrom(text); err != nil {
			return err
		}
	}
	record, err := a.service.Lookup(r.Context(), name)
	if err != nil {
		return err
	}
	for _, c := range record.Certificates {
		if wanted != "" && c.Kind != wanted {
			continue
		}
		var chain strings.Builder
		for _, der := range c.Chain {
			_ = pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // A builder takes everything.
		}
		writeJSON(w, http.StatusOK, map[string]any{
			"domain": record.Name, "kind": c.Kind, "certificate": chain.String(), "notAfter": c.Expires().UTC(),
			"privateKey": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: c.Key})),
		})
		return nil
	}
	return fmt.Errorf("certificate for %s: %w", name, storage.ErrNotFound)
}

func (a *API) getRecord(w http.ResponseWriter, r *http.Request) error {
	name, err := name(r)
	if err != nil {
		return err
	}
	record, err := a.service.Lookup(r.Context(), name)
	if err != nil {
		return err
	}
	sealed, err := certrecord.Seal(a.service.keys, record)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", RecordType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Shopset-Name", record.Name)
	_, _ = w.Write(sealed) // Who asks has gone.
	return nil
}

// getChanges answers with the changes after a number, none without. With wait it waits for one that long.
func (a *API) getChanges(w http.ResponseWriter, r *http.Request) error {
	form := r.URL.Query()
	last, err := a.service.storage.LastChange(r.Context())
	if err != nil {
		return err
	}
	answer := changesAnswer{last, []change{}}
	if !form.Has("after") {
		writeJSON(w, http.StatusOK, answer)
		return nil
	}
	after, err := strconv.ParseUint(form.Get("after"), 10, 64)
	if err != nil {
		return Problems{fmt.Sprintf("after is %q, want the number of a change", clip(form.Get("after")))}
	}
	wait := time.Duration(0)
	if text := form.Get("wait"); text != "" {
		if wait, err = time.ParseDuration(text); err != nil || wait < 0 || wait > maxWait {
			return Problems{fmt.Sprintf("wait is %q, want up to %s", clip(text), maxWait)}
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), wait+time.Second)
	defer cancel()
	deadline := time.Now().Add(wait)
	for {
		changes, err := a.service.storage.Changes(ctx, after, maxPage)
		if errors.Is(err, storage.ErrNotFound) {
			writeError(w, http.StatusGone, fmt.Sprintf("the changes after %d are forgotten; trust nothing that you have", after))
			return nil
		}
		if err != nil {
			return err
		}
		if len(changes) > 0 || !time.Now().Before(deadline) {
			for _, c := range changes {
				answer.Changes = append(answer.Changes, change{c.Number, c.Name})
				answer.Last = max(answer.Last, c.Number)
			}
			writeJSON(w, http.StatusOK, answer)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(poll, time.Until(deadline))):
		}
	}
}

type changesAnswer struct {
	// Last is the number of the last change.
	Last    uint64   `json:"last"`
	Changes []change `json:"changes"`
}

type change struct {
	Number uint64 `json:"number"`
	Name   string `json:"name"`
}

func (a *API) getChallenge(w http.ResponseWriter, r *http.Request) error {
	value, err := a.service.Challenge(r.Context(), r.PathValue("token"))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream") // RFC 8555, 8.3.
	_, _ = io.WriteString(w, value)                            // Who asks has gone.
	return nil
}
