#!/usr/bin/env bash
# `make test-kind`: docs/kind.md as it stands, block by block, and what must be true in between. Needs Docker, kind and kubectl.
# KIND_NODE_IMAGE names a node image where kind's cannot be pulled.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/lib.sh
page=docs/kind.md
for needed in docker kind kubectl; do
    command -v "$needed" >/dev/null || die "there is no $needed, which $page needs; install it (kind.sigs.k8s.io, docs.docker.com)"
done
docker info >/dev/null 2>&1 || die "no Docker engine answers; start one, or let DOCKER_HOST name it"
# A cluster that is there may be somebody's.
[ -z "$(kind get clusters 2>/dev/null)" ] || die "kind has a cluster already: $(kind get clusters); this test makes its own and deletes it"
KUBECONFIG=$(mktemp)
export KUBECONFIG
said=$(mktemp)
trap 'status=$?; kind delete cluster >/dev/null 2>&1 || status=1; rm -f "$KUBECONFIG" "$said"; times; exit $status' EXIT

# The fenced shell blocks of the page, by number.
block() { awk -v wanted="$1" '/^```sh$/ { n++; inside = 1; next } /^```$/ { inside = 0 } inside && n == wanted' "$page"; }
follow() { # number
    block "$1" | grep -q . || die "$page has no block $1"
    bash -euo pipefail -c "
        kind() { if [ \"\$1 \$2\" = 'create cluster' ] && [ -n \"\${KIND_NODE_IMAGE:-}\" ]; then
            command kind \"\$@\" --image \"\$KIND_NODE_IMAGE\"; else command kind \"\$@\"; fi; }
        $(block "$1")" </dev/null | tee "$said"
}
export PATH=$PWD/target/debug:$PATH
[ "$(block 5 | wc -l)" = 0 ] || die "$page has a block that this test does not know"

stage "a cluster with Culvert" follow 1
stage "a call through the mesh and a waypoint" follow 2
grep -q '^web$' "$said" || die "the call was not answered"
grep -q '^RBAC: access denied' "$said" || die "the policy was not enforced; the answers are above"
grep -q 'dst.workload="waypoint' "$said" || die "the call did not pass the waypoint; the proxies said the above"
culvert check || die "not everything is well, see above"
stage "taken away" follow 3
for node in $(kind get nodes); do
    left=$(docker exec "$node" sh -c 'find /sys/fs/bpf /opt/cni/bin /etc/cni /run/culvert -name "*culvert*" ! -type d; grep -l culvert -r /etc/cni || true')
    [ -z "$left" ] || die "$node still has: $left"
done
stage "the cluster deleted" follow 4
