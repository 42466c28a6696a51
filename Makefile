# Everything a newcomer types; `make` alone lists it.

# The first Python that can build a virtual environment: 3.11 is the one with pins that were run, see constraints/.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.10; do $$p -c 'import ensurepip, sys; \
	sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
# A package index with CPU builds of torch; empty: whatever pip is set up to use.
TORCH_INDEX ?=

VENV ?= .venv
BIN := $(VENV)/bin
ROBOT := $(BIN)/qwen2vl-robot
READY := $(VENV)/ready
PIN := constraints/py$$($(BIN)/python -c 'import sys; print("%d%d" % sys.version_info[:2])').txt
PIP := $(BIN)/python -m pip --disable-pip-version-check install --prefer-binary --constraint $(PIN)

TESTS ?=
EPISODES ?= 50
SEED ?= 1000
FUZZ_SECONDS ?= 600
TRIALS ?= 1000

.PHONY: help setup demo test test-py lint format bench fuzz atheris bags lerobot clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv with pinned versions and the package in it (about 2 minutes)

$(READY): setup.py $(wildcard constraints/*.txt)
	@test -n "$(PYTHON)" || { echo "make setup: no Python 3.10, 3.11 or 3.12 with venv found (Debian: apt install python3-venv), or say PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
		|| { echo "make setup: $(PYTHON) is no Python 3.10, 3.11 or 3.12 with venv (Debian: apt install python3-venv)" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "make setup: $(VENV) with $(PYTHON)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "make setup 1/2: build tools"; $(PIP) --quiet 'setuptools>=70.1'
	@echo "make setup 2/2: the package and what it needs, pinned in" $(PIN)
	@$(PIP) $(addprefix --extra-index-url ,$(TORCH_INDEX)) --no-build-isolation --editable '.[test]' \
		|| { echo "make setup: the installation failed; the lines above say where; 'make setup' goes on from there" >&2; exit 1; }
	@touch $(READY); echo "make setup: done; try 'make demo'"

demo: $(READY) ## see, plan, check and move once in simulation; writes out/demo
	$(ROBOT) demo --headless --out out/demo

test: $(READY) ## run the tests, offline; TESTS=tests/graph runs some of them
	PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder $(TESTS)

test-py: ## the same in a virtual environment of its own: make test-py PYTHON=python3.12
	@$(MAKE) --no-print-directory test VENV=.venv-py$$($(PYTHON) -c 'import sys; print("%d%d" % sys.version_info[:2])')

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## let ruff put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## the figures of README; writes out/*.json and a page of them, out/results.html (about 70 minutes)
	@mkdir -p out
	$(ROBOT) eval --suite tabletop --episodes $(EPISODES) --seed $(SEED) --planner truth --json out/eval-truth.json
	$(ROBOT) eval --suite tabletop --episodes 100 --seed 5000 --planner checkpoint --camera ideal --json out/eval-5000.json
	$(ROBOT) eval --suite grounding --episodes 100 --seed 20000000 --json out/eval-grounding.json
	$(ROBOT) eval --suite references --episodes 120 --seed 6000 --camera ideal --json out/eval-references.json
	$(ROBOT) eval --language all --episodes 500 --seed 30000000 --json out/eval-languages.json
	$(ROBOT) bench hazards --json out/hazards.json
	$(ROBOT) bench validation --json out/validation.json
	$(ROBOT) results page out --out out/results.html

fuzz: $(READY) ## 100,000 malformed inputs against everything that reads them, the validator and the gate (about 5 minutes)
	$(BIN)/python -m tests.fuzz 100000

atheris: $(READY) ## the same, guided by coverage: FUZZ_SECONDS for each kind; needs: pip install atheris
	@for target in reply document picture messages description sound; do \
		$(BIN)/python -m tests.guided $$target $(FUZZ_SECONDS) || exit 1; done

bags: $(READY) ## kill TRIALS recorders at random moments and read their files (about 20 minutes)
	@mkdir -p out
	$(BIN)/python -m tests.recording.kills $(TRIALS) --json out/kills.json

lerobot: $(READY) ## export a demo's bag and read it back with LeRobot's own library, in .venv-lerobot
	@test -x .venv-lerobot/bin/python || $(PYTHON) -m venv .venv-lerobot
	.venv-lerobot/bin/python -m pip install --quiet --prefer-binary $(addprefix --extra-index-url ,$(TORCH_INDEX)) 'lerobot==0.4.4'
	@rm -rf out/lerobot out/lerobot.mcap
	$(ROBOT) demo --headless --out out/demo --record out/lerobot.mcap
	$(ROBOT) export out/lerobot.mcap --lerobot out/lerobot
	HF_HUB_OFFLINE=1 .venv-lerobot/bin/python tests/recording/read_lerobot.py out/lerobot

clean: ## remove .venv, caches and what the commands wrote
	rm -rf .venv .venv-py* .venv-lerobot build out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
