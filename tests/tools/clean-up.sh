#!/usr/bin/env bash
# Takes away what a killed demo or test has left: mounts, rings in shared memory, temporary directories. Their names
# hold the process id of their owner (harness::PREFIX); what belongs to a living process stays.
set -euo pipefail

readonly PREFIX=bywash-test

# The process id in a name, if that process is gone.
is_orphan() {
    local rest=${1##*"$PREFIX-"}
    local pid=${rest%%[!0-9]*}
    [ -n "$pid" ] && [ ! -d "/proc/$pid" ]
}

# Machines of tests, whose processes are in control groups of these names; all die with the first of them.
for group in $(find /sys/fs/cgroup -maxdepth 2 -type d -name "$PREFIX-*"); do
    if is_orphan "$group"; then
        echo "clean-up: ending the machine $(basename "$group")"
        find "$group" -name cgroup.procs -exec cat {} + | xargs --no-run-if-empty kill -9 2>/dev/null || true
        sleep 0.5
        find "$group" -depth -type d -delete 2>/dev/null || true
    fi
done

while read -r _ _ _ _ point _; do
    case $point in
        */"$PREFIX"-*) ;;
        *) continue ;;
    esac
    if is_orphan "$point"; then
        echo "clean-up: unmounting $point"
        umount -l "$point" 2>/dev/null || fusermount3 -uz "$point"
    fi
done </proc/self/mountinfo

# In the last place, the spools of rings whose tests set no other.
for left in /dev/shm/"$PREFIX"-* "${TMPDIR:-/tmp}/$PREFIX"-* /var/lib/bywash/rings/"$PREFIX"-*; do
    if [ -e "$left" ] && is_orphan "$left"; then
        echo "clean-up: removing $left"
        # Tests make files that nobody may remove, too.
        if [ -d "$left" ] && command -v chattr >/dev/null; then
            chattr -R -i -a "$left" 2>/dev/null || true
        fi
        # Never into something that is still mounted. What cannot be removed keeps nothing else from being done.
        rm -rf --one-file-system "$left" || echo "clean-up: $left is still there"
    fi
done
