package cart

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/shopset/shopset/examples/platform/shopapi"
)

// checkout buys what is in the cart; the package's documentation has the algorithm.
func (s *Server) checkout(w http.ResponseWriter, r *http.Request, v visit) {
	token, err := checkoutToken(r)
	if err != nil {
		problem(w, r, v, err)
		return
	}
	if v.session == "" {
		http.Redirect(w, r, "/cart", http.StatusSeeOther)
		return
	}
	state, order, p, err := s.store.begin(r.Context(), v.keys(), token)
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

// checkoutToken reads the generation from the form.
func checkoutToken(r *http.Request) (string, error) {
	if err := form(r); err != nil {
		return "", err
	}
	token := r.PostForm.Get("token")
	if !sessionForm.MatchString(token) {
		return "", &refused{http.StatusBadRequest, "This form is not complete. Please go to the cart and press Buy again."}
	}
	return token, nil
}

// buy places the order of a frozen purchase.
func (s *Server) buy(w http.ResponseWriter, r *http.Request, v visit, p purchase) {
	// A browser that goes away does not stop a purchase half-way; the calls have their own timeouts.
	ctx := context.WithoutCancel(r.Context())
	order, err := s.client.PlaceOrder(ctx, "cart-"+p.generation, shopapi.OrderRequest{Shop: v.shop.ID, Lines: p.lines})
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

// refuse shows why the api did not take the order.
func refuse(w http.ResponseWriter, v visit, err error) {
	var answer *shopapi.Error
	if errors.As(err, &answer) && answer.Problem.Code == shopapi.CodeOutOfStock {
		message(w, http.StatusConflict, v.shop, "Sold out", answer.Problem.Message+". Please change your cart.")
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
