# Everything a developer does, in the environment .venv, which make keeps in step with
# pyproject.toml and constraints.txt. PYTHON chooses the interpreter that makes it.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
INSTALL := $(PIP) install --constraint constraints.txt --editable

# cuda12 or cuda13 where an NVIDIA driver says so, and nothing elsewhere.
CUDA = $(addprefix cuda,$(filter 12 13,$(shell nvidia-smi 2>/dev/null | \
	sed -n 's/.*CUDA[A-Z ]* Version *: *\([0-9]*\).*/\1/p')))

# In processes that share the cores, and a GPU's memory.
PARALLEL = --numprocesses auto --maxprocesses $(if $(CUDA),4,8) --dist worksteal

.NOTPARALLEL:
.PHONY: help run test test-gpu bench bench-gpu bench-peers lint format types docs browser wheel clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 13

run: .venv/.run  ## Train on the digits, on the GPU if there is one
	$(BIN)/python -m backprop_gpu demo

test: .venv/.dev  ## Run the tests; ARGS="-k name" chooses
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-gpu: .venv/.dev  ## Run the GPU's tests, on a simulated GPU where there is none
	$(BIN)/python -m pytest $(PARALLEL) -m gpu $(if $(CUDA),,--simulate-gpu=late) $(ARGS)

bench: .venv/.dev  ## Time the library beside its matrix products
	$(BIN)/python -m benchmarks $(ARGS)

bench-peers: .venv/.dev .venv/.peers  ## Time what a user could take instead, too
	$(BIN)/python -m benchmarks.peers $(ARGS)

bench-gpu: .venv/.dev  ## Check and time everything on a GPU, in less than 9 minutes
	$(BIN)/python -m benchmarks.gpu $(ARGS)

lint: .venv/.dev  ## Check the style
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: .venv/.dev  ## Mend the style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: .venv/.dev  ## Check the types
	$(BIN)/mypy --package backprop_gpu

browser:  ## Install Chromium for the tests of the HTML page, as root on Debian
	@if ! command -v chromium >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    { apt-get update -qq && apt-get install -qq -y chromium fonts-dejavu-core >/dev/null; } || \
	    echo 'make: chromium could not be installed: the tests of the HTML page will be skipped'; \
	  else echo 'make: no chromium: the tests of the HTML page will be skipped'; fi; fi

docs: .venv/.dev  ## Draw the pictures of docs/ again
	$(BIN)/python docs/make_pictures.py

wheel: .venv/.dev  ## Build dist/*.tar.gz and dist/*.whl
	$(BIN)/python -m build --no-isolation

clean:  ## Remove what was built; .venv stays
	rm -rf build dist *.egg-info .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# `make run` installs what it runs, everything else what developers need; both add CuPy if they
# can where a driver is found. Without one, the tests still compile the kernels.
.venv/.run: EXTRAS = cli,sklearn
.venv/.dev: EXTRAS = $(if $(CUDA),dev,dev,nvrtc)
.venv/.run .venv/.dev: pyproject.toml constraints.txt | .venv/bin/pip
	$(INSTALL) '.[$(EXTRAS)]'
	$(if $(CUDA),-$(INSTALL) '.[$(CUDA)]')
	@touch $@

# With versions of their own: PyTorch may bring a CUDA toolkit that is not CuPy's.
.venv/.peers: .venv/.dev constraints-peers.txt
	$(PIP) install --constraint constraints-peers.txt --editable '.[peers]'
	@touch $@

# Debian packages venv apart from Python.
.venv/bin/pip:
	@$(PYTHON) -m venv .venv >/dev/null 2>&1 || { \
	  [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qq -y python3-venv; \
	  $(PYTHON) -m venv --clear .venv; \
	} || { echo 'make: install the venv module of $(PYTHON) (Debian: apt-get install python3-venv)'; exit 1; } >&2
