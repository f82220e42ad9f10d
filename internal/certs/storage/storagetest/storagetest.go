// Package storagetest is the conformance suite of certificate storages.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shopset/shopset/internal/certrecord"
	"github.com/shopset/shopset/internal/certs/storage"
)

// Run tests a storage. open opens the same empty storage each time it is called in one test, as several programs
// would, if it can be shared; each test gets one of its own.
func Run(t *testing.T, open func(t *testing.T) func() storage.Storage) {
	for name, test := range map[string]func(*testing.T, func() storage.Storage){
		"domains": testDomains, "pages": testPages, "certificates": testCertificates, "certificates near their end": testExpiring, "all or nothing": testAllOrNothing,
		"changes": testChanges, "numbers that are skipped": testSkip, "changes in the order of commits": testOrder, "conflicts": testConflicts, "jobs": testJobs,
		"one holder per job": testClaims, "values": testValues, "leases": testLeases, "rotation": testRotation,
		"closed": testClosed, "opened again": testReopen,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func domain(name string) *storage.Domain {
	return &storage.Domain{Name: name, Shop: "s1", Labels: map[string]string{"team": "a"}, Options: certrecord.Options{Plan: "big", Allow: []string{"192.0.2.0/24"}}}
}

// der is the smallest thing that a chain can have in it.
func der(n byte) []byte { return []byte{0x30, 3, 2, 1, n} }

func certificate(domain string, kind certrecord.Kind) *storage.Certificate {
	at := time.UnixMilli(1_700_000_000_123)
	return &storage.Certificate{Domain: domain, Kind: kind, Chain: [][]byte{der(1), der(2)}, SealedKey: []byte("old\x00key"),
		NotBefore: at, NotAfter: at.Add(90 * 24 * time.Hour), Serial: "0a", Source: "upload"}
}

func apply(t *testing.T, s storage.Storage, changes ...storage.Change) uint64 {
	t.Helper()
	number, err := s.Apply(t.Context(), changes...)
	if err != nil {
		t.Fatal(err)
	}
	return number
}

func get(t *testing.T, s storage.Storage, name string) (*storage.Domain, []storage.Certificate) {
	t.Helper()
	d, certificates, err := s.Domain(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return d, certificates
}

func testDomains(t *testing.T, open func() storage.Storage) {
	s := open()
	before := time.Now().Truncate(time.Millisecond)
	number := apply(t, s, storage.Change{PutDomain: domain("shop.example")})
	got, certificates := get(t, s, "shop.example")
	if got.Created.Before(before) || !got.Updated.Equal(got.Created) || got.Version != number || len(certificates) > 0 {
		t.Errorf("got %+v, certificates %v", got, certificates)
	}
	want := domain("shop.example")
	want.Created, want.Updated, want.Version = got.Created, got.Updated, got.Version
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	other := &storage.Domain{Name: "shop.example", Shop: "s2"}
	if next := apply(t, s, storage.Change{PutDomain: other}); next <= number {
		t.Errorf("change %d after %d", next, number)
	}
	again, _ := get(t, s, "shop.example")
	if again.Shop != "s2" || again.Labels != nil || !again.Created.Equal(got.Created) || !reflect.DeepEqual(again.Options, certrecord.Options{}) {
		t.Errorf("got %+v: want all of it replaced, and the same time of creation", again)
	}
	apply(t, s, storage.Change{DeleteDomain: "shop.example"})
	if _, _, err := s.Domain(t.Context(), "shop.example"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a deleted domain: %v", err)
	}
	if _, err := s.Apply(t.Context(), storage.Change{DeleteDomain: "shop.example"}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("deleted again: %v", err)
	}
}

func testPages(t *testing.T, open func() storage.Storage) {
	s := open()
	var changes []storage.Change
	for i := range 25 {
		d := domain(fmt.Sprintf("shop%02d.example", i))
		if i%5 == 0 { // Sorted by bytes, whatever the database's language.
			d.Name = fmt.Sprintf("*.sh-op%d.example", i)
		}
		if i%2 == 1 {
			d.Shop, d.Labels = "s2", map[string]string{"team": "b", "x": "y"}
		}
		changes = append(changes, storage.Change{PutDomain: d})
	}
	apply(t, s, changes...)
	for _, test := range []struct {
		query storage.Query
		want  int
	}{
		{storage.Query{Limit: 10}, 25}, {storage.Query{Limit: 5, Shop: "s2"}, 12}, {storage.Query{Limit: 100, LabelKey: "team", LabelVal: "a"}, 13},
		{storage.Query{Limit: 3, LabelKey: "x", LabelVal: "y", Shop: "s2"}, 12}, {storage.Query{Limit: 3, LabelKey: "x", LabelVal: "z"}, 0},
	} {
		var names []string
		for query := test.query; ; {
			page, err := s.Domains(t.Context(), query)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range page {
				names = append(names, d.Name)
			}
			if len(page) < query.Limit {
				break
			}
			query.After = page[len(page)-1].Name
		}
		if len(names) != test.want || !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
			t.Errorf("%+v: %d names %v, want %d", test.query, len(names), names, test.want)
		}
	}
}

func testCertificates(t *testing.T, open func() storage.Storage) {
	s := open()
	if _, err := s.Apply(t.Context(), storage.Change{PutCertificate: certificate("shop.example", certrecord.RSA)}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a certificate without its domain: %v", err)
	}
	apply(t, s, storage.Change{PutDomain: domain("shop.example")})
	number := apply(t, s, storage.Change{PutCertificate: certificate("shop.example", certrecord.RSA)}, storage.Change{PutCertificate: certificate("shop.example", certrecord.ECDSA)})
	d, got := get(t, s, "shop.example")
	want := []storage.Certificate{*certificate("shop.example", certrecord.ECDSA), *certificate("shop.example", certrecord.RSA)}
	if !reflect.DeepEqual(got, want) || d.Version != number {
		t.Errorf("got %+v at %d, want %+v at %d", got, d.Version, want, number)
	}
	newer := certificate("shop.example", certrecord.RSA)
	newer.Chain, newer.Serial = [][]byte{der(9)}, "0b"
	apply(t, s, storage.Change{PutCertificate: newer})
	if _, got := get(t, s, "shop.example"); len(got) != 2 || !bytes.Equal(got[1].Chain[0], der(9)) || got[1].Serial != "0b" {
		t.Errorf("replaced: %+v", got)
	}
	apply(t, s, storage.Change{DeleteCertificate: &storage.Certificate{Domain: "shop.example", Kind: certrecord.RSA}})
	if _, got := get(t, s, "shop.example"); len(got) != 1 || got[0].Kind != certrecord.ECDSA {
		t.Errorf("deleted: %+v", got)
	}
	if _, err := s.Apply(t.Context(), storage.Change{DeleteCertificate: &storage.Certificate{Domain: "shop.example", Kind: certrecord.RSA}}); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("deleted again: %v", err)
	}
	apply(t, s, storage.Change{PutDomain: domain("z.example")}, storage.Change{PutCertificate: certificate("z.example", certrecord.RSA)})
	for _, page := range []struct {
		after, last string
		want        int
	}{{"", "z.example", 2}, {"shop.example", "z.example", 1}, {"", "shop.example", 1}, {"z.example", "zz", 0}} {
		if got, err := s.Certificates(t.Context(), page.after, page.last); err != nil || len(got) != page.want {
			t.Errorf("from %q to %q: %v %v", page.after, page.last, got, err)
		}
	}
	// A domain that comes again has nothing of the one before.
	apply(t, s, storage.Change{DeleteDomain: "shop.example"}, storage.Change{PutDomain: domain("shop.example")})
	if _, got := get(t, s, "shop.example"); len(got) != 0 {
		t.Errorf("a new domain has %+v", got)
	}
}

func testExpiring(t *testing.T, open func() storage.Storage) {
	s := open()
	expect := func(now time.Time, late, expired int64) {
		t.Helper()
		if gotLate, gotExpired, err := s.Expiring(t.Context(), now); err != nil || gotLate != late || gotExpired != expired {
			t.Errorf("at %s: %d late, %d expired, %v; want %d and %d", now, gotLate, gotExpired, err, late, expired)
		}
	}
	quarter := certificate("quarter.example", certrecord.ECDSA) // Of 90 days, so late after 75.
	week := certificate("week.example", certrecord.ECDSA)
	week.NotAfter = week.NotBefore.Add(6 * 24 * time.Hour) // Late after 5.
	at := func(days int) time.Time { return quarter.NotBefore.Add(time.Duration(days) * 24 * time.Hour) }
	expect(at(0), 0, 0)
	for _, c := range []*storage.Certificate{quarter, week} {
		apply(t, s, storage.Change{PutDomain: domain(c.Domain)}, storage.Change{PutCertificate: c})
	}
	expect(at(4), 0, 0)
	expect(at(5), 1, 0)
	expect(at(6), 1, 1)
	expect(at(74), 1, 1)
	expect(at(75), 2, 1)
	expect(at(90), 2, 2)
	apply(t, s, storage.Change{DeleteDomain: week.Domain})
	expect(at(75), 1, 0)
}

func testAllOrNothing(t *testing.T, open func() storage.Storage) {
	s := open()
	before := apply(t, s, storage.Change{PutDomain: domain("a.example")})
	_, err := s.Apply(t.Context(), storage.Change{PutDomain: domain("b.example")}, storage.Change{DeleteDomain: "a.example"}, storage.Change{DeleteDomain: "none.example"})
	if !errors.Is(err, storage.ErrNotFound) {
		t.Fatalf("got %v", err)
	}
	get(t, s, "a.example")
	if _, _, err := s.Domain(t.Context(), "b.example"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("half of it was done: %v", err)
	}
	if last, err := s.LastChange(t.Context()); last != before || err != nil {
		t.Errorf("last change %d %v, want %d", last, err, before)
	}
	if next := apply(t, s, storage.Change{PutDomain: domain("b.example")}); next != before+1 {
		t.Errorf("change %d follows %d", next, before)
	}
}

func testSkip(t *testing.T, open func() storage.Storage) {
	s := open()
	last := apply(t, s, storage.Change{PutDomain: domain("a.example")})
	if got, err := s.SkipChanges(t.Context(), 1); got != last || err != nil {
		t.Errorf("numbers never fall: %d %v", got, err)
	}
	if got, err := s.SkipChanges(t.Context(), last+100); got != last+100 || err != nil {
		t.Errorf("%d %v", got, err)
	}
	if _, err := s.Changes(t.Context(), last, 10); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("changes across the gap: %v", err)
	}
	if next := apply(t, s, storage.Change{PutDomain: domain("b.example")}); next != last+101 {
		t.Errorf("change %d follows %d", next, last+100)
	}
	if changes, err := s.Changes(t.Context(), last+100, 10); err != nil || len(changes) != 1 {
		t.Errorf("%v %v", changes, err)
	}
}

