#!/bin/sh
# Compares the committed object with its sources. Only when the recorded hash differs is anything rebuilt, so that users need no
# toolchain for kernel programs. --always rebuilds in any case.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/toolchain.sh"

recorded=$(cat "$here/object/SOURCES.sha256")
if [ "$recorded" = "$(source_hash)" ] && [ "${1:-}" != --always ]; then
    echo "object/redirect.bpf.o belongs to these sources"
    exit 0
fi
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"$here/build.sh" "$fresh"
if ! cmp "$fresh/redirect.bpf.o" "$here/object/redirect.bpf.o"; then
    echo "object/redirect.bpf.o was not built from these sources; remedy: make ebpf, and commit the object" >&2
    exit 1
fi
if [ "$recorded" != "$(source_hash)" ]; then
    echo "the object is right but object/SOURCES.sha256 is stale; remedy: make ebpf" >&2
    exit 1
fi
echo "object/redirect.bpf.o rebuilt and equal"
