#!/usr/bin/env bash
# Makes the Debian package twice, the second time with a higher revision, and tries both under a real systemd of each of
# the releases: packages.sh "RELEASE..." [ROW...].
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${CARGO_TARGET_DIR:-$PWD/target}
made=$target/packages
arguments=()
for row in "${@:2}"; do
    arguments+=(--only "$row")
done

# What is tried is built as the demo is: optimising more takes minutes, and changes nothing of what is looked at here.
export PROFILE=quick RUST_BACKTRACE=0
tests/tools/build.sh "$PROFILE" fs-agent publisher bywash-tests
for revision in 1 2; do
    REVISION=$revision conf/packaging/build.sh deb
done
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
architecture=$(dpkg --print-architecture)
first=$made/bywash_$version-1_$architecture.deb

status=0
for release in $1; do
    root=$made/roots/$release
    if [ ! -e "$root/complete" ]; then
        echo "packages: making a root of $release in $root"
        rm -rf "$root"
        mkdir -p "$made/roots"
        debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,procps "$release" "$root" >"$root.log" ||
            { tail -n 20 "$root.log"; exit 1; }
        # The package's dependencies are there, so that a test of the package waits for no mirror; and what the program
        # that lives in a watched directory meanwhile takes.
        cp /etc/resolv.conf "$root/etc/"
        DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get satisfy -q -y --no-install-recommends \
            "$(dpkg-deb -f "$first" Depends), python3" >>"$root.log"
        rm -f "$root"/var/cache/apt/archives/*.deb
        touch "$root/complete"
    fi
    "$target/$PROFILE/packages" --root "$root" --package "$first" \
        --next "$made/bywash_$version-2_$architecture.deb" "${arguments[@]}" || status=1
done
exit "$status"
