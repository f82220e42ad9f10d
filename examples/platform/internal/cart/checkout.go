package cart

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"strconv"

	"github.com/shopset/shopset/examples/platform/shopapi"
)

// checkout buys what is in the cart; the package's documentation has the algorithm.
func (s *Server) checkout(w http.ResponseWriter, r *http.Request, v visit) {
	filled, err := readCheckout(r)
	if err != nil {
		problem(w, r, v, err)
		return
	}
	if v.session == "" {
		http.Redirect(w, r, "/cart", http.StatusSeeOther)
		return
	}
	state, order, p, err := s.store.begin(r.Context(), v.keys(), filled)
	if err != nil {
		s.checkouts.WithLabelValues("unavailable").Inc()
		problem(w, r, v, err)
		return
	}
	switch state {
	case "done":
		s.checkouts.WithLabelValues("repeated").Inc()
		toOrder(w, r, order)
	case "pending":
		s.buy(w, r, v, p)
	case "changed":
		s.checkouts.WithLabelValues("nothing").Inc()
		toChangedCart(w, r)
	default:
		s.checkouts.WithLabelValues("nothing").Inc()
		http.Redirect(w, r, "/cart", http.StatusSeeOther)
	}
}

// checkoutForm is what the Buy button sends: what the page showed.
type checkoutForm struct {
	// token is the generation of the cart.
	token string
	seen  string
	total int64
}

// seenForm is what seen makes.
var seenForm = regexp.MustCompile(`^([0-9]{1,19}x[0-9]{1,2}( [0-9]{1,19}x[0-9]{1,2})*)?$`)

func readCheckout(r *http.Request) (f checkoutForm, err error) {
	if err := form(r); err != nil {
		return f, err
	}
	f.token, f.seen = r.PostForm.Get("token"), r.PostForm.Get("seen")
	f.total, err = strconv.ParseInt(r.PostForm.Get("total"), 10, 64)
	if err != nil || !sessionForm.MatchString(f.token) || len(f.seen) > 4096 || !seenForm.MatchString(f.seen) {
		return f, &refused{http.StatusBadRequest, "This form is not complete. Please go to the cart and press Buy again."}
	}
	return f, nil
}

// buy places the order of a frozen purchase.
func (s *Server) buy(w http.ResponseWriter, r *http.Request, v visit, p purchase) {
	// A browser that goes away does not stop a purchase half-way; the calls have their own timeouts.
	ctx := context.WithoutCancel(r.Context())
	order, err := s.client.PlaceOrder(ctx, "cart-"+p.generation, shopapi.OrderRequest{Shop: v.shop.ID, Lines: p.lines, ExpectedCents: &p.total})
	if shopapi.Unavailable(err) {
		s.checkouts.WithLabelValues("unavailable").Inc()
		slog.Warn("checkout", "error", err, "shop", v.shop.ID)
		message(w, http.StatusServiceUnavailable, v.shop, "Back in a moment",
			"Your order could not be confirmed yet. Your cart is kept. Press Buy again in a moment: you will not pay twice.")
		return
	}
	if err != nil {
		s.checkouts.WithLabelValues("refused").Inc()
		if err := s.store.abort(ctx, v.keys(), p, codeOf(err) == shopapi.CodeKeyReused); err != nil {
			slog.Warn("checkout: drop a refused purchase", "error", err, "shop", v.shop.ID)
		}
		refuse(w, r, v, err)
		return
	}
	if err := s.store.finish(ctx, v.keys(), p, order.ID); err != nil {
		// The order is placed. The purchase stays pending, so the next checkout comes here again and
		// gets the same order.
		slog.Warn("checkout: empty the cart", "error", err, "shop", v.shop.ID, "order", order.ID)
	}
	s.checkouts.WithLabelValues("placed").Inc()
	toOrder(w, r, order.ID)
}

// refuse shows why the api did not take the order.
func refuse(w http.ResponseWriter, r *http.Request, v visit, err error) {
	switch codeOf(err) {
	case shopapi.CodePriceChange, shopapi.CodeKeyReused:
		toChangedCart(w, r)
		return
	case shopapi.CodeOutOfStock:
		var answer *shopapi.Error
		if errors.As(err, &answer) {
			message(w, http.StatusConflict, v.shop, "Sold out", answer.Problem.Message+". Please change your cart.")
			return
		}
	}
	slog.Warn("checkout refused", "error", err, "shop", v.shop.ID)
	message(w, http.StatusConflict, v.shop, "That did not work",
		"This order cannot be placed: something in the cart is not sold any more. Please check it.")
}

// codeOf is the api's word for why it refused; empty when it did not.
func codeOf(err error) string {
	var answer *shopapi.Error
	if errors.As(err, &answer) {
		return answer.Problem.Code
	}
	return ""
}

func toChangedCart(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, "/cart?notice=changed", http.StatusSeeOther)
}

func toOrder(w http.ResponseWriter, r *http.Request, order string) {
	http.Redirect(w, r, "/cart/orders/"+order, http.StatusSeeOther)
}

func (s *Server) showOrder(w http.ResponseWriter, r *http.Request, v visit) {
	id := r.PathValue("order")
	var order shopapi.Order
	err := error(&shopapi.Error{Status: http.StatusNotFound})
	if shopapi.ValidOrder(id) {
		order, err = s.client.Order(r.Context(), v.shop.ID, id)
	}
	switch {
	case shopapi.NotFound(err):
		message(w, http.StatusNotFound, v.shop, "Not found", "There is no order with this number.")
	case err != nil:
		problem(w, r, v, err)
	default:
		show(w, http.StatusOK, "order.html", page{Title: "Thank you", Shop: v.shop, Order: order})
	}
}
