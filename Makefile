# Everything here sets itself up: a virtual environment in .venv, the pinned packages, GL libraries.
# To use an environment of your own instead: make test-gpu PY=/path/to/python

SHELL := /bin/sh
VENV := .venv

# Empty: scripts/venv.sh looks for one.
PYTHON ?=
PY ?= $(VENV)/bin/python

RUN_EXTRAS := metaworld,dmcontrol,gym,video,eval
DEV_EXTRAS := $(RUN_EXTRAS),carla,dev,testdata
# An environment of the caller's own is taken as it is.
ifeq ($(PY),$(VENV)/bin/python)
RUN_READY := $(VENV)/.installed-run
DEV_READY := $(VENV)/.installed-dev
endif

QUICKSTART := runs/quickstart
PYTEST_ARGS ?=

# One thread a process: the tests and their workers share the cores among themselves. A worker that
# dies or hangs ends the run with its stacks: pytest-xdist 3.8 may wait for ever after replacing it.
TEST_ENV = OMP_NUM_THREADS=1 LP_NUM_THREADS=0 MUJOCO_GL=$$gl
PYTEST = $(PY) -m pytest -n 2 --dist loadfile --max-worker-restart=0
HANG_S = 300
TEST_LIMITS = -o faulthandler_timeout=$(HANG_S) -o faulthandler_exit_on_timeout=true
WITH_GL = gl=$$(scripts/gl.sh $(PY)) || exit $$?;

.DEFAULT_GOAL := help
.PHONY: help quickstart setup setup-run gl test lint lint-ruff lint-format lint-types lint-imports \
    lint-spelling format test-slow test-gpu bench clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(RUN_READY) ## Install; then ContextWM in minutes: videos, pre-training, fine-tuning, pictures
	@$(WITH_GL) export MUJOCO_GL=$$gl; set -ex; \
	$(PY) -m platform.run prepare --gin experiments/videos/quickstart.gin --out $(QUICKSTART)/videos; \
	$(PY) -m platform.run --gin experiments/quickstart_pretrain.gin --run-dir $(QUICKSTART)/pretrain; \
	$(PY) -m platform.run --gin experiments/quickstart.gin --run-dir $(QUICKSTART)/finetune; \
	$(PY) -m platform.run evaluate $(QUICKSTART)/finetune --video; \
	$(PY) -m platform.run analyse predict $(QUICKSTART)/finetune; \
	$(PY) -m platform.run analyse attention $(QUICKSTART)/finetune
	@newest() { ls -t $(QUICKSTART)/$$1 | head -n 1; }; echo; \
	echo "ContextWM after a few minutes; to start afresh, remove $(QUICKSTART)"; \
	echo "  learning curve     $$(newest 'finetune/pictures/curve.png')"; \
	echo "  policy video       $$(newest 'finetune/videos/evaluate-*')"; \
	echo "  video prediction   $$(newest 'finetune/analyses/predict-*.png')"; \
	echo "  context attention  $$(newest 'finetune/analyses/attention-*.png')"

setup: $(DEV_READY) ## Install everything that development needs into .venv

setup-run: $(RUN_READY) ## Install what running experiments needs into .venv

gl: $(RUN_READY) ## Make headless rendering work and name the backend
	@scripts/gl.sh $(PY)

test: $(DEV_READY) ## Run every check and test that CI runs
	@$(WITH_GL) status=0; \
	$(MAKE) --no-print-directory lint || status=1; \
	$(TEST_ENV) $(PYTEST) $(TEST_LIMITS) $(PYTEST_ARGS) || status=1; \
	exit $$status

lint: $(DEV_READY) ## Run the static checks, all of them even when one fails
	@$(MAKE) --no-print-directory --keep-going lint-ruff lint-format lint-types lint-imports lint-spelling

lint-ruff: $(DEV_READY)
	$(PY) -m ruff check .

lint-format: $(DEV_READY)
	$(PY) -m ruff format --check .

lint-types: $(DEV_READY)
	$(PY) -m mypy

lint-imports: $(DEV_READY)
	$(dir $(PY))lint-imports --no-cache

lint-spelling: $(DEV_READY)
	$(dir $(PY))codespell

format: $(DEV_READY) ## Format the code and apply the safe fixes
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

test-slow: $(DEV_READY) ## Run the slow tests too, with many more random examples
	@$(WITH_GL) HYPOTHESIS_PROFILE=wide $(TEST_ENV) $(PYTEST) -m "not gpu" $(PYTEST_ARGS)

test-gpu: $(DEV_READY) ## Run the tests and benchmarks that need an accelerator
	@$(PY) -P -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { \
	    echo "test-gpu: no accelerator (torch sees no CUDA device), so nothing was run" >&2; exit 4; }
	MUJOCO_GL=$${MUJOCO_GL:-egl} $(PY) -m pytest -m gpu $(PYTEST_ARGS)
	MUJOCO_GL=$${MUJOCO_GL:-egl} $(PY) benchmarks/learner.py --device cuda
	MUJOCO_GL=$${MUJOCO_GL:-egl} $(PY) benchmarks/data.py

bench: $(RUN_READY) ## Measure updates, frames and samples per second on the CPU
	@$(WITH_GL) MUJOCO_GL=$$gl $(PY) benchmarks/learner.py --device cpu && \
	MUJOCO_GL=$$gl $(PY) benchmarks/data.py

clean: ## Remove caches and build products; runs and .venv stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find platform plugins tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: a second call is instant, a changed pyproject.toml or constraints.txt installs again.
$(VENV)/.installed-run: pyproject.toml constraints.txt
	@scripts/venv.sh "$(PYTHON)" $(VENV)
	$(VENV)/bin/pip install $(if $(CI),-q) --disable-pip-version-check -c constraints.txt -e ".[$(RUN_EXTRAS)]"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	@scripts/venv.sh "$(PYTHON)" $(VENV)
	$(VENV)/bin/pip install $(if $(CI),-q) --disable-pip-version-check -c constraints.txt -e ".[$(DEV_EXTRAS)]"
	@touch $@ $(VENV)/.installed-run
