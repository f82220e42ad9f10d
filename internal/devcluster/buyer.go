package devcluster

import (
	"context"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/examples/platform/buyer"
)

// Buyer are the options to buy through a ShopSet's edge; the shop is still to be named.
func (t *Target) Buyer(ctx context.Context, ss *v1alpha1.ShopSet) (buyer.Options, error) {
	address, err := t.EdgeAddress(ctx, ss)
	if err != nil {
		return buyer.Options{}, err
	}
	roots, err := t.Roots()
	if err != nil {
		return buyer.Options{}, err
	}
	return buyer.Options{Address: address, RootCAs: roots}, nil
}
