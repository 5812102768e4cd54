# Everything here sets itself up on a fresh Debian 12 or Ubuntu 24.04 with Python >= 3.11; no ROS and no GPU needed.
#   make demo       simulate, replay, run the live node, write out/demo/report.html
#   make test       the test suite (make test-all: the slow ones too)
#   make check      format, lint, types
#   make bench      benchmarks beside the committed ones; DNLS_PEERS names a Python with GTSAM (bench-bless: replace)
#   make examples   learning through solutions, alignment, planning: tables, and pictures in out/examples
#   make docs       the documentation as a site in out/docs; warnings are errors
#   make colcon     the same package built and tested by colcon in an environment of its own
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check format bench bench-bless examples docs colcon clean

VENV := .venv
READY := $(VENV)/.ready
# Definitions of the package, not its Python files: from the checkout those are used as they are.
INPUTS := constraints.txt pyproject.toml setup.py CMakeLists.txt package.xml scripts/setup.sh \
          scripts/dnls $(wildcard scripts/*_node) \
          $(wildcard msg/*.msg srv/*.srv action/*.action interfaces/*/msg/*.msg interfaces/*/CMakeLists.txt)
RUN := $(VENV)/bin/python -m
# The ROS wheels set this when Python starts; inherited from another environment it would hide our libraries.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

help:
	@sed -n 's/^#   //p' Makefile

setup: $(READY)

$(READY): $(INPUTS)
	scripts/setup.sh $(VENV)
	@touch $@

demo: $(READY)
	$(RUN) dnls_ros.cli demo --out out/demo

# Two files at a time: each has a ROS domain of its own, and nothing in a test depends on speed.
test: $(READY)
	$(RUN) pytest -n 2 --dist loadfile -m "not slow and not bench" --ignore test/test_doctor_live.py
	$(RUN) pytest -m "not slow" test/test_doctor_live.py # looks at the whole graph: alone in its domain

test-all: $(READY)
	$(RUN) pytest -m "not bench"

check: $(READY)
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) pyright --pythonpath $(VENV)/bin/python

format: $(READY)
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

bench: $(READY)
	$(RUN) benchmarks.suite

bench-bless: $(READY)
	$(RUN) benchmarks.suite --bless

examples: $(READY)
	@for script in examples/*.py; do \
		echo "$$script"; PYTHONPATH=. $(VENV)/bin/python "$$script" --out out/examples; \
	done

docs: $(READY)
	$(RUN) sphinx -W --keep-going -q -b html docs out/docs
	@echo "open out/docs/index.html"

colcon: $(READY)
	scripts/colcon.sh

clean:
	rm -rf .venv .venv-colcon build dist out *.egg-info .pytest_cache .ruff_cache .hypothesis
