#!/usr/bin/env bash
# Runs the command that it is given, tests of faults, and prints the table to which each of them has added a row.
set -euo pipefail

table=$(mktemp "${TMPDIR:-/tmp}/bywash-test-$$-faults-XXXXXX")
trap 'rm -f "$table"' EXIT
status=0
FAULTS_TABLE=$table "$@" || status=$?

columns() { printf '| %-46s | %7s | %8s | %9s | %7s | %4s | %10s | %9s | %9s | %7s |\n' "$@"; }
printf '\nWrites, and what became of them. Announced: counted in loss events. Duplicates: sent twice, under one id and with one\n'
printf 'content. Longest: the longest write, before the fault and under it.\n\n'
columns fault sent received announced letters lost duplicates longest 'under it' took
columns --- --: --: --: --: --: --: --: --: --:
cat "$table"
exit "$status"
