# Two commands do all: `make run` shows the main job, `make test` proves the whole.

PYTHON ?= python3
VENV   := .venv
STATE  := $(CURDIR)/.run
PY     := $(VENV)/bin/python

.PHONY: run test setup setup-test stop clean bench lock

## Start the engine and a registry here, seed it, and run containers from it. HUB=1 uses Docker Hub and seeds nothing.
run: setup
	@scripts/as-root $(PY) -m demo run $(STATE) $(if $(HUB),--hub)

## Run everything that this machine can run.
test: setup-test
	@scripts/as-root $(PY) -m tests $(ARGS)

## Prepare .venv and the system packages that the engine uses.
setup: $(VENV)/.ready
	@scripts/packages run

setup-test: $(VENV)/.ready-dev
	@scripts/packages test
	@scripts/clients $(PY) $(VENV)/clients
	@$(PY) -m tests.vm || echo "barque: no kernel for the virtual machine's tests: they will be skipped"

$(VENV)/.ready: requirements.lock pyproject.toml bin/barque
	@scripts/venv $(PYTHON) $(VENV) requirements.lock
	@touch $@

$(VENV)/.ready-dev: requirements-dev.lock requirements.lock pyproject.toml bin/barque
	@scripts/venv $(PYTHON) $(VENV) requirements-dev.lock
	@touch $@ $(VENV)/.ready

## Compare speed and memory with Debian's dockerd, in one run.
bench: setup-test
	@scripts/packages bench
	@scripts/as-root $(PY) -m bench $(ARGS)

## Stop what `make run` started.
stop:
	@if [ -e $(STATE) ]; then scripts/as-root $(PY) -m demo stop $(STATE); else echo "nothing runs here"; fi

## Stop, and remove what the commands above made in this folder.
clean: stop
	@scripts/as-root rm -rf $(STATE) $(VENV) build dist src/barque.egg-info .mypy_cache .ruff_cache .hypothesis

## Write the lock files anew from pyproject.toml.
lock: setup-test
	$(PY) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade pyproject.toml -o requirements.lock
	$(PY) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade --extra dev pyproject.toml -o requirements-dev.lock
	$(PY) -m uv pip compile --quiet --python-platform linux --python-version 3.11 --generate-hashes --no-strip-extras --no-header --upgrade tests/clients/compose.in -o tests/clients/compose.lock
	$(PY) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade tests/clients/python.in -o tests/clients/python.lock
	cd tests/clients/dockerode && npm install --package-lock-only --ignore-scripts --no-audit --no-fund
