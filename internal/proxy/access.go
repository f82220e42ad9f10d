package proxy

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"
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
	// authentication (RFC 7617).
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

func newAccess(config []Access) (rules []*accessRule, err error) {
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
			if rule.users, err = readUsers(a.Users); err != nil {
				problems = append(problems, fmt.Errorf("access rule %s: %w", a.Name, err))
			}
		}
		rules = append(rules, rule)
	}
	return rules, errors.Join(problems...)
}

// access refuses who may not come: by the domain's record, then by the rules.
func (p *pipeline) access(e *exchange) (done bool) {
	if d := e.domain; d != nil && len(d.Allow) > 0 && !d.Options.Maintenance && !allowed(d.Allow, e.client) {
		e.refused = "domain"
		errorPage(e, http.StatusForbidden)
		return true
	}
	for _, rule := range p.rules {
		if rule.holds(e) && rule.refuses(e) {
			return true
		}
	}
	return false
}

func allowed(networks []netip.Prefix, client netip.Addr) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(client) })
}

func (r *accessRule) refuses(e *exchange) bool {
	request := e.request
	matchesAny := func(patterns []*regexp.Regexp, value string) bool {
		return slices.ContainsFunc(patterns, func(p *regexp.Regexp) bool { return p.MatchString(value) })
	}
	status := 0
	switch {
	case len(r.allow) > 0 && !r.allow.contains(e.client), r.deny.contains(e.client),
		matchesAny(r.agents, request.UserAgent()), matchesAny(r.referrers, request.Referer()):
		status = http.StatusForbidden
	case len(r.config.OnlyMethods) > 0 && !slices.Contains(r.config.OnlyMethods, request.Method):
		e.Header().Set("Allow", strings.Join(r.config.OnlyMethods, ", "))
		status = http.StatusMethodNotAllowed
	case r.users != nil:
		name, password, ok := request.BasicAuth()
		if ok && r.users.knows(name, password) {
			return false
		}
		realm := r.config.Realm
		if realm == "" {
			realm = r.config.Name
		}
		e.Header().Set("WWW-Authenticate", "Basic realm="+strconv.Quote(realm)+", charset=\"UTF-8\"")
		status = http.StatusUnauthorized
	default:
		return false
	}
	e.refused = r.config.Name
	errorPage(e, status)
	return true
}

// users are those of a file. A right password is remembered by its hash: bcrypt takes a tenth of a second on purpose, and a
// browser sends it with every request.
type users struct {
	hashes map[string][]byte

	mu    sync.Mutex
	known map[[sha256.Size]byte]bool
	// checking bounds how many hashes are computed at once: who guesses should not get all processors.
	checking chan struct{}
}

const maxUsersFile = 1 << 20

func readUsers(path string) (*users, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(content) > maxUsersFile {
		return nil, fmt.Errorf("%s has more than 1 MiB", path)
	}
	u := &users{hashes: map[string][]byte{}, known: map[[sha256.Size]byte]bool{}, checking: make(chan struct{}, 2)}
	lines := bufio.NewScanner(bytes.NewReader(content))
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, hash, _ := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); err != nil {
			return nil, fmt.Errorf("%s line %d: want NAME:HASH with bcrypt, as `htpasswd -B` writes it", path, number)
		}
		u.hashes[name] = []byte(hash)
	}
	if len(u.hashes) == 0 {
		return nil, fmt.Errorf("%s names nobody", path)
	}
	return u, lines.Err()
}

func (u *users) knows(name, password string) bool {
	key := sha256.Sum256([]byte(name + "\x00" + password))
	u.mu.Lock()
	known := u.known[key]
	u.mu.Unlock()
	if known {
		return true
	}
	hash, exists := u.hashes[name]
	if !exists {
		for _, hash = range u.hashes { // To say no takes as long as for a wrong password.
			break
		}
	}
	u.checking <- struct{}{}
	right := bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil
	<-u.checking
	if !right || subtle.ConstantTimeEq(int32(len(hash)), 0) == 1 || !exists {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.known) < 4*len(u.hashes) {
		u.known[key] = true
	}
	return true
}
