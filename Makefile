# The few commands that people type; CI calls the same. Each target makes what it needs and does nothing twice.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
# Dependencies by uv, with a third of pip's work; where it fails (an index that pip alone is told of), pip does it.
UV := $(BIN)/python -m uv pip install -q -r pyproject.toml
REQUIREMENTS := import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
	print(*p['dependencies'], *(r for extra in ('bench', 'torch') for r in p['optional-dependencies'][extra]), sep='\n')
SOURCES := $(shell find rust -name '*.rs' -o -name 'Cargo.toml' 2>/dev/null) Cargo.toml Cargo.lock rustfmt.toml
THREADS ?= 2
# uv installs sources alone: they are compiled once, at the first import (of these while Rust is still at work), even
# where the shell forbids it to others.
export PYTHONDONTWRITEBYTECODE :=
IMPORTS := import altair, pydantic, torch._dynamo, typer
REFERENCE ?= $(lastword $(sort $(wildcard results/*-symbolic)))
THEORY ?= $(lastword $(sort $(wildcard results/*-theory)))
LEARNED ?= $(lastword $(sort $(wildcard results/*-copy)))
SSM_RECORD ?= $(lastword $(sort $(wildcard results/ssm-*.json)))

.DEFAULT_GOAL := help
.PHONY: learned theory help quick test test-rust test-python test-exhaustive lint fmt bench bench-ssm report headline recurrences docs-check clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

# The tools that nothing here can install are missed in one line, not in a page of errors.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "ngram-copy needs Python 3.11 or later: $(PYTHON) was not found (name another one with PYTHON=…)" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "ngram-copy needs Python 3.11 or later, and $(PYTHON) is $$($(PYTHON) -V 2>&1) (name another one with PYTHON=…)" >&2; exit 2; }
	@command -v cargo >/dev/null || { echo "ngram-copy needs a Rust toolchain, and cargo was not found: see https://rustup.rs" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.bench: $(BIN)/python pyproject.toml $(SOURCES)
	@command -v cargo >/dev/null || { echo "ngram-copy needs a Rust toolchain, and cargo was not found: see https://rustup.rs" >&2; exit 2; }
	@echo "Building ngram-copy; installing the command line, charts and torch beside that (a few minutes) …"
	@{ { { nice $(PIP) uv && nice $(UV) --extra bench --extra torch; } 2>/dev/null || \
		$(BIN)/python -c "$(REQUIREMENTS)" | nice $(PIP) -r /dev/stdin; } && nice $(BIN)/python -c "$(IMPORTS)"; } & \
		beside=$$!; trap 'kill $$beside' INT TERM; \
		$(PIP) --no-deps -e . || { kill $$beside; exit 1; }; \
		wait $$beside
	@touch $@

$(VENV)/.dev: $(VENV)/.bench
	@echo "Installing what tests and checks need …"
	@$(UV) --extra dev 2>/dev/null; $(PIP) -e '.[dev]'
	@touch $@

quick: $(VENV)/.bench  ## measure the symbolic copiers, train six tiny models, write the report (under 5 minutes on 2 fast cores, 10 on slow ones)
	@$(BIN)/ngram-copy run quick --out results/quick --resume --threads $(THREADS)

test: lint test-rust test-python  ## everything that must pass: checks, Rust tests, Python tests with coverage

test-rust: $(VENV)/.dev
	@cargo test -q --workspace

# In THREADS processes, each with one thread: torch's own would wait for each other. A process takes tests over from
# another that still has many, so that few fixtures of a file are made twice.
test-python: $(VENV)/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(THREADS) --dist worksteal \
		--cov=ngram_copy --cov-report=term:skip-covered --cov-fail-under=90 -q

test-exhaustive: $(VENV)/.dev  ## the long tests that `make test` leaves out
	@$(BIN)/python -m pytest -q -m exhaustive -o addopts=-ra
	@cargo test -q --workspace --release -- --ignored

lint: $(VENV)/.dev  ## formatting, lints and types
	@cargo fmt --all --check
	@cargo clippy -q --workspace --all-targets -- -D warnings
	@$(BIN)/ruff format -q --check .
	@$(BIN)/ruff check -q .
	@$(BIN)/mypy

fmt: $(VENV)/.dev  ## format all code
	@cargo fmt --all
	@$(BIN)/ruff format -q .
	@$(BIN)/ruff check -q --fix .

bench: $(VENV)/.dev  ## time the core against its peers; prints ratios, keeps records, splices README's table
	@mkdir -p .benchmarks
	@$(BIN)/python -m pytest benches -q -o addopts= --benchmark-only --benchmark-json=.benchmarks/run.json
	@$(BIN)/python benches/report.py .benchmarks/run.json --readme README.md --records results

$(VENV)/.peers: $(VENV)/.dev
	@echo "Installing the peers that recurrences are timed against …"
	@$(UV) --extra peers 2>/dev/null; $(PIP) -e '.[peers]'
	@touch $@

bench-ssm: $(VENV)/.peers  ## time the recurrences against their peers (half an hour); prints ratios, keeps a record
	@cargo bench -q -p ngram-copy-core --bench math -- '^Exp2/' >/dev/null
	@$(BIN)/python benches/ssm.py --records results

report: $(VENV)/.bench  ## write the report of results/quick again
	@$(BIN)/ngram-copy report results/quick

headline: $(VENV)/.bench  ## splice README's first table from the newest reference records
	@$(BIN)/python docs/headline.py $(REFERENCE) --readme README.md

learned: $(VENV)/.bench  ## splice the tables of docs/learned.md from the newest records of the suites copy, lookup and mqar
	@$(BIN)/python docs/learned.py $(LEARNED) --page docs/learned.md

theory: $(VENV)/.bench  ## splice the tables of docs/theory.md from the newest records of the suite theory, run with --trained
	@$(BIN)/python docs/theory.py $(THEORY) --page docs/theory.md

recurrences: $(VENV)/.dev  ## splice the table of docs/recurrences.md from the newest record of errors and speeds
	@$(BIN)/python docs/recurrences.py $(SSM_RECORD) --page docs/recurrences.md

docs-check: $(VENV)/.dev  ## run every command of README and docs
	@$(BIN)/python tests/docs/commands.py

clean:  ## remove what was built
	@rm -rf $(VENV) target dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage python/ngram_copy/_rust*.so
