#!/usr/bin/env bash
# `make demo`: raises the shop, proves what it shows, and cleans up (KEEP=1 leaves it up).
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/lib.sh
[ "$(id -u)" = 0 ] || die "the lab makes network namespaces and loads kernel programs: run this as root"
stage "the OpenTelemetry collector" target/debug/culvert lab setup
exec target/debug/e2e-demo examples/shop.yaml
