# Every command sets up what it needs: a virtual environment in .venv with the pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test lint parity soak bench clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

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

test: $(VENV)/dev  ## every test
	$(BIN)/python -m pytest

lint: $(VENV)/dev  ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

parity: $(VENV)/dev  ## how far our numbers are from diffusers'
	$(BIN)/python -m tests.engine.parity_table

soak: $(VENV)/dev  ## kill 20 Ray drivers at random and compare what is left
	$(BIN)/python -m tests.run.soak

bench: $(VENV)/dev  ## networks and whole tables beside diffusers; growth; planning; the driver, the pools, large runs
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

clean:  ## remove the virtual environment and the demo
	rm -rf $(VENV) demo
