package proxy

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// explainPage answers /debug/routes?url=https://host/path&method=GET&client=192.0.2.1&header=Name:value with what would
// become of such a request, rule by rule. It counts nothing and asks no role. Without a client it tells which rules apply, and
// with one what they decide.
func (p *Proxy) explainPage() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		query := r.URL.Query()
		target, err := url.Parse(query.Get("url"))
		if err != nil || target.Host == "" {
			http.Error(w, "want ?url=https://HOST/PATH, and method, client and header=NAME:VALUE if they matter", http.StatusBadRequest)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
		defer cancel()
		asked := (&http.Request{Method: http.MethodGet, URL: target, Host: target.Host, Header: http.Header{}, ProtoMajor: 1, RemoteAddr: "192.0.2.1:1"}).WithContext(ctx)
		if method := query.Get("method"); method != "" {
			asked.Method = method
		}
		client := query.Get("client")
		if client != "" {
			address, err := netip.ParseAddr(client)
			if err != nil {
				http.Error(w, "client: want an address", http.StatusBadRequest)
				return
			}
			asked.RemoteAddr = netip.AddrPortFrom(address, 1).String()
		}
		for _, line := range query["header"] {
			name, value, _ := strings.Cut(line, ":")
			asked.Header.Add(name, strings.TrimSpace(value))
		}
		fmt.Fprint(w, strings.Join(p.current.Load().explain(asked, client != ""), "\n"), "\n")
	})
}

// explain tells which rules apply to a request, and why, in the order of the phases. What depends on the client is decided
// only if it was given.
func (p *pipeline) explain(r *http.Request, clientGiven bool) (lines []string) {
	say := func(format string, arguments ...any) { lines = append(lines, fmt.Sprintf(format, arguments...)) }
	e := &exchange{request: r, host: hostOf(r.Host), path: cleanPath(r.URL.Path), client: p.clientOf(r)}
	if clientGiven {
		say("%s %s from %s", r.Method, r.URL, e.client)
	} else {
		say("%s %s", r.Method, r.URL)
	}
	if p.domains != nil {
		domain, err := p.domains.Domain(r.Context(), e.host, netip.Addr{})
		if err != nil {
			say("domain: %v", err)
		} else {
			e.domain = domain
			say("domain: record %s of shop %q, labels %v, maintenance %v, upstream %q, plan %q, allowed %v", domain.Name, domain.Shop, domain.Labels,
				domain.Options.Maintenance, domain.Options.Upstream, domain.Options.Plan, domain.Allow)
		}
	}
	if clientGiven && e.domain != nil {
		say("domain: its allow-list %s", decision(e.barred(), http.StatusForbidden))
	}
	for i, rule := range p.rules {
		if rule.holds(e) {
			say("access[%d] %s: %s", i, rule.config.Name, rule.explain(e, clientGiven))
		}
	}
	if clientGiven && e.domain != nil && e.domain.Options.Maintenance {
		say("maintenance: %s", decision(e.closed(), p.config.Maintenance.Status))
	}
	for i, l := range p.limiters {
		if l.holds(e) {
			say("rateLimits[%d] %s: counts", i, l.config.Name)
		}
	}
	if e.domain != nil && e.domain.Options.Upstream != "" {
		say("role: %s, because the domain's record names its upstream", externalRoleName)
		return lines
	}
	lines = append(lines, p.routes.explain(r, e.host, e.path, e.domain)...)
	route := p.routes.find(r, e.host, e.path, e.domain)
	if route == nil {
		say("no route matches: 404")
		return lines
	}
	say("role: %s", route.role.name)
	for _, u := range route.role.upstreams {
		now := time.Now().UnixNano()
		for _, endpoint := range *u.endpoints.Load() {
			say("  %s weight %d: %s, well %v, %d under way", u.base, u.weight, endpoint.address, endpoint.well(now), endpoint.active.Load())
		}
	}
	return lines
}

// decision is what became of a request that is refused with a status, if it is.
func decision(refused bool, status int) string {
	if refused {
		return fmt.Sprintf("refuses with %d", status)
	}
	return "lets it pass"
}

// explain tells what a rule that holds does with a request.
func (r *accessRule) explain(e *exchange, clientGiven bool) string {
	if !clientGiven {
		return "applies"
	}
	status := r.verdict(e)
	if status == 0 && r.users != nil {
		return "wants a name and a password"
	}
	return decision(status != 0, status)
}
