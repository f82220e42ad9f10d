package cell

import (
	"errors"
	"fmt"
	"path"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/render"
)

// maxConfigMapBytes is what the API server takes.
const maxConfigMapBytes = 1 << 20

// renderConfig makes the ConfigMap of a component's config files, nil when it has none. The name
// holds the hash of the content and the object is immutable: a Pod of an earlier revision that
// restarts finds the files it was made with.
func renderConfig(ss *v1alpha1.ShopSet, component *v1alpha1.Component, env []corev1.EnvVar, budget *render.Budget, problems *Problems) *corev1.ConfigMap {
	if len(component.Config) == 0 {
		return nil
	}
	known, later := templateEnvironment(ss, env)
	data := make(map[string]string, len(component.Config))
	size := 0
	for i, file := range component.Config {
		if component.EntrypointImage != "" {
			// Rendered in the Pod; that it can be read at all is known already.
			if _, err := (&render.Template{Name: file.Path, Text: file.Template}).Variables(); err != nil {
				problems.add(componentField(component.Name, "config"), "%v", err)
			}
			data[templateKey(i, file.Path)] = file.Template
			size += len(file.Template)
			continue
		}
		content, err := render.Text(file.Path, file.Template, known, budget)
		if err != nil {
			field := componentField(component.Name, "config")
			var renderError *render.Error
			if errors.As(err, &renderError) && later[renderError.Variable] {
				problems.add(field, "%v: its value comes from a Secret or a field of the Pod and is not known before the Pod starts; let the program read it from its environment, or set entrypointImage", err)
			} else {
				problems.add(field, "%v", err)
			}
			continue
		}
		data[configKey(i, file.Path)] = content
		if size += len(content); size > maxConfigMapBytes {
			break
		}
	}
	if size > maxConfigMapBytes {
		problems.add(componentField(component.Name, "config"), "the files have more than 1024 KiB together; a ConfigMap holds no more")
	}
	immutable := true
	return &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{
			Name:      ObjectName(ss.Name, component.Name) + "-" + hash(data),
			Namespace: ss.Namespace,
			Labels:    labels(ss.Name, component.Name),
		},
		Immutable: &immutable,
		Data:      data,
	}
}

// templateKey is the key of a file that is rendered in the Pod; its suffix tells the entrypoint the language.
func templateKey(i int, file string) string { return configKey(i, file) + ".tmpl" }

// configKey is the key of a file in the ConfigMap, of at most 253 characters. Two paths may end alike, so it has a
// number.
func configKey(i int, file string) string {
	base := path.Base(file)
	return fmt.Sprintf("%d-%s", i, base[max(0, len(base)-200):])
}
