# `make` lists the targets. Everything is set up with uv from hashed requirements into .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
ENGINE ?= local
BIN := .venv/bin
STAMP := .venv/.setup

.PHONY: help setup run demo test test-kubernetes cluster benchmark lint format generate diagram requirements image-check clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(STAMP) ## install everything into .venv

$(STAMP): requirements-dev.txt requirements-uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

run: $(STAMP) ## start the service: local engine, SQLite, 127.0.0.1:50051
	@echo "sandboxctl is at $(CURDIR)/$(BIN)/sandboxctl"
	@echo "in another terminal: . $(BIN)/activate && sandboxctl create --project demo --wait"
	@exec $(BIN)/sandbox-server --engine $(ENGINE)

demo: $(STAMP) ## the whole story, unattended, on a throw-away data directory
	@$(BIN)/python scripts/demo.py

test: $(STAMP) ## run the suite
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --no-cov-on-fail $(ARGS)

test-kubernetes: $(STAMP) ## build the control plane when needed and run its suite
	$(BIN)/python -m pytest tests/kubernetes -o timeout=900 $(ARGS)

cluster: $(STAMP) ## a real control plane with a simulated node, until Ctrl-C; prints its kubeconfig
	@exec $(BIN)/python -m tests.kubernetes.cluster

benchmark: $(STAMP) ## measure against bare baselines and print the table
	@$(BIN)/python -m benchmarks

lint: $(STAMP) ## ruff, mypy, import-linter, buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code

format: $(STAMP) ## format Python and the contract
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	cd protos && ../$(BIN)/buf format -w

generate: $(STAMP) diagram ## regenerate the stubs and the README's diagram
	$(BIN)/python scripts/generate.py generated

diagram: $(STAMP) ## redraw the README's state diagram from the tables
	$(BIN)/python -m sandbox_server.domain.diagram README.md

requirements: $(STAMP) ## lock the dependencies again
	$(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 pyproject.toml --extra server -o requirements.txt
	$(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 pyproject.toml --extra server --extra dev -o requirements-dev.txt
	echo uv | $(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 - -o requirements-uv.txt

clean: ## remove what was made here: .venv, caches, local data
	rm -rf .venv .data .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
