# Every target does its own set-up: a virtual environment from the lock file, nothing else on the machine is touched.
# Needed: make and Python 3.11 or newer (another one: `make demo PYTHON=/path/to/python`).
SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BILLING_HOME ?= .billing
PYTHON ?=

.PHONY: help demo test dev check bench setup lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(STAMP) ## from requests, traffic and storage to a printed bill, with embedded PostgreSQL
	$(BIN)/billing demo

test: $(STAMP) ## all tests
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

dev: $(STAMP) ## Dagster's pages and daemon on the embedded parts
	$(BIN)/billing dev

check: $(STAMP) ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## our speed and memory beside other tools; see docs/benchmarks.md
	$(BIN)/python -m bench

setup: $(STAMP) ## only the virtual environment

lock: $(STAMP) ## resolve pyproject.toml anew into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --no-strip-extras --python-version 3.11 --generate-hashes --upgrade \
	    --no-config --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet -o requirements.lock

# The stamp comes last: an interrupted installation is taken up again by the next call.
$(STAMP): requirements.lock pyproject.toml
	@found=; for python in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3 python; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "Python 3.11 or newer was not found. Install it, or name it: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python" >&2; \
	    exit 1; \
	fi; \
	if ! "$(BIN)/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "setting up $(VENV) with $$($$found --version)"; \
	    "$$found" -m venv --clear $(VENV) || { \
	        echo "$$found cannot make a virtual environment; on Debian and Ubuntu install its -venv package." >&2; exit 1; }; \
	fi
	@echo "installing the packages of requirements.lock (about a minute, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $(STAMP)

# As root the server's data may lie outside (see docs/adr/0001): the file `location` says where.
clean: ## remove the environment, caches and all embedded data
	@if [ -f $(BILLING_HOME)/postgres/location ]; then rm -rf "$$(dirname "$$(cat $(BILLING_HOME)/postgres/location)")"; fi
	rm -rf $(VENV) $(BILLING_HOME) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
