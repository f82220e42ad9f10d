package router

import (
	"encoding/json"
	"net/http"

	"github.com/shopset/shopset/internal/admin"
	"github.com/shopset/shopset/internal/placement"
)

// explanation is the answer of /debug/route.
type explanation struct {
	Host    string `json:"host"`
	Port    string `json:"port"`
	Fleet   string `json:"fleet"`
	Epoch   uint64 `json:"epoch"`
	Version uint64 `json:"version"`
	// Static says that so many cells look dead that nothing is moved.
	Static bool `json:"static"`
	// Cells are those of the host, in its order.
	Cells []explainedCell `json:"cells"`
	// Endpoint is one that a connection would go to now.
	Cell     string `json:"cell,omitempty"`
	Endpoint string `json:"endpoint,omitempty"`
	Problem  string `json:"problem,omitempty"`
}

type explainedCell struct {
	Name string `json:"name"`
	// State is up, down, rising (came back, takes hosts one after the other) or held (not moved to a third cell).
	State     string              `json:"state"`
	Endpoints []explainedEndpoint `json:"endpoints"`
}

type explainedEndpoint struct {
	Address     string `json:"address"`
	Up          bool   `json:"up"`
	Connections int64  `json:"connections"`
}

// debug adds /debug/route?host=…&port=tls|http, which explains where a host goes.
func (r *Router) debug(server *admin.Server) {
	server.Handle("GET /debug/route", http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		host, err := placement.Normalise(request.FormValue("host"))
		if err != nil || host == "" {
			http.Error(w, "host: want the name of one, like /debug/route?host=shop.example", http.StatusBadRequest)
			return
		}
		k := kindTLS
		if request.FormValue("port") == kindHTTP.String() {
			k = kindHTTP
		}
		w.Header().Set("Content-Type", "application/json")
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(r.chooser.explain(host, k)) // Who asked has left.
	}))
}

func (c *chooser) explain(host string, k kind) explanation {
	x := explanation{Host: host, Port: k.String()}
	var a attempt
	if _, err := c.start(&a, k, host, nil); err != nil {
		x.Problem = err.Error()
		return x
	}
	x.Fleet, x.Epoch, x.Version, x.Static = a.view.table.Fleet, a.view.table.Epoch, a.view.table.Version, a.view.static[k].Load()
	held := false
	for i := range int(a.cells) {
		p := a.pool(i)
		state := "up"
		switch {
		case held:
			state = "held"
		case p.isDown():
			state = "down"
			held = i > 0 && c.held(a.first(), p, c.clock())
		case c.rising(&a, p):
			state = "rising"
		}
		cell := explainedCell{Name: p.cell.name, State: state}
		for _, e := range *p.endpoints.Load() {
			cell.Endpoints = append(cell.Endpoints, explainedEndpoint{e.address.String(), !e.down.Load(), e.open.Load()})
		}
		x.Cells = append(x.Cells, cell)
	}
	if e := c.choose(&a, 0); e != nil {
		x.Cell, x.Endpoint = e.pool.cell.name, e.address.String()
	} else {
		x.Problem = errNoEndpoint.Error()
	}
	return x
}
