package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"sort"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/shopset/shopset/examples/platform/shopapi"
)

// failure is a definite answer to a request that is no success.
type failure struct {
	status  int
	problem shopapi.Problem
}

func (f *failure) Error() string { return f.problem.Message }

func fail(status int, code, format string, arguments ...any) *failure {
	return &failure{status, shopapi.Problem{Code: code, Message: fmt.Sprintf(format, arguments...)}}
}

func failProduct(status int, code string, product int64, format string, arguments ...any) *failure {
	f := fail(status, code, format, arguments...)
	f.problem.Product = product
	return f
}

// normalise checks a purchase, joins the lines of the same product and sorts them, so that equal
// purchases are equal bytes and locks are taken in one order.
func normalise(request *shopapi.OrderRequest) error {
	if !shopapi.ValidShop(request.Shop) {
		return fail(http.StatusBadRequest, shopapi.CodeInvalid, "shop: %.60q is no shop's id", request.Shop)
	}
	if len(request.Lines) == 0 || len(request.Lines) > shopapi.MaxLines {
		return fail(http.StatusBadRequest, shopapi.CodeInvalid, "lines: there are %d, want 1 to %d", len(request.Lines), shopapi.MaxLines)
	}
	quantities := map[int64]int{}
	for i, line := range request.Lines {
		if line.Product < 1 {
			return fail(http.StatusBadRequest, shopapi.CodeInvalid, "lines[%d].product: %d is no product's id", i, line.Product)
		}
		if line.Quantity < 1 || line.Quantity > shopapi.MaxQuantity {
			return failProduct(http.StatusBadRequest, shopapi.CodeInvalid, line.Product,
				"lines[%d].quantity: %d, want 1 to %d", i, line.Quantity, shopapi.MaxQuantity)
		}
		quantities[line.Product] += line.Quantity
	}
	joined := make([]shopapi.LineRequest, 0, len(quantities))
	for product, quantity := range quantities {
		if quantity > shopapi.MaxQuantity {
			return failProduct(http.StatusBadRequest, shopapi.CodeInvalid, product,
				"lines: product %d is asked for %d times in all, want at most %d", product, quantity, shopapi.MaxQuantity)
		}
		joined = append(joined, shopapi.LineRequest{Product: product, Quantity: quantity})
	}
	sort.Slice(joined, func(i, j int) bool { return joined[i].Product < joined[j].Product })
	request.Lines = joined
	return nil
}

// requestHash identifies a normalised purchase. What was expected to be paid is no part of it: it is
// compared before there is an order, which is repeated as it is.
func requestHash(request shopapi.OrderRequest) []byte {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", request.Shop)
	for _, line := range request.Lines {
		fmt.Fprintf(h, "%d %d\n", line.Product, line.Quantity)
	}
	return h.Sum(nil)
}

// placeOrder buys; replayed says that the order existed already.
func (s *store) placeOrder(ctx context.Context, key string, request shopapi.OrderRequest) (order shopapi.Order, replayed bool, err error) {
	hash := requestHash(request)
	err = s.retry(ctx, func() error {
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			order, replayed, err = buy(ctx, tx, key, hash, request)
			order.CreatedAt = order.CreatedAt.UTC()
			return err
		})
	})
	return order, replayed, err
}

func buy(ctx context.Context, tx pgx.Tx, key string, hash []byte, request shopapi.OrderRequest) (shopapi.Order, bool, error) {
	order := shopapi.Order{ID: rand.Text(), Shop: request.Shop}
	err := tx.QueryRow(ctx, `INSERT INTO orders (id, idempotency_key, request_hash, shop, total_cents, currency)
		SELECT $1, $2, $3, s.id, 0, s.currency FROM shops s WHERE s.id = $4
		ON CONFLICT (idempotency_key) DO NOTHING RETURNING currency, created_at`,
		order.ID, key, hash, request.Shop).Scan(&order.Currency, &order.CreatedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		order, err = repeated(ctx, tx, key, hash, request.Shop)
		return order, true, err
	}
	if err != nil {
		return order, false, err
	}
	if err := price(ctx, tx, &order, request.Lines); err != nil {
		return order, false, err
	}
	if want := request.ExpectedTotalCents; want != nil && *want != order.TotalCents {
		return order, false, fail(http.StatusConflict, shopapi.CodePriceChanged,
			"the total is %d cents, not the %d that were expected", order.TotalCents, *want)
	}
	batch := &pgx.Batch{}
	for _, line := range order.Lines {
		batch.Queue("UPDATE products SET stock = stock - $2 WHERE id = $1 AND stock >= $2", line.Product, line.Quantity).
			Exec(func(tag pgconn.CommandTag) error {
				if tag.RowsAffected() != 1 {
					return outOfStock(line.Product, line.Name)
				}
				return nil
			})
		batch.Queue("INSERT INTO order_lines (order_id, product, name, quantity, unit_cents) VALUES ($1, $2, $3, $4, $5)",
			order.ID, line.Product, line.Name, line.Quantity, line.UnitCents)
	}
	batch.Queue("UPDATE orders SET total_cents = $2 WHERE id = $1", order.ID, order.TotalCents)
	return order, false, tx.SendBatch(ctx, batch).Close()
}

