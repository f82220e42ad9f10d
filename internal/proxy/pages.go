package proxy

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/text/language"
)

// Maintenance is what visitors of a shop get while its domain's record says so. Who comes from a network that the record
// allows sees the shop.
type Maintenance struct {
	// Page is a folder of static pages: LANGUAGE.html and default.html. Default a short text.
	Page string `yaml:"page"`
	// Status of the answer. Default 503.
	Status int `yaml:"status"`
	// RetryAfter tells robots when to come again, in seconds. Default 300.
	RetryAfter int `yaml:"retryAfter"`
}

func (m *Maintenance) fill() {
	fallback(&m.Status, http.StatusServiceUnavailable)
	fallback(&m.RetryAfter, 300)
}

// maintenance answers for a shop that is being worked on.
func (p *pipeline) maintenance(e *exchange) (done bool) {
	if !e.closed() {
		return false
	}
	e.refused = "maintenance"
	e.Header().Set("Retry-After", fmt.Sprint(p.config.Maintenance.RetryAfter))
	if p.maintenancePages != nil {
		p.maintenancePages.serve(e, p.config.Maintenance.Status)
	} else {
		errorPage(e, p.config.Maintenance.Status)
	}
	return true
}

// pages are static pages in several languages.
type pages struct {
	standard string
	byTag    map[string]string
	tags     []language.Tag
	names    []string
	matcher  language.Matcher
}

// maxPage bounds one page, and maxPages how many of them there are.
const (
	maxPage  = 1 << 20
	maxPages = 200
)

var pageName = regexp.MustCompile(`^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$`)

// readPages reads a folder. An empty name is no folder.
func readPages(folder string) (*pages, error) {
	if folder == "" {
		return nil, nil
	}
	p := &pages{byTag: map[string]string{}}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("pages: %w", err)
	}
	for _, entry := range entries {
		name, isPage := strings.CutSuffix(entry.Name(), ".html")
		if !isPage {
			continue
		}
		content, err := readPage(filepath.Join(folder, entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("pages: %w", err)
		}
		if name == "default" {
			p.standard = content
			continue
		}
		tag, err := language.Parse(name)
		if err != nil || !pageName.MatchString(name) || len(p.tags) == maxPages {
			return nil, fmt.Errorf("pages: %s is no LANGUAGE.html, like de.html or pt-BR.html, or there are more than %d", entry.Name(), maxPages)
		}
		p.byTag[strings.ToLower(name)] = content
		p.tags, p.names = append(p.tags, tag), append(p.names, strings.ToLower(name))
	}
	if p.standard == "" {
		return nil, fmt.Errorf("pages: %s has no default.html", folder)
	}
	p.matcher = language.NewMatcher(append([]language.Tag{language.Und}, p.tags...))
	return p, nil
}

func readPage(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Size() > maxPage || !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no file, or has more than 1 MiB", path)
	}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return string(content), err
}

// LanguageLabel is the label of a domain's record with the language of its shop.
const LanguageLabel = "language"

// choose goes by the shop's language, then by what the client reads.
func (p *pages) choose(e *exchange) string {
	if e.domain != nil {
		if page, ok := p.byTag[strings.ToLower(e.domain.Labels[LanguageLabel])]; ok {
			return page
		}
	}
	wanted, _, err := language.ParseAcceptLanguage(e.request.Header.Get("Accept-Language"))
	if err != nil || len(wanted) == 0 || len(p.tags) == 0 {
		return p.standard
	}
	if _, index, confidence := p.matcher.Match(wanted...); index > 0 && confidence > language.No {
		return p.byTag[p.names[index-1]]
	}
	return p.standard
}

func (p *pages) serve(e *exchange, status int) {
	e.Header().Add("Vary", "Accept-Language")
	e.answer(status, "text/html; charset=utf-8", p.choose(e))
}
