# `make` lists the targets. Everything is set up with uv from hashed requirements into .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3.11 python3; do if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)
ENGINE ?= local
export MINUTES ?= 2
export SECONDS ?= 20
export SEED ?= 0
# The Kubernetes release of the control plane under the tests: 1.36, or 1.34, 1.35 or 1.37, which CI does not build.
export RELEASE ?= 1.36
# Each worker of the tests, and each process that it starts, would compile all of it again.
unexport PYTHONDONTWRITEBYTECODE
# The commit, tag or branch whose contract `make breaking` compares with: by default the commit that named the packages of
# the generated code, which must never change again.
AGAINST ?= $(shell git log --format=%H -S'option go_package' -- protos/sandbox/v1/sandbox.proto | tail -1)
# What `make manifests` prints the objects of.
VALUES ?= deploy/production.yaml
NAMESPACE ?= sandbox-system
# Further arguments of pytest: make test ARGS=tests/unit
ARGS ?=
# The tests wait more than they compute, so that several run at once: JOBS=0 runs them one by one, as -s needs it.
JOBS ?= 5
PARALLEL = -n $(JOBS)
COVERAGE := --cov --cov-report=term:skip-covered --no-cov-on-fail
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url
BIN := .venv/bin
STAMP := .venv/.setup

.PHONY: help setup run demo test test-all coverage robustness test-upgrade test-kubernetes test-callers faults cluster benchmark benchmark-kubernetes benchmark-replicas benchmark-execs lint breaking format generate docs manifests requirements image-check clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(STAMP) ## install everything into .venv

$(STAMP): requirements-dev.txt requirements-uv.txt pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "Python 3.11 or newer is needed: install it, or name it with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@# An environment that works is brought up to date in place: something may be running from it.
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements-dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

run: $(STAMP) ## start the service: local engine, SQLite, 127.0.0.1:50051
	@echo "sandboxctl is at $(CURDIR)/$(BIN)/sandboxctl"
	@echo "in another terminal: . $(BIN)/activate && sandboxctl create --project demo --wait"
	@exec $(BIN)/sandbox-server --engine $(ENGINE) $(FLAGS)

demo: $(STAMP) ## show the life of a sandbox, unattended, on a temporary data directory
	@$(BIN)/python scripts/demo.py

test: $(STAMP) ## run the suite without its slow tests
	$(BIN)/python -m pytest $(PARALLEL) --dist worksteal --hypothesis-profile=brief -m "not slow" $(ARGS)

# Measuring doubles what the tests compute: the slow ones, which find faults of time and not of lines, go without.
test-all: $(STAMP) ## run the whole suite, and measure what all but its slow tests cover
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(COVERAGE) $(ARGS)
	$(BIN)/python -m pytest $(PARALLEL) --dist worksteal -m slow $(ARGS)

coverage: $(STAMP) ## measure what `make test` covers
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(COVERAGE) --cov-fail-under=0 $(ARGS)

# It kills API servers, as the suite on a control plane does.
robustness: $(STAMP) ## random traffic and faults over three replicas, and over SQLite: MINUTES=30 SEED=1
	$(BIN)/python -m pytest tests/robustness -s -o timeout=900 -W default::pytest.PytestUnraisableExceptionWarning $(ARGS)

# The release before is taken from the history of git, which a shallow clone lacks.
test-upgrade: $(STAMP) ## replace the previous release by this one, and this one by the next, on one database under load
	$(BIN)/python -m pytest tests/upgrade -s -o timeout=600 $(ARGS)

# These tests kill API servers. The garbage collector then closes their TLS connections with a warning, which is no failure.
# Each worker has a control plane of its own.
test-kubernetes: JOBS = 2
test-kubernetes: $(STAMP) ## build the control plane when needed and run its suite
	@tests/kubernetes/csi/build.sh >/dev/null
	$(BIN)/python -m pytest $(PARALLEL) --dist worksteal tests/kubernetes -o timeout=900 -W default::pytest.PytestUnraisableExceptionWarning $(ARGS)

