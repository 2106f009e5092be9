# Each target makes its own .venv and installs the exact set of constraints.txt first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test docs-test slow-test cluster-test lint browser format results clean

demo: $(INSTALLED) ## the whole way on a synthetic world, in minutes
	$(BIN)/noetik demo --overwrite

test: lint browser ## what every change must pass
	$(BIN)/pytest

docs-test: $(INSTALLED) ## every command of README.md and docs/, as a newcomer types it
	$(BIN)/pytest -m docs tests/test_docs.py

slow-test: $(INSTALLED) browser ## what is killed and goes on, and Ray's dashboard, in minutes
	$(BIN)/pytest -m slow tests

# By itself: it takes minutes. Where namespaces are refused, it says so and is skipped.
cluster-test: $(INSTALLED) ## three hosts on this machine, one of which is lost while it trains
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		! { command -v rsync && test -x /usr/sbin/sshd && command -v ip; } >/dev/null; then \
		echo "Installing openssh-server, rsync and iproute2 with apt-get, for the test hosts."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
			--no-install-recommends openssh-server openssh-client rsync iproute2 >/dev/null; \
	fi
	$(BIN)/pytest -m cluster tests/cluster

# Where root can install it, its absence fails the tests; elsewhere they skip what needs it.
browser: ## Chromium, which the tests open pages in
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Chromium and a font with apt-get, for the tests of pages."; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
			--no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	else \
		echo "NO CHROMIUM: the tests of pages in a browser will be skipped." >&2; \
	fi

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# KUAIRAND=FOLDER adds the experiment on KuaiRand-Pure's own rows.
results: $(INSTALLED) ## every figure of docs/results.md, in hours; after make demo
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
