package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
)

// TestConfigRenderedInThePod: the proxy's config comes from its whole environment, a Secret included, by the
// entrypoint; a mistake in it is in the status, and the earlier Pods go on serving.
func TestConfigRenderedInThePod(t *testing.T) {
	ss := started(t)
	change(t, ss, func(s *v1alpha1.ShopSet) {
		proxy := &s.Spec.Components[0]
		proxy.EntrypointImage = "localhost/shopset-entrypoint:dev"
		proxy.Env = append(proxy.Env, corev1.EnvVar{Name: "FROM_SECRET", ValueFrom: &corev1.EnvVarSource{
			SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "managed"}, Key: "redis-url"},
		}})
		proxy.Config[0].Template = `{{ if not (hasPrefix "redis://" .FROM_SECRET) }}{{ fail "no secret" }}{{ end }}` + proxy.Config[0].Template
	})
	waitReady(t, ss)
	for _, pod := range pods(t, ss, "proxy") {
		if len(pod.Status.InitContainerStatuses) != 1 {
			t.Errorf("Pod %s did not render its config", pod.Name)
		}
	}
	people := startLoad(t, buyerOptions(t, ss))
	change(t, ss, func(s *v1alpha1.ShopSet) { s.Spec.Components[0].Config[0].Template += "\n# {{ .FORM_SECRET }}\n" })
	eventually(t, func() error {
		if err := target.Client.Get(t.Context(), client.ObjectKeyFromObject(ss), ss); err != nil {
			return err
		}
		for _, want := range []string{"container shopset-render", "code 78", "variable FORM_SECRET is not set; did you mean FROM_SECRET?"} {
			if !strings.Contains(message(ss), want) {
				return fmt.Errorf("the status says %q, not %q", message(ss), want)
			}
		}
		return nil
	})
	if err := people.stop().Err(); err != nil {
		t.Error(err)
	}
}