// price locks the products in the order of their ids, checks the stock and takes the prices.
func price(ctx context.Context, tx pgx.Tx, order *shopapi.Order, lines []shopapi.LineRequest) error {
	ids := make([]int64, len(lines))
	for i, line := range lines {
		ids[i] = line.Product
	}
	rows, err := tx.Query(ctx, `SELECT id, name, price_cents, stock FROM products
		WHERE shop = $1 AND id = ANY($2) ORDER BY id FOR UPDATE`, order.Shop, ids)
	if err != nil {
		return err
	}
	type row struct {
		ID         int64
		Name       string
		PriceCents int64
		Stock      int64
	}
	locked, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return err
	}
	found := make(map[int64]row, len(locked))
	for _, r := range locked {
		found[r.ID] = r
	}
	for _, line := range lines {
		r, ok := found[line.Product]
		if !ok {
			return failProduct(http.StatusUnprocessableEntity, shopapi.CodeNotFound, line.Product,
				"shop %s has no product %d", order.Shop, line.Product)
		}
		if r.Stock < int64(line.Quantity) {
			return outOfStock(r.ID, r.Name)
		}
		order.Lines = append(order.Lines, shopapi.OrderLine{
			Product: r.ID, Name: r.Name, Quantity: line.Quantity, UnitCents: r.PriceCents,
		})
		order.TotalCents += r.PriceCents * int64(line.Quantity)
	}
	return nil
}

func outOfStock(product int64, name string) *failure {
	return failProduct(http.StatusConflict, shopapi.CodeOutOfStock, product, "%s is out of stock", name)
}

// repeated returns the order of a key that is taken, or says that there is no such shop.
func repeated(ctx context.Context, tx pgx.Tx, key string, hash []byte, shop string) (shopapi.Order, error) {
	var id, owner string
	var earlier []byte
	err := tx.QueryRow(ctx, "SELECT id, shop, request_hash FROM orders WHERE idempotency_key = $1", key).Scan(&id, &owner, &earlier)
	if errors.Is(err, pgx.ErrNoRows) {
		return shopapi.Order{}, fail(http.StatusUnprocessableEntity, shopapi.CodeNotFound, "there is no shop %s", shop)
	}
	if err != nil {
		return shopapi.Order{}, err
	}
	if !bytes.Equal(hash, earlier) {
		reused := fail(http.StatusUnprocessableEntity, shopapi.CodeKeyReused,
			"this %s was used for another order; take a new key for a new order", shopapi.KeyHeader)
		if owner == shop {
			reused.problem.Order = id
		}
		return shopapi.Order{}, reused
	}
	return loadOrder(ctx, tx, shop, id)
}

// querier is a pool or a transaction.
type querier interface {
	Query(context.Context, string, ...any) (pgx.Rows, error)
	QueryRow(context.Context, string, ...any) pgx.Row
}

func loadOrder(ctx context.Context, q querier, shop, id string) (shopapi.Order, error) {
	order := shopapi.Order{ID: id, Shop: shop}
	err := q.QueryRow(ctx, "SELECT total_cents, currency, created_at FROM orders WHERE id = $1 AND shop = $2", id, shop).
		Scan(&order.TotalCents, &order.Currency, &order.CreatedAt)
	if err != nil {
		return order, err
	}
	rows, err := q.Query(ctx, "SELECT product, name, quantity, unit_cents FROM order_lines WHERE order_id = $1 ORDER BY product", id)
	if err != nil {
		return order, err
	}
	order.Lines, err = pgx.CollectRows(rows, pgx.RowToStructByPos[shopapi.OrderLine])
	return order, err
}

// order returns an order of a shop.
func (s *store) order(ctx context.Context, shop, id string) (order shopapi.Order, err error) {
	err = s.read(ctx, func() error {
		order, err = loadOrder(ctx, s.pool, shop, id)
		order.CreatedAt = order.CreatedAt.UTC()
		return err
	})
	return order, err
}
