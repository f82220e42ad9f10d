package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	_ "sigs.k8s.io/controller-runtime/pkg/controller" // Registers the metrics of the reconcilers.
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/yaml"
)

var root = filepath.Join("..", "..")

type ruleFile struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []rule `json:"rules"`
	} `json:"groups"`
}

type rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(append([]string{root}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func alerts(t *testing.T) (result []rule) {
	t.Helper()
	file := ruleFile{}
	if err := yaml.UnmarshalStrict(read(t, "config", "monitoring", source), &file); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.Groups {
		result = append(result, group.Rules...)
	}
	if len(result) == 0 {
		t.Fatal("there is no rule")
	}
	return result
}

// TestObjectIsGenerated: one source, and the object says the same.
func TestObjectIsGenerated(t *testing.T) {
	rules, got := read(t, "config", "monitoring", source), read(t, "config", "monitoring", object)
	if !bytes.Equal(got, prometheusRule(rules)) {
		t.Fatalf("config/monitoring/%s is not what %s says; run make generate", object, source)
	}
	wrapped := struct {
		Spec any `json:"spec"`
	}{}
	var plain any
	if err := yaml.Unmarshal(got, &wrapped); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(rules, &plain); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(wrapped.Spec, plain) {
		t.Fatal("the object has other groups than the file")
	}
}

// TestEveryAlertHasItsPage: a page with all five parts, linked from the alert, and no page without an alert.
func TestEveryAlertHasItsPage(t *testing.T) {
	names := map[string]bool{}
	for _, alert := range alerts(t) {
		if names[alert.Alert] {
			t.Errorf("%s is there twice", alert.Alert)
		}
		names[alert.Alert] = true
		if want := "https://github.com/shopset/shopset/blob/main/docs/runbooks/" + alert.Alert + ".md"; alert.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook_url is %s, want %s", alert.Alert, alert.Annotations["runbook_url"], want)
		}
		if severity := alert.Labels["severity"]; alert.Annotations["summary"] == "" || severity != "critical" && severity != "warning" {
			t.Errorf("%s needs a summary, and severity critical or warning", alert.Alert)
		}
		page, err := os.ReadFile(filepath.Join(root, "docs", "runbooks", alert.Alert+".md"))
		if err != nil {
			t.Error(err)
			continue
		}
		at := 0
		for _, part := range []string{"# " + alert.Alert + "\n", "\n## What it means\n", "\n## What is touched\n", "\n## How to look\n", "\n## How to mend\n", "\n## How to know that it is over\n"} {
			next := strings.Index(string(page)[at:], part)
			if next < 0 {
				t.Errorf("%s.md lacks %q, or has it in another order", alert.Alert, strings.TrimSpace(part))
				continue
			}
			at += next
		}
	}
	pages, err := os.ReadDir(filepath.Join(root, "docs", "runbooks"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		if name := strings.TrimSuffix(page.Name(), ".md"); name != "README" && !names[name] {
			t.Errorf("docs/runbooks/%s is the page of no alert", page.Name())
		}
	}
}

// TestEveryAlertIsTested: rules_test.yaml lets each alert come, and has a moment when it does not.
func TestEveryAlertIsTested(t *testing.T) {
	file := struct {
		Tests []struct {
			Cases []struct {
				Alert string `json:"alertname"`
				Wants []any  `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		} `json:"tests"`
	}{}
	if err := yaml.Unmarshal(read(t, "config", "monitoring", "rules_test.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range file.Tests {
		for _, c := range test.Cases {
			fires[c.Alert] = fires[c.Alert] || len(c.Wants) > 0
			silent[c.Alert] = silent[c.Alert] || len(c.Wants) == 0
		}
	}
	for _, alert := range alerts(t) {
		if !fires[alert.Alert] || !silent[alert.Alert] {
			t.Errorf("%s: tested that it comes: %v, that it does not: %v", alert.Alert, fires[alert.Alert], silent[alert.Alert])
		}
	}
}

var (
	metricName = regexp.MustCompile(`\b(?:shopset|controller_runtime|leader_election|workqueue)_[a-z_]+\b(\{[^}]*\})?`)
	matcher    = regexp.MustCompile(`([a-z_]+)(=~|=)"([^"]*)"`)
)

// TestMetricsExist: every metric that a rule names is registered by a program, with the labels and their values that the
// rule asks for.
func TestMetricsExist(t *testing.T) {
	packages := literals(t)
	ours := func(name string) (found []map[string]bool) {
		for _, words := range packages {
			if registers(words, name) {
				found = append(found, words)
			}
		}
		return found
	}
	if len(ours("shopset_router_no_such_metric")) > 0 || len(ours("shopset_router_table_version")) != 1 {
		t.Fatal("the search for metrics does not find what is there, or finds what is not")
	}
	others := controllerRuntime(t)
	seen := 0
	for _, alert := range alerts(t) {
		for _, found := range metricName.FindAllString(alert.Expr, -1) {
			name, selector, _ := strings.Cut(found, "{")
			seen++
			if labels, known := others[name]; known {
				for _, m := range matcher.FindAllStringSubmatch(selector, -1) {
					if !slices.Contains(labels, m[1]) {
						t.Errorf("%s: %s has no label %s", alert.Alert, name, m[1])
					}
				}
				continue
			}
			sources := ours(name)
			if len(sources) == 0 {
				t.Errorf("%s: no program registers %s", alert.Alert, name)
				continue
			}
			for _, m := range matcher.FindAllStringSubmatch(selector, -1) {
				for _, want := range append(values(m[1], m[3]), m[1]) {
					if !slices.ContainsFunc(sources, func(words map[string]bool) bool { return words[want] }) {
						t.Errorf("%s: %s has no %q", alert.Alert, name, want)
					}
				}
			}
		}
	}
	if seen < 20 {
		t.Fatalf("only %d metrics were found in the rules", seen)
	}
}

// values are those that a matcher names; status codes come from the wire.
func values(label, pattern string) []string {
	if label == "code" {
		return nil
	}
	return strings.Split(pattern, "|")
}

// literals are the strings in the source of each package of the programs.
func literals(t *testing.T) map[string]map[string]bool {
	t.Helper()
	result := map[string]map[string]bool{}
	for _, folder := range []string{"cmd", "internal"} {
		if err := filepath.WalkDir(filepath.Join(root, folder), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			words := result[filepath.Dir(path)]
			if words == nil {
				words = map[string]bool{}
				result[filepath.Dir(path)] = words
			}
			ast.Inspect(file, func(node ast.Node) bool {
				if literal, ok := node.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					if text, err := strconv.Unquote(literal.Value); err == nil {
						words[text] = true
					}
				}
				return true
			})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return result
}

// registers says whether a package has the name as it is, or as a prefix (shopset_router_) or namespace (shopset_certs) and a
// rest.
func registers(words map[string]bool, name string) bool {
	for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
		base, isSuffix := strings.CutSuffix(name, suffix)
		if !isSuffix {
			continue
		}
		if words[base] {
			return true
		}
		for at := len("shopset_"); at < len(base); at++ {
			if rest := base[at:]; words[rest] && (strings.HasSuffix(base[:at], "_") && (words[base[:at]] || words[base[:at-1]])) {
				return true
			}
		}
	}
	return false
}

var described = regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)

// controllerRuntime has the metrics that come with the operator's library, and their labels.
func controllerRuntime(t *testing.T) map[string][]string {
	t.Helper()
	registry, ok := metrics.Registry.(prometheus.Collector)
	if !ok {
		t.Fatalf("%T describes nothing", metrics.Registry)
	}
	descriptions := make(chan *prometheus.Desc, 1000)
	registry.Describe(descriptions)
	close(descriptions)
	result := map[string][]string{}
	for d := range descriptions {
		found := described.FindStringSubmatch(fmt.Sprint(d))
		if found != nil {
			result[found[1]] = strings.Split(found[2], ",")
		}
	}
	return result
}
