#!/usr/bin/env bash
# `make test`: everything that can be checked on one machine, with the time that each part took.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/lib.sh
export CULVERT_CACHE=${CULVERT_CACHE:-$HOME/.cache/culvert}
trap 'status=$?; times; for s in "${skipped[@]}"; do echo "SKIPPED: $s"; done; [ $status = 0 ] || printf "\nFAILED in: %s\n" "${current:-setup}"' EXIT
skipped=()
part() { current=$1; stage "$@"; }

part "set-up" hack/setup.sh
[ "$(id -u)" = 0 ] || die "the lab makes network namespaces and loads kernel programs: run this as root"
part "kernel object matches its sources" redirect-ebpf/programs/check.sh
if cargo fmt --version >/dev/null 2>&1; then
    part "formatting" cargo fmt --all --check
else
    skipped+=("formatting: this toolchain has no rustfmt")
fi
part "build of programs" cargo build --workspace --locked
part "build of tests" cargo test --workspace --locked --no-run
part "unit tests" cargo test --workspace --locked --no-fail-fast --exclude e2e-lab --exclude redirect-loader --exclude lab
part "kernel programs (root)" cargo test --locked -p redirect-loader -- --test-threads=1
part "the OpenTelemetry collector" target/debug/culvert lab setup
part "lab (root)" cargo test --locked --no-fail-fast -p lab -p e2e-lab -- --test-threads=1
current=
