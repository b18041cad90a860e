# Two commands matter to a newcomer: `make demo` and `make test`. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_DIR ?= demo-project
# The FOCUS validator runs on Python 3.12 only, with libraries older than ours.
PYTHON312 ?= python3.12
FOCUS := .venv-focus
PYTEST_ARGS ?=
# Two to four at a time: more would only wait for each other.
PARALLEL ?= --numprocesses auto --maxprocesses 4 --dist loadgroup
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help setup demo dev test lint bench soak wheel-test focus picture lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

$(VENV)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, this is {v[0]}.{v[1]}: call make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Every package comes from a hash lock; pip's resolver is never asked, `pip check` is.
$(VENV)/runtime: $(VENV)/python requirements.lock
	@echo "installing the locked packages (about 320 MB to fetch, one to three minutes) ..."
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/pip check
	@touch $@

$(VENV)/development: $(VENV)/runtime requirements-dev.lock
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements-dev.lock
	$(BIN)/pip check
	@touch $@

setup: $(VENV)/development ## install everything for working on Maestro

demo: $(VENV)/runtime ## a real push to a verified evidence bundle, in a new project
	$(BIN)/maestro demo --dir $(DEMO_DIR)

dev: $(VENV)/runtime ## the Dagster UI and the worker loop on the demo project
	@test -f $(DEMO_DIR)/shop/pyproject.toml || $(BIN)/maestro demo --dir $(DEMO_DIR)
	cd $(DEMO_DIR)/shop && $(CURDIR)/$(BIN)/maestro dev

test: $(VENV)/development ## all tests at reduced counts
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS)

lint: $(VENV)/development ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/development ## benchmarks against stock Dagster; one with NAME=...
	$(BIN)/python bench/run.py $(NAME)

soak: $(VENV)/development ## the same tests with full counts (tens of minutes)
	MAESTRO_SOAK=1 $(BIN)/python -m pytest --timeout 3600 $(PYTEST_ARGS)

wheel-test: $(VENV)/development ## build the wheel, install it in an empty environment, use it
	MAESTRO_WHEEL_TEST=1 $(BIN)/python -m pytest tests/wheel --timeout 900 $(PYTEST_ARGS)

$(FOCUS)/ready: tests/focus/requirements.lock
	@$(PYTHON312) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' || { echo "Python 3.12 is needed for the FOCUS validator: install it (Debian and Ubuntu: apt-get install python3.12-venv; elsewhere: uv python install 3.12), then call make focus PYTHON312=/path/to/python3.12"; exit 1; }
	$(PYTHON312) -m venv --clear $(FOCUS)
	$(FOCUS)/bin/pip install --quiet --no-deps --require-hashes -r tests/focus/requirements.lock
	$(FOCUS)/bin/pip check
	@touch $@

focus: $(VENV)/development $(FOCUS)/ready ## judge a FOCUS export by the FinOps Foundation's validator (needs Python 3.12)
	$(BIN)/python tests/focus/check.py $(FOCUS)/bin/python

picture: $(VENV)/development ## re-make the screenshots of the README and docs (needs chromium)
	$(BIN)/python docs/picture.py
	$(BIN)/python docs/cost_picture.py

# The larger lock first: what the extras cannot use must not stand in the smaller one either.
lock: ## compile the locks again (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet pyproject.toml --group install --group dev --all-extras -o requirements-dev.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet pyproject.toml --group install -c requirements-dev.lock -o requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet pyproject.toml --group install --extra postgres --extra k8s --extra s3 -c requirements-dev.lock -o deploy/docker/requirements.lock
	uv pip compile --python-version 3.12 --generate-hashes --no-emit-index-url --no-header --quiet tests/focus/requirements.in -o tests/focus/requirements.lock

clean: ## remove what the other targets made
	rm -rf $(VENV) $(FOCUS) .venv-helm $(DEMO_DIR) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
