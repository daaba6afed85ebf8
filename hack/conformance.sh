#!/usr/bin/env bash
# `make conformance`: the Gateway API's own conformance suite for a mesh, on a real Kubernetes on this machine, then our stricter
# tests. The report is target/conformance/report.yaml. RUN=MeshBasic runs one test of the suite; CLUSTER=culvert uses the
# cluster that `make cluster` raised, and leaves it up.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/lib.sh
export CULVERT_CACHE=${CULVERT_CACHE:-$HOME/.cache/culvert}
[ "$(id -u)" = 0 ] || die "the cluster makes namespaces and control groups: run this as root"

image_of() { cargo run --quiet --locked -p xtask -- image-of "$@"; }

# The suite's image, under the name that the suite's own manifest gives it, and one of those who judge beside it.
judges() {
    local paths suite echo peers
    paths=$(hack/tools.sh conformance echo-advanced peers)
    suite=$(sed -n 's/^conformance=//p' <<<"$paths")
    echo=$(sed -n 's/^echo-advanced=//p' <<<"$paths")
    peers=$(sed -n 's/^peers=//p' <<<"$paths")
    [ "$(wc -l <"$suite/images")" = 1 ] || die "the suite's manifest names other images than echo-advanced: $(paste -sd' ' "$suite/images")"
    image_of "$(cat "$suite/images")" --entrypoint /usr/local/bin/server --user 1338 \
        --file "$echo/client:/usr/local/bin/client" --file "$echo/server:/usr/local/bin/server" \
        --file "$echo/cert.crt:/cert.crt" --file "$echo/cert.key:/cert.key" --out target/conformance/echo-advanced.tar
    image_of culvert.dev/peers:test --entrypoint /usr/local/bin/server --out target/conformance/peers.tar \
        --file "$peers/client:/usr/local/bin/client" --file "$peers/server:/usr/local/bin/server" \
        --file "$peers/h2spec:/usr/local/bin/h2spec"
}

stage "what the cluster is made of" hack/cluster.sh
stage "the suite, and images of those who judge" judges
stage "programs" cargo build --locked --workspace
stage "images" cargo run --quiet --locked -p xtask -- image
# Whatever ends a test, nothing stays, unless somebody keeps it.
[ -n "${CLUSTER:-}" ] || trap 'status=$?; target/debug/e2e-cluster down >/dev/null || status=1; times; exit $status' EXIT
stage "tests" cargo test --locked -p e2e-cluster --test conformance -- --include-ignored --nocapture "$@"
