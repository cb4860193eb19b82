# make help says what there is; every target installs what it needs.

VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
LOWEST := .venv-lowest

PORT ?= 8000
DATA ?=
CONCURRENCY ?=
PROCESSES ?=
WORKERS ?=
FUZZ_TIME ?= 60
ARGS ?=

DATASET_URL := https://huggingface.co/datasets/anon8231489123/ShareGPT_Vicuna_unfiltered/resolve/main/ShareGPT_V3_unfiltered_cleaned_split.json
DATASET := data/$(notdir $(DATASET_URL))
BOTH := $(if $(DATA),--data "$(DATA)") $(ARGS)
GUNICORN := --worker-class mockchat.server.workers.Worker --preload --workers $(WORKERS) --bind 127.0.0.1:$(PORT)

.PHONY: help install serve bench seed-test perf test test-lowest fuzz lint data clean

help: ## say what there is (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv from setup.cfg (again, when that has changed)

$(INSTALLED): setup.cfg
	@python3 -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "python3 has no venv module: install it first (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	python3 -m venv --clear $(VENV)
	$(PYTHON) -m pip install --quiet --editable '.[lint,test]'
	@if command -v npm >/dev/null; then npm install --silent --no-package-lock --prefix tests/programs/sdk; \
		else echo "No npm here: the tests of the JavaScript SDK will be skipped"; fi
	@touch $@

serve: $(INSTALLED) ## run the server (PORT=8000, DATA=file, ARGS=more options; WORKERS=n: gunicorn, ARGS are its own)
ifdef WORKERS
	@$(VENV)/bin/gunicorn "mockchat.server:create_app($(if $(DATA),'$(DATA)'))" $(GUNICORN) $(ARGS)
else
	@$(PYTHON) server.py --port $(PORT) $(BOTH)
endif

bench: $(INSTALLED) ## replay everything against a server of its own (DATA=file, CONCURRENCY, PROCESSES, WORKERS=n, ARGS=options of both)
	@$(PYTHON) -m tests.programs.bench $(if $(CONCURRENCY),--concurrency $(CONCURRENCY)) $(if $(PROCESSES),--processes $(PROCESSES)) \
		$(if $(WORKERS),--workers $(WORKERS)) $(BOTH)

seed-test: $(INSTALLED) ## prove that the requester finds exactly what is wrong (DATA=file)
	@$(PYTHON) -m tests.programs.seed_check $(BOTH)

perf: $(INSTALLED) ## measure against the least that this machine can do (ARGS=options)
	@$(PYTHON) -m tests.perf.perf $(ARGS)

test: $(INSTALLED) ## run the tests
	$(PYTHON) -m pytest --quiet --numprocesses auto

test-lowest: $(LOWEST)/installed ## run the tests with the lowest versions that setup.cfg allows
	$(LOWEST)/bin/python -m pytest --quiet --numprocesses auto

# Only wheels: where a Python is newer than a lowest version, it gets the first one that was built for it.
$(LOWEST)/installed: $(INSTALLED)
	python3 -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct \
		--only-binary :all: --no-binary mockchat --editable '.[test]'
	@touch $@

fuzz: $(VENV)/fuzz-installed ## look for inputs that break it (FUZZ_TIME=seconds for each of three targets)
	@$(PYTHON) -m tests.fuzz.run --seconds $(FUZZ_TIME)

$(VENV)/fuzz-installed: $(INSTALLED)
	$(PYTHON) -m pip install --quiet --editable '.[fuzz]'
	@touch $@

lint: $(INSTALLED) ## check style, types, and which room may import which
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports --no-logo --no-cache

data: ## fetch the big file (about 650 MB; a broken download goes on where it stopped)
	curl --fail --location --continue-at - --output $(DATASET).part $(DATASET_URL)
	mv $(DATASET).part $(DATASET)
	@echo "Fetched $(DATASET): $$(wc -c < $(DATASET)) bytes"

clean: ## remove what was made here, but no data
	rm -rf $(VENV) $(LOWEST) tests/programs/sdk/node_modules build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
