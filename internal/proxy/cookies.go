package proxy

import (
	"iter"
	"net/http"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// CookieFilter says which cookies pass, under which names and with which attributes. Names are patterns: a * at the end
// stands for anything.
type CookieFilter struct {
	// Allow are the cookies that pass; all when empty.
	Allow []string `yaml:"allow"`
	// Deny are cookies that do not, whatever Allow says.
	Deny []string `yaml:"deny"`
	// Rename maps names as they come to names as they go on.
	Rename map[string]string `yaml:"rename"`
	// The following are forced on the cookies of answers, where they are given. SameSite is lax, strict or none.
	Secure   *bool   `yaml:"secure"`
	HTTPOnly *bool   `yaml:"httpOnly"`
	SameSite string  `yaml:"sameSite"`
	Domain   *Domain `yaml:"domain"`
	Path     string  `yaml:"path"`
}

// Domain is a cookie's: a name, or empty for the host that answered alone.
type Domain string

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Domain) UnmarshalYAML(node *yaml.Node) error {
	*d = Domain(strings.ToLower(strings.TrimPrefix(node.Value, ".")))
	if *d != "" && (strings.ContainsAny(string(*d), " ;,/:@\"\\") || !strings.Contains(string(*d), ".")) {
		return lineError(node, "%q is no domain of cookies", node.Value)
	}
	return nil
}

func (f *CookieFilter) problems(p *problems, at string, response bool) {
	if f == nil {
		return
	}
	patternProblems(p, at+".allow", f.Allow)
	patternProblems(p, at+".deny", f.Deny)
	for from, to := range f.Rename {
		if !isToken(from) || !isToken(to) {
			p.add(at+".rename", strconv.Quote(from)+": "+strconv.Quote(to)+" are not both names of cookies")
		}
	}
	if !response && (f.Secure != nil || f.HTTPOnly != nil || f.SameSite != "" || f.Domain != nil || f.Path != "") {
		p.add(at, "cookies of requests have no attributes")
	}
	if f.SameSite != "" {
		p.oneOf(at+".sameSite", f.SameSite, "lax", "strict", "none")
	}
	if f.SameSite == "none" && f.Secure != nil && !*f.Secure {
		p.add(at+".sameSite", "none needs secure: browsers drop such a cookie")
	}
	if f.Path != "" && (!strings.HasPrefix(f.Path, "/") || strings.ContainsAny(f.Path, ";\r\n\x00")) {
		p.add(at+".path", "want a path that starts with /")
	}
}

func patternProblems(p *problems, at string, patterns []string) {
	for i, pattern := range patterns {
		if name := strings.TrimSuffix(pattern, "*"); name != "" && !isToken(name) || pattern == "" {
			p.add(at+"["+strconv.Itoa(i)+"]", strconv.Quote(pattern)+" is no name of a cookie; a * may end it")
		}
	}
}

// matches says whether a name is one of the patterns.
func matches(patterns []string, name string) bool {
	for _, pattern := range patterns {
		if prefix, open := strings.CutSuffix(pattern, "*"); name == pattern || open && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func (f *CookieFilter) passes(name string) bool {
	return (len(f.Allow) == 0 || matches(f.Allow, name)) && !matches(f.Deny, name)
}

func (f *CookieFilter) renamed(name string) string {
	if to, ok := f.Rename[name]; ok {
		return to
	}
	return name
}

// cookiePairs are the pairs of the Cookie headers, as they are, without the spaces around each.
func cookiePairs(header http.Header) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range header["Cookie"] {
			for pair := range strings.SplitSeq(line, ";") {
				if pair = strings.TrimSpace(pair); pair != "" && !yield(pair) {
					return
				}
			}
		}
	}
}

// isCookieValue says whether a value is one by RFC 6265, 4.1.1.
func isCookieValue(value string) bool {
	if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1]
	}
	return !strings.ContainsFunc(value, func(c rune) bool {
		return c <= ' ' || c >= 0x7f || c == '"' || c == ',' || c == ';' || c == '\\'
	})
}

// request filters the Cookie headers of a request. Pairs are taken as they are: shops have cookies with values that no
// parser of RFC 6265 would let pass.
func (f *CookieFilter) request(header http.Header) {
	if f == nil || len(header["Cookie"]) == 0 {
		return
	}
	var kept []string
	for pair := range cookiePairs(header) {
		name, value, _ := strings.Cut(pair, "=")
		name = strings.TrimSpace(name)
		if !f.passes(name) {
			continue
		}
		if to := f.renamed(name); to != name {
			pair = to + "=" + value
		}
		kept = append(kept, pair)
	}
	if len(kept) == 0 {
		delete(header, "Cookie")
		return
	}
	header["Cookie"] = []string{strings.Join(kept, "; ")}
}

// response filters and changes the Set-Cookie headers of an answer.
func (f *CookieFilter) response(header http.Header) {
	lines := header["Set-Cookie"]
	if f == nil || len(lines) == 0 {
		return
	}
	kept := make([]string, 0, len(lines))
	for _, line := range lines {
		pair, attributes, _ := strings.Cut(line, ";")
		name, value, _ := strings.Cut(pair, "=")
		name = strings.TrimSpace(name)
		if !f.passes(name) {
			continue
		}
		kept = append(kept, f.rewritten(f.renamed(name)+"="+strings.TrimSpace(value), attributes))
	}
	if len(kept) == 0 {
		delete(header, "Set-Cookie")
		return
	}
	header["Set-Cookie"] = kept
}

// rewritten puts the forced attributes behind a pair, and those of the upstream that are not forced.
func (f *CookieFilter) rewritten(pair, attributes string) string {
	var b strings.Builder
	b.WriteString(pair)
	for attribute := range strings.SplitSeq(attributes, ";") {
		attribute = strings.TrimSpace(attribute)
		key, _, _ := strings.Cut(attribute, "=")
		switch key = strings.ToLower(strings.TrimSpace(key)); {
		case attribute == "",
			key == "secure" && f.Secure != nil, key == "httponly" && f.HTTPOnly != nil, key == "samesite" && f.SameSite != "",
			key == "domain" && f.Domain != nil, key == "path" && f.Path != "":
			continue
		}
		b.WriteString("; " + attribute)
	}
	if f.Domain != nil && *f.Domain != "" {
		b.WriteString("; Domain=" + string(*f.Domain))
	}
	if f.Path != "" {
		b.WriteString("; Path=" + f.Path)
	}
	if f.Secure != nil && *f.Secure {
		b.WriteString("; Secure")
	}
	if f.HTTPOnly != nil && *f.HTTPOnly {
		b.WriteString("; HttpOnly")
	}
	if f.SameSite != "" {
		b.WriteString("; SameSite=" + strings.ToUpper(f.SameSite[:1]) + f.SameSite[1:])
	}
	return b.String()
}
