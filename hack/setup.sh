#!/usr/bin/env bash
# Installs what Culvert's build, tests and demo need on Debian 12, and says what it did. A second run takes no time.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/lib.sh

# package:command that proves it is there
packages=(
    build-essential:cc iproute2:ip iproute2:tc nftables:nft tcpdump:tcpdump curl:curl nginx-light:nginx
    redis-server:redis-server redis-tools:redis-cli python3:python3 iperf3:iperf3 wrk:wrk ca-certificates:update-ca-certificates
)
missing=()
for entry in "${packages[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${entry#*:}" >/dev/null || missing+=("${entry%%:*}")
done
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
# A Rust of the wanted age: any toolchain will do; Debian's rustc-web is one.
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
have=$(rustc --version 2>/dev/null | awk '{print $2}' || true)
if [ -z "$have" ] || [ "$(printf '%s\n%s\n' "$wanted" "$have" | sort -V | head -1)" != "$wanted" ]; then
    missing+=(rustc-web cargo-web)
fi
if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || die "these packages are missing: ${missing[*]}; run this as root, or install them"
    say "installing Debian packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # The servers among them must not start by themselves: the lab starts its own.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d.culvert && chmod +x /usr/sbin/policy-rc.d.culvert
    [ -e /usr/sbin/policy-rc.d ] || { ln -s policy-rc.d.culvert /usr/sbin/policy-rc.d; trap 'rm -f /usr/sbin/policy-rc.d' EXIT; }
    apt-get update -q >/dev/null || die "apt-get update failed; is a Debian mirror configured?"
    apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null ||
        die "could not install ${missing[*]}; install them by hand and run this again"
fi

# The OTLP collector, from PyPI, into the cache.
rotel_version=$(cat hack/rotel.version)
rotel=$CULVERT_CACHE/rotel-$rotel_version
if [ ! -x "$rotel/bin/rotel" ] && [ -z "$(find "$rotel" -name 'rotel*' -type f -perm -u+x 2>/dev/null | head -1)" ]; then
    say "installing the OTLP collector rotel $rotel_version"
    rm -rf "$rotel" && mkdir -p "$CULVERT_CACHE"
    { python3 -m venv "$rotel" && "$rotel/bin/pip" install -q "rotel==$rotel_version"; } ||
        { rm -rf "$rotel"; die "could not install rotel $rotel_version from PyPI; is a PyPI index reachable?"; }
fi
