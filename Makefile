# The commands of a developer and of CI. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# -buildvcs=false: the version comes from VERSION, and a clone owned by another user must build.
GOBUILD := go build -buildvcs=false -trimpath -ldflags '-X main.version=$(VERSION)'
# One binary per folder of cmd/.
BINARIES := $(filter-out internal,$(notdir $(wildcard cmd/*)))

# Tools are built once from pinned modules; the Go build cache makes a second clone cheap.
TOOLS := .cache/tools
export GOLANGCI_LINT_CACHE := $(CURDIR)/.cache/golangci-lint
STEP := WEFT_STEP_EPOCH=$${WEFT_STEP_EPOCH:-$$(date +%s)} tools/step.sh

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## install the Debian packages the tests and the lab need and this machine lacks
	@tools/deps.sh

.PHONY: build
build: $(BINARIES:%=bin/%) ## build the binaries into bin/

# Always run: Go's own cache decides what is stale.
.PHONY: $(BINARIES:%=bin/%)
$(BINARIES:%=bin/%): bin/%:
	@$(GOBUILD) -o $@ ./cmd/$*

.PHONY: tools
tools: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc $(TOOLS)/golangci-lint ## build the pinned generators and linters into .cache/tools

$(TOOLS)/buf: PKG := github.com/bufbuild/buf/cmd/buf
$(TOOLS)/protoc-gen-go: PKG := google.golang.org/protobuf/cmd/protoc-gen-go
$(TOOLS)/protoc-gen-go-grpc: PKG := google.golang.org/grpc/cmd/protoc-gen-go-grpc
$(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc: tools/go.mod tools/go.sum
	@echo "building $@ (minutes the first time)"
	@go build -buildvcs=false -modfile=tools/go.mod -o $@ $(PKG)
	@touch $@

$(TOOLS)/golangci-lint: tools/lint/go.mod tools/lint/go.sum
	@echo "building $@ (minutes the first time)"
	@go build -buildvcs=false -modfile=tools/lint/go.mod -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

.PHONY: generate
generate: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc ## regenerate the generated code (committed; CI checks that it is current)
	@tools/generate.sh

.PHONY: check-generated
check-generated: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc
	@tools/check-generated.sh

.PHONY: fmt
fmt: $(TOOLS)/golangci-lint $(TOOLS)/buf ## format Go and proto files
	@$(TOOLS)/golangci-lint fmt
	@$(TOOLS)/buf format -w proto

.PHONY: lint
lint: lint-go lint-proto ## format check, go vet, linters, buf lint, the architecture test

.PHONY: lint-go
lint-go: $(TOOLS)/golangci-lint
	@go test -count=1 .
	@$(TOOLS)/golangci-lint run ./...

.PHONY: lint-proto
lint-proto: $(TOOLS)/buf
	@if [ -n "$$(find proto -name '*.proto' 2>/dev/null | head -1)" ]; then $(TOOLS)/buf lint && echo "buf lint: ok"; else echo "buf lint: no .proto files yet"; fi

.PHONY: breaking
breaking: $(TOOLS)/buf ## check the proto files for changes that break what main has
	@tools/check-breaking.sh

.PHONY: test-unit
test-unit: ## run every package's own tests with the race detector, fuzz seeds included (some need root)
	@go test -race -timeout 15m $$(go list ./... | grep -v '/e2e\(/\|$$\)')

.PHONY: e2e
e2e: build ## run the scenarios on simulated hosts (needs root)
	@if [ -d e2e ]; then go test -count=1 -timeout 30m ./e2e/...; else echo "e2e: no scenarios yet"; fi

.PHONY: e2e-faults
e2e-faults: deps build ## make every fault of the matrix under traffic and write the table of docs/failure.md (needs root; half an hour)
	@go run -buildvcs=false ./e2e/faultmatrix --update docs/failure.md $(FAULTS)

.PHONY: bench
bench: deps build ## measure the figures of docs/benchmarks.md in labs of its own (needs root); BENCH="--only failover --n 3" measures some
	@if [ -d e2e/bench ]; then go run -buildvcs=false ./e2e/bench $(BENCH); else echo "bench: e2e/bench is not there yet" >&2; exit 1; fi

.PHONY: demo
demo: ## install what is missing, build, and show the tour on simulated hosts (needs root)
	@export WEFT_STEP_EPOCH=$$(date +%s); \
	$(STEP) 'system packages' $(MAKE) deps; \
	$(STEP) 'build' $(MAKE) build; \
	if [ -d e2e/demo ]; then $(STEP) 'tour' go run -buildvcs=false ./e2e/demo; else echo "demo: e2e/demo is not there yet" >&2; exit 1; fi

.PHONY: test
test: ## run everything CI runs (needs root)
	@export WEFT_STEP_EPOCH=$$(date +%s); \
	$(STEP) 'system packages' $(MAKE) deps; \
	$(STEP) 'generators and linters' $(MAKE) tools; \
	$(STEP) 'generated code is current' $(MAKE) check-generated; \
	$(STEP) 'proto lint' $(MAKE) lint-proto; \
	$(STEP) 'proto compatibility' $(MAKE) breaking; \
	$(STEP) 'architecture, vet, format, linters' $(MAKE) lint-go; \
	$(STEP) 'unit tests, race detector' $(MAKE) test-unit; \
	$(STEP) 'build' $(MAKE) build; \
	$(STEP) 'scenarios' $(MAKE) e2e; \
	$(STEP) 'done: all checks passed' true

.PHONY: clean
clean: ## remove what make built
	@rm -rf bin .cache
