# Every command sets up what it needs: a virtual environment in .venv with the pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Words for pytest: make test ARGS="tests/prompts -k ids"
ARGS ?=

.PHONY: help demo demo-regenerate check format test lint coverage golden parity soak bench clean

##@ To begin

help:  ## this list
	@grep -hE '^([a-z-]+:.*##|##@)' $(MAKEFILE_LIST) | sed -E 's/^##@ /\n/; s/^([a-z-]+):.*## /  \1\t/' | expand -t 20

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and alone: a later requirement must not choose another build.
$(VENV)/torch: constraints.txt | $(BIN)/python
	$(PIP) torch
	@touch $@

$(VENV)/demo: $(VENV)/torch pyproject.toml
	$(PIP) --editable '.[analytics]'
	@touch $@

$(VENV)/dev: $(VENV)/torch pyproject.toml
	$(PIP) --editable '.[dev]'
	@touch $@

demo: $(VENV)/demo  ## 24 shipped prompts through two local pools into demo/, and a contact sheet of them
	$(BIN)/cascade-batch render jobs/demo/prompts.parquet --out demo --set shards.prompts=4
	@$(BIN)/python jobs/demo/contact_sheet.py demo >/dev/null
	@$(BIN)/python jobs/demo/show.py demo

demo-regenerate: $(VENV)/demo  ## a collection's story: three editions that render only what changed, in demo-collection/
	@$(BIN)/python jobs/demo/regenerate.py demo-collection

##@ While you work

check: $(VENV)/dev  ## style, import contracts, and the tests that need neither torch nor Ray: half a minute
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quick $(ARGS)

format: $(VENV)/dev  ## put the code into its form, and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

##@ Before a change lands

test: $(VENV)/dev  ## every test, or those of ARGS="tests/prompts -k ids"
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/dev  ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

coverage: $(VENV)/dev  ## every test, or those of ARGS, and which lines and branches they reach; red below the gate
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered $(ARGS)

golden: $(VENV)/dev  ## remember the bits that this kind of CPU renders, after NUMERICS_VERSION was raised
	$(BIN)/python -m tests.golden.make

##@ Now and then

parity: $(VENV)/dev  ## how far our numbers are from diffusers'
	$(BIN)/python -m tests.engine.parity_table

soak: $(VENV)/dev  ## kill 20 Ray drivers, and 20 regenerations, gcs and restores, at random and compare what is left
	$(BIN)/python -m tests.run.soak
	$(BIN)/python -m tests.collection.kills

bench: $(VENV)/dev  ## networks and whole tables beside diffusers; growth; planning; the driver, the pools, large runs, collections
	$(BIN)/python -m jobs.bench
	$(BIN)/python -m jobs.bench.end_to_end
	$(BIN)/python -m jobs.bench.growth
	$(BIN)/python -m jobs.bench.plan
	$(BIN)/python -m jobs.bench.driver
	$(BIN)/python -m jobs.bench.pools
	$(BIN)/python -m jobs.bench.pools --model mini
	$(BIN)/python -m jobs.bench.pools --model mini --store s3
	$(BIN)/python -m jobs.bench.scale shards
	$(BIN)/python -m jobs.bench.scale listing
	$(BIN)/python -m jobs.bench.collections

clean:  ## remove the virtual environment and the demos
	rm -rf $(VENV) demo demo-collection
