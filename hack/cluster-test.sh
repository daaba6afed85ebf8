#!/usr/bin/env bash
# `make test-cluster`: a real Kubernetes of two nodes on this machine, raised and removed, and tests on it.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/lib.sh
export CULVERT_CACHE=${CULVERT_CACHE:-$HOME/.cache/culvert}
[ "$(id -u)" = 0 ] || die "the cluster makes namespaces and control groups: run this as root"
stage "what the cluster is made of" hack/cluster.sh
stage "programs" cargo build --locked --workspace
stage "images" cargo run --quiet --locked -p xtask -- image
stage "charts, judged by Helm" cargo test --locked -p culvert --test helm -- --include-ignored
# Whatever ends a test, nothing stays.
trap 'status=$?; target/debug/e2e-cluster down >/dev/null || status=1; times; exit $status' EXIT
# What runs under an istiod or beside Istio's proxy, and the conformance suite, have targets of their own: `make test-interop`,
# `make conformance`.
stage "tests" cargo test --locked -p e2e-cluster -- --include-ignored --nocapture --test-threads=1 --skip istio --skip conformance "$@"
