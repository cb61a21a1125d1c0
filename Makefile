# Everything here needs Docker with the compose plugin; test, e2e, bench, lint and fuzz need Go and a C compiler, too.
#
# The pattern `work` is every package of every module of go.work.

# golangci-lint, by version: another one finds other things.
GOLANGCI = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# It can't be in one module with promtool, which needs other versions of the libraries of both.
AMTOOL = github.com/prometheus/alertmanager/cmd/amtool@v0.28.1

# How long `make fuzz` tries each target.
FUZZTIME ?= 10s

.PHONY: help build up down demo test e2e bench lint debug debug-stop fuzz images tools

help: ## List what can be made.
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 8

# What binaries, logs and /readyz call the version.
export RUMI_VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)

build: ## Build every image.
	docker compose build

up: ## Build and start the suite in the background.
	docker compose up --build --detach

down: ## Stop the suite; its state stays.
	docker compose down

demo: ## Take two packs through their whole life in a suite of its own, which is removed at the end.
	@deploy/demo/run

images: ## Build the two images that packs and dependency builds run in.
	docker compose --progress quiet build pack-image builder-image

# They are no part of the workspace, which would take on their requirements.
tools: ## Build promtool and amtool, with which the tests check what Prometheus and Alertmanager are told.
	GOWORK=off GOFLAGS=-mod=readonly CGO_ENABLED=0 go build -C deploy/monitoring/tools -ldflags='-s -w' -o ../../../bin/ tool
	GOWORK=off GOFLAGS=-mod=readonly CGO_ENABLED=0 GOBIN='$(CURDIR)/bin' go install -ldflags='-s -w' $(AMTOOL)

test: images tools ## Vet and test every module, with the race detector, a PostgreSQL and real containers.
	go vet work
	RUMI_TEST_REQUIRE_ALL=1 deploy/test/with-postgres go test -race work

e2e: ## Run the journeys over a suite of their own; then again beside a second suite, in a home with unreadable entries, renamed and rebooted.
	RUMI_E2E=1 go test -count=1 -v -timeout=25m ./e2e/journeys
	RUMI_E2E=1 RUMI_E2E_CONDITIONS=rough go test -count=1 -v -timeout=25m ./e2e/journeys

bench: images ## Run the Go benchmarks, then the whole suite beside squid, Caddy, nginx and bsdtar: one table at the end. As root.
	e2e/bench/tools.sh
	deploy/test/with-postgres go test -run='^$$' -bench=. -benchmem work
	go run ./e2e/bench

lint: ## Check formatting, the modules' files, the compose files and the documents.
	@test -z "$$(gofmt -l api cli e2e libs runtime services)" || { echo "not formatted:"; gofmt -l api cli e2e libs runtime services; exit 1; }
	go run $(GOLANGCI) run $$(go list -m -f '{{.Dir}}/...') # it doesn't know the pattern work
	@for module in $$(go list -m -f '{{.Dir}}'); do (cd "$$module" && GOWORK=off go mod tidy -diff) || exit 1; done
	docker compose --profile '*' config --quiet
	COMPOSE_FILE=docker-compose.yml:deploy/demo/compose.yml docker compose config --quiet
	go test -count=1 ./api/openapi # the document is what the code makes, and breaks no client undeclared
	go test -count=1 ./e2e/docs ./e2e/deployment ./e2e/dashboards # what they read lies outside of their module, where Go's cache doesn't look

debug: ## Run SERVICE of the suite under a debugger, in the place of its container; an IDE attaches to 127.0.0.1:2345.
	@deploy/dev/debug $(SERVICE)

debug-stop: ## Put the container of SERVICE's image back.
	@deploy/dev/debug $(SERVICE) --stop

fuzz: ## Fuzz each target for FUZZTIME.
	@for package in $$(go list work); do \
	  for target in $$(go test -list='^Fuzz' "$$package" | grep '^Fuzz'); do \
	    echo "$$package $$target"; \
	    go test -run='^$$' -fuzz="^$$target$$" -fuzztime=$(FUZZTIME) "$$package" || exit 1; \
	  done; \
	done
