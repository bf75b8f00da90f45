# The two commands to know: `make demo` and `make test`. Both install what is missing, saying what and why.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

# Below it: the builds, the broker of demo and tests, logs.
export CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
# `ci` prints no progress bars and runs everything in spite of a failure.
PROFILE := $(if $(CI),ci,default)
# There the property tests have the same cases each time: what decides about a change is the change. Elsewhere each run searches.
export PROPTEST_RNG_SEED := $(or $(PROPTEST_RNG_SEED),$(if $(CI),1))
ifeq ($(PROPTEST_RNG_SEED),)
unexport PROPTEST_RNG_SEED
endif
# Lets tests kill the programs at named places.
FAIL_POINTS := bywash-common/fail-points
TESTED := --workspace --exclude bywash-fuzz --features $(FAIL_POINTS)
# One benchmark; with all that any of them needs, so that they are built once.
BENCH := cargo bench --locked -p bywash-benches --features peers --bench
# Where the demo's events go: kafka or kinesis.
SINK ?= kafka
# Debian's releases on which `make packages-test` tries the package.
RELEASES ?= bookworm trixie
# How long `make fuzz` takes, beside its build.
FUZZ_SECONDS ?= 20
# How often `make survival` kills the agent, how often it restarts it, and how many files are open meanwhile.
KILLS ?= 1000
RESTARTS ?= 100
FILES ?= 10000
# How long `make report` takes about, in seconds, and where its page goes.
REPORT_SECONDS ?= 900
REPORT_DIRECTORY ?= $(CARGO_TARGET_DIR)/report
# How many times as many random operations `make conformance` does as `make test`.
SEARCH ?= 20

# How long `make simulate` takes beside its build, unless SEEDS says how many runs there are (bash has a SECONDS of its own).
SIMULATE_SECONDS = $(if $(filter command line,$(origin SECONDS)),$(SECONDS),$(if $(SEEDS),,60))

# What is simulated is optimised, and asserts what it asserts in tests.
SIMULATOR := --locked --config profile.dev.package.publisher.opt-level=3 \
	--config profile.dev.package.bywash-common.opt-level=3 -p publisher --lib

.PHONY: help setup build deb rpm packages-test demo test check hook instructions simulate mutants faults hostile survival conformance bench report model fuzz lint clean clean-up
.DEFAULT_GOAL := help

##@ Begin here

help: ## Shows this list
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Installs what the demo and the tests need and this machine lacks
	@tests/tools/setup.sh

##@ Build and package

build: ## Builds both programs, optimised, into target/release; installs what that takes
	@tests/tools/setup.sh build
	@tests/tools/build.sh release fs-agent publisher

deb: ## Makes the Debian package, and one with its debug symbols, in target/packages
	@tests/tools/setup.sh deb
	@conf/packaging/build.sh deb

rpm: ## Makes the RPM package, and one with its debug symbols, in target/packages
	@tests/tools/setup.sh rpm
	@conf/packaging/build.sh rpm

packages-test: ## Installs the Debian package on machines with a real systemd, and tries it there, as root; RELEASES=, ROWS=
	@tests/tools/setup.sh packages
	@trap tests/tools/clean-up.sh EXIT; tests/tools/packages.sh "$(RELEASES)" $(ROWS)

##@ Try

demo: ## Shows an event on its way, a broker that stands still, a publisher that is killed; SINK=kinesis
	@tests/tools/setup.sh demo $(SINK)
	@tests/tools/build.sh quick fs-agent publisher bywash-tests
	@trap tests/tools/clean-up.sh EXIT; "$$CARGO_TARGET_DIR/quick/demo" --sink $(SINK)

##@ Test

test: setup lint model fuzz instructions ## Checks the code, then runs the model, fuzz, unit, property and end-to-end tests
	cargo build --locked $(TESTED)
	@trap tests/tools/clean-up.sh EXIT; cargo nextest run --locked $(TESTED) --profile $(PROFILE)

##@ Search for faults, at length

simulate: ## Searches for faults of the delivery by simulated runs: SEEDS=COUNT or FROM..TO, SECONDS=; SEED= with STEPS= replays one
	SIMULATE_SEEDS="$(SEEDS)" SIMULATE_SECONDS="$(SIMULATE_SECONDS)" SIMULATE_SEED="$(SEED)" SIMULATE_STEPS="$(STEPS)" \
		SIMULATE_THREADS="$(or $(THREADS),$(shell nproc))" cargo test $(SIMULATOR) simulation::simulate -- --nocapture

