# make study, make plan, make test, make test-kernels, make check, make docs, make docs-site, make picture, make lock, make releases, make limits, make gpu, make kills, make faults, make determinism, make clean, make help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONPATH := $(CURDIR)/workflow

# Two jobs at once, each on half of the cores: their start-up overlaps. Jobs on a GPU take turns by themselves.
SNAKEMAKE := snakemake --cores all --max-threads $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores > 1 ? cores / 2 : 1))) --resources gpu=2

# The libraries of CUDA stay out of the locks: a torch that needs them names their versions, one for CPUs has none.
CUDA := cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13 triton
COMPILE := echo $(CUDA) | tr ' ' '\n' | uv pip compile --quiet --python-version 3.11 --python-platform linux --excludes - \
	--custom-compile-command 'make lock' $(UPGRADE) pyproject.toml --extra slurm

# Two processes: half of a test study's time it waits, and most unit tests use one core. A file's tests stay together.
PYTEST := pytest -q -n 2 --durations 20 --dist loadfile --no-loadscope-reorder -m "not faults"

.DEFAULT_GOAL := help

$(VENV)/installed: requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 13) else "Python %d.%d: Diptych needs 3.11 or 3.12; name one: make PYTHON=python3.11 ..." % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	touch $@

$(VENV)/installed-dev: requirements-dev.lock $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	touch $@

.PHONY: help
help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

.PHONY: install
install: $(VENV)/installed  ## Make .venv from requirements.lock: what a study needs

.PHONY: install-dev
install-dev: $(VENV)/installed-dev  ## Add to it what tests and checks need (requirements-dev.lock)

.PHONY: study
study: install  ## Run the default study (config/config.yaml) to results/report/index.html
	$(SNAKEMAKE)
	@echo "report: $(CURDIR)/results/report/index.html"

.PHONY: screenshots
screenshots: install  ## Draw pages of results/report at three widths to results/screenshots (needs Chromium)
	python docs/screenshots.py results/report results/screenshots index.html pairs/tuned.html

CONFIG ?= config/config.yaml

.PHONY: plan
plan: install  ## Print what a study takes before it runs; CONFIG=config/studies/....yaml, DEVICE=h100 (or another)
	@python -m diptych.planning.write $(CONFIG) $(if $(DEVICE),--device $(DEVICE))

.PHONY: test
test: install-dev  ## Run all tests, in two processes
	$(PYTEST)

.PHONY: unit
unit: install-dev  ## Run the unit tests only
	$(PYTEST) tests/unit

# The kernels of a processor of 2008: what passes with these and with this processor's depends on neither.
OLD_KERNELS := ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 DNNL_MAX_CPU_ISA=SSE41 OPENBLAS_CORETYPE=Nehalem
WITHOUT_NUMBERS := benchmarks config docs findings page report runtime storage text

.PHONY: test-kernels
test-kernels: install-dev  ## Run the unit tests that compute, with an old processor's kernels and one thread
	$(OLD_KERNELS) OMP_NUM_THREADS=1 $(PYTEST) tests/unit $(WITHOUT_NUMBERS:%=--ignore=tests/unit/%)

.PHONY: check
check: install-dev  ## Run ruff, mypy, import-linter, snakefmt, snakemake --lint; are generated docs in sync
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	snakefmt --check Snakefile workflow/rules
	snakemake --lint
	python -m diptych.config.documentation.write --check
	$(RULES) --check

.PHONY: docs
docs: install-dev  ## Write config/README.md, workflow/schemas/study.schema.json and envs/*.yaml anew from config and lock
	python -m diptych.config.documentation.write

DOCS := .venv-docs

$(DOCS)/installed: docs/requirements.lock
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.lock
	touch $@

.PHONY: docs-site
docs-site: $(DOCS)/installed  ## Build the site of the documentation (docs/, mkdocs.yml) to site/index.html
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict
	@echo "site: $(CURDIR)/site/index.html"

RULES := snakemake --quiet all --rulegraph mermaid-js | python docs/picture.py ARCHITECTURE.md

.PHONY: picture
picture: install-dev  ## Draw the rules of the default study into ARCHITECTURE.md
	$(RULES)

.PHONY: lock
lock: install-dev  ## Compile the locks from pyproject.toml, then the docs; versions stay, unless UPGRADE=--upgrade
	$(COMPILE) --output-file requirements.lock
	$(COMPILE) --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	uv pip compile --quiet --python-version 3.11 --python-platform linux --custom-compile-command 'make lock' $(UPGRADE) \
		--group docs --output-file docs/requirements.lock
	$(MAKE) docs

.PHONY: releases
releases: install  ## List the published dictionaries (release and id) that the installed SAELens knows
	python -m diptych.dictionaries.published.releases

.PHONY: limits
limits: install  ## Measure the detection limits and false discoveries that reports print anew, into the package (half an hour)
	$(SNAKEMAKE) leaderboard --configfile config/config.yaml config/limits.yaml
	python -m diptych.leaderboard.export results/limits/leaderboard/leaderboard.h5
	$(MAKE) docs

.PHONY: gpu
gpu:  ## Check a GPU in 8 minutes: tests, speed, memory; PYTHON=, WHEELS=folder of what it lacks, GPU='--out folder'
	$(PYTHON) benchmarks/gpu.py $(if $(WHEELS),--wheels $(WHEELS)) $(GPU)

.PHONY: kills
kills: install-dev  ## Kill the test study at 50 random moments, resume it, compare bit for bit (half an hour); SEED=
	python tests/kills.py --kills 50 --seed $(or $(SEED),0)

.PHONY: faults
faults: install-dev  ## Jobs that fail, are cancelled, or run out of time, memory or node on a SLURM cluster made here (minutes)
	pytest -q -m faults tests/cluster

.PHONY: determinism
determinism: install  ## Findings of CONFIG with other thread counts and an old processor's kernels, four whole runs
	python benchmarks/determinism.py --configfile $(CONFIG)

.PHONY: clean
clean:  ## Delete results, logs and caches (not .venv)
	find results -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	rm -rf .snakemake .pytest_cache .mypy_cache .ruff_cache
