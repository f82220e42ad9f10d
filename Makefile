# make up    a real cluster, a ShopSet and a purchase
# make test  everything that is tested
# `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export SHOPSET_STATE ?= $(CURDIR)/.state
export GOFLAGS ?= -buildvcs=false
TOOLS := $(SHOPSET_STATE)/tools
# Each module is built by its own go.mod, as its users see it; go.work is for editors.
export GOWORK := off
# The modules whose tests need neither a cluster nor minutes.
LIGHT_MODULES := . hack/image bench test/acme test/h2spec test/s3

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## /{printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## The cluster and the demo

up: tools ## Start a cluster (or use KUBECONFIG/CONTEXT), the demo, and buy something; CELLS=3 for a Fleet of so many cells with routers in front, DOMAINS=10000 for as many customers' domains
	@SHOPSET_STARTED=$$(date +%s%3N) $(TOOLS)/dev up

down: tools ## End the local cluster and remove what it left, built programs excepted
	@$(TOOLS)/localcluster down

status: tools ## Show the local cluster, its Fleets and ShopSets
	@$(TOOLS)/dev status

buy: tools ## Buy something from a shop of the running demo
	@$(TOOLS)/dev buy

images: tools ## Build all container images that changed
	@$(TOOLS)/image build

# SHOPSET_STATE may be a folder that holds more than what was made here.
clean: ## End the local cluster and remove everything that was built
	@[ ! -x "$(TOOLS)/localcluster" ] || "$(TOOLS)/localcluster" down
	@if [ "$(SHOPSET_STATE)" = "$(CURDIR)/.state" ] || [ -e "$(SHOPSET_STATE)/.made-by-shopset" ]; then rm -rf "$(SHOPSET_STATE)"; \
	else echo "clean: $(SHOPSET_STATE) was not made by this Makefile; remove what you do not need yourself" >&2; exit 1; fi

## Tests

# Formatting comes first: whoever forgot it should not learn so after ten minutes.
# What needs no cluster does not share the machine with one.
test: format test-unit test-rules test-operator test-containertester test-localcluster test-e2e lint ## Test everything

test-unit: ## Tests that need no cluster
	@for module in $(LIGHT_MODULES); do echo "== unit tests: $$module"; (cd $$module && go test $(UNIT_FLAGS) $$(go list ./... | grep -v -e /internal/operator$$ -e /internal/kubectl$$ -e /test/e2e$$)); done

test-operator: tools ## Tests of the operator and of the kubectl plugin against a real API server and etcd
	@export KUBEBUILDER_ASSETS=$$($(TOOLS)/localcluster assets); echo "== operator, kubectl shopset"; go test ./internal/operator ./internal/kubectl

# Debian's Prometheus knows no Kubernetes, so that part of the scrape configuration is left out of the check.
test-rules: ## Tests of the alert rules with promtool
	@hack/ensure-packages prometheus
	@echo "== alert rules"; cd config/monitoring && promtool check rules rules.yaml && promtool test rules rules_test.yaml
	@checked=$$(mktemp) && sed 's/kubernetes_sd_configs: .*/static_configs: [{targets: [x]}]/' config/monitoring/scrape.yaml >"$$checked" && promtool check config --syntax-only "$$checked"; code=$$?; rm -f "$$checked"; exit $$code

test-localcluster: tools ## Tests of the local cluster itself
	@if [ "$$($(TOOLS)/dev target)" != local ]; then echo "== localcluster: left out, KUBECONFIG or CONTEXT names a cluster of your own"; exit 0; fi; \
	$(TOOLS)/localcluster build; echo "== localcluster"; cd hack/localcluster && CGO_ENABLED=0 SHOPSET_CLUSTER_BIN=$(SHOPSET_STATE)/bin go test ./...

test-e2e: up ## Tests of the whole path in the cluster
	@echo "== end to end"; go test -count=1 -parallel 2 -timeout 40m ./test/e2e

test-containertester: tools ## Tests of containertester with a real nginx image
	@$(TOOLS)/image build nginx-proxy shopset-proxy
	@echo "== containertester"; cd containertester && CGO_ENABLED=0 go test -c -o $(TOOLS)/containertester.test .
	@hack/with-docker containertester/testdata/run $(SHOPSET_STATE)/images $(TOOLS)/containertester.test -test.count=1 -test.parallel=8 -test.timeout=5m
	@echo "== containertester with Podman"; hack/with-podman containertester/testdata/run $(SHOPSET_STATE)/images $(TOOLS)/containertester.test -test.count=1 -test.parallel=8 -test.timeout=5m -test.run '^(TestReverseProxy|TestFaults|TestTLS|TestReady|TestCertificateAPI|TestNetworkAliases|TestMistakes|TestReports|TestKilled.*)$$'

race: ## Unit tests with the race detector
	@$(MAKE) --no-print-directory test-unit UNIT_FLAGS=-race

format: ## Check the formatting
	@command -v git >/dev/null || hack/ensure-packages git
	@unformatted=$$(git ls-files '*.go' | xargs gofmt -l); if [ -n "$$unformatted" ]; then echo "not gofmt-clean: $$unformatted"; exit 1; fi

