# Each target makes its own .venv and installs the exact set of constraints.txt first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint format results clean

demo: $(INSTALLED) ## the whole way on a synthetic world, in minutes
	$(BIN)/noetik demo --overwrite

test: lint ## everything CI checks
	$(BIN)/pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# KUAIRAND=FOLDER adds the experiment on KuaiRand-Pure's own rows.
results: $(INSTALLED) ## every figure of docs/results.md, in hours
	$(BIN)/python benchmarks/results.py $(if $(KUAIRAND),--source $(KUAIRAND))

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and what the demo wrote
	rm -rf $(VENV) runs/demo data/demo data/demo-world

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into $(VENV): about 2 GB, some minutes the first time."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	@touch $@
