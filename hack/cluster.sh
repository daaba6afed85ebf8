#!/usr/bin/env bash
# Installs what the test cluster (e2e/cluster) needs and this machine lacks: Debian packages, then Kubernetes, CoreDNS and
# the pause image, built from their Go modules into the cache. A second run takes no time and says nothing.
#
# `hack/cluster.sh paths` prints where the built things are, one `name=path` a line.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/lib.sh
export CULVERT_CACHE=${CULVERT_CACHE:-$HOME/.cache/culvert}

# package:file that proves it is there (servers and plug-ins are not all on the PATH)
packages=(
    containerd:/usr/bin/containerd runc:/usr/sbin/runc containernetworking-plugins:/usr/lib/cni/ptp
    etcd-server:/usr/bin/etcd iptables:/usr/sbin/iptables nftables:/usr/sbin/nft conntrack:/usr/sbin/conntrack
    busybox-static:/bin/busybox iproute2:/bin/ip util-linux:/usr/bin/nsenter curl:/usr/bin/curl nginx-light:/usr/sbin/nginx
)

install_packages() {
    local entry missing=()
    for entry in "${packages[@]}"; do
        [ -e "${entry#*:}" ] || missing+=("${entry%%:*}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || die "these packages are missing: ${missing[*]}; run this as root, or install them"
    say "installing Debian packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # containerd, etcd and nginx must not start by themselves: the cluster starts its own.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    # Somebody else may be installing: wait for them.
    apt-get update -q -o DPkg::Lock::Timeout=600 >/dev/null || die "apt-get update failed; is a Debian mirror configured?"
    apt-get install -y -q -o DPkg::Lock::Timeout=600 --no-install-recommends "${missing[@]}" >/dev/null ||
        die "could not install ${missing[*]}; install them by hand and run this again"
}

# The folder in the cache for what the sources in $1 build to; a change to any of them names another folder.
cached() { # sources name
    local hash
    hash=$(cd "$1" && cat main.go go.mod go.sum 2>/dev/null | sha256sum | cut -c1-12)
    echo "$CULVERT_CACHE/$2-$hash"
}

# The binary appears by a rename, so that a build that was called off leaves none.
build() { # sources folder binary ldflags
    local sources=$1 folder=$2 binary=$3 ldflags=${4:-}
    [ -x "$folder/$binary" ] && return 0
    command -v go >/dev/null ||
        die "$binary is not in $CULVERT_CACHE and there is no Go to build it; install Go 1.25 or newer (go.dev/dl)"
    say "building $binary from its Go module into $folder (minutes when nothing is cached)"
    mkdir -p "$folder"
    (
        cd "$sources"
        # One package at a time and politely: a Rust build may run beside it.
        nice -n 10 go build -p "${CULVERT_GO_JOBS:-1}" -v -trimpath -mod=readonly \
            -ldflags "-s -w $ldflags" -o "$folder/.$binary" . 2>&1 |
            count_packages
    ) || die "could not build $binary; the lines above say why (the Go module proxy must be reachable)"
    mv "$folder/.$binary" "$folder/$binary"
}

# An archive that `ctr images import` reads: one layer, a configuration, a manifest.
pause_image() { # binary archive
    [ -e "$2" ] && return 0
    local work diff config
    work=$(mktemp -d)
    tar -C "$(dirname "$1")" --owner=0 --group=0 --numeric-owner --mtime=@0 -cf "$work/layer.tar" "$(basename "$1")"
    diff=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
    printf '{"architecture":"%s","os":"linux","config":{"Entrypoint":["/%s"],"User":"65535:65535"},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$(dpkg --print-architecture)" "$(basename "$1")" "$diff" >"$work/config.json"
    config=$(sha256sum "$work/config.json" | cut -d' ' -f1)
    mv "$work/config.json" "$work/$config.json"
    printf '[{"Config":"%s.json","RepoTags":["culvert.dev/pause:1"],"Layers":["layer.tar"]}]' "$config" >"$work/manifest.json"
    tar -C "$work" -cf "$2.new" "$config.json" layer.tar manifest.json
    mv "$2.new" "$2"
    rm -rf "$work"
}

version=$(sed -n 's/^\tk8s.io\/kubernetes v//p' e2e/cluster/kubernetes/go.mod)
dns_version=$(sed -n 's/^require github.com\/coredns\/coredns v//p' e2e/cluster/coredns/go.mod)
kubernetes=$(cached e2e/cluster/kubernetes "kubernetes-$version")
coredns=$(cached e2e/cluster/coredns "coredns-$dns_version")
pause=$(cached e2e/cluster/pause pause)

if [ "${1:-}" = paths ]; then
    printf '%s\n' "kubernetes=$kubernetes/kubernetes" "coredns=$coredns/coredns" "pause=$pause/pause.tar"
    exit
fi
install_packages
# Unset, Kubernetes calls itself v0.0.0 and kubectl warns of its skew.
stamp=k8s.io/component-base/version
build e2e/cluster/kubernetes "$kubernetes" kubernetes \
    "-X $stamp.gitVersion=v$version -X $stamp.gitMajor=${version%%.*} -X $stamp.gitMinor=$(cut -d. -f2 <<<"$version")"
# Which program it is, it knows by the name that it is called by.
for program in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
    [ -e "$kubernetes/$program" ] || ln -sf kubernetes "$kubernetes/$program"
done
build e2e/cluster/coredns "$coredns" coredns
build e2e/cluster/pause "$pause" pause
pause_image "$pause/pause" "$pause/pause.tar"