func testChanges(t *testing.T, open func() storage.Storage) {
	s := open()
	if last, err := s.LastChange(t.Context()); last != 0 || err != nil {
		t.Errorf("last change of nothing: %d %v", last, err)
	}
	apply(t, s, storage.Change{PutDomain: domain("a.example")}, storage.Change{PutDomain: domain("b.example")})
	apply(t, s, storage.Change{PutCertificate: certificate("a.example", certrecord.RSA)})
	apply(t, s, storage.Change{DeleteDomain: "b.example"})
	want := []storage.Numbered{{Number: 1, Name: "a.example"}, {Number: 2, Name: "b.example"}, {Number: 3, Name: "a.example"}, {Number: 4, Name: "b.example"}}
	for after := range uint64(5) {
		if got, err := s.Changes(t.Context(), after, 10); err != nil || !slices.Equal(got, want[after:]) {
			t.Errorf("after %d: %v %v", after, got, err)
		}
	}
	if got, err := s.Changes(t.Context(), 1, 2); err != nil || !slices.Equal(got, want[1:3]) {
		t.Errorf("limited: %v %v", got, err)
	}
	if _, err := s.Changes(t.Context(), 5, 10); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("after one that never was: %v", err)
	}
	if err := s.ForgetChanges(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Changes(t.Context(), 3, 10); err != nil || !slices.Equal(got, want[3:]) {
		t.Errorf("the last one was forgotten: %v %v", got, err)
	}
	if _, err := s.Changes(t.Context(), 2, 10); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("after a forgotten one: %v", err)
	}
}

