#!/usr/bin/env bash
# Installs what this machine lacks, and says what and why. Does nothing otherwise. `setup.sh` is for the tests, `setup.sh build`
# for cargo build alone, `setup.sh demo kafka|kinesis` for the demo; `setup.sh conformance`, `survival`, `bench`, `report` and `packages` install
# what those targets of make need.
set -euo pipefail

readonly NOIDA_DB_VERSION=0.2.3
readonly MINISTACK_VERSION=1.5.33
readonly KINESIS_AGG_VERSION=1.2.3
readonly FSX_VERSION=0.3.2
readonly PJDFSTEST_VERSION=0.2.2
readonly CARGO_DEB_VERSION=3.8.0
readonly CARGO_GENERATE_RPM_VERSION=0.21.1
readonly CARGO_CYCLONEDX_VERSION=0.5.9
readonly KUBERNETES_VALIDATE_VERSION=1.37.0
target=${CARGO_TARGET_DIR:-target}

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# probe | Debian package | what it is for. A probe is a program's name, or a command if it has blanks.
readonly BUILD_PACKAGES='
cc                                       | gcc                  | linking, and librdkafka
c++                                      | g++                  | librdkafka
make                                     | make                 | librdkafka
cmake                                    | cmake                | building librdkafka
pkg-config                               | pkg-config           | finding libraries while building
pkg-config --exists openssl              | libssl-dev           | TLS and SASL of librdkafka
pkg-config --exists libcurl              | libcurl4-openssl-dev | OAUTHBEARER of librdkafka
pkg-config --exists zlib                 | zlib1g-dev           | gzip of librdkafka
pkg-config --exists libzstd              | libzstd-dev          | zstd of librdkafka
'

readonly DEMO_PACKAGES='
fusermount3                              | fuse3                | mounting overlays
setpriv                                  | util-linux           | ending processes together with the test that started them
python3                                  | python3              | the broker, a Python package
python3 -c "import ensurepip, venv"      | python3-venv         | a private place for the broker
'

readonly TEST_PACKAGES='
git                                      | git                  | a test that clones a repository inside an overlay
sqlite3                                  | sqlite3              | a test that runs a database inside an overlay
rsync                                    | rsync                | a test that copies a tree into an overlay
/usr/share/zookeeper/bin/zkServer.sh     | zookeeper            | a test that looks brokers up there (brings a Java runtime)
tar                                      | tar                  | a test that unpacks an archive inside an overlay
valgrind                                 | valgrind             | a test that looks for misused memory in fs-agent, and counting instructions
'

readonly PACKAGING_PACKAGES='
dpkg-shlibdeps --version                 | dpkg-dev             | the libraries that the package depends on
objcopy                                  | binutils             | debug symbols in a package of their own
lintian                                  | lintian              | checking the Debian package
rpm                                      | rpm                  | looking into the RPM package
rpm2cpio                                 | rpm2cpio             | the same
cpio                                     | cpio                 | the same
'

readonly MACHINE_PACKAGES='
debootstrap                              | debootstrap          | the machines on which the package is tried
systemd-nspawn                           | systemd-container    | booting them
'

readonly LOGGERS='rsyslog rsyslog-kafka syslog-ng-core syslog-ng-mod-rdkafka'

readonly CONFORMANCE_PACKAGES='
stress-ng                                | stress-ng    | a load of all file operations at once
dbench                                   | dbench       | the load of a file server
'

