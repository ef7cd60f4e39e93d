# `make demo` and `make test` are all that a newcomer needs. Each target makes .venv if it is missing, installs the
# versions in constraints.txt and rebuilds what changed, so that the tests see the package as users install it.

PYTHON ?= python3
BIN := .venv/bin
# Named because they are installed once (setuptools for dependencies that come as sources):
BUILD := scikit-build-core pybind11 numpy cmake ninja setuptools
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
# Where CMake finds nvcc, kernels for one kind of GPU, which takes a fifth of the time of all: this machine's, or Hopper.
CUDA_ARCHITECTURES ?= $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | \
    sed -n '1s/\(.*\)\.\(.*\)/\1\2-real/p' | grep . || echo 90-real)
OWN := --no-build-isolation --config-settings=cmake.define.CMAKE_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)
SOURCES := CMakeLists.txt pyproject.toml constraints.txt \
    $(shell find cmake csrc python -not -path '*__pycache__*')

.PHONY: demo test test-all lint builds bench gpu clean

demo: .venv/installed
	$(BIN)/python bench/demo.py

# A process a core, which hands tests to the others when it has none left. Threads that wait do not keep them busy.
test: .venv/installed
	OMP_WAIT_POLICY=passive $(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist worksteal

test-all: .venv/installed-all
	$(BIN)/pytest -m "slow or not slow"

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(find csrc tests bench -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh')

builds: .venv/installed
	$(BIN)/python tests/check_builds.py "$(CUDA_ARCHITECTURES)"

bench: .venv/installed
	$(BIN)/python bench/bench.py

# Not yet run on a GPU. Needs nothing but nvcc, and a Python that has torch for CUDA, NumPy, pytest and the tools that build
# the package. pytorch-grad-cam and torch-cam are measured where build/peers has them (see CONTRIBUTING.md).
ON_GPU := PYTHONPATH=build/gpu:build/peers $(PYTHON)
gpu:
	$(PYTHON) -m pip install -q --no-deps --upgrade --target build/gpu $(OWN) \
	    --config-settings=cmake.define.FUSEDCAM_CUDA=ON .
	$(ON_GPU) -m pytest -q --noconftest -p no:cacheprovider -W default tests/test_gpu.py
	$(ON_GPU) tests/sanitize_gpu.py build/sanitizers.json
	$(ON_GPU) bench/bench.py --device cuda

clean:
	rm -rf .venv build

.venv/installed: $(SOURCES)
	@echo "installing into .venv (the first time takes some minutes)"
	@$(PYTHON) -m venv .venv
	@$(PIP) $(BUILD)
	@$(PIP) $(OWN) '.[demo,test,lint,bench]'
	@touch $@

.venv/installed-all: .venv/installed
	@$(PIP) $(OWN) '.[test-all]'
	@touch $@
