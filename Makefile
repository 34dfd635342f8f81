# Two commands set everything up on a fresh machine: `make train` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Tests run in parallel, a process a core, one thread each.
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help install train test test-slow bench check format clean

help:
	@echo "make train      install, then train an SSD on the generated data (about ten minutes on two cores)"
	@echo "make test       install, then run the tests and the static checks"
	@echo "make test-slow  the tests that take longer than a minute"
	@echo "make bench      speed beside torchvision, timm and pycocotools"
	@echo "make format     format the code"

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

install: $(BIN)/.installed

train: install
	$(BIN)/python tools/train.py task=ssd backbone.alpha=0.75

test: install check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow"

test-slow: install
	$(BIN)/python -m pytest -q -m slow

bench: install
	$(BIN)/python benchmarks/detection.py
	$(BIN)/python benchmarks/faster_rcnn.py
	$(BIN)/python benchmarks/coco_eval.py
	$(BIN)/python benchmarks/classification.py
	$(BIN)/python benchmarks/mining.py

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