# It needs the languages themselves and their package registries. What it builds is kept in .callers for the next time.
test-callers: JOBS = 2
test-callers: $(STAMP) ## run the examples of every language, LangChain's suite, grpcurl, buf and the health probe against the service
	$(BIN)/python -m pytest $(PARALLEL) --dist worksteal tests/examples -o timeout=900 $(ARGS)

faults: $(STAMP) ## print each row of tests/FAULTS.md with its tests, and fail where a row has none
	@$(BIN)/python -m tests.faults

cluster: $(STAMP) ## a real control plane with a simulated node, until Ctrl-C; prints its kubeconfig
	@exec $(BIN)/python -m tests.kubernetes

benchmark: $(STAMP) ## measure against bare baselines and print the table
	@$(BIN)/python -m benchmarks

benchmark-kubernetes: $(STAMP) ## 500 sandboxes on a real control plane against a bare script
	@$(BIN)/python -m benchmarks.kubernetes

benchmark-execs: $(STAMP) ## commands in sandboxes: the round trip, a key, 200 at once
	@$(BIN)/python -m benchmarks.execs

benchmark-replicas: $(STAMP) ## several replicas on PostgreSQL: kills, restarts, handovers, throughput
	@$(BIN)/python -m benchmarks.replicas

lint: $(STAMP) ## ruff, mypy, import-linter, buf, hadolint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code
ifeq ($(shell uname -s),Linux)
	$(BIN)/hadolint Dockerfile
endif

breaking: $(STAMP) ## compare the contract with an earlier one: AGAINST=commit
	cd protos && ../$(BIN)/buf breaking --against '../.git#ref=$(AGAINST),subdir=protos'

format: $(STAMP) ## format Python and the contract
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	cd protos && ../$(BIN)/buf format -w

generate: $(STAMP) docs ## regenerate the stubs and the docs
	$(BIN)/python scripts/generate.py generated

docs: $(STAMP) ## write docs/api.md, docs/access.md, docs/snapshots.md, docs/schedules.md and docs/errors.md from the contract, and from the code the tables of docs/lifecycle.md, the programs of docs/watching.md and the settings of the chart
	$(BIN)/python scripts/reference.py docs
	$(BIN)/python scripts/diagram.py docs/lifecycle.md
	$(BIN)/python scripts/watching.py docs/watching.md
	$(BIN)/python scripts/chart_schema.py deploy/chart/values.schema.json

manifests: ## print the objects of the chart, for kubectl: VALUES=values.yaml NAMESPACE=sandbox-system
	@"$$(tests/kubernetes/helm/build.sh)" template sandbox-service deploy/chart --namespace $(NAMESPACE) --values $(VALUES) --skip-tests

requirements: $(STAMP) ## lock the dependencies again; UPGRADE=--upgrade takes the newest
	$(BIN)/$(COMPILE) $(UPGRADE) pyproject.toml --extra server -o requirements.txt
	$(BIN)/$(COMPILE) $(UPGRADE) pyproject.toml --extra server --extra dev -o requirements-dev.txt
	echo uv | $(BIN)/$(COMPILE) $(UPGRADE) - -o requirements-uv.txt
	@# langchain-tests 1.1.9 asks of a backend what Deep Agents asked before 0.7: that a write of an existing file fails.
	printf '%s\n' 'deepagents<0.7' langchain-tests | $(BIN)/$(COMPILE) $(UPGRADE) pyproject.toml --extra langchain - -o requirements-langchain.txt

image-check: $(STAMP) ## carry out the Dockerfile's steps in a clean directory, without Docker
	$(BIN)/python scripts/image_check.py

clean: ## remove what was made here: .venv and caches; never the data of sandboxes
	rm -rf .venv .callers .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.* dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
