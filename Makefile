# Two commands: `make run` shows the service at work, `make test` checks everything. Both set themselves up.
PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

# Images of containers often forbid Python to keep what it compiled. The suite starts hundreds of interpreters.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test test-long check checked collected bench docs picture images lint format lock clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-9s %s\n", $$1, $$2}'

# Each stamp is newer than the lock file it was installed from.
$(VENV)/run.stamp: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=python3.12" >&2; exit 2; }
	@echo "setting up $(VENV)" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . >&2
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock >&2
	@touch $@

run: $(VENV)/run.stamp ## run the demo: ARGS="--seconds 20 --json"
	@$(BIN)/whatsms-events demo $(ARGS)

lint: $(VENV)/test.stamp ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# While mypy reads, pytest compiles the tests once; where nothing is compiled yet, each of the processes below would.
collected: $(VENV)/test.stamp
	@$(BIN)/python -m pytest --collect-only -q $(ARGS) >/dev/null 2>&1 || true

# Five processes, each with its own servers: the tests that kill servers mostly wait for them. The tests of a file stay
# together, and files begin in the order of tests/conftest.py: sorted by number, files with few long tests came last.
test: $(VENV)/test.stamp ## lint, types and the whole suite: ARGS="-k relay"
	@$(MAKE) --no-print-directory -j2 lint collected
	$(BIN)/python -m pytest -n 5 --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: export WHATSMS_TEST_LONG = 1
test-long: test ## the suite with the long forms of its tests: more tickets, more seeds; half an hour

# The fast path, for between two edits: what needs no server (the twin is one) and kills nothing, with few examples of
# each law.
check: export HYPOTHESIS_PROFILE = quick
check: export WHATSMS_TEST_NO_PROCESS = 1
check: $(VENV)/test.stamp ## lint, types, and every test that needs no server
	@$(MAKE) --no-print-directory -j2 lint checked

# Beside lint: mypy alone would leave a processor idle.
checked: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n 3 --dist loadfile -q -m "not kafka and not postgres and not chaos and not process and not twin and not slow" $(ARGS)

bench: $(VENV)/test.stamp ## measure, in minutes: ARGS="ingest startup --rounds 5"
	$(BIN)/python bench/run.py $(ARGS)

docs: $(VENV)/test.stamp ## write docs/reference, the dashboards and the operator's rules
	$(BIN)/python docs/generate.py
	$(BIN)/python -m deploy.grafana.generate
	$(BIN)/python -m deploy.prometheus.generate

picture: $(VENV)/run.stamp ## run the demo and draw its terminal: docs/demo.svg, docs/proof.svg
	$(BIN)/python docs/picture.py $(ARGS)

images: $(VENV)/test.stamp ## take pictures of the console's pages: docs/images
	$(BIN)/python docs/images.py

format: $(VENV)/test.stamp ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The smaller one takes the larger one's versions, so that what is tested is what is run. Neither has a URL.
LOCK := uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-header --no-annotate --upgrade
lock: ## make both lock files again (needs uv)
	$(LOCK) --group dev --output-file requirements-dev.lock
	$(LOCK) --group build --constraint requirements-dev.lock --output-file requirements.lock

clean: ## remove what run and test made, never the log of a service
	rm -rf $(VENV) var/demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
