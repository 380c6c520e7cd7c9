# Two commands do everything on a fresh machine: `make demo` and `make test`. Each makes .venv from the locked versions if it is absent.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= castor-demo

.PHONY: demo test test-engines lint install lock clean

demo: $(VENV)/installed
	$(BIN)/castor demo --output=$(DEMO)

test: $(VENV)/installed
	$(BIN)/python -m pytest

# Real engines (Prism, a Flink cluster, a bucket emulator), fetched once; needs Java, Maven and Go, and skips what cannot be had.
test-engines: $(VENV)/installed
	$(BIN)/python -m pytest -m engine

# Style and likely mistakes (ruff), and types of the public API (mypy): what they cover stands in pyproject.toml.
lint: $(VENV)/installed
	$(BIN)/ruff check .
	mkdir -p $(VENV)/src/castor && ln -sfn $(foreach room,launch train pipelines tasks,$(CURDIR)/$(room)) $(VENV)/src/castor/
	$(BIN)/mypy

install: $(VENV)/installed

$(VENV)/installed: setup.py constraints.txt
# TensorFlow 2.21 has no wheel for 3.14; the core without extras has no upper limit.
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Castor needs Python 3.11, 3.12 or 3.13; {sys.executable} is {v.major}.{v.minor}: run make PYTHON=python3.11")'
	@if command -v uv >/dev/null 2>&1 && uv --version >/dev/null 2>&1; then \
	  echo "installing into $(VENV) with uv"; \
	  test -x $(BIN)/python || uv venv --quiet --python $(PYTHON) $(VENV); \
	  uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[all,dev]'; \
	else \
	  echo "installing into $(VENV) with pip (a few minutes)"; \
	  test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'; \
	fi
	@touch $@

# Resolves setup.py anew, with every extra, into constraints.txt, for every Python from 3.11 on. Versions that are there stay as long as they fit;
# pins that must not move stand in pins.txt with their reason.
lock:
	uv pip compile --quiet --universal --python-version 3.11 setup.py --all-extras --constraint pins.txt --no-annotate --no-header --no-emit-index-url -o constraints.txt

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info
