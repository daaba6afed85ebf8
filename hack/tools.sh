#!/usr/bin/env bash
# Builds other projects' programs, which judge ours, from their Go modules into the cache: `hack/tools.sh helm istiod istioctl`
# prints the path of each, one `name=path` a line. A second run takes no time. Folders are what `istio-module` (Istio's module,
# in which its charts are), `conformance` (the Gateway API's suite, and what a cluster needs for it), `echo-advanced` (what
# that suite's image is made of) and `peers` (gRPC's own interoperability client and server, h2spec) give.
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
    install-cni) echo istio.io/istio/cni/cmd/install-cni $istio ;;
    istio-cni) echo istio.io/istio/cni/cmd/istio-cni $istio ;;
    kubeconform) echo github.com/yannh/kubeconform/cmd/kubeconform v0.7.0 ;;
    *) die "no tool is called $1; there are helm, istiod, istioctl, install-cni, istio-cni, istio-module, kubeconform, conformance, echo-advanced, peers" ;;
    esac
}

# The files of a module are needed, not a program of it.
folder_of() {
    command -v go >/dev/null || die "there is no Go, which has Istio's module; install Go 1.26 or newer (go.dev/dl)"
    go mod download -json "istio.io/istio@$istio" | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p' | grep . ||
        die "Istio's module cannot be had (the Go module proxy must be reachable)"
}

need_go() { # version what
    command -v go >/dev/null || die "$2 is not in $CULVERT_CACHE and there is no Go to build it; install Go $1 or newer (go.dev/dl)"
}

module_folder() { # module, of which the current folder's names the version
    go list -m -f '{{.Dir}}' "$1"
}

# The suite as it is published (e2e/conformance/suite), the API's definitions of the same version, the images it wants.
conformance() {
    local sources=e2e/conformance/suite suite=sigs.k8s.io/gateway-api/conformance toolchain version folder new
    version=$(sed -n "s|^require $suite ||p" "$sources/go.mod")
    toolchain=go$(sed -n 's/^go //p' "$sources/go.mod")
    folder=$CULVERT_CACHE/conformance-$version-$(cat "$sources"/{go.mod,go.sum,*.go} | sha256sum | cut -c1-12)
    if [ ! -d "$folder" ]; then
        need_go 1.21 "the conformance suite $version"
        say "building the Gateway API's conformance suite $version (minutes when nothing is cached)" >&2
        new=$folder.new
        mkdir -p "$new"
        # Chained, since what stands before `||` does not end at an error by itself.
        (
            cd "$sources" && export GOTOOLCHAIN=$toolchain GOFLAGS='-trimpath -mod=readonly' &&
                { go version >/dev/null || die "$toolchain, which the suite wants, cannot be had; install it (go.dev/dl)"; } &&
                nice -n 10 go build -p "${CULVERT_GO_JOBS:-1}" -v "$suite" 2>&1 | count_packages >&2 &&
                nice -n 10 go test -c -p "${CULVERT_GO_JOBS:-1}" -ldflags '-s -w' -o "$new/conformance.test" . &&
                sed -s '1i ---' "$(module_folder sigs.k8s.io/gateway-api)"/config/crd/standard/*.yaml >"$new/definitions.yaml" &&
                sed -n 's/^ *image: //p' "$(module_folder "$suite")/mesh/manifests.yaml" | sort -u >"$new/images"
        ) || die "could not build the conformance suite; the lines above say why (the Go module proxy must be reachable)"
        mv "$new" "$folder"
    fi
    echo "$folder"
}

# Istio's echo client and server, static, and a certificate with its key, which the suite's manifest wants served.
echo_advanced() {
    local folder=$CULVERT_CACHE/echo-advanced-$istio new echo=istio.io/istio/pkg/test/echo/cmd
    if [ ! -d "$folder" ]; then
        need_go 1.26 "Istio's echo"
        say "building Istio's echo client and server from its Go module (minutes when nothing is cached)" >&2
        new=$folder.new
        mkdir -p "$new"
        GOBIN=$new CGO_ENABLED=0 GOFLAGS='-trimpath -ldflags=-s' nice -n 10 \
            go install -p "${CULVERT_GO_JOBS:-1}" "$echo/client@$istio" "$echo/server@$istio" ||
            die "could not build Istio's echo; the lines above say why (the Go module proxy must be reachable)"
        # Go's own example of a certificate's making; ten years, since the cache may be old.
        (cd "$new" && go run "$(go env GOROOT)/src/crypto/tls/generate_cert.go" --host echo --ecdsa-curve P256 --duration 87600h) ||
            die "could not make a certificate; Go's sources are not beside it"
        mv "$new/cert.pem" "$new/cert.crt"
        mv "$new/key.pem" "$new/cert.key"
        # The server does not run as who built the image.
        chmod 0644 "$new/cert.key"
        mv "$new" "$folder"
    fi
    echo "$folder"
}

# gRPC's interoperability client and server, and h2spec, static (e2e/conformance/peers names their versions).
peers() {
    local sources=e2e/conformance/peers grpc=google.golang.org/grpc/interop folder new
    folder=$CULVERT_CACHE/peers-$(cat "$sources"/go.{mod,sum} | sha256sum | cut -c1-12)
    if [ ! -d "$folder" ]; then
        need_go 1.26 "gRPC's interoperability test"
        say "building gRPC's interoperability client and server, and h2spec, from their Go modules (minutes when nothing is cached)" >&2
        new=$folder.new
        mkdir -p "$new"
        (
            cd "$sources" && export CGO_ENABLED=0 GOFLAGS='-trimpath -mod=readonly' &&
                nice -n 10 go build -p "${CULVERT_GO_JOBS:-1}" -v -ldflags '-s -w' -o "$new/" \
                    github.com/summerwind/h2spec/cmd/h2spec "$grpc/client" "$grpc/server" 2>&1 | count_packages >&2
        ) || die "could not build them; the lines above say why (the Go module proxy must be reachable)"
        mv "$new" "$folder"
    fi
    echo "$folder"
}

for name in "$@"; do
    case $name in
    istio-module) folder=$(folder_of) ;;
    conformance) folder=$(conformance) ;;
    echo-advanced) folder=$(echo_advanced) ;;
    peers) folder=$(peers) ;;
    *) folder= ;;
    esac
    if [ -n "$folder" ]; then
        echo "$name=$folder"
        continue
    fi
    read -r package version <<<"$(module "$name")"
    folder=$CULVERT_CACHE/$name-$version
    binary=$folder/$(basename "$package")
    if [ ! -x "$binary" ]; then
        need_go 1.26 "$name"
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
