package shop

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/shopset/shopset/examples/platform/internal/filecache"
	"github.com/shopset/shopset/examples/platform/internal/tpl"
	"github.com/shopset/shopset/examples/platform/internal/web"
	"github.com/shopset/shopset/examples/platform/shopapi"
	"github.com/shopset/shopset/internal/admin"
)

// pageSize is the number of products of a list.
const pageSize = 20

// Server answers the requests of people who browse. Make one with New.
type Server struct {
	http.Handler
	client    *shopapi.Client
	directory *shopapi.Directory
	compiler  *compiler
}

// New makes a Server. The admin server gets its metrics. Readiness depends on the api for the start alone: without
// it this program still has something useful to say, and it would help nobody to take it away.
func New(c Config, a *admin.Server) *Server {
	client := shopapi.NewClient(c.APIURL, c.APITimeout)
	a.AddCheck("api", admin.Once(shopapi.StartPatience, client.Ping))
	cache := filecache.Open(c.CacheDir, "shopset_shop_cache", a.Registry())
	s := &Server{client: client, directory: shopapi.NewDirectory(client), compiler: newCompiler(cache, a.Registry())}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page(s.home))
	mux.HandleFunc("GET /products/{product}", s.page(s.product))
	mux.HandleFunc("GET /assets/style.css", s.style)
	mux.HandleFunc("GET /assets/{version}/style.css", s.style)
	mux.HandleFunc("GET /", s.page(func(*http.Request, *view) (result, error) { return result{}, errNoPage }))
	s.Handler = web.Wrap(mux, web.Options{Program: "shop", Registry: a.Registry(), Timeout: c.RequestTimeout, MaxBody: 1 << 10})
	return s
}

// result is what a page is made of.
type result struct {
	code     int
	template string
	title    string
	data     tpl.Data
}

// errNoPage says that the path leads nowhere.
var errNoPage = errors.New("there is no such page")

var notFound = result{http.StatusNotFound, "page-message", "Not found",
	tpl.Data{"message": "This page does not exist, or not any more."}}

var unavailable = result{http.StatusServiceUnavailable, "page-message", "Back in a moment",
	tpl.Data{"message": "The shop cannot show this page right now. Please try again in a moment."}}

// page makes a handler of a function that gathers what a page shows.
func (s *Server) page(gather func(*http.Request, *view) (result, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		shop, ok := s.shop(w, r)
		if !ok {
			return
		}
		v := s.compiler.view(shop)
		page, err := gather(r, v)
		switch {
		case errors.Is(err, errNoPage) || shopapi.NotFound(err):
			page = notFound
		case err != nil:
			slog.Warn("page", "error", err, "shop", shop.ID, "path", r.URL.Path)
			page = unavailable
		}
		content, err := render(v, page)
		if err != nil {
			slog.Error("page", "error", err, "shop", shop.ID, "path", r.URL.Path)
			plain(w, http.StatusInternalServerError, "internal error")
			return
		}
		web.HTML(w, page.code, content)
	}
}

// shop finds the shop of the request, or answers why there is none.
func (s *Server) shop(w http.ResponseWriter, r *http.Request) (shopapi.Shop, bool) {
	shop, err := s.directory.Shop(r.Context(), r.Host)
	switch {
	case err == nil && shopapi.ValidShop(shop.ID):
		return shop, true
	case shopapi.NotFound(err):
		plain(w, http.StatusNotFound, "There is no shop at this address.")
	default:
		slog.Warn("shop of the request", "error", err, "host", r.Host)
		plain(w, http.StatusServiceUnavailable, "The shop cannot be reached right now. Please try again in a moment.")
	}
	return shop, false
}

func plain(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Cache-Control", "no-store")
	if code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "2")
	}
	http.Error(w, text, code)
}

func render(v *view, page result) ([]byte, error) {
	hash, err := v.styleHash()
	if err != nil {
		return nil, err
	}
	program, err := v.template(page.template)
	if err != nil {
		return nil, err
	}
	data := tpl.Data{
		"title": page.title, "style": "/assets/" + hash + "/style.css",
		"shop": tpl.Data{"name": v.shop.Name, "host": v.shop.Host},
	}
	for name, value := range page.data {
		data[name] = value
	}
	return program.Execute(make([]byte, 0, 16<<10), data)
}

func (s *Server) home(r *http.Request, v *view) (result, error) {
	after := r.URL.Query().Get("after")
	if after != "" {
		if _, err := shopapi.ParseProduct(after); err != nil {
			return result{}, fmt.Errorf("%w: %w", errNoPage, err)
		}
	}
	products, err := s.client.Products(r.Context(), v.shop.ID, after, pageSize)
	if err != nil {
		return result{}, err
	}
	items := make([]tpl.Data, 0, len(products.Products))
	for _, product := range products.Products {
		fragment, err := v.fragment("item", product)
		if err != nil {
			return result{}, err
		}
		items = append(items, tpl.Data{"html": fragment})
	}
	return result{http.StatusOK, "page-home", "All products",
		tpl.Data{"items": items, "next": products.Next, "first": after == ""}}, nil
}

func (s *Server) product(r *http.Request, v *view) (result, error) {
	id, err := shopapi.ParseProduct(r.PathValue("product"))
	if err != nil {
		return result{}, fmt.Errorf("%w: %w", errNoPage, err)
	}
	product, err := s.client.Product(r.Context(), v.shop.ID, id)
	if err != nil {
		return result{}, err
	}
	detail, err := v.fragment("detail", product)
	if err != nil {
		return result{}, err
	}
	return result{http.StatusOK, "page-product", product.Name,
		tpl.Data{"detail": detail, "product": strconv.FormatInt(product.ID, 10), "stock": product.Stock > 0}}, nil
}

// style serves the style sheet; under the name with its hash it never changes.
func (s *Server) style(w http.ResponseWriter, r *http.Request) {
	shop, ok := s.shop(w, r)
	if !ok {
		return
	}
	content, err := s.compiler.view(shop).style()
	if err != nil {
		slog.Error("style sheet", "error", err, "shop", shop.ID)
		plain(w, http.StatusInternalServerError, "internal error")
		return
	}
	hash := filecache.Key(content)[:16]
	header := w.Header()
	header.Set("ETag", `"`+hash+`"`)
	header.Set("Cache-Control", "no-cache")
	if r.PathValue("version") == hash {
		header.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	if r.Header.Get("If-None-Match") == `"`+hash+`"` {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	header.Set("Content-Type", "text/css; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(len(content)))
	w.Write([]byte(content))
}
