#!/usr/bin/env bash
# Licences, bans, duplicates. cargo-deny is built once into the cache.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/lib.sh
export CULVERT_CACHE=${CULVERT_CACHE:-$HOME/.cache/culvert}
version=0.18.9
tool=$CULVERT_CACHE/cargo-deny-$version
[ -x "$tool/bin/cargo-deny" ] || { say "building cargo-deny $version"; cargo install --quiet --locked cargo-deny --version "$version" --root "$tool" --no-default-features; }
# The check reads the manifests of all dependencies, those of other platforms too, which a build has not fetched.
cargo fetch --quiet --locked
"$tool/bin/cargo-deny" --offline check bans licenses sources
