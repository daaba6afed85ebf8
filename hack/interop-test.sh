#!/usr/bin/env bash
# `make test-interop`: our proxy in Istio's own DaemonSet, under a real istiod in a real cluster on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/lib.sh
export CULVERT_CACHE=${CULVERT_CACHE:-$HOME/.cache/culvert}
[ "$(id -u)" = 0 ] || die "the cluster makes namespaces and control groups: run this as root"
stage "what the cluster is made of" hack/cluster.sh
stage "istiod, istioctl, helm and Istio's charts" hack/tools.sh helm istiod istioctl istio-module
stage "programs" cargo build --locked --workspace
stage "images" cargo run --quiet --locked -p xtask -- image
# Whatever ends a test, nothing stays.
trap 'status=$?; target/debug/e2e-cluster down >/dev/null || status=1; times; exit $status' EXIT
stage "tests" cargo test --locked -p e2e-cluster --test istiod -- --include-ignored --nocapture "$@"
