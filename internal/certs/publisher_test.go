package certs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certs"
	"github.com/shopset/shopset/internal/certs/certstest"
	"github.com/shopset/shopset/internal/certs/storage"
	"github.com/shopset/shopset/internal/testservers"
)

func redisClient(t testing.TB, address string) rueidis.Client {
	t.Helper()
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{address}, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// eventually waits for something that must come.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// publishing is a service with a publisher that runs until stop.
func publishing(t *testing.T, s storage.Storage, address string) (service *certs.Service, publisher *certs.Publisher, stop func()) {
	t.Helper()
	service = certs.NewService(s, keyring(t, 1), slog.New(slog.DiscardHandler))
	redis := certrecord.NewRedis(rueidis.ClientOption{InitAddress: []string{address}, DisableCache: true})
	t.Cleanup(redis.Close)
	publisher = certs.NewPublisher(service, redis)
	service.PublishTo(publisher)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { publisher.Run(ctx) })
	stop = func() { cancel(); group.Wait() }
	t.Cleanup(stop)
	return service, publisher, stop
}

func read(t *testing.T, redis rueidis.Client, name string) (*certrecord.Record, error) {
	t.Helper()
	sealed, err := redis.Do(t.Context(), redis.B().Get().Key(certrecord.RedisKey(name)).Build()).AsBytes()
	if err != nil {
		return nil, err
	}
	return certrecord.Open(keyring(t, 1), name, sealed)
}

// inRedis waits until Redis has a domain with this shop; "" for none.
func inRedis(t *testing.T, redis rueidis.Client, name, shop string) {
	t.Helper()
	eventually(t, func() error {
		record, err := read(t, redis, name)
		if shop == "" && (errors.Is(err, certrecord.ErrDeleted) || rueidis.IsRedisNil(err)) || err == nil && record.Shop == shop {
			return nil
		}
		return fmt.Errorf("%s: %+v %v, want shop %q", name, record, err, shop)
	})
}

func put(t *testing.T, service *certs.Service, name, shop string) {
	t.Helper()
	if _, err := service.PutDomain(t.Context(), "t", certs.Domain{Name: name, Shop: shop}, 0); err != nil {
		t.Fatal(err)
	}
}

// stream returns the numbers and names of the stream.
func stream(t *testing.T, redis rueidis.Client) (entries []string) {
	t.Helper()
	list, err := redis.Do(t.Context(), redis.B().Xrange().Key(certrecord.ChangesKey).Start("-").End("+").Build()).AsXRange()
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range list {
		number, _, _ := strings.Cut(entry.ID, "-")
		entries = append(entries, number+" "+entry.FieldValues["name"])
	}
	return entries
}

func TestPublisher(t *testing.T) {
	t.Parallel()
	server := testservers.NewRedis(t)
	address := server.Address()
	redis := redisClient(t, address)
	s := store(t, filepath.Join(t.TempDir(), "db"))
	service, publisher, stop := publishing(t, s, address)
	put(t, service, "a.example", "one")
	inRedis(t, redis, "a.example", "one")
	chain, key := certstest.New(t).Pair(t, "a.example")
	if err := service.PutCertificate(t.Context(), "t", "a.example", "upload", 0, chain, key); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if record, err := read(t, redis, "a.example"); err != nil || len(record.Certificates) != 1 || record.Version != 2 {
			return fmt.Errorf("%+v %v", record, err)
		}
		return nil
	})
	put(t, service, "b.example", "two")
	if err := service.DeleteDomain(t.Context(), "t", "a.example", 0); err != nil {
		t.Fatal(err)
	}
	inRedis(t, redis, "a.example", "")
	eventually(t, func() error {
		if lag, err := publisher.Lag(t.Context()); lag > 0 || err != nil {
			return fmt.Errorf("lag %d %w", lag, err)
		}
		return nil
	})
	if got := fmt.Sprint(stream(t, redis)); got != "[1 * 2 a.example 3 b.example 4 a.example]" {
		t.Errorf("stream: %s", got)
	}

	// While Redis is away changes are made; they come when it is there again.
	server.Down(t)
	put(t, service, "c.example", "three")
	put(t, service, "b.example", "four")
	if lag, err := publisher.Lag(t.Context()); lag != 2 || err != nil {
		t.Errorf("lag %d %v", lag, err)
	}
	server.Up(t)
	inRedis(t, redis, "c.example", "three")
	inRedis(t, redis, "b.example", "four")

	// A publisher that stops is continued by the next, from where Redis is.
	stop()
	put(t, service, "d.example", "five")
	service, _, stop = publishing(t, s, address)
	inRedis(t, redis, "d.example", "five")

	// Redis comes back empty.
	if err := redis.Do(t.Context(), redis.B().Flushall().Build()).Error(); err != nil {
		t.Fatal(err)
	}
	inRedis(t, redis, "c.example", "three")
	inRedis(t, redis, "d.example", "five")
	put(t, service, "e.example", "six")
	inRedis(t, redis, "e.example", "six")
	eventually(t, func() error {
		if got := fmt.Sprint(stream(t, redis)); got != "[7 * 8 e.example]" {
			return errors.New(got)
		}
		return nil
	})
	stop()

	// The database is another, with lower numbers: what it says counts.
	restored := store(t, filepath.Join(t.TempDir(), "db"))
	service, _, _ = publishing(t, restored, address)
	put(t, service, "c.example", "restored")
	inRedis(t, redis, "c.example", "restored")
	eventually(t, func() error {
		// Numbers go on behind those that were given before, so that what is made now is newer than all of then.
		if got := fmt.Sprint(stream(t, redis)); got != "[7 * 8 e.example 9 *]" {
			return errors.New(got)
		}
		return nil
	})
	inRedis(t, redis, "d.example", "") // It was registered after the backup, and is nobody's now.
	put(t, service, "d.example", "anew")
	inRedis(t, redis, "d.example", "anew")
}