// testOrder: whoever follows the changes while others write sees each of them.
func testOrder(t *testing.T, open func() storage.Storage) {
	const writers, each = 4, 25
	reader := open()
	var group sync.WaitGroup
	for w := range writers {
		s := open()
		group.Go(func() {
			for i := range each {
				if _, err := s.Apply(t.Context(), storage.Change{PutDomain: domain(fmt.Sprintf("w%d-%d.example", w, i))}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	seen := map[string]bool{}
	deadline := time.Now().Add(time.Minute)
	for after := uint64(0); len(seen) < writers*each; {
		changes, err := reader.Changes(t.Context(), after, 7)
		if err != nil || time.Now().After(deadline) {
			t.Errorf("after %d, %d seen: %v", after, len(seen), err)
			break
		}
		for _, c := range changes {
			seen[c.Name], after = true, c.Number
		}
	}
	group.Wait()
}

func testConflicts(t *testing.T, open func() storage.Storage) {
	s := open()
	number := apply(t, s, storage.Change{PutDomain: domain("a.example")})
	next := apply(t, s, storage.Change{PutDomain: domain("a.example"), IfVersion: number})
	for _, change := range []storage.Change{
		{PutDomain: domain("a.example"), IfVersion: number}, {PutDomain: domain("none.example"), IfVersion: number},
		{DeleteDomain: "a.example", IfVersion: number}, {PutCertificate: certificate("a.example", certrecord.RSA), IfVersion: number},
	} {
		if _, err := s.Apply(t.Context(), change); !errors.Is(err, storage.ErrConflict) {
			t.Errorf("%+v: %v", change, err)
		}
	}
	apply(t, s, storage.Change{DeleteDomain: "a.example", IfVersion: next})
}

func testJobs(t *testing.T, open func() storage.Storage) {
	s := open()
	managed := domain("a.example")
	managed.Managed = true
	apply(t, s, storage.Change{PutDomain: managed}, storage.Change{PutDomain: domain("b.example")})
	now := time.Now().Add(time.Second)
	jobs, err := s.Claim(t.Context(), "me", now, now.Add(time.Minute), 10)
	if err != nil || len(jobs) != 1 || jobs[0].Domain != "a.example" {
		t.Fatalf("got %v %v", jobs, err)
	}
	due := now.Add(time.Hour).Truncate(time.Millisecond)
	want := storage.Job{Domain: "a.example", Due: due, Failures: 2, LastError: "no"}
	if err := s.Finish(t.Context(), "other", want); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("another finished it: %v", err)
	}
	if err := s.Finish(t.Context(), "me", want); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Job(t.Context(), "a.example"); err != nil || !got.Due.Equal(due) || got.Failures != 2 || got.LastError != "no" {
		t.Errorf("got %+v %v", got, err)
	}
	// To change the domain leaves its job; to manage it no more ends it.
	apply(t, s, storage.Change{PutDomain: managed})
	if jobs, err := s.Claim(t.Context(), "me", now, now.Add(time.Minute), 10); err != nil || len(jobs) > 0 {
		t.Errorf("due too early: %v %v", jobs, err)
	}
	managed.Managed = false
	apply(t, s, storage.Change{PutDomain: managed})
	if _, err := s.Job(t.Context(), "a.example"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("unmanaged: %v", err)
	}
}

// testClaims: whatever many claim at once, each job has one holder, and comes back when that is dead.
func testClaims(t *testing.T, open func() storage.Storage) {
	const domains, holders = 30, 4
	s := open()
	var changes []storage.Change
	for i := range domains {
		d := domain(fmt.Sprintf("d%02d.example", i))
		d.Managed = true
		changes = append(changes, storage.Change{PutDomain: d})
	}
	apply(t, s, changes...)
	now := time.Now().Add(time.Second)
	var claimed [domains]atomic.Int32
	var group sync.WaitGroup
	for h := range holders {
		s := open()
		group.Go(func() {
			for {
				jobs, err := s.Claim(t.Context(), fmt.Sprint("holder", h), now, now.Add(time.Minute), 5)
				if err != nil {
					t.Error(err)
					return
				}
				if len(jobs) == 0 {
					return
				}
				for _, job := range jobs {
					var i int
					if _, err := fmt.Sscanf(job.Domain, "d%02d.example", &i); err != nil {
						t.Error(err)
					}
					claimed[i].Add(1)
				}
			}
		})
	}
	group.Wait()
	for i := range claimed {
		// One that gets no job leaves while others still hold some, so that a job may be left over.
		if n := claimed[i].Load(); n > 1 {
			t.Errorf("job %d has %d holders", i, n)
		}
	}
	later := now.Add(2 * time.Minute)
	if jobs, err := s.Claim(t.Context(), "late", later, later.Add(time.Minute), 100); err != nil || len(jobs) != domains {
		t.Errorf("after their time %d of %d are free: %v", len(jobs), domains, err)
	}
	if err := s.Finish(t.Context(), "holder0", storage.Job{Domain: "d00.example"}); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("finished by one who has lost it: %v", err)
	}
}

func testValues(t *testing.T, open func() storage.Storage) {
	s, now := open(), time.Now()
	ctx := t.Context()
	if _, err := s.Value(ctx, "k", now); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("none: %v", err)
	}
	for _, value := range [][]byte{[]byte("one"), {0, 1, 2}} {
		if err := s.PutValue(ctx, "k", value, now.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Value(ctx, "k", now); err != nil || !bytes.Equal(got, value) {
			t.Errorf("got %q %v", got, err)
		}
	}
	if _, err := s.Value(ctx, "k", now.Add(2*time.Minute)); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("expired: %v", err)
	}
	if err := s.PutValue(ctx, "k", []byte("for ever"), time.Time{}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Value(ctx, "k", now.Add(1000*time.Hour)); err != nil || string(got) != "for ever" {
		t.Errorf("got %q %v", got, err)
	}
	if err := errors.Join(s.DeleteValue(ctx, "k"), s.DeleteValue(ctx, "k")); err != nil {
		t.Error(err)
	}
	if _, err := s.Value(ctx, "k", now); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
}

func testLeases(t *testing.T, open func() storage.Storage) {
	s, now := open(), time.Now()
	for i, step := range []struct {
		holder string
		now    time.Time
		want   bool
	}{{"a", now, true}, {"b", now, false}, {"a", now.Add(30 * time.Second), true}, {"b", now.Add(80 * time.Second), false}, {"b", now.Add(91 * time.Second), true}, {"a", now.Add(92 * time.Second), false}} {
		if got, err := s.Lease(t.Context(), "x", step.holder, step.now, step.now.Add(time.Minute)); got != step.want || err != nil {
			t.Errorf("step %d: %v %v", i, got, err)
		}
	}
}

func testRotation(t *testing.T, open func() storage.Storage) {
	s := open()
	ctx := t.Context()
	for i := range 5 {
		name := fmt.Sprintf("d%d.example", i)
		apply(t, s, storage.Change{PutDomain: domain(name)}, storage.Change{PutCertificate: certificate(name, certrecord.RSA)}, storage.Change{PutCertificate: certificate(name, certrecord.ECDSA)})
	}
	last, _ := s.LastChange(ctx)
	resealed := 0
	for after := (&storage.Certificate{}); ; {
		page, err := s.SealedOtherwise(ctx, []byte("new\x00"), after, 3)
		if err != nil {
			t.Fatal(err)
		}
		for i := range page {
			if err := s.Reseal(ctx, &page[i], []byte("new\x00key")); err != nil {
				t.Fatal(err)
			}
			if err := s.Reseal(ctx, &page[i], []byte("new\x00again")); !errors.Is(err, storage.ErrConflict) {
				t.Errorf("a key that is another now was replaced: %v", err)
			}
			resealed++
			after = &page[i]
		}
		if len(page) < 3 {
			break
		}
	}
	if page, err := s.SealedOtherwise(ctx, []byte("new\x00"), &storage.Certificate{}, 3); err != nil || len(page) > 0 || resealed != 10 {
		t.Errorf("%d sealed anew, left %v %v", resealed, page, err)
	}
	if now, _ := s.LastChange(ctx); now != last {
		t.Errorf("it counts as a change: %d after %d", now, last)
	}
}

func testClosed(t *testing.T, open func() storage.Storage) {
	s := open()
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Apply(ended, storage.Change{PutDomain: domain("a.example")}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is over: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s.Ping(t.Context()) == nil {
		t.Error("a closed storage works")
	}
}

func testReopen(t *testing.T, open func() storage.Storage) {
	s := open()
	number := apply(t, s, storage.Change{PutDomain: domain("a.example")}, storage.Change{PutCertificate: certificate("a.example", certrecord.RSA)})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	if d, certificates := get(t, s, "a.example"); d.Version != number || len(certificates) != 1 {
		t.Errorf("got %+v %+v", d, certificates)
	}
}
