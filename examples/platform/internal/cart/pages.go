package cart

import (
	"bytes"
	"embed"
	"html/template"
	"log/slog"
	"net/http"

	"github.com/shopset/shopset/examples/platform/internal/web"
	"github.com/shopset/shopset/examples/platform/shopapi"
)

//go:embed pages/*.html
var pagesFS embed.FS

var pages = template.Must(template.New("").Funcs(template.FuncMap{"money": shopapi.Money}).ParseFS(pagesFS, "pages/*.html"))

// page is what the templates get.
type page struct {
	Title string
	Shop  shopapi.Shop
	// Message is for the page message.html.
	Message string
	// The rest is for cart.html and order.html.
	Lines      []pageLine
	TotalCents int64
	Token      string
	LinesHash  string
	Pending    bool
	Notice     string
	Order      shopapi.Order
}

// pageLine is a line of the cart. Gone says that the shop does not have the product any more.
type pageLine struct {
	Product    shopapi.Product
	Quantity   int
	TotalCents int64
	Gone       bool
}

func show(w http.ResponseWriter, code int, name string, p page) {
	var out bytes.Buffer
	if err := pages.ExecuteTemplate(&out, name, p); err != nil {
		slog.Error("page", "error", err, "name", name)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	web.HTML(w, code, out.Bytes())
}

// message shows a page that only says something.
func message(w http.ResponseWriter, code int, shop shopapi.Shop, title, text string) {
	show(w, code, "message.html", page{Title: title, Shop: shop, Message: text})
}