readonly SURVIVAL_PACKAGES='
[ -x /usr/sbin/nginx ]                   | nginx-light  | a web server that logs into an overlay
ls /usr/lib/postgresql/*/bin/pgbench     | postgresql   | a database that lives in an overlay
'

readonly BENCH_PACKAGES='
mergerfs                                 | mergerfs     | the fastest overlay of Debian, to be measured against
bindfs                                   | bindfs       | another one
[ -x /usr/sbin/bonnie++ ]                | bonnie++     | the load of a database, and of many small files
'

readonly REPORT_PACKAGES='
bpftrace                                 | bpftrace     | what a tracer captures, where the kernel lets one
'

is_there() {
    case $1 in
        *' '*) bash -c "$1" >/dev/null 2>&1 ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

install_packages() {
    local missing=() probe package why
    while IFS='|' read -r probe package why; do
        probe=$(sed 's/ *$//' <<<"$probe")
        package=${package// /}
        if [ -n "$probe" ] && ! is_there "$probe"; then
            say "missing: $package, for${why}"
            missing+=("$package")
        fi
    done <<<"$1"
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "there is no apt-get here: install ${missing[*]} by hand"
    local root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "not root, and there is no sudo: install ${missing[*]} as root"
        root=(sudo)
    fi
    say "installing ${missing[*]}"
    "${root[@]}" apt-get update -q
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

install_nextest() {
    command -v cargo >/dev/null || die "there is no cargo here: install Rust with rustup first"
    if ! cargo nextest --version >/dev/null 2>&1; then
        say "missing: cargo-nextest, which runs the tests; building it takes some minutes"
        cargo install --locked cargo-nextest
    fi
}

# install_crate NAME VERSION PURPOSE: a program that a crate holds, beside the build. Some of cargo's subcommands know their
# version only under their name.
install_crate() {
    local tools=$target/tools name=$1 version=$2 installed
    installed=$("$tools/bin/$name" --version 2>/dev/null || "$tools/bin/$name" "${name#cargo-}" --version 2>/dev/null || true)
    if ! grep -qF "$version" <<<"$installed"; then
        say "missing: $name $version, $3; into $tools"
        cargo install --locked --quiet --root "$tools" --target-dir "$tools/build" "$name@$version"
        rm -rf "$tools/build"
    fi
}

# noida-db is a broker with Kafka's protocol in one program, started by demo and tests on a port of its own.
install_broker() {
    local tools=$target/tools
    local mark=$tools/noida-db-$NOIDA_DB_VERSION
    [ -e "$mark" ] && [ -x "$tools/noida-db" ] && return 0
    say "missing: noida-db $NOIDA_DB_VERSION, the Kafka-protocol broker of demo and tests; into $tools"
    mkdir -p "$tools"
    python3 -m venv --clear "$tools/venv"
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check "noida-db==$NOIDA_DB_VERSION"
    # The program itself: the package's launcher would stand between it and the signals that are sent to it.
    local program
    program=$("$tools/venv/bin/python" -c \
        'import importlib.resources as r; print(r.files("noida_db").joinpath("noida-db"))')
    chmod 755 "$program"
    ln -sfn "$program" "$tools/noida-db"
    touch "$mark"
}

# ministack answers as Kinesis and STS do, started by tests and demo on a port of its own. aws-kinesis-agg takes the
# Kinesis Producer Library's records apart, as readers do: what ours are held to.
install_kinesis() {
    local tools=$target/tools
    local mark=$tools/ministack-$MINISTACK_VERSION-$KINESIS_AGG_VERSION
    [ -e "$mark" ] && [ -x "$tools/ministack" ] && return 0
    say "missing: ministack $MINISTACK_VERSION, which answers as Kinesis does, and aws-kinesis-agg $KINESIS_AGG_VERSION; into $tools"
    mkdir -p "$tools"
    python3 -m venv --clear "$tools/aws"
    "$tools/aws/bin/pip" install --quiet --disable-pip-version-check \
        "ministack==$MINISTACK_VERSION" "aws-kinesis-agg==$KINESIS_AGG_VERSION"
    ln -sfn aws/bin/ministack "$tools/ministack"
    touch "$mark"
}

# kubernetes-validate has the schemas of Kubernetes's releases with it: what the manifests are held to.
install_kubernetes() {
    local tools=$target/tools
    local mark=$tools/kubernetes/validate-$KUBERNETES_VALIDATE_VERSION
    [ -e "$mark" ] && return 0
    say "missing: kubernetes-validate $KUBERNETES_VALIDATE_VERSION, which checks the manifests; into $tools"
    mkdir -p "$tools"
    python3 -m venv --clear "$tools/kubernetes"
    "$tools/kubernetes/bin/pip" install --quiet --disable-pip-version-check "kubernetes-validate==$KUBERNETES_VALIDATE_VERSION"
    touch "$mark"
}

# rsyslog and syslog-ng write to FIFOs in tests, and are what benchmarks measure against. They cannot be
# installed together, and would begin to log for this machine: they are unpacked beside the build, and only the libraries
# that they need are installed.
unpack_loggers() {
    local tools=$target/tools/loggers
    [ -e "$tools/complete" ] && [ -e "$tools/rsyslog-modules/omkafka.so" ] && return 0
    command -v apt-get >/dev/null || die "there is no apt-get here: unpack $LOGGERS into $tools by hand"
    say "missing: $LOGGERS, which write to FIFOs in tests; into $tools"
    local root=() libraries
    if [ "$(id -u)" -ne 0 ]; then root=(sudo); fi
    "${root[@]}" apt-get update -q
    # shellcheck disable=SC2086 # several words
    libraries=$(apt-cache depends $LOGGERS | awk '$1 == "Depends:" && $2 ~ /^lib/ { print $2 }' | sort -u)
    # shellcheck disable=SC2086
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $libraries
    rm -rf "$tools"
    mkdir -p "$tools/packages"
    # shellcheck disable=SC2086
    (cd "$tools/packages" && apt-get download -q $LOGGERS && for package in *.deb; do dpkg -x "$package" ..; done)
    rm -r "$tools/packages"
    # Under names without a version.
    (cd "$tools" && ln -s usr/lib/*/rsyslog rsyslog-modules && ln -s usr/lib/syslog-ng/[0-9]* syslog-ng-modules)
    touch "$tools/complete"
}

