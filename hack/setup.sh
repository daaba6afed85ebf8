#!/usr/bin/env bash
# Installs what Culvert's build, tests and demo need on Debian 12, and says what it did. A second run takes no time.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/lib.sh

# Programs and tests, built without incremental state as CI does, are 4.2 GB (`du -sh target`); a build that fills the disk
# ends in the middle of a compiler's message.
least=5
free=$(($(df --output=avail -B1 . | tail -1) >> 30))
[ -d "${CARGO_TARGET_DIR:-target}/debug" ] || [ "$free" -ge "$least" ] ||
    die "a first build needs $least GB and $free are free below $PWD; free some, or let CARGO_TARGET_DIR name a folder elsewhere"

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
# Its server is not on the PATH.
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
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
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get update -q >/dev/null || die "apt-get update failed; is a Debian mirror configured?"
    apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null ||
        die "could not install ${missing[*]}; install them by hand and run this again"
fi

