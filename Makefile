# Every target makes its own virtual environment and installs what it needs, Debian packages too
# where it runs as root: scripts/bootstrap.sh. Nothing is written outside this folder and cargo's and
# pip's caches.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export CARGO_TERM_COLOR ?= never
# Tests start some thousand processes: each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

PYTEST_ARGS ?=
# More than the cores: tests wait for disks and other processes half of the time.
TEST_JOBS ?= 4
FUZZ_SECONDS ?= 150
BENCH_VENV := .venv-bench
BENCH_ARGS ?=
# Tests pass wrong types on purpose: what has annotations is checked, and needs none.
MYPY_TESTS := --no-check-untyped-defs --disable-error-code=annotation-unchecked --allow-untyped-defs --allow-incomplete-defs --allow-untyped-calls \
	--allow-untyped-decorators --allow-any-generics --no-warn-return-any --no-warn-unreachable --implicit-reexport
SOURCES := python tests scripts rust/fuzz/fixtures $(wildcard benches)

.PHONY: help bootstrap build demo test sweep audited asan lint format licences bench fuzz wheel sdist clean

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | column -t -s $$'\t'

bootstrap:
	@scripts/bootstrap.sh $(VENV) test dev

build: bootstrap
	@maturin develop --release --locked --quiet

demo: build  ## encrypt, rotate, rewrap and decrypt a real tree; DEMO_SOURCE names another one
	@python scripts/demo.py

test: build  ## Rust and Python tests on the release build, and the demo on a small tree
	cargo test --locked --workspace
	scripts/tokens.sh
	pytest --no-skips -m "not alone and not sweep" -n $(TEST_JOBS) --dist loadfile $(PYTEST_ARGS)
	pytest --no-skips -m "alone and not sweep" $(PYTEST_ARGS)
	DEMO_SOURCE=tests python scripts/demo.py

sweep: build  ## every crash point and fault that `make test` only samples; takes long
	scripts/tokens.sh
	pytest --no-skips -m sweep -n $(TEST_JOBS) $(PYTEST_ARGS)
	cargo test --locked --release -p strongroom-core --test timing -- --ignored --test-threads 1
	scripts/audited.sh $(TEST_JOBS) $(PYTEST_ARGS)

audited: build  ## all tests with the audit log on, and the log compared with what the stores committed
	scripts/tokens.sh
	scripts/audited.sh $(TEST_JOBS) $(PYTEST_ARGS)

asan: bootstrap  ## the Python suite under AddressSanitizer; needs a nightly Rust toolchain
	scripts/asan.sh $(PYTEST_ARGS)

lint: bootstrap  ## formatting, clippy, ruff, mypy, documentation, licences
	cargo fmt --all --check
	cargo fmt --manifest-path rust/fuzz/Cargo.toml --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --manifest-path rust/fuzz/Cargo.toml --target-dir target -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --locked --no-deps --quiet --document-private-items -p strongroom-core
	ruff check $(SOURCES)
	ruff format --check $(SOURCES)
	mypy
	mypy $(MYPY_TESTS) tests
	python scripts/third_party.py --check

format: bootstrap  ## format the sources
	cargo fmt --all
	cargo fmt --manifest-path rust/fuzz/Cargo.toml
	ruff check --fix $(SOURCES)
	ruff format $(SOURCES)

licences: bootstrap  ## write THIRD-PARTY-LICENSES from Cargo.lock
	python scripts/third_party.py

# A virtual environment of its own, with a wheel in it: what `make build` leaves in python/ may be of
# another profile, and the peers are many.
.PHONY: bench-venv bench-compare
bench-venv:
	@scripts/bootstrap.sh $(BENCH_VENV) bench benches
	@command -v age >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
		{ apt-get -qq update && apt-get -qq -y --no-install-recommends install age >/dev/null; }
	@rm -rf target/bench-wheels
	@$(BENCH_VENV)/bin/maturin build --release --locked --quiet --out target/bench-wheels
	@$(BENCH_VENV)/bin/pip install -q --force-reinstall --no-deps target/bench-wheels/*.whl

bench: bench-venv  ## measure against the peers, into benches/REPORT.md; under 15 minutes
	@$(BENCH_VENV)/bin/python -m benches $(BENCH_ARGS)

bench-compare: bench-venv  ## this tree beside REV=..., both built, ratios side by side
	@[ -n "$(REV)" ] || { echo "usage: make bench-compare REV=main~5" >&2; exit 2; }
	@$(BENCH_VENV)/bin/python -m benches.compare "$(REV)" $(BENCH_ARGS)

.PHONY: bench-databases
bench-databases: bench-venv  ## rotations of databases, into benches/DATABASES.md; some minutes
	@$(BENCH_VENV)/bin/python -m benches.databases $(BENCH_ARGS)

fuzz:  ## run each fuzz target for FUZZ_SECONDS
	scripts/fuzz.sh $(FUZZ_SECONDS)

wheel:  ## a manylinux2014 wheel in dist/, tried on each CPython that is here
	@scripts/bootstrap.sh .venv-wheel wheel
	rm -f dist/*.whl
	PATH="$(CURDIR)/.venv-wheel/bin:$$PATH" maturin build --release --locked --compatibility manylinux2014 --zig --out dist
	.venv-wheel/bin/python scripts/try_package.py dist/*.whl

sdist:  ## a source distribution in dist/, built in an empty directory and tried likewise
	@scripts/bootstrap.sh $(VENV) test dev
	rm -f dist/*.tar.gz
	maturin sdist --out dist
	python scripts/try_package.py dist/*.tar.gz

clean:  ## remove all that the other targets made
	rm -rf .venv .venv-wheel .venv-bench target rust/fuzz/target dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f python/strongroom/*.so
