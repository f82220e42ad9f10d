package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/shopset/shopset/examples/platform/buyer"
	"github.com/shopset/shopset/internal/devcluster"
)

// TestCustomerDomains: somebody buys at a customer's domain, whose certificate comes from the certificate API by way of
// Redis, and what its record says is what all proxies do, a moment later.
func TestCustomerDomains(t *testing.T) {
	t.Parallel()
	ss := started(t)
	if err := target.RegisterDomains(t.Context(), 3, func(string) {}); err != nil {
		t.Fatal(err)
	}
	options := buyerOptions(t, ss)
	for n := 1; n <= 3; n++ {
		options.Shop = devcluster.CustomerDomain(n)
		eventually(t, func() error { // A new certificate reaches Redis a moment after the API has taken it.
			_, err := look(t.Context(), options, options.Shop)
			return err
		})
		if _, err := buyer.Buy(t.Context(), options); err != nil {
			t.Fatal(err)
		}
	}
	name := devcluster.CustomerDomain(2)
	put := func(record string) {
		t.Helper()
		if err := target.PutDomain(t.Context(), name, record); err != nil {
			t.Fatal(err)
		}
	}
	// Each look is a connection of its own, so that both proxies are met.
	looks := func(want int) {
		t.Helper()
		eventually(t, func() error {
			for range 10 {
				status, err := look(t.Context(), options, name)
				if err != nil || status != want {
					return fmt.Errorf("%s answers %d %w, want %d", name, status, err, want)
				}
			}
			return nil
		})
	}
	looks(http.StatusOK)
	put(`{"shop": "shop-03", "options": {"maintenance": true}}`)
	looks(http.StatusServiceUnavailable)
	put(`{"shop": "shop-03", "options": {"allow": ["192.0.2.0/24"]}}`)
	looks(http.StatusForbidden)
	put(`{"shop": "shop-03"}`)
	looks(http.StatusOK)
}

func look(ctx context.Context, options buyer.Options, host string) (int, error) {
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: options.RootCAs, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, options.Address)
		}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/", nil)
	if err != nil {
		return 0, err
	}
	response, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(request)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}
