package proxy

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Access refuses requests. The rule holds for what matches; then each of its conditions must be met.
type Access struct {
	Match `yaml:",inline"`
	// Name is for the log. Required.
	Name string `yaml:"name"`
	// Allow are the networks that may come, all when empty; Deny those that may not, whatever Allow says.
	Allow []Network `yaml:"allow"`
	Deny  []Network `yaml:"deny"`
	// OnlyMethods are the methods that may be used; others are answered with 405.
	OnlyMethods []string `yaml:"onlyMethods"`
	// DenyAgents and DenyReferrers are regular expressions (RE2) of User-Agent and Referer headers that may not come.
	DenyAgents    []string `yaml:"denyAgents"`
	DenyReferrers []string `yaml:"denyReferrers"`
	// Users is a file of NAME:HASH lines (bcrypt, as `htpasswd -B` writes them) of those who may come with basic
	// authentication (RFC 7617). Passwords are compared before the rate limits are asked; wrong ones have a limit of their own,
	// for each network of clients.
	Users string `yaml:"users"`
	// Realm is what people are told that they log in to. Default the rule's name.
	Realm string `yaml:"realm"`
}

func (a *Access) problems(p *problems, at string) {
	a.Match.problems(p, at)
	p.required(at+".name", a.Name, "a name for the log")
	if len(a.Allow)+len(a.Deny)+len(a.OnlyMethods)+len(a.DenyAgents)+len(a.DenyReferrers) == 0 && a.Users == "" {
		p.add(at, "refuses nobody: want allow, deny, onlyMethods, denyAgents, denyReferrers or users")
	}
	for field, patterns := range map[string][]string{"denyAgents": a.DenyAgents, "denyReferrers": a.DenyReferrers} {
		for i, pattern := range patterns {
			if _, err := regexp.Compile(pattern); err != nil {
				p.add(fmt.Sprintf("%s.%s[%d]", at, field, i), err.Error())
			}
		}
	}
	if strings.ContainsAny(a.Realm, "\"\\\r\n") {
		p.add(at+".realm", "wants a text without quotes and line breaks")
	}
}

// accessRule is a rule at work.
type accessRule struct {
	*matcher
	config            *Access
	allow, deny       trust
	agents, referrers []*regexp.Regexp
	users             *users
}

func newAccess(config []Access, logins *logins) (rules []*accessRule, err error) {
	var problems []error
	for i := range config {
		a := &config[i]
		rule := &accessRule{matcher: newMatcher(&a.Match), config: a, allow: a.Allow, deny: a.Deny}
		for _, pattern := range a.DenyAgents {
			rule.agents = append(rule.agents, regexp.MustCompile(pattern))
		}
		for _, pattern := range a.DenyReferrers {
			rule.referrers = append(rule.referrers, regexp.MustCompile(pattern))
		}
		if a.Users != "" {
			if rule.users, err = readUsers(a.Users, logins); err != nil {
				problems = append(problems, fmt.Errorf("access rule %s: %w", a.Name, err))
			}
		}
		rules = append(rules, rule)
	}
	return rules, errors.Join(problems...)
}

// access refuses who may not come: by the domain's record, then by the rules.
func (p *pipeline) access(e *exchange) (done bool) {
	if e.barred() {
		e.refused = "domain"
		errorPage(e, http.StatusForbidden)
		return true
	}
	for _, rule := range p.rules {
		if rule.holds(e) && rule.refuses(e) {
			if e.status == http.StatusTooManyRequests {
				p.metrics.limited.WithLabelValues(failedLoginsLimit).Inc()
			}
			return true
		}
	}
	return false
}

// barred says whether the domain's record keeps the client out; while the shop is being worked on, see closed.
func (e *exchange) barred() bool {
	d := e.domain
	return d != nil && len(d.Allow) > 0 && !d.Options.Maintenance && !allowed(d.Allow, e.client)
}

// closed says whether the shop is being worked on, for this client.
func (e *exchange) closed() bool {
	d := e.domain
	return d != nil && d.Options.Maintenance && !allowed(d.Allow, e.client)
}

func allowed(networks []netip.Prefix, client netip.Addr) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(client) })
}

// verdict is the status with which a request is refused whoever sends it, 0 for none.
func (r *accessRule) verdict(e *exchange) int {
	matchesAny := func(patterns []*regexp.Regexp, value string) bool {
		return slices.ContainsFunc(patterns, func(p *regexp.Regexp) bool { return p.MatchString(value) })
	}
	switch request := e.request; {
	case len(r.allow) > 0 && !r.allow.contains(e.client), r.deny.contains(e.client),
		matchesAny(r.agents, request.UserAgent()), matchesAny(r.referrers, request.Referer()):
		return http.StatusForbidden
	case len(r.config.OnlyMethods) > 0 && !slices.Contains(r.config.OnlyMethods, request.Method):
		return http.StatusMethodNotAllowed
	}
	return 0
}

func (r *accessRule) refuses(e *exchange) bool {
	status := r.verdict(e)
	switch {
	case status == http.StatusMethodNotAllowed:
		e.Header().Set("Allow", strings.Join(r.config.OnlyMethods, ", "))
	case status != 0:
	case r.users != nil:
		var in bool
		if in, status = r.users.lets(e); in {
			return false
		}
		if status != http.StatusUnauthorized {
			break
		}
		realm := r.config.Realm
		if realm == "" {
			realm = r.config.Name
		}
		e.Header().Set("WWW-Authenticate", "Basic realm="+strconv.Quote(realm)+", charset=\"UTF-8\"")
	default:
		return false
	}
	e.refused = r.config.Name
	if status == statusClientGone {
		e.status = status // Nobody is there to read an answer.
		return true
	}
	errorPage(e, status)
	return true
}
