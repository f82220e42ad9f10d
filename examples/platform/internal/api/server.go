package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopset/shopset/examples/platform/internal/web"
	"github.com/shopset/shopset/examples/platform/shopapi"
	"github.com/shopset/shopset/internal/admin"
)

// Server answers the api's requests. Make one with New, end it with Close.
type Server struct {
	http.Handler
	store  *store
	orders *prometheus.CounterVec
	stop   context.CancelFunc
	done   chan struct{}
}

// New makes a Server and begins to prepare the database in the background; a database that is not
// there yet is no error. The admin server gets its readiness check and metrics.
func New(ctx context.Context, c Config, a *admin.Server) (*Server, error) {
	ctx, stop := context.WithCancel(ctx)
	store, err := openStore(ctx, c)
	if err != nil {
		stop()
		return nil, err
	}
	s := &Server{store: store, stop: stop, done: make(chan struct{}), orders: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "shopset_api_orders_total", Help: "Purchases by result: placed, replayed, refused, failed, gone (the client left).",
	}, []string{"result"})}
	a.Registry().MustRegister(s.orders)
	a.AddCheck("database", store.check)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/hosts/{host}", answer(s.shopByHost))
	mux.HandleFunc("GET /v1/shops", answer(s.listShops))
	mux.HandleFunc("GET /v1/shops/{shop}/products", answer(s.listProducts))
	mux.HandleFunc("GET /v1/shops/{shop}/products/{product}", answer(s.getProduct))
	mux.HandleFunc("GET /v1/shops/{shop}/orders/{order}", answer(s.getOrder))
	mux.HandleFunc("POST /v1/orders", s.postOrder)
	mux.HandleFunc("/", answer(func(*http.Request) (any, error) {
		return nil, fail(http.StatusNotFound, shopapi.CodeNotFound, "there is nothing at this path with this method")
	}))
	s.Handler = web.Wrap(mux, web.Options{
		Program: "api", Registry: a.Registry(), Timeout: c.RequestTimeout, MaxBody: shopapi.MaxBody,
	})
	go func() {
		defer close(s.done)
		store.keepPrepared(ctx)
	}()
	return s, nil
}

// Close ends the work in the background and the connections.
func (s *Server) Close() {
	s.stop()
	<-s.done
	s.store.pool.Close()
}

// answer makes a handler of a function that returns a value or an error.
func answer(handle func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		value, err := handle(r)
		if err != nil {
			refuse(w, r, err)
			return
		}
		web.JSON(w, http.StatusOK, value)
	}
}

// statusClientGone is counted when the client left before its answer, as nginx does.
const statusClientGone = 499

// refuse turns an error into an answer and returns its status.
func refuse(w http.ResponseWriter, r *http.Request, err error) int {
	f := &failure{}
	switch {
	case errors.As(err, &f):
	case errors.Is(r.Context().Err(), context.Canceled): // nobody is there to read an answer
		f = fail(statusClientGone, shopapi.CodeUnavailable, "the client left")
	case errors.Is(err, errNotFound):
		f = fail(http.StatusNotFound, shopapi.CodeNotFound, "not found")
	case unavailable(err):
		slog.Warn("database", "error", err, "method", r.Method, "path", r.URL.Path)
		f = fail(http.StatusServiceUnavailable, shopapi.CodeUnavailable, "the database does not answer; try again")
	default:
		slog.Error("request", "error", err, "method", r.Method, "path", r.URL.Path)
		f = fail(http.StatusInternalServerError, shopapi.CodeInternal, "internal error")
	}
	web.JSON(w, f.status, map[string]shopapi.Problem{"error": f.problem})
	return f.status
}

func (s *Server) shopByHost(r *http.Request) (any, error) {
	return s.store.shopByHost(r.Context(), shopapi.NormalHost(r.PathValue("host")))
}

func (s *Server) listShops(r *http.Request) (any, error) {
	after, limit := r.URL.Query().Get("after"), 0
	if after != "" && !shopapi.ValidShop(after) {
		return nil, fail(http.StatusBadRequest, shopapi.CodeInvalid, "after: %.60q is no shop's id", after)
	}
	limit, err := pageLimit(r)
	if err != nil {
		return nil, err
	}
	shops, err := s.store.shops(r.Context(), after, limit+1)
	if err != nil {
		return nil, err
	}
	page := shopapi.ShopPage{Shops: shops[:min(limit, len(shops))]}
	if len(shops) > limit {
		page.Next = shops[limit-1].ID
	}
	return page, nil
}

