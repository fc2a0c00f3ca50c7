# `make demo` and `make test` need python3 (3.11 or newer) and nothing else; each sets up what is missing, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint bench faults clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("partwise needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,oracle,tensorboard]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/partwise train cutmix/demo --out runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not faults"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

faults: $(STAMP)
	$(BIN)/python -m pytest -m faults --timeout 3600 tests/faults

bench: $(STAMP)
	$(BIN)/python benchmarks/mixing.py
	$(BIN)/python benchmarks/training.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
