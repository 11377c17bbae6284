# The front door of Millrace. `make help` lists the targets.
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
# Test processes: one more than there are cores, as tests also wait. One holds up to 3 GB. `make test WORKERS=0` runs all
# tests in one process, in the order of the folders.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
KILLS ?= 200
STORE ?= sqlite
SBOM ?= $(MILLRACE_HOME)/sbom
SEED ?= 1
UV = $(shell command -v uv || echo $(BIN)/uv)
COMPILE = $(UV) pip compile --quiet --generate-hashes --python-version 3.11 --no-emit-index-url --no-header
# The images' locks hold the versions of requirements.txt, and no types for SQLAlchemy.
COMPILE_GPU = $(COMPILE) --python-platform x86_64-manylinux_2_28 -c requirements.txt --override requirements/overrides.txt
COMPILE_IMAGE = $(COMPILE) --universal -c requirements.txt --override requirements/overrides.txt

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

install: $(VENV) ## Build .venv

demo: $(VENV) ## The main job on the real sample, from landed files to served features; services stay up
	@$(RUN) millrace.demo

stream: $(VENV) ## After `make demo`: replay one more day through Kafka (SPEED=2000); fails unless what it served is what the batch computes
	@$(RUN) millrace stream replay $(if $(SPEED),--speed $(SPEED))

up: $(VENV) ## Start Airflow (port 8080, or MILLRACE_PORT) and the feature server
	@$(RUN) millrace.services up

down: ## Stop everything that `make up` or `make demo` started
	@if [ -e $(VENV) ]; then $(RUN) millrace.services down; else echo "There is no complete .venv to stop services with; \`make up\` builds it"; fi

status: ## Say what is running, starting or failed
	@if [ -e $(VENV) ]; then $(RUN) millrace.services status; else echo "There is no complete .venv, so nothing of it runs; \`make up\` builds it"; fi

sample: $(VENV) ## Land the sample without running anything
	@$(RUN) millrace sample

test: $(VENV) ## Lint, types, then the tests: unit, integration, end to end (SLOW=1: with those of test-slow)
	@$(MAKE) --no-print-directory check
	@$(BIN)/python -m pytest $(if $(SLOW),,-m "not slow") -n $(WORKERS) --maxprocesses 4

test-slow: $(VENV) ## The tests that `make test` leaves out: scenarios of a quarter of a minute or more
	@$(BIN)/python -m pytest -m slow -n $(WORKERS) --maxprocesses 4

test-compose: $(VENV) ## Inject faults into the containers that `make images` built (MARK=essential: each kind once)
	@$(BIN)/python -m pytest tests/compose $(if $(MARK),-m $(MARK))

unit: $(VENV) ## Unit tests only, in seconds
	@$(BIN)/python -m pytest tests/unit -m "not slow"

chaos: $(VENV) ## Kill operations at random (KILLS=200 SEED=1) and compare with an undisturbed control; see docs/chaos.md
	@$(RUN) tests.chaos --kills $(KILLS) --seed $(SEED)

chaos-stream: $(VENV) ## Kill workers, writer, broker and store (STORE=sqlite) while messages flow; see docs/chaos.md
	@$(RUN) tests.chaos.streams --kills $(KILLS) --seed $(SEED) --store $(STORE)

check: $(VENV) ## Lint, types and import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache > .venv/lint-imports.log || (cat .venv/lint-imports.log; exit 1)

format: $(VENV) ## Fix and format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV) ## Time the main job against a hand-written DuckDB script
	@$(RUN) bench

bench-streams: $(VENV) ## The benchmarks of streams, on a Kafka, a Redis and a PostgreSQL of their own; see docs/benchmarks.md
	@$(RUN) bench.streams

scale: $(VENV) ## Time the main job over 1, 4 and 16 years, and one more day after each; needs an idle machine
	@$(RUN) bench.scale

parity: $(VENV) ## Run the whole job on Sail and on Spark (needs Java), compare every table, write docs/parity.md
	@$(RUN) bench.parity --write docs

gpu-plan: $(VENV) ## Show what a GPU would run, and run the job on one if there is one; needs Java, fetches a gigabyte once
	@$(RUN) bench.gpu_plan --write docs

gpu: $(VENV) ## Add cuDF to .venv, for as-of joins and profiles on an NVIDIA GPU (3 GB); a rebuilt .venv needs it again
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-gpu.txt

images: ## Build the container images; as root on Debian, Docker is started where there is none
	@bash scripts/images.sh

compose: ## Start Millrace in containers, run the main job over REST, read features over HTTP
	@bash scripts/compose.sh demo

compose-down: ## Stop and remove the containers; state stays in volumes
	@bash scripts/compose.sh down

docker-down: ## Stop the Docker Engine that `make images` or `make compose` started for this checkout
	@bash scripts/docker-engine.sh down

lock: ## Compile all lock files with the newest versions that requirements/*.in allow
	@$(MAKE) --no-print-directory relock COMPILE='$(COMPILE) --upgrade'

relock: ## Compile all lock files after a change of requirements/*.in; pinned packages keep their versions
	$(COMPILE) --universal requirements.in -o requirements.txt
	$(COMPILE_IMAGE) requirements/engine.in requirements/client.in -o requirements/engine.txt
	$(COMPILE_IMAGE) requirements/features.in -o requirements/features.txt
	$(COMPILE_IMAGE) requirements/pipeline.in requirements/client.in -o requirements/pipeline.txt
	$(COMPILE) --python-platform x86_64-manylinux_2_28 requirements-gpu.in -o requirements-gpu.txt
	$(COMPILE_GPU) requirements/pipeline.in requirements/spark.in requirements-gpu.in -o requirements/gpu.txt

sbom: $(VENV) ## Write a CycloneDX bill of materials of each image to .millrace/sbom (SBOM=folder)
	@$(BIN)/python scripts/sbom.py "$(SBOM)"

release-notes: ## Print the section of CHANGELOG.md for VERSION=1.2.3
	@awk -v version='$(VERSION)' '/^## / {found = index($$0, "## [" version "]") == 1; seen += found; next} /^\[.*\]: / {next} found; \
	  END {if (!seen) {print "CHANGELOG.md has no section \"## [" version "]\". Add one for the release" > "/dev/stderr"; exit 1}}' CHANGELOG.md

push-images: ## Push the images to REGISTRY=host/name as VERSION=1.2.3
	@for image in engine features pipeline; do \
	  docker tag millrace/$$image:latest $(REGISTRY)/$$image:$(VERSION) && docker push $(REGISTRY)/$$image:$(VERSION) || exit 1; done

$(VENV): requirements.txt scripts/venv.sh scripts/millrace scripts/health.py
	@PYTHON=$(PYTHON) bash scripts/venv.sh
	@touch $@

.PHONY: help install images compose compose-down docker-down demo stream up down status sample test test-slow test-compose unit chaos chaos-stream check format bench bench-streams scale parity gpu-plan gpu lock relock sbom release-notes push-images
