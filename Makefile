# On a machine with Python 3.11 or newer and pip, every target makes what it needs.
PYTHON ?= python3
WORKERS ?= 2
FUZZ_SECONDS ?= 300
FUZZ_SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
# pip stays outside the environment, so that Pythons without ensurepip will do.
PIP := $(PYTHON) -m pip --disable-pip-version-check --quiet --python $(BIN)/python install --constraint constraints.txt
OLDEST := $(VENV)-oldest
PYTEST := $(BIN)/python -m pytest -n $(WORKERS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all test-oldest check lint types contracts docs docs-check site format mutants fuzz edge-tools test-edge changelog clean

help: ## List these targets
	@echo "make TARGET"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | while IFS="$$(printf '\t')" read -r target words; do \
	    printf '  %-11s %s\n' "$$target" "$$words"; done

demo: $(VENV)/base.stamp ## Optimise the small trained network inside the package; the report is out/demo/report.html
	@$(BIN)/normfold demo -o out/demo

test: $(VENV)/dev.stamp ## Run the tests, but for the slow ones
	@$(PYTEST) -m "not slow"

test-all: $(VENV)/dev.stamp ## Run all tests
	@$(PYTEST)

test-oldest: $(OLDEST)/base.stamp ## Run the tests with the oldest versions that normfold accepts, without torch
	@$(OLDEST)/bin/python -m pytest -n $(WORKERS) -m "not slow"

check: lint types contracts docs-check test ## Everything that CI runs

lint: $(VENV)/dev.stamp ## Style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp ## The strict type checker
	@$(BIN)/mypy

contracts: $(VENV)/dev.stamp ## Imports point one way
	@$(BIN)/lint-imports --no-cache

docs: $(VENV)/dev.stamp ## Write the reference pages anew from the code
	@$(BIN)/python -m normfold.report.schema
	@$(BIN)/python scripts/docs.py

docs-check: $(VENV)/dev.stamp ## The reference pages say what the code says
	@$(BIN)/python scripts/docs.py --check

site: $(VENV)/site.stamp ## Build the documentation as a site, in out/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: $(VENV)/dev.stamp ## Fix style and formatting in place
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

mutants: $(VENV)/dev.stamp ## Switch each guard off in turn: a test must fail for each
	@WORKERS=$(WORKERS) $(BIN)/python scripts/mutants.py

fuzz: $(VENV)/dev.stamp ## Feed hostile files to every verb for FUZZ_SECONDS seconds (300)
	@$(BIN)/python benchmarks/fuzz_files.py --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED) --workers $(WORKERS)

edge-tools: $(VENV)/base.stamp ## Install what the targets node, browser and arm64 need beside the system's packages
	@$(BIN)/python scripts/edge_tools.py

test-edge: $(VENV)/dev.stamp edge-tools ## Run the tests of all targets, the slow ones too; what is absent skips
	@$(PYTEST) tests/runtime/targets

changelog: $(VENV)/dev.stamp ## Show the fragments of changelog.d as the next release's entry
	@$(BIN)/towncrier build --draft --version next

clean: ## Remove the environment and everything generated outside version control
	rm -rf $(VENV) $(OLDEST) build dist out .pytest_cache .hypothesis .ruff_cache .mypy_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "normfold needs Python 3.11 or newer; name one: make PYTHON=...")'
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv --without-pip $(VENV)

$(VENV)/base.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing normfold"
	@$(PIP) --editable .
	@touch $@

# torch comes first and alone: with the version of constraints.txt settled, nothing after it pulls in another build.
$(VENV)/dev.stamp: $(VENV)/base.stamp
	@echo "installing what the tests need"
	@$(PIP) torch
	@$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/site.stamp: $(VENV)/dev.stamp
	@$(PIP) --editable '.[site]'
	@touch $@

$(OLDEST)/base.stamp: pyproject.toml | $(BIN)/python
	@echo "creating $(OLDEST)"
	@$(PYTHON) -m venv --without-pip $(OLDEST)
	@$(BIN)/python scripts/oldest.py > $(OLDEST)/constraints.txt
	@$(PYTHON) -m pip --disable-pip-version-check --quiet --python $(OLDEST)/bin/python install \
	    --constraint $(OLDEST)/constraints.txt --editable . hypothesis jsonschema pytest pytest-xdist
	@touch $@