lint: format $(TOOLS)/golangci-lint ## Formatting, go vet and golangci-lint
	@go tool -modfile=hack/tools/go.mod controller-gen crd paths=./api/... output:crd:stdout | diff - <(cat config/crd/*.yaml) >/dev/null || { echo "config/crd is not what api/ generates; run \`make generate\`"; exit 1; }
	@for module in $(LIGHT_MODULES) containertester hack/localcluster; do echo "== lint: $$module"; (cd $$module && if [ $$module = hack/localcluster ]; then export CGO_ENABLED=0; fi && go vet ./... && $(TOOLS)/golangci-lint run --config $(CURDIR)/.golangci.yml ./...); done

## Benchmarks

bench-operator: tools ## The operator against a bare client and kubectl apply
	@export KUBEBUILDER_ASSETS=$$($(TOOLS)/localcluster assets); cd bench && go run ./operator

bench-ready: up ## From apply to Ready with real Pods, against plain Deployments
	@cd bench && go run ./ready

bench-entrypoint: ## shopset-entrypoint against envsubst: 100 templates, then the program
	@hack/ensure-packages gettext-base
	@cd bench && go run ./entrypoint

bench-containertester: tools ## containertester against its peers and bare calls of the engine
	@$(TOOLS)/image build nginx-proxy shopset-proxy
	@cd bench && CGO_ENABLED=0 go build -o $(TOOLS)/bench-containertester ./containertester
	@TESTCONTAINERS_RYUK_DISABLED=true hack/with-docker containertester/testdata/run $(SHOPSET_STATE)/images $(TOOLS)/bench-containertester 2>/dev/null

bench-certs: tools $(TOOLS)/caddy ## TLS for many domains: the proxy's store against nginx with Lua and HAProxy
	@hack/ensure-packages nginx-light libnginx-mod-http-lua lua-nginx-redis haproxy redis-server
	@cd bench && go run ./certs --caddy $(TOOLS)/caddy

bench-proxy: tools $(TOOLS)/caddy $(TOOLS)/traefik ## shopset-proxy against nginx, HAProxy, Caddy, Traefik and httputil.ReverseProxy
	@hack/ensure-packages nginx-light haproxy wrk nghttp2-client
	@cd bench && go build -o $(TOOLS)/bench-proxy ./proxy && $(TOOLS)/bench-proxy --caddy $(TOOLS)/caddy --traefik $(TOOLS)/traefik

bench-cache: | $(TOOLS) ## The cache manager against tar with zstd, rclone, aws s3 sync, and the bare creation of files (CACHE_FLAGS=--full: a million)
	@hack/ensure-packages rclone zstd awscli
	@cd bench && go build -o $(TOOLS)/bench-cache ./cache && $(TOOLS)/bench-cache $(CACHE_FLAGS)

bench-warmstart: ## The demo's shop with a cold, a restored and a filled cache, under the same load
	@cd bench && go run ./warmstart

bench-router: | $(TOOLS) ## shopset-router against HAProxy and nginx, by server name and without TLS of their own
	@hack/ensure-packages nginx-light libnginx-mod-stream haproxy
	@cd bench && go build -o $(TOOLS)/bench-router ./router && $(TOOLS)/bench-router

bench-failover: | $(TOOLS) ## Cells that die, hang or are drained: shopset-router against HAProxy
	@hack/ensure-packages haproxy
	@cd bench && go build -o $(TOOLS)/bench-failover ./failover && $(TOOLS)/bench-failover

## Development

generate: ## Generate deep copies and the CRDs from api/, and the PrometheusRule from the rules
	go tool -modfile=hack/tools/go.mod controller-gen object:headerFile=/dev/null crd paths=./api/... output:crd:dir=config/crd
	go run ./hack/monitoring

# Built without the modules' own settings, which differ.
$(TOOLS)/golangci-lint: hack/tools/go.mod | $(TOOLS)
	@echo "building golangci-lint (minutes, the first time)"
	@cd hack/tools && go build -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

$(TOOLS)/caddy: bench/peers/go.mod | $(TOOLS)
	@echo "building Caddy (minutes, the first time)"
	@cd bench/peers && go build -o $@ github.com/caddyserver/caddy/v2/cmd/caddy

$(TOOLS)/traefik: bench/peers/traefik/go.mod | $(TOOLS)
	@echo "building Traefik (ten minutes, the first time)"
	@cd bench/peers/traefik && go build -o $@ github.com/traefik/traefik/v3/cmd/traefik

$(TOOLS):
	@[ -d "$(SHOPSET_STATE)" ] || { mkdir -p "$(SHOPSET_STATE)"; touch "$(SHOPSET_STATE)/.made-by-shopset"; }
	@mkdir -p "$@"

tools: | $(TOOLS)
	@cd hack/localcluster && CGO_ENABLED=0 go build -o $(TOOLS)/localcluster .
	@cd hack/image && go build -o $(TOOLS)/image .
	@go build -o $(TOOLS)/dev ./hack/dev
	@mkdir -p $(SHOPSET_STATE)/bin && go build -o $(SHOPSET_STATE)/bin/kubectl-shopset ./cmd/kubectl-shopset

.PHONY: help up down status buy images clean test test-unit test-rules test-operator test-localcluster test-e2e test-containertester race lint bench-operator bench-ready bench-entrypoint bench-containertester bench-certs bench-proxy bench-cache bench-warmstart format generate tools bench-router bench-failover
