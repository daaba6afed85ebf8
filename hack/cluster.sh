#!/usr/bin/env bash
# Installs what the test cluster (e2e/cluster) needs and this machine lacks: Debian packages, then Kubernetes and CoreDNS
# built from their Go modules into the cache. A second run takes no time. It prints nothing when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/lib.sh
export CULVERT_CACHE=${CULVERT_CACHE:-$HOME/.cache/culvert}

# package:file that proves it is there (servers and libraries are not all on the PATH)
packages=(
    containerd:/usr/bin/containerd runc:/usr/sbin/runc containernetworking-plugins:/usr/lib/cni/ptp
    etcd-server:/usr/bin/etcd etcd-client:/usr/bin/etcdctl iptables:/usr/sbin/iptables nftables:/usr/sbin/nft
    conntrack:/usr/sbin/conntrack busybox-static:/bin/busybox iproute2:/bin/ip util-linux:/usr/bin/nsenter
    curl:/usr/bin/curl openssl:/usr/bin/openssl nginx-light:/usr/sbin/nginx
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
    apt-get update -q >/dev/null || die "apt-get update failed; is a Debian mirror configured?"
    apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null ||
        die "could not install ${missing[*]}; install them by hand and run this again"
}

# The folder in the cache that holds what the sources in $1 build to; a change to any of them names another folder.
cached() { # folder name-and-version
    local hash
    hash=$(cd "$1" && cat main.go go.mod go.sum | sha256sum | cut -c1-12)
    echo "$CULVERT_CACHE/$2-$hash"
}

# Two machines' worth of patience: the slow step says how far it is. The binary appears by rename, so a broken build leaves none.
build() { # folder name-and-version binary ldflags
    local folder=$1 target binary=$3
    target=$(cached "$folder" "$2")
    [ -x "$target/$binary" ] && return 0
    command -v go >/dev/null || die "no Go toolchain on the PATH, and $2 is not in $CULVERT_CACHE; install Go 1.24 or newer"
    say "building $2 from its Go module (minutes on a cold cache)"
    mkdir -p "$target"
    (
        cd "$folder"
        go mod download
        # One package at a time and low priority: the Rust build beside it comes first. Packages are counted as they compile.
        nice -n 10 go build -p "${CULVERT_GO_JOBS:-1}" -v -trimpath -mod=readonly -ldflags "-s -w $4" -o "$target/.$binary" . 2>&1 |
            awk '/^[a-zA-Z0-9.\/_-]+$/ { n++; if (n % 100 == 0) print "    " n " packages compiled"; next } { print > "/dev/stderr" }'
    )
    mv "$target/.$binary" "$target/$binary"
}

version=$(sed -n 's/^\tk8s.io\/kubernetes v//p' e2e/cluster/kubernetes/go.mod)
build e2e/cluster/kubernetes "kubernetes-$version" kubernetes "-X k8s.io/component-base/version.gitVersion=v$version -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<<"$version")" &
echo $!
wait
