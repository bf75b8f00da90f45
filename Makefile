# The two commands to know: `make demo` and `make test`. Both install what is missing, saying what and why.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

# Below it: the builds, the broker of demo and tests, logs.
export CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
# `ci` prints no progress bars and runs everything in spite of a failure.
PROFILE := $(if $(CI),ci,default)

.PHONY: help setup build demo test lint clean clean-up
.DEFAULT_GOAL := help

help: ## Shows this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Installs what the demo and the tests need and this machine lacks
	@tests/tools/setup.sh

build: ## Builds everything, optimised
	@tests/tools/build.sh

demo: setup build ## Shows an event on its way, then a broker that stands still and a publisher that is killed
	@trap tests/tools/clean-up.sh EXIT; "$$CARGO_TARGET_DIR/release/demo"

test: setup lint ## Checks the code, then runs the unit, property, model and end-to-end tests
	cargo build --locked --workspace
	@trap tests/tools/clean-up.sh EXIT; cargo nextest run --locked --workspace --profile $(PROFILE)

lint: ## Checks formatting and clippy's lints
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny --offline check bans licenses sources; fi

clean-up: ## Takes away mounts, rings and directories of demos and tests that were killed
	@tests/tools/clean-up.sh

clean: clean-up ## Removes everything that was built
	cargo clean
