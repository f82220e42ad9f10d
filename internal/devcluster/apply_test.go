package devcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestAWaitGoesOnOverWhatPasses(t *testing.T) {
	shopSets := schema.GroupResource{Group: "shopset.dev", Resource: "shopsets"}
	refused := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	for _, test := range []struct {
		err     error
		passing bool
	}{
		{refused, true},
		{fmt.Errorf("Get: %w", refused), true},
		{apierrors.NewTooManyRequests("busy", 1), true},
		{apierrors.NewInternalError(errors.New("etcd")), true},
		{apierrors.NewServiceUnavailable("starting"), true},
		{apierrors.NewNotFound(shopSets, "a"), false},
		{apierrors.NewForbidden(shopSets, "a", errors.New("no")), false},
		{errors.New("no idea"), false},
	} {
		calls := 0
		err := until(t.Context(), func() (bool, error) {
			if calls++; calls == 1 {
				return false, test.err
			}
			return true, nil
		})
		if (err == nil) != test.passing || (calls == 2) != test.passing {
			t.Errorf("%v: %d calls, then %v", test.err, calls, err)
		}
	}
}

func TestAWaitThatEndsNamesTheCause(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	err := until(ctx, func() (bool, error) {
		if calls++; calls == 1 {
			return false, apierrors.NewServiceUnavailable("the cache is not synchronised")
		}
		cancel()
		return false, ctx.Err()
	})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "the cache is not synchronised") {
		t.Error(err)
	}
}

// TestAMissingNamespaceIsNoMissingKind has the two answers 404 that an API server gives.
func TestAMissingNamespaceIsNoMissingKind(t *testing.T) {
	kind := &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusNotFound,
		Reason: metav1.StatusReasonNotFound, Message: "the server could not find the requested resource",
		Details: &metav1.StatusDetails{Group: "shopset.dev", Name: "a", Kind: "shopsets"}}}
	if !kindMissing(kind) {
		t.Error("a kind that is not served yet")
	}
	if kindMissing(apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "shops")) {
		t.Error("a namespace that is missing is waited for")
	}
}
