package operator_test

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
)

// TestWhatIsStoredCanBeRead: the operator lists all ShopSets at once, so a single one that the API server
// takes and the Go types do not would stop the operator for everybody.
func TestWhatIsStoredCanBeRead(t *testing.T) {
	namespace := newNamespace(t)
	const huge = "99999999999999999999"
	for i, test := range []struct {
		path    string // in spec; a number is an index
		value   string // JSON
		refused bool   // must be refused, and not only be readable
	}{
		{"drain", `{"deadline":"5 minutes"}`, true},
		{"drain", `{"deadline":"-5m"}`, true},
		{"drain", `{"deadline":"99999999999999h"}`, true},
		{"drain", `{"deadline":"1d"}`, true},
		{"drain", `{"deadline":"1h30m"}`, false},
		{"components.0.health", `{"port":99999999999}`, true},
		{"components.0.health", `{"port":0}`, true},
		{"components.0.health", `{"port":70000}`, true},
		{"components.0.connections", `{"path":"/","port":70000}`, true},
		{"components.0.connections", `{"path":"/","port":99999999999}`, true},
		{"components.0.connections", `{"path":"/","port":1.5}`, true},
		{"components.0.replicas", huge, true},
		{"revisionHistoryLimit", huge, true},
		{"components.0.tolerations", `[{"tolerationSeconds":` + huge + `}]`, false},
		{"components.0.tolerations", `[{"tolerationSeconds":9223372036854775807}]`, false},
		{"components.0.volumes", `[{"name":"x","secret":{"secretName":"x","defaultMode":99999999999}}]`, false},
		{"components.0.volumes", `[{"name":"x","emptyDir":{"sizeLimit":"1e99999999999"}}]`, false},
		{"components.0.volumes", `[{"name":"x","emptyDir":{"sizeLimit":"much"}}]`, true},
		{"components.0.volumes", `[{"name":"x","iscsi":{"targetPortal":"x","iqn":"x","lun":99999999999}}]`, false},
		{"components.0.volumes", `[{"name":"x","projected":{"sources":[{"serviceAccountToken":{"path":"x","expirationSeconds":` + huge + `}}]}}]`, false},
		{"components.0.volumes", `[{"name":"x","ephemeral":{"volumeClaimTemplate":{"metadata":{"creationTimestamp":"never"},"spec":{}}}}]`, false},
		{"components.0.resources", `{"requests":{"cpu":"1e99999999999"}}`, false},
		{"components.0.resources", `{"requests":{"cpu":99999999999999999999}}`, false},
		{"components.0.affinity", `{"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":99999999999,"preference":{}}]}}`, false},
		{"components.1.autoscaling", `{"min":1,"max":2,"metrics":[{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":99999999999}}}]}`, false},
		{"components.1.autoscaling", `{"min":1,"max":2,"metrics":[{"type":"Resource","resource":{"name":"cpu","target":{"type":"Value","value":"1e99999999999"}}}]}`, false},
		{"components.0.podTemplate", `{"metadata":{"creationTimestamp":"never"},"spec":{"priority":99999999999}}`, false},
	} {
		t.Run(fmt.Sprintf("%s=%s", test.path, test.value), func(t *testing.T) {
			object := asUnstructured(t, sample(t, namespace, fmt.Sprintf("r%d", i)))
			set(t, object.Object["spec"], strings.Split(test.path, "."), test.value)
			err := cluster.admin.Create(t.Context(), object)
			if err != nil {
				return
			}
			if test.refused {
				t.Error("the API server took it")
			}
			read := &v1alpha1.ShopSet{}
			if err := cluster.admin.Get(t.Context(), client.ObjectKeyFromObject(object), read); err != nil {
				t.Errorf("the API server took what the operator cannot read: %v", err)
			}
		})
	}
	// What all this is for.
	if err := cluster.admin.List(t.Context(), &v1alpha1.ShopSetList{}, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
}

func asUnstructured(t *testing.T, ss *v1alpha1.ShopSet) *unstructured.Unstructured {
	t.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(ss)
	if err != nil {
		t.Fatal(err)
	}
	return &unstructured.Unstructured{Object: content}
}

// set puts JSON at a path of maps and lists.
func set(t *testing.T, at any, path []string, value string) {
	t.Helper()
	for len(path) > 1 {
		switch typed := at.(type) {
		case map[string]any:
			at = typed[path[0]]
		case []any:
			at = typed[path[0][0]-'0']
		}
		path = path[1:]
	}
	var parsed any
	if err := json.Unmarshal([]byte(value), &parsed); err != nil {
		t.Fatal(err)
	}
	at.(map[string]any)[path[0]] = parsed
}
