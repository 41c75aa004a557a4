# Two commands do everything on a fresh machine: `make demo` and `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-long check docs format optimum-env clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Two test processes with one thread each: the suites are sized for two cores.
TWO_CORES := OMP_NUM_THREADS=1
SPREAD := -n 2 --dist loadfile

export HF_HUB_DISABLE_TELEMETRY := 1
export PYTHONDONTWRITEBYTECODE := 1

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	scripts/setup.sh $(VENV)
	touch $@

demo: $(STAMP) ## the main job end to end with real weights: MODEL=... DATA=... for your own
	$(BIN)/python -m benchmarks.demo $(if $(MODEL),--model "$(MODEL)") $(if $(DATA),--data "$(DATA)") $(ARGS)

test: $(STAMP) ## every test of every part
	$(TWO_CORES) $(BIN)/pytest $(SPREAD) -m "not long" $(ARGS)

test-long: $(STAMP) ## minutes each: many kills, other environments, fuzzing
	$(TWO_CORES) $(BIN)/pytest $(SPREAD) -m long $(ARGS)

check: $(STAMP) ## lint, format, types, import rules, vectors and documents up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protocol/generate_vectors.py --check
	$(BIN)/python protocol/preprocess_vectors.py --check
	$(BIN)/python -m scripts.docs --check

docs: $(STAMP) ## write the generated parts of the documents anew
	$(BIN)/python protocol/generate_vectors.py
	$(BIN)/python protocol/preprocess_vectors.py
	$(BIN)/python -m scripts.docs

format: $(STAMP) ## format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

optimum-env: $(STAMP) ## the environment of its own in which Optimum loads our whole models
	$(BIN)/python -m tests.optimum.environment

clean: ## remove what was built, not what was downloaded
	rm -rf $(VENV) .optimum-venv dist build demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis
