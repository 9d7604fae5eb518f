# Everything that a developer or a first user runs. `make demo` and `make test` set up all that they need.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install demo test slow check bench chaos format clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Corolla needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	@exec $(BIN)/gateway demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -m 'not slow'

slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.stream --json bench.json

chaos: $(INSTALLED)
	$(BIN)/python -m benchmarks.chaos --json chaos.json

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/python -m tests.tree

clean:
	rm -rf .venv
