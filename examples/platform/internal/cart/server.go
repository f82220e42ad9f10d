package cart

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopset/shopset/examples/platform/internal/web"
	"github.com/shopset/shopset/examples/platform/shopapi"
	"github.com/shopset/shopset/internal/admin"
)

// maxForm bounds the body of a form.
const maxForm = 4 << 10

// Server answers below /cart. Make one with New, end it with Close.
type Server struct {
	http.Handler
	client    *shopapi.Client
	directory *shopapi.Directory
	store     *store
	cookies   *cookies
	sessions  *prometheus.CounterVec
	checkouts *prometheus.CounterVec
}

// New makes a Server and begins to connect to Redis in the background. The admin server gets its
// readiness check and metrics. Readiness depends on Redis, and on the api for the start alone: without
// the api a cart can still be changed, and one failing component must not make others disappear.
func New(c Config, a *admin.Server) (*Server, error) {
	store, err := openStore(c)
	if err != nil {
		return nil, err
	}
	client := shopapi.NewClient(c.APIURL, c.APITimeout)
	s := &Server{
		client: client, directory: shopapi.NewDirectory(client), store: store,
		cookies: &cookies{keys: c.CookieKeys, ttl: c.TTL},
		sessions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shopset_cart_cookies_total", Help: "Requests by the state of their cookie: none, valid, old_key, invalid.",
		}, []string{"state"}),
		checkouts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shopset_cart_checkouts_total",
			Help: "Checkouts by result: placed, repeated, refused, unavailable, nothing (an empty or changed cart).",
		}, []string{"result"}),
	}
	a.Registry().MustRegister(s.sessions, s.checkouts)
	a.AddCheck("redis", store.check)
	a.AddCheck("api", admin.Once(shopapi.StartPatience, client.Ping))

	mux := http.NewServeMux()
	// A form of another site is refused before anything is looked at.
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		slog.Warn("form of another site", "host", r.Host, "origin", r.Header.Get("Origin"), "site", r.Header.Get("Sec-Fetch-Site"))
		message(w, http.StatusForbidden, shopapi.Shop{}, "Not from here", "This form was sent by another site.")
	}))
	handle := func(pattern string, h func(http.ResponseWriter, *http.Request, visit)) {
		mux.Handle(pattern, protection.Handler(s.visit(h)))
	}
	handle("GET /cart", s.showCart)
	handle("POST /cart/add", s.add)
	handle("POST /cart/update", s.update)
	handle("POST /cart/checkout", s.checkout)
	handle("GET /cart/orders/{order}", s.showOrder)
	handle("/", func(w http.ResponseWriter, _ *http.Request, v visit) {
		message(w, http.StatusNotFound, v.shop, "Not found", "This page does not exist.")
	})
	s.Handler = web.Wrap(mux, web.Options{Program: "cart", Registry: a.Registry(), Timeout: c.RequestTimeout, MaxBody: maxForm})
	return s, nil
}

// Close ends the connections to Redis.
func (s *Server) Close() { s.store.close() }

// visit is who a request is from: the shop, and the session, empty when there is none.
type visit struct {
	shop    shopapi.Shop
	session string
}

func (v visit) keys() keys { return keysOf(v.shop.ID, v.session) }

// visit finds out the shop and the session, or answers why there is no shop.
func (s *Server) visit(h func(http.ResponseWriter, *http.Request, visit)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		shop, err := s.directory.Shop(r.Context(), r.Host)
		switch {
		case shopapi.NotFound(err):
			http.Error(w, "There is no shop at this address.", http.StatusNotFound)
			return
		case err != nil:
			slog.Warn("shop of the request", "error", err, "host", r.Host)
			w.Header().Set("Retry-After", "2")
			http.Error(w, "The shop cannot be reached right now. Please try again in a moment.", http.StatusServiceUnavailable)
			return
		}
		session, state := s.cookies.session(r, shop.ID)
		s.sessions.WithLabelValues(state).Inc()
		if state == cookieOldKey {
			s.cookies.set(w, shop.ID, session)
		}
		h(w, r, visit{shop, session})
	})
}

// refused is a mistake in a form.
type refused struct {
	code int
	text string
}

func (r *refused) Error() string { return r.text }

// problem shows the page for an error.
func problem(w http.ResponseWriter, r *http.Request, v visit, err error) {
	var mistake *refused
	if errors.As(err, &mistake) {
		message(w, mistake.code, v.shop, "That did not work", mistake.text)
		return
	}
	slog.Warn("cart", "error", err, "shop", v.shop.ID, "path", r.URL.Path)
	message(w, http.StatusServiceUnavailable, v.shop, "Back in a moment",
		"The cart cannot be reached right now. Nothing is lost. Please try again in a moment.")
}