# Prometheus and promtool try the alert rules and the dashboard. The package would begin to watch this machine: it is unpacked
# beside the build.
unpack_prometheus() {
    local tools=$target/tools/monitoring
    [ -e "$tools/complete" ] && return 0
    command -v apt-get >/dev/null || die "there is no apt-get here: unpack prometheus into $tools by hand"
    say "missing: prometheus, which tries alert rules and dashboard in tests; into $tools"
    rm -rf "$tools"
    mkdir -p "$tools/packages"
    (cd "$tools/packages" && apt-get download -q prometheus && dpkg -x prometheus_*.deb ..)
    rm -r "$tools/packages"
    ln -sfn monitoring/usr/bin/prometheus "$target/tools/prometheus"
    ln -sfn monitoring/usr/bin/promtool "$target/tools/promtool"
    touch "$tools/complete"
}

# What `cargo build` needs.
set_up_build() {
    install_packages "$BUILD_PACKAGES"
    command -v cargo >/dev/null || die "there is no cargo here: install Rust with rustup first"
}

set_up_tests() {
    install_packages "$BUILD_PACKAGES$DEMO_PACKAGES$TEST_PACKAGES"
    install_nextest
    unpack_loggers
    unpack_prometheus
    install_broker
    install_kinesis
    install_kubernetes
    install_crate fsx "$FSX_VERSION" 'which checks that a file reads as it was written'
    install_crate pjdfstest "$PJDFSTEST_VERSION" 'a suite for what POSIX says of filesystems'
}

case ${1:-tests} in
    build)
        set_up_build
        exit
        ;;
    demo)
        install_packages "$BUILD_PACKAGES$DEMO_PACKAGES"
        set_up_build
        if [ "${2:-kafka}" = kinesis ]; then install_kinesis; else install_broker; fi
        ;;
    tests) set_up_tests ;;
    conformance) set_up_tests; install_packages "$CONFORMANCE_PACKAGES" ;;
    survival) set_up_tests; install_packages "$SURVIVAL_PACKAGES" ;;
    bench) set_up_tests; install_packages "$BENCH_PACKAGES" ;;
    report) set_up_tests; install_packages "$BENCH_PACKAGES$REPORT_PACKAGES" ;;
    deb | rpm | packages)
        install_packages "$BUILD_PACKAGES$PACKAGING_PACKAGES"
        set_up_build
        install_crate cargo-cyclonedx "$CARGO_CYCLONEDX_VERSION" 'which lists what is built in (SBOM)'
        if [ "$1" = rpm ]; then
            install_crate cargo-generate-rpm "$CARGO_GENERATE_RPM_VERSION" 'which makes the RPM package'
        else
            install_crate cargo-deb "$CARGO_DEB_VERSION" 'which makes the Debian package'
        fi
        if [ "$1" != packages ]; then exit; fi
        install_packages "$DEMO_PACKAGES$MACHINE_PACKAGES"
        install_broker
        ;;
    *) die "unknown: $1" ;;
esac
if [ ! -e /dev/fuse ]; then
    die "there is no /dev/fuse: load the module (modprobe fuse), or give the container the device"
fi
