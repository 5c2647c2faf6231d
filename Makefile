# Every target does the set-up it needs; running one again is quick.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps
COMPILE := $(BIN)/pip-compile --quiet --strip-extras --generate-hashes --no-emit-index-url --no-emit-find-links --allow-unsafe

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

run: .venv/.ready-demo ## start the engine with everything it needs embedded, on 127.0.0.1:3003
	@exec $(BIN)/python -m app demo $(ARGS)

.PHONY: demo-load
demo-load: .venv/.ready-demo ## send customers to a running `make run` for a minute (ARGS="--seconds 10 --rate 50")
	@$(BIN)/python -m app load $(ARGS)

test: .venv/.ready-dev ## set up and run the whole suite, two folders at a time (ARGS="-k name" for a part)
	$(BIN)/python -m pytest -n 2 --no-loadscope-reorder $(ARGS)

check: .venv/.ready-dev ## everything that CI runs: format, lint, types, imports, then the whole suite
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory test

format: .venv/.ready-dev ## format the code and mend what the linter can
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --quiet --fix .

.PHONY: bench
bench: .venv/.ready-dev ## what a payment costs, against bare aiohttp (ARGS="--long" adds 200,000 payments)
	@$(BIN)/python -m bench $(ARGS)

.PHONY: simulate
simulate: .venv/.ready-dev ## days of trouble on virtual time, each from one seed (SEED=1 RUNS=100)
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED)) --runs $(or $(RUNS),100)

.PHONY: docs
docs: .venv/.ready-dev ## write docs/configuration.md anew, from the settings types
	$(BIN)/python -m app config-reference > docs/configuration.md.new
	mv docs/configuration.md.new docs/configuration.md

.PHONY: dashboards
dashboards: .venv/.ready-dev ## build Grafana's dashboards again after a change to metrics/dashboards/
	@$(BIN)/python -m metrics.dashboards

# pip comes last: a set-up that was cut short begins anew.
.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) has no pip to give: Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv

.venv/.ready-demo: requirements/demo.txt requirements/swagger-ui.txt | .venv/bin/pip
	$(PIP_INSTALL) -r requirements/demo.txt
	$(PIP_INSTALL) -r requirements/swagger-ui.txt
	@touch $@

.venv/.ready-dev: requirements/dev.txt .venv/.ready-demo
	$(PIP_INSTALL) -r requirements/dev.txt
	@touch $@

.PHONY: tracing
tracing: .venv/.ready-demo ## install what `tracing.enabled` needs on top
	$(PIP_INSTALL) -r requirements/tracing.txt

lock: .venv/.ready-dev ## pin the dependencies again after a change to requirements/*.in
	$(COMPILE) -o requirements/run.txt requirements/run.in
	$(COMPILE) -c requirements/run.txt -o requirements/demo.txt requirements/demo.in
	$(COMPILE) -c requirements/run.txt -o requirements/tracing.txt requirements/tracing.in
	$(COMPILE) -c requirements/demo.txt -c requirements/tracing.txt -o requirements/dev.txt requirements/dev.in

.PHONY: help run test check format lock
