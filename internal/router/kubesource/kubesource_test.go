package kubesource_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shopset/shopset/internal/router/kubesource"
)

const patience = 20 * time.Second

// api answers list and watch of ConfigMaps as an API server does, as far as one object needs it.
type api struct {
	t       *testing.T
	broken  chan struct{} // closed: it works
	refused chan struct{} // has something in it once it did not
	changes chan *corev1.ConfigMap
}

func object(version int, data []byte) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "shops", Name: "main-routes", UID: "1", ResourceVersion: fmt.Sprint(version)},
		BinaryData: map[string][]byte{"routes": data},
	}
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case <-a.broken:
	default:
		http.Error(w, "the control plane is gone", http.StatusServiceUnavailable)
		select {
		case a.refused <- struct{}{}:
		default:
		}
		return
	}
	query := r.URL.Query()
	if r.URL.Path != "/api/v1/namespaces/shops/configmaps" || query.Get("fieldSelector") != "metadata.name=main-routes" {
		a.t.Errorf("asked for %s", r.URL)
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if query.Get("watch") == "" {
		_ = json.NewEncoder(w).Encode(&corev1.ConfigMapList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMapList"},
			ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: []corev1.ConfigMap{*object(1, []byte("one"))}})
		return
	}
	w.(http.Flusher).Flush()
	if query.Get("sendInitialEvents") == "true" {
		a.event(w, "ADDED", object(1, []byte("one")))
		mark := object(1, nil)
		mark.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
		a.event(w, "BOOKMARK", mark)
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case changed := <-a.changes:
			a.event(w, "MODIFIED", changed)
		}
	}
}

func (a *api) event(w http.ResponseWriter, kind string, o *corev1.ConfigMap) {
	raw, err := json.Marshal(o)
	if err != nil {
		a.t.Error(err)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": json.RawMessage(raw)})
	w.(http.Flusher).Flush()
}

// TestWatch starts while the API server does not work, and takes the table when it does, and every change.
func TestWatch(t *testing.T) {
	a := &api{t: t, broken: make(chan struct{}), refused: make(chan struct{}, 1), changes: make(chan *corev1.ConfigMap)}
	server := httptest.NewServer(a)
	defer server.Close()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, fmt.Appendf(nil, "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n", server.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	source, err := kubesource.New("shops/main-routes", "routes", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got, ended := make(chan string), make(chan struct{})
	go func() {
		defer close(ended)
		source.Watch(ctx, func(envelope []byte) { got <- string(envelope) })
	}()
	want := func(text string) {
		t.Helper()
		select {
		case have := <-got:
			if have != text {
				t.Fatalf("got %q, want %q", have, text)
			}
		case <-time.After(patience):
			t.Fatalf("%q does not come", text)
		}
	}
	<-a.refused
	close(a.broken)
	want("one")
	a.changes <- object(2, []byte("two"))
	want("two")
	a.changes <- object(3, []byte("three"))
	want("three")
	cancel()
	<-ended
}

func TestNoAccess(t *testing.T) {
	if _, err := kubesource.New("shops/main-routes", "routes", filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Fatal("no error")
	}
}
