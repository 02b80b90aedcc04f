# Every target sets up by itself what it needs: .venv always, Debian's servers when we are root.
# Nothing here reads standard input or leaves a process behind.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Hundreds of daemons and commands are started: without bytecode each would compile the whole project first.
unexport PYTHONDONTWRITEBYTECODE
# How many tests run at once. They start real servers and wait for them a third of the time: two more than processors.
WORKERS ?= 4
# A test that hangs in its own end ends its worker (tests/hanging.py); more than two such workers end the run.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder --max-worker-restart 2

.PHONY: help
help:  ## what there is
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

$(READY): pyproject.toml constraints.txt .ci/venv
	@PYTHON="$(PYTHON)" bash .ci/venv

.PHONY: venv
venv: $(READY)  ## the virtual environment, with the versions of constraints.txt

.PHONY: servers
servers:  ## Debian's packages that the tests run against
	@bash .ci/servers

.PHONY: test
test: $(READY) servers  ## all tests, the ten slowest named, and full coverage of the pure core
	@$(PYTEST) --durations=10 --cov --cov-report=term-missing:skip-covered

.PHONY: quick
quick: lint  ## before each commit: lint, and the unit tests; ruff and mypy look again only at what changed
	@$(PYTEST) tests/unit

.PHONY: lint
lint: $(READY)  ## style, import directions, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/mypy

.PHONY: types
types: $(READY)  ## types alone
	@$(BIN)/mypy

.PHONY: fmt
fmt: $(READY)  ## write the code as ruff wants it
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

.PHONY: demo
demo: $(READY) servers  ## a release goes bad and is rolled back, on real servers
	@$(BIN)/python examples/demo/run.py

.PHONY: bench
bench: $(READY) servers  ## the speeds that are promised, measured; WORDS="--only intake --vs HEAD~1"
	@$(BIN)/python bench/run.py $(WORDS)

.PHONY: attack
attack: $(READY) servers  ## two minutes of everything that the world can send, during a rollback; WORDS="--seconds 30"
	@$(BIN)/python -m tests.attack $(WORDS)

.PHONY: judgement
judgement: $(READY)  ## the table of hard cases: what is decided in each, and why
	@$(BIN)/python -m tests.unit.judgement $(WORDS)

.PHONY: judge
judge: $(READY)  ## a corpus of incidents with known right answers, beside models of peers; WORDS="--incidents 200"
	@$(BIN)/python -m tests.judge $(WORDS)

.PHONY: wheel
wheel: $(READY)  ## dist/rollbackd-*.whl, and dist/constraints.txt, which pins what it needs
	@$(BIN)/python -m hatchling build -t wheel
	@cp constraints.txt dist/

.PHONY: pins
pins: $(READY)  ## write constraints.txt from what is installed now
	@$(BIN)/python -m pip freeze --exclude-editable --exclude rollbackd --exclude pip > constraints.txt
	@touch $(READY)

.PHONY: clean
clean:  ## forget the virtual environment, caches and what was built
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage dist
