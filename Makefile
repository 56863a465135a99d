# Each of `make run` and `make test` does all its own set-up on a machine with Python 3.11 and nothing else.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3.11
port ?= 3000
# By file: what a module sets up, one worker sets up. In the order of conftest.py, which has the slow files first.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
VENV := .venv
BIN := $(VENV)/bin
# uv does not read pip's setting of extra wheel folders by itself.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export DAGSTER_DISABLE_TELEMETRY = 1
export MLFLOW_DISABLE_TELEMETRY = true
export DO_NOT_TRACK = 1
export MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR = false
# Dagster keeps its own storage below the project's home folder; an absolute path is what it insists on.
export DAGSTER_HOME ?= $(abspath $(or $(MLOPS_HOME),.mlops))/dagster

.PHONY: help install lock run serve demo-loop operations demo-rollout test lint ui bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(VENV)/.ready $(VENV)-dvc/.ready ## set everything up below this folder

$(VENV)/.ready: requirements/runtime.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'uv>=0.9,<1'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements/runtime.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	grep -q DAGSTER_MODULE_NAME $(BIN)/activate || echo 'export DAGSTER_MODULE_NAME=mlops_assets.definitions' >> $(BIN)/activate
	touch $@

# DVC and Dagster need two different antlr runtimes, so DVC lives in its own environment and is called as a program.
$(VENV)-dvc/.ready: requirements/dvc.lock $(VENV)/.ready
	test -x $(VENV)-dvc/bin/python || $(PYTHON) -m venv $(VENV)-dvc
	$(BIN)/uv pip install --quiet --python $(VENV)-dvc/bin/python --requirement requirements/dvc.lock
	touch $@

# Which build of torch is installed is what the wheel folder offers; named without one, uv would take the index's, and
# lock the CUDA packages that come with it.
TORCH := torch==2.13.0

lock: $(VENV)/.ready ## lock again, after a change of pyproject.toml
	sed -i 's/^$(TORCH)$$/$(TORCH)+cpu/' requirements/runtime.lock
	$(BIN)/uv pip compile --quiet --python-version 3.11 --all-extras pyproject.toml --output-file requirements/runtime.lock --no-header
	sed -i 's/^$(TORCH)+cpu$$/$(TORCH)/' requirements/runtime.lock

$(DAGSTER_HOME)/dagster.yaml: dagster.yaml
	mkdir -p $(DAGSTER_HOME)
	cp $< $@

# DuckDB's binding complains about its own leftovers when the interpreter ends; nothing can be done about it here.
QUIET := 2> >(grep --line-buffered -vE '^nanobind: | - (leaked|\.\.\. skipped) |^See https://nanobind' >&2)

run: install $(DAGSTER_HOME)/dagster.yaml ## run the lifecycle of all agents, or of one: make run agent=execution
	@$(BIN)/dagster job execute -m mlops_assets.definitions -c configs/console.yaml $(if $(config),-c $(config)) \
		$(if $(agent),-j retrain --tags '{"dagster/partition": "$(agent)"}',-j model_lifecycle) $(QUIET)
	@echo
	@$(BIN)/python -m mlops_assets.summary
	@echo
	@echo "make ui       shows the graph, the runs, plots and reports on http://127.0.0.1:$(port)"
	@echo "make serve    answers requests for decisions on http://127.0.0.1:8000"

serve: install ## the decision server on http://127.0.0.1:8000, after make run
	@$(BIN)/python -m mlops_assets.serving

operations: install ## drift, alerts, rollouts and retraining for Prometheus, on http://127.0.0.1:8400
	@$(BIN)/python -m mlops_assets.operations

demo-rollout: install ## a better candidate to all users, three bad ones back; or one: make demo-rollout only=errors
	@$(BIN)/python -m examples.rollout_demo $(if $(only),--only $(only)) $(if $(seed),--seed $(seed)) $(QUIET)

demo-loop: install ## the world changes, and the loop closes by itself; beside it one where nothing changes
	@$(BIN)/python -m examples.loop_demo $(if $(only),--only $(only)) $(if $(seed),--seed $(seed)) $(QUIET)

ui: install $(DAGSTER_HOME)/dagster.yaml ## webserver and daemon on http://127.0.0.1:3000
	$(BIN)/dagster dev --host 127.0.0.1 --port $(port)

test: install ## the whole test suite
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: install ## formatting, lint, types, architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install ## every benchmark; the result tables are in benchmarks/
	$(BIN)/python benchmarks/data.py --write
	$(BIN)/python benchmarks/batch.py --write
	$(BIN)/python benchmarks/serving.py --write
	$(BIN)/python benchmarks/rollout_statistics.py --write
	$(BIN)/python benchmarks/rollout_drills.py --write

clean: ## remove everything that was made here, also the data
	rm -rf .mlops $(VENV) $(VENV)-dvc
