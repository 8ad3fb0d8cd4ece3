# `make demo` and `make test` work on a fresh clone: each sets up what it needs in .venv. `make help` lists the rest.

VENV := .venv
BIN := $(VENV)/bin
# Of an existing .venv, its own Python; one that is named is checked against it.
PYTHON ?= $(or $(realpath $(BIN)/python),python3)
# Followed by the extras and the dependency groups that a target needs. It also compiles what has changed.
SET_UP = @$(PYTHON) tools/bootstrap.py $(VENV)
STUBBED := $(subst /,.,$(basename $(wildcard dbs_device/*.pyi dbs_device/_engine/*.pyi)))

.DEFAULT_GOAL := help
.PHONY: help set-up set-up-bench demo pc virt riscv riscv-core riscv-guest test test-fast lint docs coverage fuzz sanitize tsan \
	annotate bench bench-check wheels index release clean

help: ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

set-up: ## make .venv, or bring it up to date, for all of the following but the benchmarks
	$(SET_UP) examples dev

set-up-bench:
	$(SET_UP) examples dev bench

demo: ## run a guest program on a CPU emulator, its accesses served by Python devices
	$(SET_UP) examples
	@$(BIN)/python -m examples.guest

pc: ## boot a PC's firmware on Python devices (needs SeaBIOS: apt install seabios)
	$(SET_UP) examples
	@$(BIN)/python -m examples.pc

riscv: riscv-core ## run a program on an RV32IMA machine, or boot Linux (KERNEL=image; ARGUMENTS="--devices native", ...)
	@$(BIN)/python -m examples.riscv $(if $(KERNEL),--kernel $(KERNEL)) $(ARGUMENTS)

virt: ## run Debian's U-Boot for arm64 on an ARM "virt" machine (needs U-Boot: apt install u-boot-qemu; ARGUMENTS="--disk FILE", ...)
	$(SET_UP) examples
	@$(BIN)/python -m examples.virt $(ARGUMENTS)

# The core is a package of its own, as another project's would be: built against the package that is installed.
riscv-core:
	$(SET_UP) examples
	@$(MAKE) --no-print-directory $(VENV)/rv32.stamp

$(VENV)/rv32.stamp: $(wildcard examples/riscv/core/*.* examples/riscv/core/rv32/*.*) $(wildcard dbs_device/*.pxd)
	@echo "dbs-device: building the RISC-V core, examples/riscv/core"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps ./examples/riscv/core
	@touch $@

riscv-guest: ## compile that program (needs clang and lld)
	$(MAKE) -C examples/riscv/guest

test: riscv-core ## run the tests
	$(SET_UP) examples test
	@$(BIN)/python -m pytest

test-fast: riscv-core ## run the tests but the slow ones
	$(SET_UP) examples test
	@$(BIN)/python -m pytest -m "not slow"

lint: set-up riscv-core ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint dbs_device tests/embedding tests/native_bank.pyx benchmarks \
		examples/riscv/core/rv32
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --allowlist stubtest-allowlist.txt $(STUBBED) rv32.core rv32.devices

docs: set-up ## build the documentation site, docs/_build/html
	$(BIN)/python -m sphinx -q -E -W --keep-going -b html docs docs/_build/html

coverage: set-up ## measure what the tests reach, the compiled modules included
	@$(BIN)/python tools/coverage.py

fuzz: set-up ## use the package at random, beside models of it (SECONDS=60; SEED=n; TARGETS="bus files", ...; CASE=n)
	@$(BIN)/python tests/fuzz --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED)) \
		$(if $(TARGETS),--targets $(TARGETS)) $(if $(CASE),--case $(CASE))

sanitize: set-up ## run the fast tests and the fuzzer with AddressSanitizer and UBSan (SECONDS=60, of fuzzing)
	@$(BIN)/python tests/sanitize/asan.py --seconds $(or $(SECONDS),60)

tsan: set-up ## look for data races with ThreadSanitizer, in C dispatch while the map changes
	@$(BIN)/python tests/sanitize/tsan.py

annotate: set-up ## write an .html page beside each .pyx: what Cython made of each line
	DBS_DEVICE_ANNOTATE=1 $(BIN)/python setup.py --quiet build_ext --inplace --force

bench: set-up-bench ## run the benchmarks and write bench-report/ (QUICK=1: in under a minute)
	@$(BIN)/python benchmarks/run.py $(if $(QUICK),--quick)

bench-check: set-up ## count instructions of the hot operations and compare with the baseline
	@$(BIN)/python benchmarks/check.py

wheels: ## build the sdist, and a wheel for each CPython found; check them and test them installed
	$(SET_UP) examples dev release
	@$(BIN)/python tools/wheels.py --outdir dist

index: ## make an index of the wheels in dist/, for pip install --extra-index-url
	$(SET_UP) examples dev release
	@$(BIN)/python tools/index.py

release: ## do all of a release that can be done before a push: make release VERSION=...
	$(SET_UP) examples dev release
	@$(BIN)/python tools/release.py $(VERSION)

clean: ## remove everything that was made
	rm -rf $(VENV) build dist bench-report benchmarks/_build docs/_build *.egg-info
	rm -rf examples/riscv/core/build examples/riscv/core/*.egg-info
	find dbs_device -type f \( -name '*.so' -o -name '*.c' -o -name '*.html' \) -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
