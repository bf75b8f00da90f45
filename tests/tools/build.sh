#!/usr/bin/env bash
# Builds with a profile of cargo's: build.sh PROFILE PACKAGE.... On a terminal cargo's many lines become one that changes; what
# it complains about stays.
set -euo pipefail

build=(cargo build --locked --profile "$1")
for package in "${@:2}"; do
    build+=(-p "$package")
done
if [ ! -t 1 ]; then
    exec "${build[@]}"
fi

summary='
    BEGIN { begin = systime_now() }
    function systime_now(   now) { "date +%s" | getline now; close("date +%s"); return now }
    /^ *(Compiling|Downloaded|Downloading|Updating|Locking|Checking) / {
        if ($1 == "Compiling") crates++
        printf "\r\033[Kbuilding (minutes the first time): %d crates, %d s, now %s", crates, systime_now() - begin, $2
        fflush()
        next
    }
    /^ *Finished / { printf "\r\033[K%s\n", $0; next }
    { printf "\r\033[K%s\n", $0 }
'
"${build[@]}" 2>&1 | awk "$summary"
