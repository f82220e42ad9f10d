package cart

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/shopset/shopset/examples/platform/shopapi"
)

// checkout buys what is in the cart; the package's documentation has the algorithm.
func (s *Server) checkout(w http.ResponseWriter, r *http.Request, v visit) {
	was, err := checkoutForm(r)
	if err != nil {
		problem(w, r, v, err)
		return
	}
	if v.session == "" {
		http.Redirect(w, r, "/cart", http.StatusSeeOther)
		return
	}
	state, order, p, err := s.store.begin(r.Context(), v.keys(), was)
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
		http.Redirect(w, r, "/cart?notice=changed", http.StatusSeeOther)
	default:
		s.checkouts.WithLabelValues("nothing").Inc()
		http.Redirect(w, r, "/cart", http.StatusSeeOther)
	}
}

// checkoutForm reads the generation and what was shown. A form without the latter shows the cart again.
func checkoutForm(r *http.Request) (shown, error) {
	if err := form(r); err != nil {
		return shown{}, err
	}
	was := shown{token: r.PostForm.Get("token"), lines: r.PostForm.Get("lines")}
	if !sessionForm.MatchString(was.token) {
		return shown{}, &refused{http.StatusBadRequest, "This form is not complete. Please go to the cart and press Buy again."}
	}
	var err error
	if was.totalCents, err = strconv.ParseInt(r.PostForm.Get("total"), 10, 64); err != nil {
		was.lines = ""
	}
	return was, nil
}

// buy places the order of a frozen purchase.
func (s *Server) buy(w http.ResponseWriter, r *http.Request, v visit, p purchase) {
	// A browser that goes away does not stop a purchase half-way; the calls have their own timeouts.
	ctx := context.WithoutCancel(r.Context())
	order, err := s.client.PlaceOrder(ctx, "cart-"+p.generation,
		shopapi.OrderRequest{Shop: v.shop.ID, Lines: p.lines, ExpectedTotalCents: p.totalCents})
	if earlier := orderOfKey(err); earlier != "" {
		// This generation was bought before, and Redis forgot it. That is the purchase.
		order, err = s.client.Order(ctx, v.shop.ID, earlier)
		p.lines = nil
		for _, line := range order.Lines {
			p.lines = append(p.lines, shopapi.LineRequest{Product: line.Product, Quantity: line.Quantity})
		}
	}
	if shopapi.Unavailable(err) {
		s.checkouts.WithLabelValues("unavailable").Inc()
		slog.Warn("checkout", "error", err, "shop", v.shop.ID)
		message(w, http.StatusServiceUnavailable, v.shop, "Back in a moment",
			"Your order could not be confirmed yet. Your cart is kept. Press Buy again in a moment: you will not pay twice.")
		return
	}
	if err != nil {
		s.checkouts.WithLabelValues("refused").Inc()
		if err := s.store.abort(ctx, v.keys(), p); err != nil {
			slog.Warn("checkout: drop a refused purchase", "error", err, "shop", v.shop.ID)
		}
		refuse(w, v, err)
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

// orderOfKey is the order that was placed with a key that the api refused for another one.
func orderOfKey(err error) string {
	var answer *shopapi.Error
	if errors.As(err, &answer) && answer.Problem.Code == shopapi.CodeKeyReused && shopapi.ValidOrder(answer.Problem.Order) {
		return answer.Problem.Order
	}
	return ""
}

// refuse shows why the api did not take the order.
func refuse(w http.ResponseWriter, v visit, err error) {
	code := ""
	var answer *shopapi.Error
	if errors.As(err, &answer) {
		code = answer.Problem.Code
	}
	switch code {
	case shopapi.CodeOutOfStock:
		message(w, http.StatusConflict, v.shop, "Sold out", answer.Problem.Message+". Please change your cart.")
		return
	case shopapi.CodePriceChanged:
		message(w, http.StatusConflict, v.shop, "A price has changed",
			"A price has changed since you looked at your cart. Nothing was bought. Please check the cart and press Buy again.")
		return
	}
	slog.Warn("checkout refused", "error", err, "shop", v.shop.ID)
	message(w, http.StatusConflict, v.shop, "That did not work",
		"This order cannot be placed: something in the cart is not sold any more. Please check it.")
}

func toOrder(w http.ResponseWriter, r *http.Request, order string) {
	http.Redirect(w, r, "/cart/orders/"+order, http.StatusSeeOther)
}

func (s *Server) showOrder(w http.ResponseWriter, r *http.Request, v visit) {
	id := r.PathValue("order")
	var order shopapi.Order
	err := error(&shopapi.Error{Status: http.StatusNotFound, Problem: shopapi.Problem{Code: shopapi.CodeNotFound}})
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
