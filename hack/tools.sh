#!/usr/bin/env bash
# Builds other projects' programs, which judge ours, from their Go modules into the cache: `hack/tools.sh helm istiod istioctl`
# prints the path of each, one `name=path` a line. A second run takes no time. `istio-module` is the folder of Istio's module, in
# which its charts are.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/lib.sh
export CULVERT_CACHE=${CULVERT_CACHE:-$HOME/.cache/culvert}

istio=v0.0.0-20260827124520-eed52ebb66ad

# name, module's package, version; the binary is called as the package's last part.
module() {
    case $1 in
    helm) echo helm.sh/helm/v3/cmd/helm v3.19.2 ;;
    istiod) echo istio.io/istio/pilot/cmd/pilot-discovery $istio ;;
    istioctl) echo istio.io/istio/istioctl/cmd/istioctl $istio ;;
    kubeconform) echo github.com/yannh/kubeconform/cmd/kubeconform v0.7.0 ;;
    *) die "no tool is called $1; there are helm, istiod, istioctl, istio-module, kubeconform" ;;
    esac
}

# The files of a module are needed, not a program of it.
folder_of() {
    command -v go >/dev/null || die "there is no Go, which has Istio's module; install Go 1.26 or newer (go.dev/dl)"
    go mod download -json "istio.io/istio@$istio" | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p' | grep . ||
        die "Istio's module cannot be had (the Go module proxy must be reachable)"
}

for name in "$@"; do
    if [ "$name" = istio-module ]; then
        folder=$(folder_of)
        echo "$name=$folder"
        continue
    fi
    read -r package version <<<"$(module "$name")"
    folder=$CULVERT_CACHE/$name-$version
    binary=$folder/$(basename "$package")
    if [ ! -x "$binary" ]; then
        command -v go >/dev/null || die "$name is not in $CULVERT_CACHE and there is no Go to build it; install Go 1.26 or newer (go.dev/dl)"
        say "building $name $version from its Go module (minutes when nothing is cached)" >&2
        mkdir -p "$folder/new"
        # One package at a time and politely: a Rust build may run beside it.
        GOBIN=$folder/new GOFLAGS='-trimpath -ldflags=-s' nice -n 10 go install -p "${CULVERT_GO_JOBS:-1}" "$package@$version" ||
            die "could not build $name; the lines above say why (the Go module proxy must be reachable)"
        mv "$folder/new/$(basename "$package")" "$binary"
        rmdir "$folder/new"
    fi
    echo "$name=$binary"
done
