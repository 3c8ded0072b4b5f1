# `make quickstart` and `make test` are all the set-up there is; both can be repeated.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SOURCE ?=
# What make fuzz reads, each group for so many seconds.
GROUPS  ?= text records columns web archives packed unnamed pdf
SECONDS ?= 60

.DEFAULT_GOAL := help
.PHONY: help quickstart test slow check format docs fuzz bench bench-env clean

help: ## Show what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit("Underlay needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch comes first and pinned: a looser range would pull gigabytes of CUDA packages.
$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.developing: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	@touch $@

$(VENV)/.fuzzing: $(VENV)/.developing
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	@touch $@

quickstart: $(VENV)/.installed ## Grow a code model from this machine's Python and trace its answers (SOURCE=path: from your files)
	@$(BIN)/underlay run recipes/quickstart.yaml $(if $(SOURCE),--source $(SOURCE))
	@echo "  (first: source $(BIN)/activate)"

# Several processes with one thread of torch each: cores are not to wait for one another.
test: $(VENV)/.developing ## Run the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

slow: $(VENV)/.developing ## Run the slow tests
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.developing ## Lint, types, floors, docs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir $(VENV)/site

format: $(VENV)/.developing ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Not part of any check: what it finds becomes a test of tests/data/gather/test_hostile_files.py.
fuzz: $(VENV)/.fuzzing ## Fuzz the readers of sources (GROUPS="web pdf", SECONDS=180)
	@for group in $(GROUPS); do $(BIN)/python tests/fuzz/readers.py $$group --seconds $(SECONDS) || exit 1; done

docs: $(VENV)/.developing ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Those named gpu_... need a GPU, and are left to whoever has one.
bench: $(addprefix bench-,$(filter-out gpu_% scale,$(basename $(notdir $(wildcard bench/*.py))))) ## Run every benchmark that needs no GPU, but scale (10 GB); one of them: make bench-NAME ARGS=...

bench-%: $(VENV)/.developing
	$(BIN)/python bench/$*.py $(ARGS)

# A phony target with a recipe of its own, so the pattern above does not take it for a script.
bench-env: $(VENV)-bench/.installed $(VENV)-litgpt/.installed $(VENV)-openvino/.installed $(VENV)-datatrove/.installed ## Install what benchmarks and slow tests compare with (builds llama.cpp)
	@echo "  $(VENV)-bench, $(VENV)-litgpt, $(VENV)-openvino and $(VENV)-datatrove are ready"

$(VENV)-bench/.installed: bench/requirements.txt
$(VENV)-litgpt/.installed: bench/requirements-litgpt.txt
$(VENV)-bench/.installed $(VENV)-litgpt/.installed: constraints.txt $(VENV)/.python
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r $(filter bench/%,$^)
	@touch $@

# torchvision, which nothing here uses, comes built for CUDA and then fails beside a torch for the CPU.
$(VENV)-openvino/.installed: bench/requirements-openvino.txt constraints.txt $(VENV)/.python
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r $<
	$(@D)/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

# Nothing in it needs torch.
$(VENV)-datatrove/.installed: bench/requirements-data.txt $(VENV)/.python
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

clean: ## Remove what tools left behind; the library stays
	rm -rf site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
