// Command monitoring makes config/monitoring/prometheusrule.yaml of rules.yaml beside it: the same rules, as the object that
// the Prometheus operator reads.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
)

const (
	source = "rules.yaml"
	object = "prometheusrule.yaml"
)

func main() {
	folder := filepath.Join("config", "monitoring")
	rules, err := os.ReadFile(filepath.Join(folder, source))
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, object), prometheusRule(rules), 0o644) //nolint:gosec // It is part of the repository.
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// prometheusRule wraps a file of rule groups.
func prometheusRule(rules []byte) []byte {
	_, groups, _ := bytes.Cut(rules, []byte("\ngroups:\n"))
	var text bytes.Buffer
	text.WriteString(`# Made from rules.yaml by make generate; change that one.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: shopset, namespace: shopset-system}
spec:
  groups:
`)
	for line := range bytes.Lines(groups) {
		if len(bytes.TrimSpace(line)) > 0 {
			text.WriteString("  ")
		}
		text.Write(line)
	}
	return text.Bytes()
}
