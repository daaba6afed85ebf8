#!/usr/bin/env bash
# `make test-interop`: our proxy in Istio's own DaemonSet under a real istiod, its pods enrolled by our agent, then by Istio's own
# (istio-cni), and Istio's own proxy beside ours under our control plane, in real clusters on this machine. Istio's proxy is no Go
# module: the last needs a binary that you built, named in CULVERT_STOCK_ZTUNNEL.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/lib.sh
export CULVERT_CACHE=${CULVERT_CACHE:-$HOME/.cache/culvert}
[ "$(id -u)" = 0 ] || die "the cluster makes namespaces and control groups: run this as root"
stage "what the cluster is made of" hack/cluster.sh
stage "istiod, istio-cni, istioctl, helm and Istio's charts" hack/tools.sh helm istiod istioctl install-cni istio-cni istio-module
stage "programs" cargo build --locked --workspace
stage "images" cargo run --quiet --locked -p xtask -- image
# Whatever ends a test, nothing stays.
trap 'status=$?; target/debug/e2e-cluster down >/dev/null || status=1; times; skipped; exit $status' EXIT
skipped() {
    [ -n "${CULVERT_STOCK_ZTUNNEL:-}" ] ||
        echo "SKIPPED: Istio's proxy beside ours: build it from github.com/istio/ztunnel and name the binary in CULVERT_STOCK_ZTUNNEL"
}
stage "tests" cargo test --locked -p e2e-cluster --test istiod --test istio_cni --test fleet -- --include-ignored --nocapture --test-threads=1 "$@"
