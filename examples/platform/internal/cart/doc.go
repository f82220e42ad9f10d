// Package cart is the demo platform's cart and checkout: sessions in Redis, orders at the api.
//
// It promises:
//
//   - One click on "Buy" is one order, also when it is two clicks, a reload, a retry after a lost
//     answer, or all of them at once on different replicas; and the cart is emptied once.
//   - Nothing is bought that the page did not show: lines or prices that changed since show the cart again.
//   - A failing api or Redis costs no cart: the page says 503, what was in the cart is still there.
//   - A session cookie is worthless on another shop, cannot be made or changed without a key, and
//     survives a change of keys: the first of COOKIE_KEYS signs, all verify.
//   - A form that another site sends is refused.
//   - A cart has at most shopapi.MaxLines lines of at most shopapi.MaxQuantity, and ends unused
//     after CART_TTL.
//
// A cart is a Redis hash with a generation, a random word that changes with each completed
// purchase. It is in the form of the checkout, with a hash of the lines and the total that the page
// showed, and the api's idempotency key is made of it:
//
//	checkout(token, lines, total):
//	  begin (one script): was token completed?      → go to that order
//	                      is a purchase pending?    → take it, whatever else is in the cart now
//	                      token is not the cart's generation, its lines are others, or none → show the cart
//	                      else freeze generation, total and lines as the pending purchase, and take it
//	  order at the api with the key of the pending generation, for that total or not at all
//	  key used: the order of that key is the purchase (Redis had forgotten it), as if placed
//	  refused:  drop the pending purchase, show why
//	  unknown:  keep it, 503; the next checkout takes the same purchase with the same key
//	  placed:   finish (one script, does nothing the second time): note token → order, take the bought
//	            lines out of the cart, give it a new generation, drop the pending purchase
//
// Since the lines are frozen before the api hears of them, what is added meanwhile is neither
// bought nor lost.
//
// Limits: whoever knows an order's number and its shop may see the page of the order; the number is
// 130 random bits. A purchase that was pending when Redis lost its data is forgotten here, though
// the api may have it.
package cart
