# make help says what there is; every target installs what it needs.

VENV := .venv
LOWEST := .venv-lowest
PYTHON ?=
BASE_PYTHON := $(or $(PYTHON),python3)
VENV_PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
UV := $(shell command -v uv 2>/dev/null)
PIP_INSTALL := $(if $(UV),$(UV) pip install --quiet --python $(VENV),$(VENV_PYTHON) -m pip install --quiet)
EXTRAS ?=
CHOOSE := name another, as in PYTHON=python3.13 make bench

PORT ?= 8000
DATA ?=
CONCURRENCY ?=
PROCESSES ?=
WORKERS ?=
FUZZ_TIME ?= 60
# Tests wait for processes and sockets as much as they compute.
TEST_PROCESSES = $(shell $(BASE_PYTHON) -c 'import os; print(2 * (os.cpu_count() or 1))')
ARGS ?=

DATASET_URL := https://huggingface.co/datasets/anon8231489123/ShareGPT_Vicuna_unfiltered/resolve/main/ShareGPT_V3_unfiltered_cleaned_split.json
DATASET := data/$(notdir $(DATASET_URL))
BOTH := $(if $(DATA),--data "$(DATA)") $(ARGS)
GUNICORN := --worker-class mockchat.server.workers.Worker --preload --workers $(WORKERS) --bind 127.0.0.1:$(PORT)

.PHONY: help install serve bench seed-test perf soak test test-lowest fuzz lint data clean

help: ## say what there is (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) $(EXTRAS:%=$(VENV)/with-%) ## make .venv, anew when setup.cfg has changed (EXTRAS="gunicorn perf": these of setup.cfg too)

# A .venv that another PYTHON has made is made anew, but only where PYTHON is given.
ifneq ($(PYTHON),)
ifneq ($(PYTHON),$(shell cat $(INSTALLED) 2>/dev/null))
.PHONY: $(INSTALLED)
endif
endif

$(INSTALLED): setup.cfg
	$(call make_venv,$(VENV))
	@echo "Installing mockchat and what it needs into $(VENV)"
	@$(PIP_INSTALL) --editable .
	@echo $(BASE_PYTHON) > $@

# What only some targets need is installed when it is first asked for: a stamp for each of setup.cfg's extras.
$(VENV)/with-%: $(INSTALLED)
	@sed -n '/^\[options.extras_require\]/,/^\[options.entry_points\]/s/ =$$//p' setup.cfg | grep -qx '$*' || \
		{ echo "setup.cfg has no extra '$*': see [options.extras_require] there" >&2; exit 1; }
	@echo "Installing what setup.cfg names for '$*' into $(VENV)"
	@$(PIP_INSTALL) --editable '.[$*]'
	@touch $@

$(VENV)/with-node: $(INSTALLED) tests/programs/sdk/package.json
	@if command -v npm >/dev/null; then echo "Installing OpenAI's JavaScript SDK and TypeScript into tests/programs/sdk"; \
		npm install --silent --no-package-lock --prefix tests/programs/sdk; \
		else echo "No npm here: the tests of the JavaScript SDK will be skipped"; fi
	@touch $@

define make_venv
@$(BASE_PYTHON) -c '' 2>/dev/null || { echo "There is no $(BASE_PYTHON) here: $(CHOOSE)" >&2; exit 1; }
@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "$(BASE_PYTHON) is $$($(BASE_PYTHON) --version 2>&1), and 3.11 or later is needed: $(CHOOSE)" >&2; exit 1; }
@$(if $(UV),,$(BASE_PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	{ echo "$(BASE_PYTHON) has no venv module: install it first (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; })
@echo "Making $(1) with $$($(BASE_PYTHON) --version)"
@rm -rf $(1)
@$(if $(UV),$(UV) venv --quiet --seed --python "$$($(BASE_PYTHON) -c 'import sys; print(sys.executable)')",$(BASE_PYTHON) -m venv) $(1)
endef

serve: $(INSTALLED) $(if $(WORKERS),$(VENV)/with-gunicorn) ## run the server (PORT=8000, DATA=file, ARGS=more options; WORKERS=n: gunicorn, ARGS are its own)
ifdef WORKERS
	@exec $(VENV)/bin/gunicorn "mockchat.server.workers:create_app($(if $(DATA),'$(DATA)'))" $(GUNICORN) $(ARGS)
else
	@exec $(VENV_PYTHON) server.py --port $(PORT) $(BOTH)
endif

bench: $(INSTALLED) ## replay everything against a server of its own (DATA=file, CONCURRENCY, PROCESSES, ARGS=more options)
	@$(VENV_PYTHON) -m mockchat bench $(if $(CONCURRENCY),--concurrency $(CONCURRENCY)) $(if $(PROCESSES),--processes $(PROCESSES)) $(BOTH)

seed-test: $(INSTALLED) ## prove that the requester finds exactly what is wrong (DATA=file)
	@$(VENV_PYTHON) -m mockchat seed-test $(BOTH)

perf: $(VENV)/with-perf ## measure against the least that this machine can do (ARGS=options)
	@$(VENV_PYTHON) -m tests.perf.perf $(ARGS)

soak: $(VENV)/with-test ## attack the server, stop it and kill it, for two minutes (ARGS=options)
	@$(VENV_PYTHON) -m tests.soak.soak $(ARGS)

# Where it is set, each process would compile all the tests anew.
test test-lowest: export PYTHONDONTWRITEBYTECODE =

test: $(VENV)/with-test $(VENV)/with-node ## run the tests (ARGS=options of pytest, such as --cov)
	$(VENV_PYTHON) -m pytest --quiet --numprocesses $(TEST_PROCESSES) --dist worksteal $(ARGS)

test-lowest: $(LOWEST)/installed $(VENV)/with-node ## run the tests with the lowest versions that setup.cfg allows
	$(LOWEST)/bin/python -m pytest --quiet --numprocesses $(TEST_PROCESSES) --dist worksteal $(ARGS)

# Only wheels: where a Python is newer than a lowest version, it gets the first one that was built for it.
$(LOWEST)/installed: setup.cfg
	$(call make_venv,$(LOWEST))
	@echo "Installing the lowest versions that setup.cfg allows into $(LOWEST)"
	@$(if $(UV),,$(LOWEST)/bin/python -m pip install --quiet uv)
	@$(or $(UV),$(LOWEST)/bin/uv) pip install --quiet --python $(LOWEST) --resolution lowest-direct \
		--only-binary :all: --no-binary mockchat --editable '.[test]'
	@touch $@

fuzz: $(VENV)/with-fuzz ## look for inputs that break it (FUZZ_TIME=seconds for each of three targets)
	@$(VENV_PYTHON) -m tests.fuzz.run --seconds $(FUZZ_TIME)

lint: $(VENV)/with-lint $(VENV)/with-test ## check style, types, and which room may import which
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m mypy
	$(VENV)/bin/lint-imports --no-logo --no-cache

data: ## fetch the big file (about 650 MB; a broken download goes on where it stopped)
	curl --fail --location --continue-at - --output $(DATASET).part $(DATASET_URL)
	mv $(DATASET).part $(DATASET)
	@echo "Fetched $(DATASET): $$(wc -c < $(DATASET)) bytes"

clean: ## remove what was made here, but no data
	rm -rf $(VENV) $(LOWEST) tests/programs/sdk/node_modules build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
