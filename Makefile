# `make demo` shows what Lookalike does, `make test` runs the tests, and `make check` lints the code.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
GENERATED := encoder_service/v1

.PHONY: help demo test test-shuffled test-slow test-server check stubs docs quality bench bench-load bench-million bench-train bench-scale image-size lock soak page clean

help:  ## List the targets
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: .venv/.serve  ## Load MNIST, serve it, and find the five images most similar to a nine
	@PATH="$(CURDIR)/$(BIN):$$PATH" ./examples/demo.sh

# One more than there are cores, because tests also wait.
WORKERS = $(shell $(BIN)/python -c 'import os; print(1 + (os.cpu_count() or 1))')
test: .venv/.dev  ## Run the tests
	$(BIN)/pytest -n $(WORKERS) --dist worksteal

test-shuffled: .venv/.dev  ## Run the tests in a random order
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -p randomly

test-slow: .venv/.dev  ## Run the tests that take minutes
	$(BIN)/pytest -m slow

QDRANT_URL := http://127.0.0.1:6333
test-server: .venv/.dev  ## Run the tests of all stores, including a Qdrant server at QDRANT_URL
	QDRANT_URL=$(QDRANT_URL) $(BIN)/pytest tests/gallery

check: .venv/.dev  ## Check format, lint, types, imports, protos, generated docs and stubs, and the built search page
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml docker-compose.cluster.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(MAKE) --no-print-directory docs CLI=.venv/cli.md ERRORS=.venv/errors.md
	diff .venv/cli.md docs/cli.md
	diff .venv/errors.md docs/errors.md
	@rm -rf .venv/page
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory page PAGE=.venv/page && diff -r .venv/page encoder_service/http/page; \
		else echo "no npm here: the built search page is not compared with web/"; fi
	$(MAKE) --no-print-directory stubs OUT=.venv/stubs
	diff -r --exclude=__init__.py --exclude=__pycache__ .venv/stubs/$(GENERATED) $(GENERATED)

OUT := .
stubs: .venv/.dev  ## Generate encoder_service/v1 from protos/
	@rm -rf .venv/stubs && mkdir -p $(OUT)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I protos --python_out=$(OUT) --pyi_out=$(OUT) \
		--grpc_python_out=$(OUT) --mypy_grpc_out=quiet:$(OUT) protos/encoder_service/v1/*.proto

CLI := docs/cli.md
ERRORS := docs/errors.md
docs: .venv/.dev  ## Generate docs/cli.md from the commands' help texts, and docs/errors.md from the code
	@for command in ingest encoder_service training; do \
		$(BIN)/python -m typer $$command.cli utils docs --name $$(echo $$command | sed 's/_/-/; s/training/autoencoder/'); \
	done > $(CLI)
	$(BIN)/python docs/errors.py > $(ERRORS)

PAGE := encoder_service/http/page
page: web/node_modules  ## Build the search page from web/ (needs Node 20 or newer)
	@cd web && npm run --silent check && npm run --silent build -- $(abspath $(PAGE))

web/node_modules: web/package-lock.json
	@cd web && npm ci --no-audit --no-fund --silent --ignore-scripts
	@touch $@

quality: .venv/.dev  ## Measure precision, and how well out-of-distribution queries are flagged; PHOTOGRAPHS=1 adds photographs
	$(BIN)/python -m benchmarks.quality
	$(BIN)/python -m benchmarks.unusual
	$(if $(PHOTOGRAPHS),$(BIN)/python -m benchmarks.photographs)
	$(if $(PHOTOGRAPHS),$(BIN)/python -m benchmarks.unusual_photographs)

bench: .venv/.dev  ## Measure speed beside other libraries and the original article's method, into benchmarks/RESULTS.md
	$(PIP) --editable '.[train,bench]'
	$(BIN)/python -m benchmarks

bench-load: .venv/.dev  ## Measure loading speed, and compare it with the slowest stage alone
	$(BIN)/python -m benchmarks.loading

bench-million: .venv/.dev  ## Measure the memory for loading 1,000,000 images from a .tar
	$(BIN)/python -m benchmarks.loading --million

bench-train: .venv/.dev  ## Train on 1,200,000 images in less memory than their pixels need (needs root, 3 GB of disk)
	$(BIN)/python -m benchmarks.training

bench-scale: .venv/.dev  ## Measure searches in up to 4,000,000 codes, and in 1 GB and 512 MB of memory, and build them there (needs root, 20 GB of disk)
	$(BIN)/python -m benchmarks.scale grow --folder .venv/scale
	$(BIN)/python -m benchmarks.scale fit --folder .venv/scale
	$(BIN)/python -m benchmarks.scale build --folder .venv/scale

soak: .venv/.dev  ## Stress a running service for half an hour: overload, mixed traffic, growth, shutdowns, mutated requests, fuzzing
	for trial in mutated decoder endings overload "overload --http" growth mixed; do \
		$(BIN)/python -m tests.soak.$$trial || exit 1; \
	done

image-size: .venv/bin/python  ## Print the size of each part of the Docker image
	$(BIN)/python -m benchmarks.image_size

lock: .venv/.dev  ## Update the versions in constraints.txt
	$(PIP) uv
	@# leave backports.strenum out, so that pip chooses its version: uv would pin one that pip rejects, because its
	@# metadata excludes this version of Python
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
		--no-header --no-annotate --no-emit-index-url --no-emit-package backports-strenum \
		--output-file constraints.txt

clean:  ## Remove the virtual environment and the tools' caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Lookalike needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/.serve: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

.venv/.dev: .venv/.serve
	$(PIP) --editable '.[train,traces,dev]'
	@touch $@
