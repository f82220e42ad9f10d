package proxy

import (
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// HeaderChange is one change of headers; exactly one of set, add, remove and rename names the header.
type HeaderChange struct {
	// Set replaces all values by To, Add adds one more.
	Set string `yaml:"set"`
	Add string `yaml:"add"`
	// Remove takes all values away. A name that ends in * stands for all that begin so.
	Remove string `yaml:"remove"`
	// Rename gives the values to the header As.
	Rename string `yaml:"rename"`
	As     string `yaml:"as"`
	// To is the value of set and add, with variables; a header whose value is empty is not set.
	To Text `yaml:"to"`
}

// reserved headers belong to connections and framing, or tell who the client is: a configuration that changed them would
// break what the proxy promises.
var reserved = []string{"Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"}

func (h *HeaderChange) problems(p *problems, at string) {
	names := 0
	for field, name := range map[string]string{"set": h.Set, "add": h.Add, "remove": strings.TrimSuffix(h.Remove, "*"), "rename": h.Rename, "as": h.As} {
		if name == "" {
			continue
		}
		if field != "as" {
			names++
		}
		if !isToken(name) {
			p.add(at+"."+field, "is no name of a header")
		}
		if slices.Contains(reserved, http.CanonicalHeaderKey(name)) {
			p.add(at+"."+field, name+" is the proxy's own: it cannot be changed")
		}
	}
	switch {
	case names != 1:
		p.add(at, "wants one of set, add, remove and rename")
	case (h.Rename == "") != (h.As == ""):
		p.add(at, "rename wants as, the new name")
	case (h.Set != "" || h.Add != "") == (h.To.source == ""):
		p.add(at+".to", "is the value of set and add")
	}
}

// isToken says whether a text is a token (RFC 9110, 5.6.2), as names of headers and cookies are.
func isToken(name string) bool { return name != "" && httpguts.ValidHeaderFieldName(name) }

// headerFilter does the changes of one direction.
type headerFilter []HeaderChange

func newHeaderFilter(changes []HeaderChange) headerFilter {
	filter := slices.Clone(changes)
	for i := range filter {
		c := &filter[i]
		c.Set, c.Add, c.Rename, c.As = canonical(c.Set), canonical(c.Add), canonical(c.Rename), canonical(c.As)
		c.Remove = canonical(c.Remove)
	}
	return filter
}

func canonical(name string) string { return http.CanonicalHeaderKey(name) }

func (f headerFilter) apply(e *exchange, header http.Header) {
	for i := range f {
		c := &f[i]
		switch {
		case c.Set != "":
			if value := headerValue(c.To.of(e)); value != "" {
				header[c.Set] = []string{value}
			} else {
				delete(header, c.Set)
			}
		case c.Add != "":
			if value := headerValue(c.To.of(e)); value != "" {
				header[c.Add] = append(header[c.Add], value)
			}
		case strings.HasSuffix(c.Remove, "*"):
			prefix := strings.TrimSuffix(c.Remove, "*")
			for name := range header {
				if strings.HasPrefix(canonical(name), prefix) && !slices.Contains(reserved, name) {
					delete(header, name)
				}
			}
		case c.Remove != "":
			delete(header, c.Remove)
		default:
			if values, ok := header[c.Rename]; ok {
				delete(header, c.Rename)
				header[c.As] = values
			}
		}
	}
}

// headerValue takes out what cannot be in a header: a variable may hold a line break of a decoded path.
func headerValue(text string) string {
	if httpguts.ValidHeaderFieldValue(text) {
		return text
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' && c != '\t' || c == 0x7f {
			return -1
		}
		return c
	}, text)
}
