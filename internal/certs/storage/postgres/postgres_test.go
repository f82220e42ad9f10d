package postgres_test

import (
	"testing"

	"github.com/shopset/shopset/internal/certs/storage"
	"github.com/shopset/shopset/internal/certs/storage/postgres"
	"github.com/shopset/shopset/internal/certs/storage/storagetest"
	"github.com/shopset/shopset/internal/testservers"
)

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) func() storage.Storage {
		url := testservers.Postgres(t)
		return func() storage.Storage {
			s, err := postgres.Open(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() }) // Some are closed already.
			return s
		}
	})
}

func TestOpenFails(t *testing.T) {
	for _, address := range []string{"postgres://127.0.0.1:1/none", "no=thing"} {
		if s, err := postgres.Open(t.Context(), address); err == nil {
			t.Errorf("%s opened", address)
			_ = s.Close()
		}
	}
}
