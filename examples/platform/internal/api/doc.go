// Package api is the demo platform's api: shops, products, stock and orders in PostgreSQL.
//
// It promises:
//
//   - No piece is sold twice. Stock goes down only by a conditional UPDATE in the transaction that
//     writes the order, and a CHECK keeps it from ever being negative.
//   - A purchase that is repeated with the same idempotency key is one order and gets the same
//     answer, also when both arrive at the same moment or the first answer was lost. The same key
//     with another request is refused (422) and told which order it belongs to. A purchase that failed leaves nothing behind, so its
//     repetition is judged anew.
//   - Prices are those of the database at the moment of the purchase. Who says what total is expected
//     pays that or buys nothing (409).
//   - It starts without PostgreSQL, is unready until the schema is there, and recovers by itself,
//     also when the database is replaced by an empty one. Meanwhile every request is answered 503 at once, and none takes longer than its timeout.
//   - Many replicas may start at the same time over one database.
//
// A purchase is one transaction:
//
//	take the key:   INSERT the order's row; the UNIQUE key makes a concurrent twin wait here, and
//	                ON CONFLICT tells the later one that it is a repetition
//	lock products:  SELECT … ORDER BY id FOR UPDATE, so that all transactions lock in one order
//	check, price:   in memory, over the locked rows
//	write:          UPDATE stock WHERE stock >= quantity, INSERT lines, UPDATE the total
//	commit
//
// A twin waits only for the key and holds nothing meanwhile, and products are locked in one order,
// so there is no deadlock among purchases; should PostgreSQL report one or a failed serialization
// (another program may lock too), or the connection break, the transaction is tried again: the key
// makes that safe even when the commit had happened.
//
// Limits: an idempotency key is kept as long as its order, for ever. The deadline of a request also
// bounds the wait for a hot product.
package api
