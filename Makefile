# make quickstart   sets everything up and tells the whole story on embedded data, offline, in some minutes
# make test         sets everything up, lints, type-checks and passes all tests
# make docs         writes the pages of commands in docs/commands anew
#
# They need only Python 3.11 or newer, make and git. VENV=PATH uses another environment; one that has
# torch already is used as it is: nothing in it that satisfies pyproject.toml is replaced.

PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
OURS := $(VENV)/.made-by-make
# In an environment of our own, tested versions only, of what builds the package too (which older and
# newer pips read from different variables).
INSTALL = $(if $(wildcard $(OURS)),PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt) \
	$(BIN)/python -m pip install --quiet

.PHONY: quickstart test lint types tests format docs clean

quickstart: $(VENV)/.rectool
	PATH="$(BIN):$$PATH" bash examples/quickstart.sh

test: lint types tests

lint: $(VENV)/.rectool-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.rectool-dev
	$(BIN)/mypy

tests: $(VENV)/.rectool-dev
	$(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST)

format: $(VENV)/.rectool-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.rectool
	$(BIN)/python docs/command_pages.py

clean:
	rm -rf runs/quickstart .mypy_cache .ruff_cache .pytest_cache .hypothesis
	if [ -e $(OURS) ]; then rm -rf $(VENV); fi

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: rectool needs Python 3.11 or newer; say which with: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	touch $(OURS)

$(VENV)/.rectool: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	touch $@

$(VENV)/.rectool-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	touch $@ $(VENV)/.rectool
