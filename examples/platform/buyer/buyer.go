package buyer

import (
	"context"
	"crypto/x509"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Options say where and how to buy. Only Shop is required.
type Options struct {
	// Shop is the host name of the shop, with a port if it is not the scheme's.
	Shop string
	// Scheme is https by default. The cart's cookie is only sent over https.
	Scheme string
	// Address is where to connect, host:port, instead of the shop's name.
	Address string
	// Dial connects instead of a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// RootCAs verify the certificate; the system's by default. Insecure verifies nothing.
	RootCAs  *x509.CertPool
	Insecure bool
	// StepTimeout bounds each request, redirects included; 10 s by default.
	StepTimeout time.Duration
	// Retries is how often a step is repeated after no answer or a server error; 0 by default.
	Retries int
	// RetryPause lies before each repetition; 100 ms by default.
	RetryPause time.Duration
	// Quantity of the product to buy; 1 by default.
	Quantity int
	// Choose picks one of n products; at random by default.
	Choose func(n int) int
}

// Receipt is a completed purchase.
type Receipt struct {
	Shop       string
	Order      string
	Product    string
	Quantity   int
	TotalCents int64
	Steps      []Step
	Duration   time.Duration
}

// Step is one step of a purchase: home, style, product, add, cart, checkout.
type Step struct {
	Name     string
	Duration time.Duration
	Attempts int
}

// Repeated reports whether any step took more than one attempt.
func (r Receipt) Repeated() bool {
	for _, step := range r.Steps {
		if step.Attempts > 1 {
			return true
		}
	}
	return false
}

func (o Options) withDefaults() Options {
	if o.Scheme == "" {
		o.Scheme = "https"
	}
	if o.StepTimeout == 0 {
		o.StepTimeout = 10 * time.Second
	}
	if o.RetryPause == 0 {
		o.RetryPause = 100 * time.Millisecond
	}
	if o.Quantity == 0 {
		o.Quantity = 1
	}
	if o.Choose == nil {
		o.Choose = rand.IntN
	}
	return o
}

// Buy makes one purchase. The error is an *Error unless the options are wrong.
func Buy(ctx context.Context, o Options) (Receipt, error) {
	o = o.withDefaults()
	b, err := newBrowser(o)
	if err != nil {
		return Receipt{}, err
	}
	defer b.close()
	began := time.Now()
	receipt := Receipt{Shop: o.Shop, Quantity: o.Quantity}
	// A nil *Error must not become an error that is not nil.
	if failure := b.buy(ctx, &receipt); failure != nil {
		receipt.Steps, receipt.Duration = b.steps, time.Since(began)
		return receipt, failure
	}
	receipt.Steps, receipt.Duration = b.steps, time.Since(began)
	return receipt, nil
}

func (b *browser) buy(ctx context.Context, receipt *Receipt) *Error {
	product, failure := b.browse(ctx)
	if failure != nil {
		return failure
	}
	add, ok := product.form("/cart/add")
	if !ok {
		return b.wrong("product", product, "there is no form to put the product into the cart")
	}
	receipt.Product = add.values.Get("product")
	add.values.Set("quantity", strconv.Itoa(b.options.Quantity))
	cart, failure := b.add(ctx, add)
	if failure != nil {
		return failure
	}
	checkout, ok := cart.form("/cart/checkout")
	if got := cart.quantity(receipt.Product); !ok || got != add.values.Get("quantity") {
		return b.wrong("cart", cart, "the cart does not hold the product in the quantity that was put in")
	}
	done, failure := b.retry(ctx, "checkout", func() (*page, *Error) {
		return b.once(ctx, "checkout", http.MethodPost, checkout.action, checkout.values)
	})
	if failure != nil {
		return failure
	}
	receipt.Order = done.byID("order", "data-order")
	receipt.TotalCents, _ = strconv.ParseInt(done.byID("total", "data-cents"), 10, 64)
	if receipt.Order == "" {
		return b.wrong("checkout", done, "the page after the checkout shows no order number")
	}
	return nil
}

// browse opens the home page with its style sheet and one of its products.
func (b *browser) browse(ctx context.Context) (*page, *Error) {
	home, failure := b.get(ctx, "home", "/")
	if failure != nil {
		return nil, failure
	}
	for _, style := range home.styles() {
		if _, failure := b.get(ctx, "style", style); failure != nil {
			return nil, failure
		}
	}
	products := home.links("/products/")
	if len(products) == 0 {
		return nil, b.wrong("home", home, "there is no link to a product")
	}
	return b.get(ctx, "product", products[b.options.Choose(len(products))])
}

// add puts the product into the cart, which begins empty, and returns the cart's page. Each
// repetition looks first whether the attempt before it worked after all.
func (b *browser) add(ctx context.Context, add form) (*page, *Error) {
	first := true
	_, failure := b.retry(ctx, "add", func() (*page, *Error) {
		if !first {
			cart, failure := b.once(ctx, "add", http.MethodGet, "/cart", nil)
			if failure != nil || cart.quantity(add.values.Get("product")) != "" {
				return cart, failure
			}
		}
		first = false
		return b.once(ctx, "add", http.MethodPost, add.action, add.values)
	})
	if failure != nil {
		return nil, failure
	}
	return b.get(ctx, "cart", "/cart")
}
