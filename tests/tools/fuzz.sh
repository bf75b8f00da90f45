#!/usr/bin/env bash
# Runs the fuzz targets for a bounded time each: fuzz.sh [SECONDS]. The flags are those with which cargo-fuzz instruments
# for libFuzzer, less the sanitisers, which need a nightly compiler.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:-20}
target=${CARGO_TARGET_DIR:-target}/fuzz
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions"

host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --locked --release -p bywash-fuzz --target "$host" --target-dir "$target"
for corpus in tests/fuzz/corpus/*/; do
    name=$(basename "$corpus")
    mkdir -p "$target/corpus/$name"
    # Inputs that are found go to the first directory; the committed ones are only read.
    "$target/$host/release/fuzz-$name" "$target/corpus/$name" "$corpus" -max_total_time="$seconds" \
        -timeout=10 -rss_limit_mb=512 -print_final_stats=1 -artifact_prefix="$target/"
done
