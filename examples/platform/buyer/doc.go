// Package buyer buys in the demo platform as a person with a browser does: it opens the shop's home
// page, follows a link to a product, sends the form that it finds there, looks at the cart, presses
// Buy and reads the order number. `make up`, the tests and the benchmarks use it.
//
// It promises:
//
//   - Buy knows nothing of the platform that is not in its pages, except what identifies the forms.
//   - A failed step says which one, at which URL, with which status and what the page said.
//   - With Retries, a purchase that is repeated stays one order: the same form with the same cookie
//     is sent again, and the platform recognises it. Putting a product into the cart is not
//     repeatable by itself, so after a failure the cart is looked at first.
//   - Load never ends because of a failed purchase, only with its context.
//
// Options.Address separates whom to ask for from where to connect: the TLS server name and the Host
// header are the shop's, the connection goes to the address. That is how a fleet without DNS is
// tested.
//
// Limits: pages up to 4 MiB; no scripts, no pictures, the style sheet is fetched.
package buyer
