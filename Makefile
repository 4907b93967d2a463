# The commands of this repository. `make` alone lists them.
# Only Python 3.11 or newer, make and a C compiler are assumed; everything else goes into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo recommender test thorough lint format bench docs torture clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# pip 25.1 is the first to know dependency groups; an older one is replaced inside the venv only.
$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --group dev --editable .
	@touch $@

demo: $(READY) ## Predict the delays of the 2013 New York flights, end to end and live
	@$(BIN)/python -m examples.flights.demo

recommender: $(READY) ## Push what is watched, read it for a prompt; embedded, then on Redis
	@$(BIN)/python -m examples.recommender.demo

test: $(READY) ## Run every test
	@$(BIN)/python -m pytest -n 2 $(ARGS)

thorough: $(READY) ## Run every test, with many more random examples and the minute of load
	@THOROUGH=1 $(BIN)/python -m pytest -n 2 --hypothesis-profile=thorough $(ARGS)

RUNS_LMDB ?= 300
RUNS_REDIS ?= 100

torture: $(READY) ## Kill producers, readers, servers, Redis and machines, and look what is left
	@$(BIN)/python -m tests.torture --store lmdb --runs $(RUNS_LMDB) $(ARGS)
	@$(BIN)/python -m tests.torture --store redis --runs $(RUNS_REDIS) $(ARGS)
	@TIDEMARK_TORTURE=100 $(BIN)/python -m pytest tests/property/test_push_killed.py

lint: $(READY) ## Check style, types and the layers
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/pyright
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(READY) ## Format the code and apply the safe fixes
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

bench: $(READY) ## Measure speed and memory against the alternatives
	@$(BIN)/python -m benchmarks $(ARGS)

docs: $(READY) ## Run every example of the documentation
	@$(BIN)/python -m pytest tests/docs $(ARGS)

clean: ## Remove caches and built files; the environment stays
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
