# Sourced by build.sh and check.sh: finds the tools, defines source_hash. Expects $here = folder of the programs.

BPF_LINKER_VERSION=0.13.0
CULVERT_CACHE=${CULVERT_CACHE:-$HOME/.cache/culvert}
LLVM=${CULVERT_LLVM:-/usr/lib/llvm-22}
RUSTC=${CULVERT_BPF_RUSTC:-/usr/bin/rustc}
CARGO=${CULVERT_BPF_CARGO:-/usr/bin/cargo}
LINKER=$CULVERT_CACHE/bpf-linker-$BPF_LINKER_VERSION/bin/bpf-linker
OBJCOPY=$LLVM/bin/llvm-objcopy
PACKAGES="rustc-web cargo-web libstd-rust-web-dev-bpf llvm-22-dev libpolly-22-dev"

# Hash over everything the object is built from.
source_hash() {
    (
        cd "$here/.."
        find abi/src abi/Cargo.toml programs/src programs/Cargo.toml programs/Cargo.lock programs/build.sh programs/toolchain.sh -type f |
            LC_ALL=C sort | while read -r file; do sha256sum "$file"; done | sha256sum | cut -d' ' -f1
    )
}

require_tools() {
    for tool in "$RUSTC" "$CARGO" "$OBJCOPY"; do
        if [ ! -x "$tool" ]; then
            echo "missing: $tool; remedy: apt-get install $PACKAGES" >&2
            exit 1
        fi
    done
    if ! "$RUSTC" --print target-libdir --target bpfel-unknown-none >/dev/null 2>&1 ||
        [ ! -d "$("$RUSTC" --print target-libdir --target bpfel-unknown-none)" ]; then
        echo "missing: core for bpfel-unknown-none; remedy: apt-get install libstd-rust-web-dev-bpf" >&2
        exit 1
    fi
    if [ ! -x "$LINKER" ]; then
        echo "installing bpf-linker $BPF_LINKER_VERSION into $CULVERT_CACHE" >&2
        PATH=$LLVM/bin:$PATH LLVM_PREFIX=$LLVM cargo install bpf-linker --version "$BPF_LINKER_VERSION" --locked \
            --no-default-features --features llvm-22 --root "$CULVERT_CACHE/bpf-linker-$BPF_LINKER_VERSION" >&2
    fi
}
