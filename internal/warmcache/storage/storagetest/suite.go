// Package storagetest is the suite that every storage passes.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/shopset/shopset/internal/warmcache/storage"
)

// Run tests a storage that is empty.
func Run(t *testing.T, open func(t *testing.T) storage.Storage) {
	t.Run("objects", func(t *testing.T) { objects(t, open(t)) })
	t.Run("conditions", func(t *testing.T) { conditions(t, open(t)) })
	t.Run("list", func(t *testing.T) { list(t, open(t)) })
	t.Run("one of many", func(t *testing.T) { oneOfMany(t, open(t)) })
	t.Run("cancelled", func(t *testing.T) { cancelled(t, open(t)) })
	t.Run("bad keys", func(t *testing.T) { badKeys(t, open(t)) })
}

func read(t *testing.T, s storage.Storage, key string, offset, length int64) (string, storage.Info) {
	t.Helper()
	reader, info, err := s.Get(t.Context(), key, offset, length)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	content, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	return string(content), info
}

func put(t *testing.T, s storage.Storage, key, content string) string {
	t.Helper()
	tag, err := s.Put(t.Context(), key, []byte(content), storage.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	return tag
}

func objects(t *testing.T, s storage.Storage) {
	if _, _, err := s.Get(t.Context(), "a/none", 0, -1); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("what is not there: %v", err)
	}
	first := put(t, s, "a/b", "hello world")
	if content, info := read(t, s, "a/b", 0, -1); content != "hello world" || info.Tag != first {
		t.Errorf("%q %+v", content, info)
	}
	if content, info := read(t, s, "a/b", 6, 3); content != "wor" || info.Size != 11 || info.Tag != first {
		t.Errorf("a part: %q of %+v", content, info)
	}
	buffer := []byte("what is changed later")
	if _, err := s.Put(t.Context(), "kept", buffer, storage.Condition{}); err != nil {
		t.Fatal(err)
	}
	clear(buffer)
	if content, _ := read(t, s, "kept", 0, -1); content != "what is changed later" {
		t.Errorf("a buffer was kept: %q", content)
	}
	if content, _ := read(t, s, "a/b", 6, -1); content != "world" {
		t.Errorf("the end: %q", content)
	}
	if second := put(t, s, "a/b", "other"); second == first {
		t.Error("another content has the same tag")
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	put(t, s, "large", string(large))
	if content, _ := read(t, s, "large", 1<<21, 32); content != "0123456789abcdef0123456789abcdef" {
		t.Errorf("a part of a large one: %q", content)
	}
	put(t, s, "empty", "")
	if content, _ := read(t, s, "empty", 0, -1); content != "" {
		t.Errorf("an empty one: %q", content)
	}
	for range 2 {
		if err := s.Delete(t.Context(), "a/b"); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := s.Get(t.Context(), "a/b", 0, -1); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("what was deleted: %v", err)
	}
}

func conditions(t *testing.T, s storage.Storage) {
	try := func(content string, c storage.Condition) (string, error) {
		return s.Put(t.Context(), "head", []byte(content), c)
	}
	if _, err := try("x", storage.Condition{IfTag: "\"none\""}); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("a tag of what is not there: %v", err)
	}
	first, err := try("one", storage.Condition{IfAbsent: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := try("two", storage.Condition{IfAbsent: true}); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("what is there already: %v", err)
	}
	second, err := try("two", storage.Condition{IfTag: first})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := try("three", storage.Condition{IfTag: first}); !errors.Is(err, storage.ErrConflict) {
		t.Errorf("what was changed: %v", err)
	}
	if content, info := read(t, s, "head", 0, -1); content != "two" || info.Tag != second {
		t.Errorf("%q %+v, want two, %s", content, info, second)
	}
}

func list(t *testing.T, s storage.Storage) {
	var want []string
	for i := range 25 {
		key := fmt.Sprintf("p/%02d/x", i)
		put(t, s, key, "x")
		want = append(want, key)
	}
	put(t, s, "q/1", "x")
	// A slash sorts behind a dash and a dot, and before letters.
	for _, key := range []string{"r/a/x", "r/a-b/x", "r/a.b", "r/ab/x", "r/a-", "r/a0"} {
		put(t, s, key, "x")
	}
	var order []string
	for after := ""; ; {
		page, err := s.List(t.Context(), "r/a", after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, info := range page {
			order = append(order, info.Key)
		}
		after = order[len(order)-1]
	}
	if got := strings.Join(order, " "); got != "r/a- r/a-b/x r/a.b r/a/x r/a0 r/ab/x" {
		t.Errorf("the order is %s", got)
	}
	var got []string
	for after := ""; ; {
		page, err := s.List(t.Context(), "p/", after, 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, info := range page {
			got = append(got, info.Key)
			if info.Size != 1 || info.Modified.IsZero() {
				t.Errorf("%+v", info)
			}
		}
		after = got[len(got)-1]
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if page, err := s.List(t.Context(), "p/1", "", 100); err != nil || len(page) != 10 {
		t.Errorf("%d below p/1: %v", len(page), err)
	}
	if page, err := s.List(t.Context(), "none/", "", 100); err != nil || len(page) != 0 {
		t.Errorf("%v %v", page, err)
	}
}

// oneOfMany: of many that replace the same object at once, one does.
func oneOfMany(t *testing.T, s storage.Storage) {
	tag := put(t, s, "head", "0")
	var won atomic.Int64
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			_, err := s.Put(context.WithoutCancel(t.Context()), "head", fmt.Appendf(nil, "by %d", i), storage.Condition{IfTag: tag})
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, storage.ErrConflict):
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := won.Load(); n != 1 {
		t.Errorf("%d replaced it", n)
	}
}

func badKeys(t *testing.T, s storage.Storage) {
	for _, key := range []string{"", "/a", "../a", "a/../../b", "a//b", ".", "a/.b/c", ".x/y"} {
		if _, err := s.Put(t.Context(), key, nil, storage.Condition{}); err == nil {
			t.Errorf("%q was taken", key)
		}
		if _, _, err := s.Get(t.Context(), key, 0, -1); err == nil || errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%q was looked up: %v", key, err)
		}
	}
}

// cancelled: who does not wait any more gets no answer, and in time.
func cancelled(t *testing.T, s storage.Storage) {
	put(t, s, "x", "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Put(ctx, "x", []byte("y"), storage.Condition{}); !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
	if body, _, err := s.Get(ctx, "x", 0, -1); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
		if err == nil {
			body.Close()
		}
	}
	if _, err := s.List(ctx, "", "", 10); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v", err)
	}
	if err := s.Delete(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("delete: %v", err)
	}
	if content, _ := read(t, s, "x", 0, -1); content != "x" {
		t.Errorf("%q was put", content)
	}
}
