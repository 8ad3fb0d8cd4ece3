# `make demo` and `make test` work on a fresh clone: each makes .venv with all it needs. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py tools/bootstrap.py \
	$(wildcard dbs_device/*.pyx) $(wildcard dbs_device/*.pxd) $(wildcard dbs_device/*.h) \
	$(wildcard dbs_device/_engine/*.pyx) $(wildcard dbs_device/_engine/*.pxd)
STUBBED := $(patsubst dbs_device/%.pyi,dbs_device.%,$(wildcard dbs_device/*.pyi)) dbs_device._engine.registers

.DEFAULT_GOAL := help
.PHONY: help demo pc test lint coverage annotate bench bench-check wheel clean

help: ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

# The compiled modules are made anew when one of their sources is newer: this is the rebuild step of the editable install.
$(VENV)/.ready: $(SOURCES)
	@$(PYTHON) tools/bootstrap.py $(VENV) dev
	@touch $@

$(VENV)/.ready-bench: $(VENV)/.ready
	@$(PYTHON) tools/bootstrap.py $(VENV) dev bench
	@touch $@

demo: $(VENV)/.ready ## run a guest program on a CPU emulator, its accesses served by Python devices
	@$(BIN)/python -m examples.guest

pc: $(VENV)/.ready ## boot a PC's firmware on Python devices (needs SeaBIOS: apt install seabios)
	@$(BIN)/python -m examples.pc

test: $(VENV)/.ready ## run the tests
	@$(BIN)/python -m pytest

lint: $(VENV)/.ready ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint dbs_device tests/embedding tests/native_bank.pyx benchmarks
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --allowlist stubtest-allowlist.txt $(STUBBED)

coverage: $(VENV)/.ready ## measure what the tests reach, the compiled modules included
	@$(BIN)/python tools/coverage.py

annotate: $(VENV)/.ready ## write dbs_device/*.html: what Cython made of each line
	DBS_DEVICE_ANNOTATE=1 $(BIN)/python setup.py --quiet build_ext --inplace --force

bench: $(VENV)/.ready-bench ## run the benchmarks and write bench-report/ (QUICK=1: in under a minute)
	@$(BIN)/python benchmarks/run.py $(if $(QUICK),--quick)

bench-check: $(VENV)/.ready ## count instructions of the hot operations and compare with the baseline
	@$(BIN)/python benchmarks/check.py

wheel: $(VENV)/.ready ## build dist/*.whl and dist/*.tar.gz
	$(BIN)/python -m build

clean: ## remove everything that was made
	rm -rf $(VENV) build dist bench-report benchmarks/_build *.egg-info dbs_device/*.so dbs_device/*.html dbs_device/_engine/*.so dbs_device/_engine/*.html
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
