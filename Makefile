# The front door of Millrace. `make help` lists what it opens.
SHELL := bash
.DEFAULT_GOAL := help
MILLRACE_HOME ?= $(CURDIR)/.millrace
export MILLRACE_HOME
# Without bytecode every start of Airflow takes three times as long.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -W ignore -m
VENV := .venv/.complete
# Test processes. One holds up to 3 GB; `make test WORKERS=0` runs all tests in one process, in the order of the folders.
WORKERS ?= logical
COMPILE := uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 --no-emit-index-url --no-header

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: $(VENV) ## The main job on the real sample, from landed files to served features; services stay up
	@$(RUN) dags.demo

up: $(VENV) ## Start Airflow (port 8080, or MILLRACE_PORT)
	@$(RUN) dags.services up

down: ## Stop everything that `make up` or `make demo` started
	@if [ -e $(VENV) ]; then $(RUN) dags.services down; else echo "There is no complete .venv to stop services with; \`make up\` builds it"; fi

status: ## Say what is running, starting or failed
	@if [ -e $(VENV) ]; then $(RUN) dags.services status; else echo "There is no complete .venv, so nothing of it runs; \`make up\` builds it"; fi

sample: $(VENV) ## Land the sample without running anything
	@$(RUN) dags sample

test: $(VENV) ## Lint, types, then all tests: unit, integration, end to end
	@$(MAKE) --no-print-directory check
	@$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4

unit: $(VENV) ## Unit tests only, in seconds
	@$(BIN)/python -m pytest tests/unit

check: $(VENV) ## Lint, types and import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache > .venv/lint-imports.log || (cat .venv/lint-imports.log; exit 1)

format: $(VENV) ## Put the code in shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV) ## Time the main job against a hand-written DuckDB script
	@$(RUN) bench

scale: $(VENV) ## Time the main job over 1, 4 and 16 years, and what one more day then costs; wants a quiet machine
	@$(RUN) bench.scale

parity: $(VENV) ## Run the whole job on Sail and on Spark (needs Java), compare every table, write docs/parity.md
	@$(RUN) bench.parity --write docs

gpu-plan: $(VENV) ## Say what of each transform and commit would run on a GPU, and run it where there is one; needs Java, fetches a gigabyte once
	@$(RUN) bench.gpu_plan --write docs

gpu: $(VENV) ## Add cuDF to .venv, for as-of joins and profiles on an NVIDIA GPU (3 GB); a rebuilt .venv needs it again
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-gpu.txt

lock: ## Compile requirements.txt, and requirements-gpu.txt so that it fits
	$(COMPILE) --universal requirements.in -o requirements.txt
	$(COMPILE) --python-platform x86_64-manylinux_2_28 requirements-gpu.in -o requirements-gpu.txt

$(VENV): requirements.txt scripts/venv.sh scripts/millrace
	@PYTHON=$(PYTHON) bash scripts/venv.sh
	@touch $@

.PHONY: help demo up down status sample test unit check format bench scale parity gpu-plan gpu lock
