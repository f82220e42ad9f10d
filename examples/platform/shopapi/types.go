// Package shopapi is the contract of the demo platform's api: its types, and a client.
//
// The client promises that each call ends within its timeout, that answers are bounded, and that
// errors are of two kinds: *Error is a definite answer of the api, for which Problem says why;
// anything for which Unavailable is true means that nothing is known about the outcome. A call that
// is safe to repeat (all reads, and an order, which has an idempotency key) is tried again, three times
// at most, when the connection broke or did not come about.
//
// Directory answers which shop a host name belongs to. It remembers answers for a short time, and
// uses an old one when the api is down, so that a page can still be rendered in the shop's own look.
package shopapi

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Limits that the api enforces; the cart keeps within them.
const (
	// MaxLines bounds the lines of an order.
	MaxLines = 50
	// MaxQuantity bounds the quantity of a line.
	MaxQuantity = 99
	// MaxPage bounds the entries of a page.
	MaxPage = 100
	// MaxBody bounds a request's body in bytes.
	MaxBody = 16 << 10
	// MaxKey bounds the length of an idempotency key.
	MaxKey = 128
)

// KeyHeader names the header of the idempotency key of an order.
const KeyHeader = "Idempotency-Key"

// ReplayHeader marks the answer to a repeated order.
const ReplayHeader = "Idempotency-Replayed"

// Shop is a tenant.
type Shop struct {
	ID       string `json:"id"`
	Host     string `json:"host"`
	Name     string `json:"name"`
	Currency string `json:"currency"`
}

// ShopPage is a page of shops; Next is the cursor of the following page, empty on the last.
type ShopPage struct {
	Shops []Shop `json:"shops"`
	Next  string `json:"next,omitempty"`
}

// Product is something to buy. Money is a whole number of cents.
type Product struct {
	ID          int64  `json:"id"`
	Shop        string `json:"shop"`
	Name        string `json:"name"`
	Description string `json:"description"`
	Category    string `json:"category"`
	PriceCents  int64  `json:"priceCents"`
	Currency    string `json:"currency"`
	Stock       int64  `json:"stock"`
}

// ProductPage is a page of products; Next is the cursor of the following page, empty on the last.
type ProductPage struct {
	Products []Product `json:"products"`
	Next     string    `json:"next,omitempty"`
}

// OrderRequest is a purchase. It has no prices: these are the api's.
type OrderRequest struct {
	Shop  string        `json:"shop"`
	Lines []LineRequest `json:"lines"`
	// ExpectedTotalCents is what the buyer was shown. With any other total there is no order.
	ExpectedTotalCents *int64 `json:"expectedTotalCents,omitempty"`
}

// LineRequest is one line of a purchase.
type LineRequest struct {
	Product  int64 `json:"product"`
	Quantity int   `json:"quantity"`
}

// Order is a completed purchase.
type Order struct {
	ID         string      `json:"id"`
	Shop       string      `json:"shop"`
	Lines      []OrderLine `json:"lines"`
	TotalCents int64       `json:"totalCents"`
	Currency   string      `json:"currency"`
	CreatedAt  time.Time   `json:"createdAt"`
}

// OrderLine is one line of an order, with the price at the time of the purchase.
type OrderLine struct {
	Product   int64  `json:"product"`
	Name      string `json:"name"`
	Quantity  int    `json:"quantity"`
	UnitCents int64  `json:"unitCents"`
}

// The codes of Problem.
const (
	CodeInvalid      = "invalid"
	CodeNotFound     = "not_found"
	CodeOutOfStock   = "out_of_stock"
	CodePriceChanged = "price_changed"
	CodeKeyReused    = "key_reused"
	CodeUnavailable  = "unavailable"
	CodeInternal     = "internal"
)

// Problem says why a request failed.
type Problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	// Product is the product that is at fault, if one is.
	Product int64 `json:"product,omitempty"`
	// Order is the shop's order that a reused key belongs to.
	Order string `json:"order,omitempty"`
}

// shopID also keeps an id usable as the name of a folder.
var shopID = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$`)

// ValidShop reports whether id has the form of a shop's id.
func ValidShop(id string) bool { return shopID.MatchString(id) }

var orderID = regexp.MustCompile(`^[A-Z2-7]{26}$`)

// ValidOrder reports whether id has the form of an order's id.
func ValidOrder(id string) bool { return orderID.MatchString(id) }

var keyForm = regexp.MustCompile(`^[\x21-\x7e]+$`)

// ValidKey reports whether key has the form of an idempotency key: visible ASCII, at most MaxKey.
func ValidKey(key string) bool { return len(key) <= MaxKey && keyForm.MatchString(key) }

// ParseProduct reads a product's id.
func ParseProduct(text string) (int64, error) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 1 || strings.HasPrefix(text, "+") {
		return 0, fmt.Errorf("%.40q is no product number", text)
	}
	return id, nil
}

// Money formats cents for people.
func Money(cents int64, currency string) string {
	sign := ""
	if cents < 0 {
		sign, cents = "-", -cents
	}
	return fmt.Sprintf("%s%d.%02d %s", sign, cents/100, cents%100, currency)
}
