# `make demo` and `make test` are all that a newcomer needs. Each target makes .venv if it is missing, installs the
# versions in constraints.txt and rebuilds what changed, so that the tests see the package as users install it.

PYTHON ?= python3
BIN := .venv/bin
# Named because they are installed once (setuptools for dependencies that come as sources):
BUILD := scikit-build-core pybind11 numpy cmake ninja setuptools
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
SOURCES := CMakeLists.txt pyproject.toml constraints.txt \
    $(shell find csrc python -not -path '*__pycache__*')

.PHONY: demo test test-all lint bench clean

demo: .venv/installed
	$(BIN)/python bench/demo.py

test: .venv/installed
	$(BIN)/pytest

test-all: .venv/installed-all
	$(BIN)/pytest -m "slow or not slow"

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(find csrc tests -name '*.cpp' -o -name '*.hpp')

bench: .venv/installed
	$(BIN)/python bench/bench.py

clean:
	rm -rf .venv build

.venv/installed: $(SOURCES)
	@echo "installing into .venv (the first time takes some minutes)"
	@$(PYTHON) -m venv .venv
	@$(PIP) $(BUILD)
	@$(PIP) --no-build-isolation '.[demo,test,lint]'
	@touch $@

.venv/installed-all: .venv/installed
	@$(PIP) --no-build-isolation '.[test-all]'
	@touch $@
