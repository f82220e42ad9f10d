package api

import (
	"context"
	"fmt"
	"hash/fnv"

	"github.com/jackc/pgx/v5"

	"github.com/shopset/shopset/examples/platform/shopapi"
)

// The size of the catalogue.
const (
	SeedShops           = 50
	SeedProductsPerShop = 20
	// SeedDomains is how many customers have a domain of their own: d-00001.customers.example and so on.
	SeedDomains = 10000
	seedStock   = 1_000_000
)

var (
	seedMakers   = []string{"Alder", "Birch", "Cedar", "Dune", "Ember", "Fjord", "Grove", "Harbour", "Iris", "Juniper"}
	seedTrades   = []string{"Books", "Outdoor", "Kitchen", "Garden", "Toys", "Music", "Tools", "Tea", "Bikes", "Paper"}
	seedAdjs     = []string{"Quiet", "Sturdy", "Bright", "Folding", "Classic", "Little", "Nordic", "Travel", "Everyday", "Golden"}
	seedNouns    = []string{"Lamp", "Kettle", "Notebook", "Backpack", "Blanket", "Teapot", "Chair", "Bowl", "Compass", "Scarf"}
	seedKinds    = []string{"Home", "Travel", "Gifts", "Workshop"}
	seedMaterial = []string{"oak", "wool", "steel", "linen", "cork", "glass", "leather", "bamboo"}
)

// Catalogue returns the shops and products of the demo: always the same.
func Catalogue() ([]shopapi.Shop, []shopapi.Product) {
	var shops []shopapi.Shop
	var products []shopapi.Product
	for n := 1; n <= SeedShops; n++ {
		id := fmt.Sprintf("shop-%02d", n)
		shop := shopapi.Shop{
			ID: id, Host: id + ".shops.example", Currency: "EUR",
			Name: seedMakers[n%len(seedMakers)] + " & " + seedTrades[(n/len(seedMakers)+n)%len(seedTrades)],
		}
		shops = append(shops, shop)
		for m := 1; m <= SeedProductsPerShop; m++ {
			products = append(products, seedProduct(shop, n, m))
		}
	}
	return shops, products
}

func seedProduct(shop shopapi.Shop, n, m int) shopapi.Product {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d/%d", n, m)
	draw := h.Sum64()
	pick := func(words []string) string {
		word := words[draw%uint64(len(words))]
		draw /= uint64(len(words))
		return word
	}
	name := pick(seedAdjs) + " " + seedNouns[(n+m)%len(seedNouns)] + fmt.Sprintf(" No. %d", m)
	return shopapi.Product{
		ID: int64(n*1000 + m), Shop: shop.ID, Currency: shop.Currency, Name: name,
		Description: fmt.Sprintf("Made of %s and %s, by hand, for %s. It comes with a spare part and a letter from the maker.",
			pick(seedMaterial), pick(seedMaterial), shop.Name),
		Category:   pick(seedKinds),
		PriceCents: int64(199 + draw%20_000),
		Stock:      seedStock,
	}
}

// seed inserts what is missing of the catalogue; what is there, stock above all, stays as it is.
func seed(ctx context.Context, tx pgx.Tx) error {
	shops, products := Catalogue()
	batch := &pgx.Batch{}
	for _, s := range shops {
		batch.Queue("INSERT INTO shops (id, host, name, currency) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
			s.ID, s.Host, s.Name, s.Currency)
	}
	for _, p := range products {
		batch.Queue(`INSERT INTO products (id, shop, name, description, category, price_cents, stock)
			VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`,
			p.ID, p.Shop, p.Name, p.Description, p.Category, p.PriceCents, p.Stock)
	}
	batch.Queue(`INSERT INTO domains (host, shop)
		SELECT 'd-' || lpad(n::text, 5, '0') || '.customers.example', 'shop-' || lpad((1 + n % $1)::text, 2, '0')
		FROM generate_series(1, $2) n ON CONFLICT DO NOTHING`, SeedShops, SeedDomains)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	return nil
}
