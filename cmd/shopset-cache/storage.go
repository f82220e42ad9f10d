package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/shopset/shopset/internal/warmcache/storage"
	"github.com/shopset/shopset/internal/warmcache/storage/decorate"
	"github.com/shopset/shopset/internal/warmcache/storage/local"
	"github.com/shopset/shopset/internal/warmcache/storage/s3store"
)

// openStorage opens what an address names, and measures it.
func openStorage(ctx context.Context, address string, registry prometheus.Registerer) (storage.Storage, error) {
	if address == "" {
		return nil, errors.New("--storage: want s3://BUCKET/PREFIX or a folder")
	}
	if !strings.HasPrefix(address, "s3://") {
		if strings.Contains(address, "://") && !strings.HasPrefix(address, "file://") {
			scheme, _, _ := strings.Cut(address, "://")
			return nil, fmt.Errorf("--storage %q: want s3://BUCKET/PREFIX or a folder", scheme+"://…")
		}
		s, err := local.Open(strings.TrimPrefix(address, "file://"))
		if err != nil {
			return nil, fmt.Errorf("--storage: %w", err)
		}
		return decorate.NewMeasure(s, registry), nil
	}
	s, err := openS3(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("--storage: %w", err)
	}
	return decorate.Retry{Storage: decorate.NewMeasure(s, registry)}, nil
}

// openS3 opens s3://BUCKET/PREFIX?OPTION=VALUE.
func openS3(ctx context.Context, address string) (*s3store.Store, error) {
	// What is wrong here may be a password: no more of it is told than where it was looked for.
	u, err := url.Parse(address)
	if err == nil && u.User != nil {
		return nil, errors.New("s3://…: credentials have no place in the address; they come from the environment or the identity of the Pod")
	}
	if err != nil || u.Host == "" || u.Fragment != "" {
		return nil, errors.New("s3://…: want s3://BUCKET/PREFIX?OPTION=VALUE")
	}
	address = "s3://" + u.Host + u.Path
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("%q: its options cannot be read: want OPTION=VALUE, parted by &", address)
	}
	known := []string{"region", "endpoint", "path-style", "encryption", "kms-key", "insecure"}
	for name, values := range query {
		if !slices.Contains(known, name) || len(values) != 1 {
			return nil, fmt.Errorf("%q: the option %q: want %s, each once", address, name, strings.Join(known, ", "))
		}
		if slices.Contains([]string{"path-style", "insecure"}, name) && values[0] != "true" && values[0] != "false" {
			return nil, fmt.Errorf("%q: %s=%q: want true or false", address, name, values[0])
		}
	}
	return s3store.Open(ctx, s3store.Config{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Region: query.Get("region"), Endpoint: query.Get("endpoint"),
		PathStyle: query.Get("path-style") == "true", Insecure: query.Get("insecure") == "true", Encryption: query.Get("encryption"), Key: query.Get("kms-key")})
}