mutants: ## Puts faults of the past back into the delivery, one at a time, and prints which simulated run finds each
	SIMULATE_SECONDS="$(filter-out 60,$(SIMULATE_SECONDS))" cargo test $(SIMULATOR) simulation::mutants -- --nocapture --include-ignored

faults: ## Brings about each fault on the way to Kafka, and prints what became of the writes: 7 minutes, as root
	@tests/tools/setup.sh
	cargo build --locked $(TESTED)
	@trap tests/tools/clean-up.sh EXIT; tests/tools/faults.sh cargo nextest run --locked $(TESTED) \
		--profile conformance --run-ignored all -E 'binary(e2e) & test(/^faults::/)'

hostile: ## Tries what a hostile user tries, at length, and prints how each attempt ends: 3 minutes, as root
	@tests/tools/setup.sh
	cargo build --locked $(TESTED)
	@trap tests/tools/clean-up.sh EXIT; cargo nextest run --locked $(TESTED) --profile conformance \
		--run-ignored all --no-capture -E 'binary(e2e) & test(/^hostile::/)'

survival: ## Kills and restarts an optimised agent under programs and daemons at work: KILLS=, RESTARTS=, FILES=; 15 minutes, as root
	@tests/tools/setup.sh survival
	cargo build --locked --release -p fs-agent
	cargo build --locked $(TESTED)
	@trap tests/tools/clean-up.sh EXIT; TEST_KILLS=$(KILLS) TEST_RESTARTS=$(RESTARTS) TEST_FILES=$(FILES) \
		TEST_PROGRAMS="$$CARGO_TARGET_DIR/release" cargo nextest run --locked $(TESTED) --profile survival \
		--run-ignored all --no-capture -E 'binary(e2e) & test(/^survival::/)'

conformance: ## Runs pjdfstest, fsx, stress-ng, dbench, random operations and a long walk, as root and as a user: 25 minutes, as root
	@tests/tools/setup.sh conformance
	cargo build --locked $(TESTED)
	@trap tests/tools/clean-up.sh EXIT; TEST_SEARCH=$(SEARCH) cargo nextest run --locked $(TESTED) --profile conformance \
		--run-ignored all -E 'binary(conformance) | binary(overlay)'

##@ Measure

bench: ## Measures each part beside others that do the same, 2 minutes each or less; PEERS='--peer NAME=COMMAND'
	@tests/tools/setup.sh bench
	cargo build --locked --release -p fs-agent -p publisher
	cargo bench --locked -p bywash-benches --features peers --no-run
	@trap tests/tools/clean-up.sh EXIT; $(BENCH) ring; $(BENCH) overlay -- $(PEERS); $(BENCH) encode; \
		$(BENCH) delivery; $(BENCH) fifo; $(BENCH) kinesis

report: ## Measures cost and capture beside what others use, as a page with charts: REPORT_SECONDS=, REPORT_DIRECTORY=; 20 minutes, as root
	@tests/tools/setup.sh report
	cargo build --locked --release -p fs-agent -p publisher
	cargo bench --locked -p bywash-benches --features peers --bench report --no-run
	@trap tests/tools/clean-up.sh EXIT; $(BENCH) report -- --seconds $(REPORT_SECONDS) --directory $(REPORT_DIRECTORY)

##@ Parts of make test

model: ## Runs the ring's protocol through every interleaving
	RUSTFLAGS="--cfg loom" cargo nextest run --locked --release --target-dir "$$CARGO_TARGET_DIR/loom" \
		-p bywash-common --profile $(PROFILE) loom_tests

instructions: ## Counts the instructions of the hot paths, and fails if they have become more; ACCEPT=1 takes them as they are
	cargo build --locked --release -p bywash-instructions
	@"$$CARGO_TARGET_DIR/release/bywash-instructions" $(if $(ACCEPT),accept,check)

fuzz: ## Feeds hostile bytes to the ring for FUZZ_SECONDS
	@trap tests/tools/clean-up.sh EXIT; tests/tools/fuzz.sh $(FUZZ_SECONDS)

check: ## Checks in seconds what most commits break: formatting, layers, documents, clippy of the crates that changed
	@tests/tools/check.sh

hook: ## Has git run `make check` before each commit
	@tests/tools/check.sh hook

lint: ## Checks formatting and clippy's lints
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --features $(FAIL_POINTS) -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny --offline check bans licenses sources; fi

##@ Clean

clean-up: ## Takes away mounts, rings and directories of demos and tests that were killed
	@tests/tools/clean-up.sh

clean: clean-up ## Removes everything that was built
	cargo clean
