package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/shopset/shopset/examples/platform/shopapi"
	"github.com/shopset/shopset/internal/testservers"
)

// TestDatabaseReplaced gives the api an empty database under the same address, with and without requests
// that notice.
func TestDatabaseReplaced(t *testing.T) {
	server := testservers.NewPostgres(t)
	i := start(t, server.URL()).awaitReady(t)
	if _, err := i.client.PlaceOrder(t.Context(), "k0", order(1001, 1)); err != nil {
		t.Fatal(err)
	}
	for n, notice := range []func(){
		func() {
			if code, body := i.post(t, "k1", `{"shop":"shop-01","lines":[{"product":1001,"quantity":1}]}`); code != 503 {
				t.Errorf("the tables are gone: %d %s", code, body)
			}
		},
		func() {
			await(t, func() error {
				if code, body := i.readiness(); code == 200 {
					return fmt.Errorf("ready: %s", body)
				}
				return nil
			})
		},
	} {
		execute(t, server.URL(), "DROP SCHEMA public CASCADE")
		notice()
		if code, body := i.readiness(); code != 503 || !strings.HasPrefix(body, "database: ") {
			t.Fatalf("round %d, without tables: %d %s", n, code, body)
		}
		execute(t, server.URL(), "CREATE SCHEMA public")
		i.awaitReady(t)
		if _, err := i.client.PlaceOrder(t.Context(), "k2", order(1001, 1)); err != nil {
			t.Fatal(err)
		}
		if n := one(t, server.URL(), "SELECT count(*) FROM orders"); n != 1 {
			t.Errorf("%d orders", n)
		}
	}
}

// TestAClientThatLeavesIsNoFailure has clients that go away while they wait for a lock.
func TestAClientThatLeavesIsNoFailure(t *testing.T) {
	url := testservers.Postgres(t)
	i := start(t, url).awaitReady(t)
	connection, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close(context.Background())
	if _, err := connection.Exec(t.Context(), "BEGIN; SELECT 1 FROM products FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := i.client.PlaceOrder(ctx, "k", order(1001, 1))
		left <- err
	}()
	await(t, func() error {
		if n := one(t, url, "SELECT count(*) FROM pg_locks WHERE NOT granted"); n == 0 {
			return errors.New("the purchase does not wait")
		}
		return nil
	})
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	metrics := func() string {
		recorder := httptest.NewRecorder()
		i.admin.ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
		return recorder.Body.String()
	}
	await(t, func() error {
		if !strings.Contains(metrics(), `shopset_api_orders_total{result="gone"} 1`) {
			return errors.New("the client that left is not counted as gone")
		}
		return nil
	})
	if strings.Contains(metrics(), `shopset_api_orders_total{result="failed"}`) {
		t.Error("the client that left is a failure")
	}
}

func TestDatabaseDownAndBack(t *testing.T) {
	server := testservers.NewPostgres(t)
	server.Down(t)
	i := start(t, server.URL())
	if code, body := i.readiness(); code != 503 || !strings.HasPrefix(body, "database: ") {
		t.Fatalf("without a database: %d %s", code, body)
	}
	if code, _ := i.post(t, "k0", `{"shop":"shop-01","lines":[{"product":1001,"quantity":1}]}`); code != 503 {
		t.Fatalf("without a database: %d", code)
	}
	server.Up(t)
	i.awaitReady(t)
	if _, err := i.client.PlaceOrder(t.Context(), "k1", order(1001, 1)); err != nil {
		t.Fatal(err)
	}
	server.Down(t)
	_, err := i.client.PlaceOrder(t.Context(), "k2", order(1001, 1))
	var failure *shopapi.Error
	if !errors.As(err, &failure) || failure.Status != 503 {
		t.Fatalf("database down: %v", err)
	}
	if code, body := i.readiness(); code != 503 {
		t.Fatalf("database down: %d %s", code, body)
	}
	server.Up(t)
	// Old connections in the pool are dead now; nobody may notice.
	if _, err := i.client.PlaceOrder(t.Context(), "k2", order(1001, 1)); err != nil {
		t.Fatal(err)
	}
	i.awaitReady(t)
	if n := one(t, server.URL(), "SELECT count(*) FROM orders"); n != 2 {
		t.Errorf("%d orders", n)
	}
}