// form reads a form strictly.
func form(r *http.Request) error {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/x-www-form-urlencoded" {
		return &refused{http.StatusUnsupportedMediaType, "This is not a form of this shop."}
	}
	err := r.ParseForm()
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return &refused{http.StatusRequestEntityTooLarge, "The form is too large."}
	}
	if err != nil {
		return &refused{http.StatusBadRequest, "The form is damaged."}
	}
	return nil
}

// line reads the fields product and quantity, which is at least low.
func line(r *http.Request, low int) (int64, int, error) {
	if err := form(r); err != nil {
		return 0, 0, err
	}
	product, err := shopapi.ParseProduct(r.PostForm.Get("product"))
	if err != nil {
		return 0, 0, &refused{http.StatusBadRequest, "The form names no product."}
	}
	quantity, err := strconv.Atoi(r.PostForm.Get("quantity"))
	if err != nil || quantity < low || quantity > shopapi.MaxQuantity {
		return 0, 0, &refused{http.StatusBadRequest, fmt.Sprintf("The quantity has to be a number from %d to %d.", low, shopapi.MaxQuantity)}
	}
	return product, quantity, nil
}

func (s *Server) add(w http.ResponseWriter, r *http.Request, v visit) {
	product, quantity, err := line(r, 1)
	if err != nil {
		problem(w, r, v, err)
		return
	}
	// Only what the shop has may be kept, but the api's absence shall not stop anybody.
	if _, err := s.client.Product(r.Context(), v.shop.ID, product); shopapi.NotFound(err) {
		problem(w, r, v, &refused{http.StatusNotFound, "This shop does not have that product."})
		return
	}
	if v.session == "" {
		v.session = newSession()
	}
	result, err := s.store.add(r.Context(), v.keys(), product, quantity)
	switch {
	case err != nil:
		problem(w, r, v, err)
		return
	case result == "lines":
		problem(w, r, v, &refused{http.StatusConflict, fmt.Sprintf("A cart holds at most %d different products.", shopapi.MaxLines)})
		return
	case result == "quantity":
		problem(w, r, v, &refused{http.StatusConflict, fmt.Sprintf("A cart holds at most %d pieces of a product.", shopapi.MaxQuantity)})
		return
	}
	s.cookies.set(w, v.shop.ID, v.session)
	http.Redirect(w, r, "/cart", http.StatusSeeOther)
}

func (s *Server) update(w http.ResponseWriter, r *http.Request, v visit) {
	product, quantity, err := line(r, 0)
	if err == nil && v.session != "" {
		err = s.store.set(r.Context(), v.keys(), product, quantity)
	}
	if err != nil {
		problem(w, r, v, err)
		return
	}
	http.Redirect(w, r, "/cart", http.StatusSeeOther)
}

func (s *Server) showCart(w http.ResponseWriter, r *http.Request, v visit) {
	p := page{Title: "Cart", Shop: v.shop}
	if r.URL.Query().Get("notice") == "changed" {
		p.Notice = "The cart has changed since you looked at it. Please check it."
	}
	if v.session != "" {
		if err := s.fill(r.Context(), v, &p); err != nil {
			problem(w, r, v, err)
			return
		}
	}
	show(w, http.StatusOK, "cart.html", p)
}

// fill reads the cart, and names and prices from the api.
func (s *Server) fill(ctx context.Context, v visit, p *page) error {
	c, err := s.store.load(ctx, v.keys())
	if err != nil {
		return err
	}
	p.Token, p.LinesHash, p.Pending = c.generation, linesHash(c.lines), c.pending
	if c.pending && p.Token == "" {
		p.Token = newSession() // Any token takes up the pending purchase.
	}
	if len(c.lines) == 0 {
		return nil
	}
	ids := make([]int64, len(c.lines))
	for i, line := range c.lines {
		ids[i] = line.Product
	}
	products, err := s.client.ProductsByID(ctx, v.shop.ID, ids)
	if err != nil {
		return err
	}
	found := map[int64]shopapi.Product{}
	for _, product := range products {
		found[product.ID] = product
	}
	for _, line := range c.lines {
		product, ok := found[line.Product]
		product.ID = line.Product
		total := product.PriceCents * int64(line.Quantity)
		p.Lines = append(p.Lines, pageLine{Product: product, Quantity: line.Quantity, TotalCents: total, Gone: !ok})
		p.TotalCents += total
	}
	return nil
}