// TestPublishers: several at once, and writers, end with what the database says, each change in the stream once or
// covered by one that says that anything may have changed.
func TestPublishers(t *testing.T) {
	t.Parallel()
	const writers, each = 3, 40
	address := testservers.Redis(t)
	redis := redisClient(t, address)
	path := filepath.Join(t.TempDir(), "db")
	var group sync.WaitGroup
	for w := range writers {
		service, _, _ := publishing(t, store(t, path), address)
		group.Go(func() {
			for i := range each {
				if _, err := service.PutDomain(t.Context(), "t", certs.Domain{Name: fmt.Sprintf("d%d.example", i%7), Shop: fmt.Sprintf("s%d-%d", w, i)}, 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	s := store(t, path)
	for i := range 7 {
		name := fmt.Sprintf("d%d.example", i)
		d, _, err := s.Domain(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		inRedis(t, redis, name, d.Shop)
	}
	eventually(t, func() error {
		entries := stream(t, redis)
		var last int
		for i, entry := range entries {
			var number int
			var name string
			if _, err := fmt.Sscan(entry, &number, &name); err != nil || i > 0 && number != last+1 && name != "*" {
				return fmt.Errorf("entry %d is %s after %d", i, entry, last)
			}
			last = number
		}
		if last != writers*each {
			return fmt.Errorf("the last change is %d, want %d", last, writers*each)
		}
		return nil
	})
}

// TestPublishMany: everything is published in pages, certificates with their domains.
func TestPublishMany(t *testing.T) {
	t.Parallel()
	const domains = 1203
	address := testservers.Redis(t)
	redis := redisClient(t, address)
	s := store(t, filepath.Join(t.TempDir(), "db"))
	keys := keyring(t, 1)
	var changes []storage.Change
	for i := range domains {
		name := fmt.Sprintf("d%04d.example", i)
		changes = append(changes, storage.Change{PutDomain: &storage.Domain{Name: name, Shop: "s"}})
		for kind := range i % 3 {
			changes = append(changes, storage.Change{PutCertificate: &storage.Certificate{Domain: name, Kind: []certrecord.Kind{certrecord.ECDSA, certrecord.RSA}[kind],
				Chain: [][]byte{{0x30, 0}}, SealedKey: keys.Seal(nil, []byte(name), "key "+name), NotBefore: time.Now(), NotAfter: time.Now()}})
		}
	}
	if _, err := s.Apply(t.Context(), changes...); err != nil {
		t.Fatal(err)
	}
	publishing(t, s, address)
	for i := range domains {
		name := fmt.Sprintf("d%04d.example", i)
		inRedis(t, redis, name, "s")
		record, err := read(t, redis, name)
		if err != nil || len(record.Certificates) != i%3 || i%3 > 0 && string(record.Certificates[0].Key) != name {
			t.Fatalf("%s: %+v %v", name, record, err)
		}
	}
}
