package proxy

import (
	"fmt"
)

// FallbackHeader tells which answer was given instead of the role's own, and why.
const FallbackHeader = "Shopset-Fallback"

// fallbackStep answers a request that its role failed, if it can. status is what the client would get else.
type fallbackStep func(p *pipeline, e *exchange, status int) (done bool)

// newFallbacks makes the steps of a role. roles are those of the configuration.
func newFallbacks(own *role, roles map[string]*role) (steps []fallbackStep, err error) {
	for _, f := range own.config.Fallback {
		switch {
		case f.Role != "":
			steps = append(steps, toOtherRole(roles[f.Role]))
		case f.Stored > 0:
			steps = append(steps, func(p *pipeline, e *exchange, _ int) bool {
				stick := e.stick
				e.stick = nil // It is of an upstream that just failed.
				if own.store.serveStale(p, e, f.Stored) {
					return true
				}
				e.stick = stick
				return false
			})
		default:
			pages, err := readPages(f.Page)
			if err != nil {
				return nil, fmt.Errorf("role %s: fallback: %w", own.name, err)
			}
			steps = append(steps, func(p *pipeline, e *exchange, status int) bool {
				p.fellBack(e, "page")
				pages.serve(e, status)
				return true
			})
		}
	}
	return steps, nil
}

// toOtherRole sends the request to another role, if it has not been sent in part.
func toOtherRole(other *role) fallbackStep {
	return func(p *pipeline, e *exchange, _ int) bool {
		if e.body != nil && e.body.started() || e.failure != "connect" && e.failure != "full" && e.failure != "open" && !safe(e.request.Method) {
			return false // The first one may have done what was asked for.
		}
		if len(other.upstreams) == 0 {
			first := e.role
			e.stick = nil
			p.fellBack(e, "role "+other.name)
			e.role = other
			p.forward(e)
			e.role = first
			return true
		}
		own := e.stick
		e.stick = nil // It keeps the client at the role that failed.
		response, err := p.try(e, other)
		if err != nil {
			e.stick = own
			return false
		}
		if other.failsOn(response.StatusCode) || e.role.failsOn(response.StatusCode) {
			_ = response.Body.Close()
			e.stick = own
			return false
		}
		p.fellBack(e, "role "+other.name)
		first := e.role
		e.role = other
		defer func() { e.role = first }()
		p.respond(e, response)
		return true
	}
}

// fellBack notes what is answered instead: in a header, the log and a metric.
func (p *pipeline) fellBack(e *exchange, by string) {
	e.fallback = by
	kind := by
	if len(by) > 4 && by[:4] == "role" {
		kind = "role"
	}
	if kind != "page" {
		e.Header().Del("Retry-After") // It was for the failure.
	}
	e.Header().Set(FallbackHeader, by+"; for="+e.role.name+"; reason="+e.failure)
	p.metrics.fallbacks.WithLabelValues(e.role.name, kind, e.failure).Inc()
}
