#!/usr/bin/env bash
# `make test`: everything that can be checked on one machine, with the time that each part took.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/lib.sh
export CULVERT_CACHE=${CULVERT_CACHE:-$HOME/.cache/culvert}
trap 'status=$?; times; [ $status = 0 ] || printf "\nFAILED in: %s\n" "${current:-setup}"' EXIT
part() { current=$1; stage "$@"; }

part "set-up" hack/setup.sh
[ "$(id -u)" = 0 ] || die "the lab makes network namespaces and loads kernel programs: run this as root"
part "kernel object matches its sources" redirect-ebpf/programs/check.sh
part "formatting" cargo fmt --all --check
part "build of programs and tests" cargo test --workspace --locked --no-run
part "unit tests" cargo test --workspace --locked --exclude e2e-lab --exclude redirect-loader --exclude lab
part "kernel programs (root)" cargo test --locked -p redirect-loader -- --test-threads=1
part "the OpenTelemetry collector" target/debug/culvert lab setup
part "lab (root)" cargo test --locked -p lab -p e2e-lab -- --test-threads=1
current=
