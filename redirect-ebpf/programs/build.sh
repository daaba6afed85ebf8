#!/bin/sh
# Builds the kernel programs into object/redirect.bpf.o and records which sources it was built from.
#
# Needs Debian's rustc-web, cargo-web, libstd-rust-web-dev-bpf, llvm-22-dev and libpolly-22-dev: a rustc with a precompiled core for
# bpfel-unknown-none, and the LLVM that bpf-linker links against. bpf-linker itself is installed into the cache when it is not there.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/toolchain.sh"

require_tools
out=${1:-$here/object}
target=$here/target
mkdir -p "$out"

# No path of this machine may end in the object: it is committed, and compared byte by byte.
flags="-C linker=$LINKER -C link-arg=--btf -C target-cpu=v3 -C debuginfo=2"
flags="$flags --remap-path-prefix=$here=programs --remap-path-prefix=$(dirname -- "$here")=redirect-ebpf"
flags="$flags --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"

cd "$here"
CARGO_BUILD_RUSTC=$RUSTC RUSTC=$RUSTC RUSTC_BOOTSTRAP=1 RUSTFLAGS=$flags \
    "$CARGO" build --release --locked --target bpfel-unknown-none --target-dir "$target"
"$OBJCOPY" --strip-debug "$target/bpfel-unknown-none/release/redirect" "$out/redirect.bpf.o"
source_hash >"$out/SOURCES.sha256"
echo "built $out/redirect.bpf.o ($(wc -c <"$out/redirect.bpf.o") bytes)"
