# `make run` and `make test` work on a machine with nothing but Python: the first call makes a
# virtual environment in .venv, later ones find it ready. `make help` lists the rest.

VENV = .venv
OLDEST_VENV = .venv-oldest
OLDEST = "tensorflow==2.19.*" "keras==3.10.*"
PYTHON ?=
ARGS =

# Shell commands that leave in $found the first Python from 3.11 to 3.$(1) able to make an environment.
define find_python
found=; \
for python in $(or $(PYTHON),python3 python python3.13 python3.12 python3.11); do \
  if $$python -c "import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $(1)))" \
    >/dev/null 2>&1; then found=$$python; break; fi; \
done; \
if [ -z "$$found" ]; then \
  echo "Expected Python 3.11 to 3.$(1) with its venv module, found" \
    "$$($(or $(PYTHON),python3) --version 2>&1 | head -n 1)." \
    "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; \
  exit 2; \
fi
endef

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DELETE_ON_ERROR:
.PHONY: help run test test-oldest lint notebooks results bench clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.ready ## meta-train MAML on sine waves and draw the figure (ARGS="--help" for more)
	$(VENV)/bin/python chapter05_maml_adml/maml.py $(ARGS)

test: $(VENV)/.ready-dev ## run the tests (ARGS="-m 'not slow'" for the fast ones)
	$(VENV)/bin/python -m pytest $(ARGS)

test-oldest: $(OLDEST_VENV)/.ready-dev ## run the fast tests on the oldest TensorFlow and Keras
	$(OLDEST_VENV)/bin/python -m pytest -m "not slow" $(ARGS)

lint: $(VENV)/.ready-dev ## check the style of the code
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .

notebooks: $(VENV)/.ready-dev ## run every notebook top to bottom and keep its outputs
	$(VENV)/bin/python -m jupyter nbconvert --to notebook --execute --ExecutePreprocessor.record_timing=False --inplace \
	  $(filter-out %/exercises.ipynb,$(wildcard chapter*/*.ipynb))

results: $(VENV)/.ready ## rewrite the README's table from the committed result files
	$(VENV)/bin/python -m common.results_table

bench: $(VENV)/.ready-dev ## run the benchmarks one after the other
	@set -e; for script in $(filter-out tests/benchmarks/_%,$(wildcard tests/benchmarks/*.py)); do \
	  module=$${script%.py}; \
	  echo "== $$script"; \
	  $(VENV)/bin/python -m $$(echo $$module | tr / .); \
	done

clean: ## remove caches and build products (outputs/ and .venv/ stay)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -not -path './.venv*' -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(call find_python,13); \
	echo "Making a virtual environment in $(VENV) (once, a few minutes)"; \
	$$found -m venv $(VENV)

$(VENV)/.ready: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -r requirements.txt
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt requirements.txt pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -r requirements-dev.txt
	@touch $(VENV)/.ready $@

$(OLDEST_VENV)/bin/python:
	@$(call find_python,12); \
	echo "Making a virtual environment in $(OLDEST_VENV) (once, a few minutes)"; \
	$$found -m venv $(OLDEST_VENV)

$(OLDEST_VENV)/.ready-dev: requirements-dev.txt requirements.txt pyproject.toml | $(OLDEST_VENV)/bin/python
	$(OLDEST_VENV)/bin/python -m pip install -r requirements-dev.txt $(OLDEST)
	@touch $@
