#!/usr/bin/env bash
# `make check`: formatting, the tests of sources and documents, and clippy of the crates with changes that are not committed yet.
# `make hook`: has git run that before each commit.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [[ ${1:-} == hook ]]; then
    hook=$(git rev-parse --git-path hooks)/pre-commit
    if [[ -e $hook ]]; then
        echo "there is a hook already: $hook; remove it, or have it run \`make check\`" >&2
        exit 1
    fi
    mkdir -p "$(dirname "$hook")"
    # git sets GIT_DIR and GIT_INDEX_FILE for a hook; the builds of crates are not to see them.
    printf '#!/bin/sh\nunset GIT_DIR GIT_INDEX_FILE\nexec make --no-print-directory check\n' >"$hook"
    chmod +x "$hook"
    echo "git runs \`make check\` before each commit now; \`git commit --no-verify\` does without, removing $hook ends it"
    exit
fi

cargo fmt --all --check
cargo test --locked --quiet -p bywash-tests --features bywash-common/fail-points --test tidy

# A crate's directory and its name.
packages=()
changed=$(git diff --name-only HEAD -- '*.rs' '*Cargo.toml')
for crate in common:bywash-common fs-agent:fs-agent publisher:publisher tests:bywash-tests; do
    if grep -q "^${crate%%:*}/" <<<"$changed"; then
        packages+=(-p "${crate##*:}")
    fi
done
if [[ ${#packages[@]} -gt 0 ]]; then
    cargo clippy --locked --quiet "${packages[@]}" --features bywash-common/fail-points -- -D warnings
fi
