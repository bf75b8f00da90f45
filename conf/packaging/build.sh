#!/usr/bin/env bash
# Makes a package of both programs: build.sh deb|rpm. PROFILE is cargo's, REVISION the package's number behind the version.
# The package, one with the debug symbols, and the bill of materials of each program are in $CARGO_TARGET_DIR/packages.
set -euo pipefail
cd "$(dirname "$0")/../.."

kind=$1
profile=${PROFILE:-release}
revision=${REVISION:-1}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
built=$CARGO_TARGET_DIR/$profile
stage=$built/packaging
out=$CARGO_TARGET_DIR/packages
PATH=$CARGO_TARGET_DIR/tools/bin:$PATH
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# All times in packages, so that who builds the same gets the same. The files of a source archive have the commit's time.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.lock)}
export SOURCE_DATE_EPOCH

cargo build --locked --profile "$profile" -p fs-agent -p publisher
rm -rf "$stage"
mkdir -p "$stage"/{man,bash,zsh,fish,sbom,stripped,debug} "$out"
for program in fs-agent publisher; do
    "$built/$program" man | gzip -9n >"$stage/man/$program.1.gz"
    "$built/$program" completions bash >"$stage/bash/$program"
    "$built/$program" completions zsh >"$stage/zsh/_$program"
    "$built/$program" completions fish >"$stage/fish/$program.fish"
done
# The group and the schema are there once the package is installed.
sed -e 's/^#group = "bywash"$/group = "bywash"/' -e 's|^#:schema ./|#:schema /usr/share/bywash/|' conf/bywash.toml >"$stage/bywash.toml"
for line in 'group = "bywash"' '#:schema /usr/share/bywash/bywash.schema.json'; do
    if ! grep -qxF "$line" "$stage/bywash.toml"; then
        echo "conf/bywash.toml has no line any more that becomes: $line" >&2
        exit 1
    fi
done
# What is built in: each crate, its version and its licence.
cargo tree --locked -p fs-agent -p publisher -e normal --prefix none -f '{p} | {l}' |
    sed -e 's/ (\/[^)]*)//' -e 's/ (proc-macro)//' -e 's/ (\*)//' -e '/^$/d' | LC_ALL=C sort -u >"$stage/crates.txt"

# The same with checksums and who needs whom, for machines (CycloneDX). cargo-cyclonedx writes it beside every manifest.
bill=bywash-bill-of-materials
cargo-cyclonedx cyclonedx -q --format json --spec-version 1.5 --no-build-deps --override-filename "$bill"
for program in fs-agent publisher; do
    sed "s|$PWD|/usr/src/bywash-$version|g" "$program/$bill.json" >"$stage/sbom/$program.cdx.json"
done
rm -f -- "$bill.json" */"$bill.json" */*/"$bill.json"
cp "$stage"/sbom/* "$out/"

case $kind in
deb)
    gzip -9n >"$stage/changelog.gz" <<-END
	bywash ($version-$revision) unstable; urgency=medium

	  * What has changed is in CHANGELOG.md.

	 -- The bywash maintainers <maintainers@bywash.example>  $(date -uRd "@$SOURCE_DATE_EPOCH")
	END
    cargo-deb deb --no-build --locked --profile "$profile" -p fs-agent --deb-version "$version-$revision" --dbgsym -o "$out/"
    if command -v lintian >/dev/null; then
        lintian --fail-on error,warning "$out/bywash_$version-${revision}_$(dpkg --print-architecture).deb"
    fi
    ;;
rpm)
    for program in fs-agent publisher; do
        objcopy --only-keep-debug --compress-debug-sections "$built/$program" "$stage/debug/$program.debug"
        objcopy --strip-all --add-gnu-debuglink="$stage/debug/$program.debug" "$built/$program" "$stage/stripped/$program"
    done
    rpm=(cargo-generate-rpm generate-rpm -p fs-agent --profile "$profile" --target-dir "$CARGO_TARGET_DIR" -s "release = \"$revision\"" -o "$out/")
    "${rpm[@]}"
    "${rpm[@]}" --variant debuginfo
    ;;
*)
    echo "usage: build.sh deb|rpm" >&2
    exit 2
    ;;
esac
