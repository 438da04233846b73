# make demo   twenty-odd drugs, ten conformers each: out/demo.sdf, out/demo.png and a table
# make test   ruff, mypy and pytest
# make docs   pages and API reference: build/docs/index.html
# make properties   energies and HOMO-LUMO gaps of some molecules with xtb and Psi4, which
#                   make xtb and make psi4 install where Debian packages can be
# make clean  removes what the tests and the demo leave; .venv stays
#
# Both make their own .venv. TORCH is handed to pip as it is, so it can name another build:
#   make demo TORCH="torch==2.13.0 --index-url URL"
# CLUSTER=no tests without torch-cluster (built from source, needs g++).

SHELL := /bin/bash
.DEFAULT_GOAL := help

TORCH ?= torch==2.13.0
CLUSTER ?= yes
MAX_JOBS ?= 2
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip -qq --disable-pip-version-check
PINS := $(VENV)/pins.txt
CONFIG := pyproject.toml constraints.txt

.PHONY: help demo test lint types pytest docs properties xtb psi4 clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -n 10

demo: $(VENV)/.stamp-demo
	@$(PY) examples/demo.py

test: lint types pytest

lint: $(VENV)/.stamp-test
	@echo "== ruff"
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: $(VENV)/.stamp-test
	@echo "== mypy"
	@$(PY) -m mypy

# The closing line of pytest is the last line that is printed.
pytest: $(VENV)/.stamp-test lint types
	@echo "== pytest"
	@$(PY) -m pytest -q

# A warning is an error: a page that nothing links to, a docstring that does not render.
docs: $(VENV)/.stamp-docs
	@rm -rf build/docs
	@$(PY) -m sphinx -b html -W --keep-going -q docs build/docs
	@echo "build/docs/index.html"

# A few conformers of a few molecules. The paper took 30 molecules with 50: --molecules, --conformers.
PROPERTIES := $(VENV)/bin/rdgeodiff evaluate-properties benchmarks/data/val_qm9.npz
properties: xtb psi4 $(VENV)/.stamp-demo
	@mkdir -p out
	@$(PROPERTIES) --program xtb --molecules 4 --conformers 10 --cache out/xtb.jsonl
	@$(PROPERTIES) --program psi4 --molecules 2 --conformers 3 --cache out/psi4.jsonl

# Programs, not Python packages: taken from the PATH as they are, or installed from Debian.
xtb psi4:
	@if command -v $@ >/dev/null; then echo "-- $@: $$(command -v $@)"; exit 0; fi; \
	sudo=""; if [ "$$(id -u)" != 0 ]; then sudo="sudo"; fi; \
	if ! command -v apt-get >/dev/null || { [ -n "$$sudo" ] && ! command -v sudo >/dev/null; }; then \
	  echo "$@ was not found and cannot be installed from here (no apt-get, or no right to use it)." >&2; \
	  echo "As root on Debian or Ubuntu: apt-get install $@" >&2; \
	  echo "Anywhere: conda install -c conda-forge $@, and put it on the PATH" >&2; \
	  exit 1; \
	fi; \
	echo "-- apt-get install $@"; \
	$$sudo apt-get update -qq && $$sudo apt-get install -y -qq --no-install-recommends $@ >/dev/null \
	  && command -v $@ >/dev/null \
	  || { echo "apt-get could not install $@; its message stands above" >&2; exit 1; }

$(VENV)/.stamp-venv:
	@python=""; \
	for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	  then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "No Python 3.11 or newer with the venv module was found." >&2; \
	  echo "Install one (Debian: apt-get install python3 python3-venv) or name it: make PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi; \
	if [ ! -x $(PY) ]; then echo "-- $(VENV) with $$($$python --version)"; "$$python" -m venv $(VENV); fi
	@touch $@

# torch first and alone: torch-cluster compiles against it, and nothing else may choose its build.
$(VENV)/.stamp-torch: $(VENV)/.stamp-venv constraints.txt
	@echo "-- $(firstword $(TORCH)) (the largest download)"
	@$(PIP) install $(TORCH)
	@grep -v '^torch==' constraints.txt > $(PINS)
	@$(PY) -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' >> $(PINS)
	@$(PIP) install -c $(PINS) hatchling editables
	@touch $@

$(VENV)/.stamp-demo: $(VENV)/.stamp-torch $(CONFIG)
	@echo "-- rdgeodiff with what the demo draws with"
	@$(PIP) install --no-build-isolation -c $(PINS) -e '.[demo]'
	@touch $@

$(VENV)/.stamp-docs: $(VENV)/.stamp-torch $(CONFIG)
	@echo "-- rdgeodiff with what renders its pages"
	@$(PIP) install --no-build-isolation -c $(PINS) -e '.[docs]'
	@touch $@

$(VENV)/.stamp-cluster: $(VENV)/.stamp-torch
ifeq ($(CLUSTER),yes)
	@if ! command -v g++ >/dev/null; then \
	  echo "torch-cluster is compiled from source and needs g++ (Debian: apt-get install g++)." >&2; \
	  echo "To test without it: make test CLUSTER=no" >&2; \
	  exit 1; \
	fi
	@echo "-- torch-cluster (compiled the first time: 6 to 12 minutes; pip keeps the wheel)"
	@$(PIP) install -c $(PINS) ninja setuptools wheel
	@MAX_JOBS=$(MAX_JOBS) $(PIP) install --no-build-isolation -c $(PINS) torch-cluster
	@touch $@
else
	@echo "-- without torch-cluster"
endif

$(VENV)/.stamp-test: $(VENV)/.stamp-cluster $(CONFIG)
	@echo "-- rdgeodiff with the tools of its tests"
	@$(PIP) install --no-build-isolation -c $(PINS) -e '.[test,pandas,eval,demo,ray]'
	@touch $@

clean:
	@rm -rf out build dist .pytest_cache .hypothesis .ruff_cache .mypy_cache
	@find rdgeodiff tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
