package shop

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/shopset/shopset/examples/platform/internal/filecache"
	"github.com/shopset/shopset/examples/platform/internal/tpl"
	"github.com/shopset/shopset/examples/platform/shopapi"
)

// templates are the files of a theme that are programs of their own; the others are included.
var templates = []string{"page-home", "page-product", "page-message", "item", "detail"}

// compiler gives compiled themes and rendered fragments, from files or made anew.
type compiler struct {
	cache   *filecache.Cache
	flights singleflight.Group
	seconds prometheus.Histogram
}

func newCompiler(cache *filecache.Cache, registry prometheus.Registerer) *compiler {
	c := &compiler{cache: cache, seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "shopset_shop_compile_seconds",
		Help:    "Duration of the compilation of a whole theme.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1},
	})}
	registry.MustRegister(c.seconds)
	return c
}

// compiled is a whole theme in memory; it lives only as long as the requests that wait for it.
type compiled struct {
	programs  map[string]*tpl.Program
	style     string
	styleHash string
}

// view is a shop's theme for one request. A theme that had to be compiled is remembered, so that a
// request compiles at most once, also when nothing can be kept.
type view struct {
	*compiler
	shop     shopapi.Shop
	version  string
	compiled *compiled
}

func (c *compiler) view(shop shopapi.Shop) *view {
	return &view{compiler: c, shop: shop, version: themeVersion(shop)}
}

// theme returns the whole theme, compiled anew unless this request did that already.
func (v *view) theme() (*compiled, error) {
	if v.compiled == nil {
		theme, err := v.compile(v.shop, v.version)
		if err != nil {
			return nil, err
		}
		v.compiled = theme
	}
	return v.compiled, nil
}

// file returns a file of the theme, unless it has to be made.
func (v *view) file(kind, name string) ([]byte, bool) {
	if v.compiled != nil {
		return nil, false
	}
	return v.cache.Get(kind, v.shop.ID+"/"+name, filecache.Key(v.version, name))
}

// template returns a compiled template.
func (v *view) template(name string) (*tpl.Program, error) {
	if content, ok := v.file("template", "template/"+name); ok {
		if program, err := tpl.Decode(content); err == nil {
			return program, nil
		}
	}
	theme, err := v.theme()
	if err != nil {
		return nil, err
	}
	return theme.programs[name], nil
}

// style returns the style sheet.
func (v *view) style() (string, error) {
	if content, ok := v.file("style", "style.css"); ok {
		return string(content), nil
	}
	theme, err := v.theme()
	if err != nil {
		return "", err
	}
	return theme.style, nil
}

// styleHash returns what distinguishes this style sheet from others of the shop.
func (v *view) styleHash() (string, error) {
	if content, ok := v.file("theme", "theme"); ok {
		if hash, _, ok := strings.Cut(string(content), "\n"); ok {
			return hash, nil
		}
	}
	theme, err := v.theme()
	if err != nil {
		return "", err
	}
	return theme.styleHash, nil
}

// compile compiles a shop's theme and keeps it. Whoever asks meanwhile gets the same result.
func (c *compiler) compile(shop shopapi.Shop, version string) (*compiled, error) {
	result, err, _ := c.flights.Do("theme "+version, func() (any, error) {
		// Whoever missed the files while they were being made comes here after the flight that made them.
		if theme := c.kept(shop, version); theme != nil {
			return theme, nil
		}
		began := time.Now()
		theme, err := compileTheme(themeOf(shop))
		if err != nil {
			return nil, fmt.Errorf("theme of %s: %w", shop.ID, err)
		}
		keep := func(name string, content []byte) {
			c.cache.Put(shop.ID+"/"+name, filecache.Key(version, name), content)
		}
		for name, program := range theme.programs {
			keep("template/"+name, program.Encode())
		}
		keep("style.css", []byte(theme.style))
		keep("theme", []byte(theme.styleHash+"\n"+strings.Join(templates, "\n")+"\n"))
		took := time.Since(began)
		c.seconds.Observe(took.Seconds())
		slog.Info("theme compiled", "shop", shop.ID, "milliseconds", took.Milliseconds())
		return theme, nil
	})
	if err != nil {
		return nil, err
	}
	return result.(*compiled), nil
}

// kept returns the whole theme from files, nil unless all of it is there.
func (c *compiler) kept(shop shopapi.Shop, version string) *compiled {
	out := &compiled{programs: map[string]*tpl.Program{}}
	for _, name := range templates {
		content, ok := c.cache.Peek(shop.ID+"/template/"+name, filecache.Key(version, "template/"+name))
		if !ok {
			return nil
		}
		program, err := tpl.Decode(content)
		if err != nil {
			return nil
		}
		out.programs[name] = program
	}
	style, ok := c.cache.Peek(shop.ID+"/style.css", filecache.Key(version, "style.css"))
	theme, listed := c.cache.Peek(shop.ID+"/theme", filecache.Key(version, "theme"))
	if !ok || !listed {
		return nil
	}
	out.style = string(style)
	out.styleHash, _, _ = strings.Cut(string(theme), "\n")
	return out
}

// compileTheme is the work itself.
func compileTheme(t theme) (*compiled, error) {
	out := &compiled{programs: map[string]*tpl.Program{}}
	for _, name := range templates {
		program, err := tpl.Compile(t.files, name+".tpl", t.constants)
		if err != nil {
			return nil, err
		}
		out.programs[name] = program
	}
	style, err := tpl.Style("style.css", t.style)
	if err != nil {
		return nil, err
	}
	out.style, out.styleHash = style, filecache.Key(style)[:16]
	return out, nil
}

// fragment returns a product rendered with the template kind, item or detail.
func (v *view) fragment(kind string, p shopapi.Product) (tpl.HTML, error) {
	data := tpl.Data{"product": tpl.Data{
		"id": p.ID, "name": p.Name, "description": p.Description, "category": p.Category,
		"price": shopapi.Money(p.PriceCents, p.Currency), "picture": int(p.ID % 7),
	}}
	key := filecache.Key(v.version, kind, strconv.FormatInt(p.ID, 10), p.Name, p.Description, p.Category,
		strconv.FormatInt(p.PriceCents, 10), p.Currency)
	name := v.shop.ID + "/fragment/" + kind + "-" + strconv.FormatInt(p.ID, 10)
	if content, ok := v.cache.Get("fragment", name, key); ok {
		return tpl.HTML(content), nil
	}
	result, err, _ := v.flights.Do("fragment "+key, func() (any, error) {
		program, err := v.template(kind)
		if err != nil {
			return nil, err
		}
		content, err := program.Execute(nil, data)
		if err != nil {
			return nil, err
		}
		v.cache.Put(name, key, content)
		return tpl.HTML(content), nil
	})
	if err != nil {
		return "", err
	}
	return result.(tpl.HTML), nil
}