func (s *Server) listProducts(r *http.Request) (any, error) {
	shop, err := s.existingShop(r)
	if err != nil {
		return nil, err
	}
	if text := r.URL.Query().Get("ids"); text != "" {
		return s.listProductsByID(r, shop, text)
	}
	limit, err := pageLimit(r)
	if err != nil {
		return nil, err
	}
	var after int64
	if text := r.URL.Query().Get("after"); text != "" {
		if after, err = shopapi.ParseProduct(text); err != nil {
			return nil, fail(http.StatusBadRequest, shopapi.CodeInvalid, "after: %v", err)
		}
	}
	products, err := s.store.products(r.Context(), shop, after, limit+1)
	if err != nil {
		return nil, err
	}
	page := shopapi.ProductPage{Products: products[:min(limit, len(products))]}
	if len(products) > limit {
		page.Next = strconv.FormatInt(products[limit-1].ID, 10)
	}
	return page, nil
}

func (s *Server) listProductsByID(r *http.Request, shop, text string) (any, error) {
	texts := strings.Split(text, ",")
	if len(texts) > shopapi.MaxLines {
		return nil, fail(http.StatusBadRequest, shopapi.CodeInvalid, "ids: there are %d, want at most %d", len(texts), shopapi.MaxLines)
	}
	ids := make([]int64, len(texts))
	for i, text := range texts {
		id, err := shopapi.ParseProduct(text)
		if err != nil {
			return nil, fail(http.StatusBadRequest, shopapi.CodeInvalid, "ids: %v", err)
		}
		ids[i] = id
	}
	products, err := s.store.productsByID(r.Context(), shop, ids)
	return shopapi.ProductPage{Products: products}, err
}

func (s *Server) getProduct(r *http.Request) (any, error) {
	id, err := shopapi.ParseProduct(r.PathValue("product"))
	if err != nil || !shopapi.ValidShop(r.PathValue("shop")) {
		return nil, errNotFound
	}
	return s.store.product(r.Context(), r.PathValue("shop"), id)
}

func (s *Server) getOrder(r *http.Request) (any, error) {
	if !shopapi.ValidShop(r.PathValue("shop")) || !shopapi.ValidOrder(r.PathValue("order")) {
		return nil, errNotFound
	}
	return s.store.order(r.Context(), r.PathValue("shop"), r.PathValue("order"))
}

func (s *Server) existingShop(r *http.Request) (string, error) {
	id := r.PathValue("shop")
	if !shopapi.ValidShop(id) {
		return "", errNotFound
	}
	_, err := s.store.shop(r.Context(), "id", id)
	return id, err
}

func pageLimit(r *http.Request) (int, error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return 20, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > shopapi.MaxPage {
		return 0, fail(http.StatusBadRequest, shopapi.CodeInvalid, "limit: %.20q, want 1 to %d", text, shopapi.MaxPage)
	}
	return limit, nil
}

func (s *Server) postOrder(w http.ResponseWriter, r *http.Request) {
	key, request, err := readOrder(r)
	if err != nil {
		s.orders.WithLabelValues("refused").Inc()
		refuse(w, r, err)
		return
	}
	began := time.Now()
	order, replayed, err := s.store.placeOrder(r.Context(), key, request)
	if err != nil {
		result := "refused"
		switch status := refuse(w, r, err); {
		case status >= 500:
			result = "failed"
		case status == statusClientGone:
			result = "gone"
		}
		s.orders.WithLabelValues(result).Inc()
		return
	}
	result := "placed"
	if replayed {
		result = "replayed"
		w.Header().Set(shopapi.ReplayHeader, "true")
	}
	s.orders.WithLabelValues(result).Inc()
	slog.Info("order", "id", order.ID, "shop", order.Shop, "totalCents", order.TotalCents, "replayed", replayed,
		"milliseconds", time.Since(began).Milliseconds())
	w.Header().Set("Location", "/v1/shops/"+order.Shop+"/orders/"+order.ID)
	web.JSON(w, http.StatusCreated, order)
}

// readOrder reads a purchase strictly: a field that nobody knows may be a misunderstanding about
// money.
func readOrder(r *http.Request) (string, shopapi.OrderRequest, error) {
	var request shopapi.OrderRequest
	key := r.Header.Get(shopapi.KeyHeader)
	if !shopapi.ValidKey(key) {
		return "", request, fail(http.StatusBadRequest, shopapi.CodeInvalid,
			"the header %s is required: 1 to %d visible ASCII characters", shopapi.KeyHeader, shopapi.MaxKey)
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		return "", request, fail(http.StatusUnsupportedMediaType, shopapi.CodeInvalid, "Content-Type: want application/json")
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&request)
	if err == nil {
		if _, more := decoder.Token(); more != io.EOF {
			err = errors.New("more than one JSON value")
		}
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return "", request, fail(http.StatusRequestEntityTooLarge, shopapi.CodeInvalid, "the body is larger than %d bytes", shopapi.MaxBody)
	}
	if err != nil {
		return "", request, fail(http.StatusBadRequest, shopapi.CodeInvalid, "the body is no order: %v", err)
	}
	return key, request, normalise(&request)
}
